"""A command line with any content is parsed, or stops at once with one sentence."""

import math
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmr_hf.command_line.parse_arguments import parse_arguments


@pytest.fixture(scope="module")
def parse():
    def parse(arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["run_pmr.py", "--use_cpu", *arguments])
            return parse_arguments()

    return parse


OPTIONS = """
    pmr_alpha pmr_mu pmr_entropy_epochs pmr_epochs pmr_weights prototype_momentum prototype_fraction freeze
    modality_learning_rates method dataset dataset_name train_file columns backbones label_column on_error preprocess
    preprocess_workers split max_train_samples max_eval_samples modalities test_correlation fusion embedding_dim pooling
    num_frames clip_seconds modality_dropout lora
    num_train_epochs learning_rate per_device_train_batch_size gradient_accumulation_steps warmup_steps weight_decay
    max_grad_norm logging_steps seed unknown
"""
REFUSED = """
    pmr_alpha=nan pmr_alpha=inf pmr_alpha=-1 pmr_alpha=abc pmr_alpha=1e400 pmr_weights=soft prototype_fraction=0
    prototype_momentum=1 num_train_epochs=-1 num_train_epochs=nan learning_rate=-0.1 learning_rate=inf weight_decay=nan
    per_device_train_batch_size=0 gradient_accumulation_steps=0 modality_learning_rates=[1] fusion=nope embedding_dim=0
    embedding_dim=1000000000000 modality_dropout=1 clip_seconds=0 clip_seconds=1e9 max_train_samples=-1 lora=text=0
    num_frames=visual=x test_correlation=2 preprocess_workers=0 dataset=mnist columns=junk columns= nothing=1
"""
VALUES = ["", "nan", "inf", "-inf", "-1", "0", "1", "0.5", "abc", "1e400", "9" * 30, "1e12", "None", "true", "\0"]
VALUES += ["a=b", "a=", "=b", "=", "a=1", "a=0", "a=\u00b2", "a=" + "9" * 5000, "{", "[1]", "\u00b2", '""', "null"]
VALUES += ['{"a": 1}', '{"a": true}', '{"a": NaN}', '{"a": "x"}', '{"a": -1}', '{"a": 1e400}', '{"a": []}']


def stops(parse, arguments):
    """Whether argparse or a sentence refuses these arguments, and the parsed arguments if not."""
    try:
        return None, parse(arguments)
    except SystemExit as stop:
        assert stop.code == 2
    except ValueError as error:
        assert re.match("Expected |logging strategy", str(error)), error  # transformers raises the second
    return True, None


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(OPTIONS.split()), st.sampled_from(VALUES) | st.text(max_size=5)), max_size=3))
@example([("pmr_alpha", "1"), ("pmr_alpha", "nan")])  # the last one counts
@example([("modality_learning_rates", "0")])
@example([("num_frames", "a=\u00b2")])
@example([("logging_steps", "inf")])
@example([("unknown", "1")])
def test_any_command_line_is_parsed_or_stops_with_a_sentence(parse, options):
    stopped, parsed = stops(parse, [f"--{name}={value}" for name, value in options if value != "--"])
    if stopped:
        return
    script_args, args = parsed
    numbers = [*vars(args).values(), *vars(script_args).values()]
    assert all(math.isfinite(number) for number in numbers if isinstance(number, float))
    assert args.pmr_alpha >= 0 and args.pmr_mu >= 0 and args.pmr_entropy_epochs >= 0 and (args.pmr_epochs or 0) >= 0
    assert 0 < args.prototype_fraction <= 1 and 0 <= args.prototype_momentum < 1
    assert args.num_train_epochs >= 0 and args.learning_rate >= 0 and args.per_device_train_batch_size > 0
    assert all(rate > 0 for rate in (args.modality_learning_rates or {}).values())
    assert 0 <= script_args.modality_dropout < 1 and 0 <= script_args.test_correlation <= 1
    assert script_args.columns.keys() == script_args.backbones.keys()
    assert all(0 < count <= 10**6 for count in [*script_args.num_frames.values(), *script_args.lora.values()])


@pytest.mark.parametrize("option", REFUSED.split())
def test_nonsense_on_the_command_line_is_refused(parse, option):
    assert stops(parse, [f"--{option}"])[0]
