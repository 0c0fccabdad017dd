"""
Refuse unknown options, wrong words or numbers and lost tables before torch is imported, which takes seconds.

The scripts run this file before they import the package, so it uses the standard library alone. It reads the options
from the source of the dataclasses of all methods. `parse_arguments` checks everything afterwards. What passes here and
is found there: options of another method, shortened options, ranges, and choices that are computed.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any


PACKAGE = Path(__file__).parents[1]
TABLES = ("train_file", "validation_file", "test_file", "prototype_file")
ONE_OF_A_KIND = {"int": int, "int | None": int, "float": float, "float | None": float, "str": str, "str | None": str}


def check(arguments: list[str], script: Path) -> None:
    """
    End the script if the command has an option that the script does not know, a value that is not a number or not one
    of the option's words, or a table that does not exist. A command with a shortened option, or with --help, passes.

    Raises:
        SystemExit: for such a command, with a sentence or with the message of argparse.
    """
    own = options_of_parser(script)
    options = options_of_dataclasses() | own
    if any(part in ("-h", "--help") or is_shortened(part, options) for part in arguments):
        return
    usage = "%(prog)s [--argument value ...]; --help lists the arguments"
    parser = argparse.ArgumentParser(script.name, usage=usage, add_help=False, allow_abbrev=False)
    for name, settings in options.items():
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **settings)
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        lists = "--help and run_pmr.py --help list" if own else "--help lists"
        sys.exit(f"ValueError: Expected the arguments that {lists}, got {unknown} too; correct or remove them.")
    tables = () if own else TABLES  # a benchmark may report without them
    for file in (file for name in tables for file in getattr(values, name) or ()):
        if not Path(file).exists():
            sys.exit(f"FileNotFoundError: Expected a table {file}, found none there; correct the path.")


def is_shortened(part: str, options: dict[str, Any]) -> bool:
    """Whether a part of a command is the beginning of an option, or turns one off, as in --no_do_predict."""
    name = part.removeprefix("--").partition("=")[0].replace("-", "_")
    if not part.startswith("--") or not name or name in options:
        return False
    return any(option.startswith((name, name.removeprefix("no_"))) for option in options)


def options_of_dataclasses() -> dict[str, dict[str, Any]]:
    """The options of `examples/run_pmr.py` with any method: by name, the settings of `add_argument`."""
    transformers = Path(find_spec("transformers").origin).with_name("training_args.py")  # found, but not imported
    methods = sorted((PACKAGE / "methods").glob("*.py"))
    files = [transformers, PACKAGE / "training/arguments.py", *methods, PACKAGE / "command_line/script_arguments.py"]
    fields = [field for file in files for field in fields_of(file)]
    return {field.target.id: settings_of(field) for field in fields}


def fields_of(file: Path) -> Iterator[ast.AnnAssign]:
    """The fields of the dataclasses of a file whose names end with Arguments."""
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            yield from (part for part in node.body if isinstance(part, ast.AnnAssign))


def settings_of(field: ast.AnnAssign) -> dict[str, Any]:
    """What argparse has to check of a field: one number, one of some words, or nothing."""
    kind = ONE_OF_A_KIND.get(ast.unparse(field.annotation))
    if kind in (int, float):
        return {"type": kind}
    choices = [
        value
        for node in ast.walk(field)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(value, ast.List)
    ]
    words = [part.value for each in choices for part in each.elts if isinstance(part, ast.Constant)]
    is_literal = choices and len(words) == len(choices[0].elts)
    return {"choices": words} if kind is str and is_literal else {"nargs": "*"}


def options_of_parser(script: Path) -> dict[str, dict[str, Any]]:
    """The options that a script adds to a parser of its own."""
    calls = [node for node in ast.walk(ast.parse(script.read_bytes())) if isinstance(node, ast.Call)]
    added = [
        each.args[0] for each in calls if isinstance(each.func, ast.Attribute) and each.func.attr == "add_argument"
    ]
    return {name.value.removeprefix("--"): {"nargs": "*"} for name in added if isinstance(name, ast.Constant)}
