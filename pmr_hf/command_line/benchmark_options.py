"""Command lines taken apart: an argument and its values each, such as ["--columns", "image=picture", "text=title"]."""

Options = list[list[str]]


def options_of(arguments: list[str]) -> Options:
    """Group the parts of a command line by the argument that they belong to."""
    options: Options = []
    for part in arguments:
        if part.startswith("--") or not options:
            options.append([part])
        else:
            options[-1].append(part)
    return options


def flat(options: Options) -> list[str]:
    """The command line again."""
    return [part for option in options for part in option]


def name_of(option: list[str]) -> str:
    """Name of the argument, such as pmr_alpha for --pmr_alpha and --pmr-alpha=2."""
    return option[0].removeprefix("--").partition("=")[0].replace("-", "_")
