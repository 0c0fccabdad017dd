"""
What a script does before it imports torch, which takes seconds: refuse unknown options, wrong words or numbers and lost
tables, and choose which progress bars show.

The scripts run this file before they import the package, so it uses the standard library alone. It reads the options
from the source of the dataclasses of all methods. `parse_arguments` checks everything afterwards. What passes here and
is found there: options of another method, shortened options, ranges, and fusion heads, which register themselves.
"""

import argparse
import ast
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any


PACKAGE = Path(__file__).parents[1]
TABLES = ("train_file", "validation_file", "test_file", "prototype_file")
ONE_OF_A_KIND = {"int": int, "int | None": int, "float": float, "float | None": float, "str": str, "str | None": str}


def begin(arguments: list[str], script: Path) -> None:
    """[`check`] a command, then [`hide_bars`] unless it has --verbose. Called before a script imports the package."""
    check(arguments, script)
    if "--verbose" not in arguments:
        hide_bars()


def hide_bars() -> None:
    """Hide bars that end within two seconds, and bars in a log file. tqdm reads these variables when it is imported."""
    os.environ.setdefault("TQDM_DELAY", "2")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


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
    return {field.target.id: settings_of(field, file) for file in files for field in fields_of(file)}


def fields_of(file: Path) -> Iterator[ast.AnnAssign]:
    """The fields of the dataclasses of a file whose names end with Arguments."""
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            yield from (part for part in node.body if isinstance(part, ast.AnnAssign))


def settings_of(field: ast.AnnAssign, file: Path) -> dict[str, Any]:
    """What argparse has to check of a field: one number, one of some words, or nothing."""
    kind = ONE_OF_A_KIND.get(ast.unparse(field.annotation))
    if kind in (int, float):
        return {"type": kind}
    choices = [
        value
        for node in ast.walk(field)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "choices"
    ]
    words = words_of(choices[0], file) if choices and kind is str else None
    return {"choices": words} if words else {"nargs": "*"}


def words_of(node: ast.expr, file: Path) -> list[str] | None:
    """
    The words of an expression in a file: a text, a list of texts, the keys of a dict, or a name of one of these, also
    of another file of the package. `None` for what cannot be told, such as a dict that is filled elsewhere.
    """
    match node:
        case ast.Constant(value=str(word)):
            return [word]
        case ast.Starred(value=inner) | ast.Call(func=ast.Name(id="list"), args=[inner]):
            return words_of(inner, file)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Dict(keys=parts) if parts:
            found = [None if part is None else words_of(part, file) for part in parts]  # the key of **other is None
            return None if None in found else [word for words in found for word in words]
        case ast.Name(id=name):
            return words_named(name, file)
    return None


def words_named(name: str, file: Path) -> list[str] | None:
    """The words of a name that a file assigns at its top level, or imports from the package."""
    for node in ast.parse(file.read_bytes()).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=value)
                | ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value)
            ) if found == name:
                return words_of(value, file)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for target, value in zip(names, values, strict=True):
                    if isinstance(target, ast.Name) and target.id == name:
                        return words_of(value, file)
            case ast.ImportFrom(module=str(module), names=names, level=level):
                original = next((each.name for each in names if (each.asname or each.name) == name), None)
                source = None if original is None else file_of(module, level, file)
                if source is not None:
                    return words_named(original, source)
    return None


def file_of(module: str, level: int, importer: Path) -> Path | None:
    """The file of a module of the package, which a file imports. `None` for a module of another package."""
    parts = module.split(".")
    if level == 0 and parts[0] != PACKAGE.name:
        return None
    base = importer.parents[level - 1].joinpath(*parts) if level else PACKAGE.parent.joinpath(*parts)
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def options_of_parser(script: Path) -> dict[str, dict[str, Any]]:
    """The options that a script adds to a parser of its own."""
    options = {}
    for node in ast.walk(ast.parse(script.read_bytes())):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=[ast.Constant(value=str(name)), *_]):
                choices = next((each.value for each in node.keywords if each.arg == "choices"), None)
                words = None if choices is None else words_of(choices, script)
                options[name.removeprefix("--")] = {"nargs": "*"} | ({"choices": words} if words else {})
    return options
