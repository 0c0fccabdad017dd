"""Split a command line into options: each an argument and its values, such as ["--columns", "image=a", "text=b"]."""

from dataclasses import fields

from ..methods import METHODS
from .script_arguments import ScriptArguments


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
    """Join options into a command line."""
    return [part for option in options for part in option]


def name_of(option: list[str]) -> str:
    """The name of an option's argument, such as pmr_alpha for --pmr_alpha and --pmr-alpha=2."""
    return option[0].removeprefix("--").partition("=")[0].replace("-", "_")


def known_to(method: str, options: Options) -> Options:
    """Keep the options that `examples/run_pmr.py` has with `--method method`."""
    names = {field.name for arguments in (ScriptArguments, METHODS[method].args_class) for field in fields(arguments)}
    return [option for option in options if {name_of(option), name_of(option).removeprefix("no_")} & names]
