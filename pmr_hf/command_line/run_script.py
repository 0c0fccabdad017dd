"""How a script ends: an error that a user can mend is one sentence in place of a traceback."""

import os
import sys
from collections.abc import Callable


CONTINUE = "Stopped. The same command with --resume_from_checkpoint True continues from the last checkpoint."
# Errors whose message is for the user, if it says what was expected
SENTENCES = (ValueError, TypeError, FloatingPointError, ImportError, RuntimeError)


def run_script(main: Callable[[], None], stopped: str = CONTINUE) -> None:
    """
    Run the `main` of a script. Where one process runs, an error that says what the user can do ends it with that
    sentence in place of a traceback, unless the command has --verbose. Ctrl+C ends it with the sentence `stopped`.
    """
    try:
        main()
    except Exception as error:
        is_sentence = isinstance(error, OSError) or (isinstance(error, SENTENCES) and "Expected " in str(error))
        if not is_sentence or "--verbose" in sys.argv or os.environ.get("WORLD_SIZE", "1") != "1":
            raise
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
