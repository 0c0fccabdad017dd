import dataclasses
import re

import pytest
from transformers import HfArgumentParser, TrainingArguments

from pmr_hf import MultimodalTrainingArguments, PMRTrainingArguments, PrototypeTrainingArguments


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (MultimodalTrainingArguments, TrainingArguments),
        (PrototypeTrainingArguments, MultimodalTrainingArguments),
        (PMRTrainingArguments, PrototypeTrainingArguments),
    ],
)
def test_each_field_has_help_and_stands_in_the_docstring_with_its_default(cls, base):
    inherited = {field.name: field.default for field in dataclasses.fields(base)}
    own = [field for field in dataclasses.fields(cls) if field.name in cls.__annotations__]
    assert len(own) >= 3 and (set(inherited) - {f.name for f in own}) < {f.name for f in dataclasses.fields(cls)}
    for field in own:
        assert field.metadata["help"]
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        shown = str(default).replace("'", '"') if isinstance(default, list) else default
        shown = f'"{default}"' if isinstance(default, str) else shown
        pattern = rf"{field.name} \(`[a-z\[\]]+`, \*optional\*, defaults to `{re.escape(str(shown))}`\)"
        assert re.search(pattern, cls.__doc__), f"{field.name}: no {pattern!r} in the docstring"


def test_the_command_line(tmp_path):
    parser = HfArgumentParser(PMRTrainingArguments)
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--pmr_alpha", "2", "--pmr_weights", "hard", "--prototype_fraction", "0.5"]
    )
    assert (args.pmr_alpha, args.pmr_weights, args.prototype_fraction) == (2.0, "hard", 0.5)
    assert args.label_names == ["labels"] and args.remove_unused_columns is False
