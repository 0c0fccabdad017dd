"""The encoders that `examples/run_pmr.py` takes where a command names none: small, well known and free to use."""

from typing import NamedTuple


class DefaultEncoder(NamedTuple):
    """An encoder of a kind of modality: a Hub name, or a word in `NEW_ENCODERS`."""

    name: str
    pooling: str = "auto"


DINO = "facebook/dinov2-small"  # 22M parameters; its features need no labels, so they fit pictures of any kind
DEFAULT_ENCODERS = {
    "image": DefaultEncoder(DINO),
    "video": DefaultEncoder(DINO),  # on frames: video encoders are ten times as large
    "text": DefaultEncoder("sentence-transformers/all-MiniLM-L6-v2", "mean"),  # 23M; it was trained with the mean
    "audio": DefaultEncoder("openai/whisper-tiny"),  # an encoder of 8M; clips are cut after 30 s
    "numbers": DefaultEncoder("numbers"),
    "tabular": DefaultEncoder("tabular"),
}
VIDEO_FRAMES = 8  # of each video, for an encoder of pictures
