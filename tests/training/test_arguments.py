"""Training arguments: their help, their docstrings, their ranges."""

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
        pattern = rf"{field.name} \(`[a-z\[\] |]+`, \*optional\*, defaults to `{re.escape(str(shown))}`\)"
        assert re.search(pattern, cls.__doc__), f"{field.name}: no {pattern!r} in the docstring"


def test_arguments_are_parsed_from_the_command_line(tmp_path):
    parser = HfArgumentParser(PMRTrainingArguments)
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--pmr_alpha", "2", "--pmr_weights", "hard", "--prototype_fraction", "0.5"]
    )
    assert (args.pmr_alpha, args.pmr_weights, args.prototype_fraction) == (2.0, "hard", 0.5)
    assert args.label_names == ["labels"] and args.remove_unused_columns is False


@pytest.mark.parametrize("option", [{"batch_eval_metrics": True}, {"eval_do_concat_batches": False}])
def test_evaluation_options_without_all_predictions(make_args, option):
    with pytest.raises(ValueError, match="need all predictions at once"):
        make_args(**option)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prototype_fraction", 0.0),
        ("prototype_fraction", 1.01),
        ("prototype_fraction", float("nan")),
        ("prototype_momentum", 1.0),
        ("prototype_momentum", -0.1),
        ("pmr_alpha", -1.0),
        ("pmr_mu", -1e-3),
        ("pmr_mu", float("inf")),
        ("pmr_entropy_epochs", -1.0),
        ("pmr_epochs", -1.0),
        ("pmr_weights", "soft"),
        ("prototype_source", "all"),
        ("prototype_refresh_steps", 0),
    ],
)
def test_arguments_outside_their_range(name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"Expected `{name}`.*got "):
        PMRTrainingArguments(str(tmp_path), **{name: value})


def test_arguments_that_would_remove_the_columns(tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        MultimodalTrainingArguments(str(tmp_path), remove_unused_columns=True)


def test_the_filter_of_trainer_that_logs_zero_for_nan_is_off(make_args):
    assert make_args().logging_nan_inf_filter is False
