"""A command line with any content is parsed, or stops at once with one sentence."""

import math
import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmr_hf.command_line.compare_with import joint_arguments
from pmr_hf.command_line.parse_arguments import (
    leave_out_modalities,
    lengthen_training,
    lower_pretrained_rates,
    parse_arguments,
)


@pytest.fixture(scope="module")
def parse():
    def parse(arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["run_pmr.py", "--use_cpu", *arguments])
            return parse_arguments()

    return parse


OPTIONS = """
    pmr_alpha pmr_mu pmr_entropy_epochs pmr_epochs pmr_weights prototype_momentum prototype_fraction freeze
    answer recipe compare_with
    class_weights
    modality_learning_rates method dataset dataset_name train_file columns backbones label_column on_error preprocess
    preprocess_workers split max_train_samples max_eval_samples modalities test_correlation fusion embedding_dim pooling
    validation_size num_frames clip_seconds modality_dropout lora augment frames
    num_train_epochs learning_rate per_device_train_batch_size gradient_accumulation_steps warmup_steps weight_decay
    max_grad_norm logging_steps seed unknown
"""
REFUSED = """
    pmr_alpha=nan pmr_alpha=inf pmr_alpha=-1 pmr_alpha=abc pmr_alpha=1e400 pmr_weights=soft prototype_fraction=0
    prototype_momentum=1 num_train_epochs=-1 num_train_epochs=nan learning_rate=-0.1 learning_rate=inf weight_decay=nan
    per_device_train_batch_size=0 gradient_accumulation_steps=0 modality_learning_rates=[1] fusion=nope embedding_dim=0
    embedding_dim=1000000000000 modality_dropout=1 clip_seconds=0 clip_seconds=1e9 max_train_samples=-1 lora=text=0
    num_frames=visual=x test_correlation=2 save_examples=21 validation_size=1 preprocess_workers=0 dataset=mnist
    columns=junk columns= nothing=1 class_weights=even class_weights=[1]
    augment=gray=crop augment=sound=basic augment=basic frames=some
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
@example([("lora", "a=1")])
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
    assert script_args.infers or script_args.columns.keys() == script_args.backbones.keys()
    ranks = [layers["r"] for layers in script_args.lora.values()]
    assert all(0 < count <= 10**6 for count in [*script_args.num_frames.values(), *ranks])


@pytest.mark.parametrize("option", REFUSED.split())
def test_nonsense_on_the_command_line_is_refused(parse, option):
    assert stops(parse, [f"--{option}"])[0]


def test_class_weights_are_a_word_or_json(parse):
    assert parse(["--class_weights", "balanced"])[1].class_weights == "balanced"
    assert parse(["--class_weights", '{"rare": 5}'])[1].class_weights == {"rare": 5}


def test_the_recipe_is_a_set_of_defaults(parse):
    recommended = {"pmr_weights": "hard", "pmr_alpha": 1, "pmr_mu": 0, "answer": "best"}
    paper = {"pmr_weights": "clip", "pmr_alpha": 2, "pmr_mu": 0.01, "answer": None}
    for arguments, expected, dropout in ([], recommended, 0.3), (["--recipe", "paper"], paper, 0):
        script_args, args = parse(arguments)
        assert {name: getattr(args, name) for name in expected} == expected
        assert script_args.modality_dropout == dropout
    script_args, args = parse(["--modality_dropout", "0.1", "--pmr_alpha", "3"])
    assert (script_args.modality_dropout, args.pmr_alpha, args.pmr_weights) == (0.1, 3, "hard")
    script_args, args = parse(["--method", "joint"])
    assert (script_args.modality_dropout, args.answer, script_args.compare_with) == (0, None, "none")


@pytest.mark.parametrize(
    ("arguments", "max_grad_norm", "initialization", "rate", "epochs", "optimizer"),
    [
        ("--dataset digits", 1, "kaiming", 0.3, 40, "sgd"),
        ("--dataset cg_mnist --data_dir d", 0, "kaiming", 0.01, 10, "sgd"),
        ("--dataset cg_mnist --dataset_name mnist", 0, "kaiming", 0.01, 10, "sgd"),
        ("--dataset crema_d --data_dir d", 0, "kaiming", 0.001, 130, "sgd"),
        ("--dataset ave --data_dir d", 0, "kaiming", 0.001, 130, "sgd"),
        ("--dataset ave --data_dir d --backbones audio=a visual=b", 0, "default", 0.001, 130, "sgd"),  # pretrained
        ("--train_file a.csv", 1, "default", 0.001, 5, "adamw_torch"),
    ],
)
@pytest.mark.parametrize("method", ["joint", "pmr"])
def test_the_defaults_of_training_depend_on_the_data(
    parse, method, arguments, max_grad_norm, initialization, rate, epochs, optimizer
):
    script_args, args = parse(["--method", method, *arguments.split()])
    assert (args.max_grad_norm, script_args.initialization) == (max_grad_norm, initialization)
    assert (args.learning_rate, args.num_train_epochs) == (rate, epochs)
    assert args.optim.removesuffix("_fused") == optimizer


@pytest.mark.parametrize("varied", [["--augment", "gray=basic", "colored=basic"], ["--frames", "random"]])
def test_what_varies_is_not_cached(parse, varied):
    """The digits are cached by default."""
    assert parse([])[0].preprocess == "cached" and parse(varied)[0].preprocess == "on_the_fly"
    with pytest.raises(ValueError, match="Expected --preprocess on_the_fly with --augment or --frames random"):
        parse([*varied, "--preprocess", "cached"])


def test_the_joint_run_has_every_option_that_joint_training_has():
    given = "--method pmr --pmr_alpha 2 --seed=3 --output_dir out --run_name first --modality_dropout 0.1 --push_to_hub"
    given += " --recipe paper"
    kept = ["--seed=3", "--modality_dropout", "0.1", "--method", "joint", "--output_dir", "out-joint"]
    assert joint_arguments(given.split(), "out/", resume=False) == kept
    given += " --resume_from_checkpoint out/checkpoint-3"
    assert joint_arguments(given.split(), "out", resume=True) == [*kept, "--resume_from_checkpoint", "True"]


@pytest.mark.parametrize(
    ("rows", "more", "epochs"),
    [
        (500, [], 32),  # of 16 steps, the last of them not full
        (3200, [], 5),
        (60, [], 40),  # the most
        (500, ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"], 16),
        (500, ["--num_train_epochs", "5"], 5),
        (500, ["--num-train-epochs=2"], 2),
        (500, ["--max_steps", "10"], 5),
    ],
)
def test_a_small_table_is_trained_by_steps_unless_the_command_sets_the_length(parse, rows, more, epochs, caplog):
    script_args, args = parse(["--train_file", "a.csv", *more])
    lengthen_training(script_args, args, rows)
    assert args.num_train_epochs == epochs
    assert ("training takes" in caplog.text) == (epochs > 5)


def test_the_digits_keep_their_epochs(parse):
    script_args, args = parse([])
    lengthen_training(script_args, args, 10)
    assert args.num_train_epochs == 40


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--label_column", "label"], "--label_column"),
        (["--columns", "image=scan", "--backbones", "image=a"], "--columns, --backbones"),
        (["--backbones", "gray=cg_mnist_gray", "text=a"], "--backbones"),
        (["--validation_file", "a.csv", "--encoding", "utf-8"], "--validation_file, --encoding"),
        (["--test_file", "a.csv"], "--test_file"),
        (["--prototype_file", "a.csv", "--dataset", "ave"], "--prototype_file"),
        (["--dataset", "cg_mnist", "--dataset_name", "mnist", "--label_column", "digit"], "--label_column"),
    ],
)
def test_a_forgotten_table_is_not_replaced_by_the_digits(parse, options, named):
    with pytest.raises(ValueError, match=f"^Expected --train_file or --dataset_name with {named}, got neither"):
        parse(options)


def test_trackers_call_a_run_by_its_folder_unless_it_has_a_name(parse):
    assert parse(["--method", "joint", "--seed", "3"])[1].run_name == "digits-concat-joint-seed3"
    assert parse(["--output_dir", "a/b/"])[1].run_name == "b"
    assert parse(["--run_name", "first"])[1].run_name == "first"


def test_a_paper_set_may_have_another_encoder(parse):
    assert parse(["--backbones", "gray=a"])[0].backbones == {"gray": "a", "colored": "cg_mnist"}


def test_the_fusion_head_follows_from_the_method_unless_it_is_named(parse):
    for arguments, expected in (
        (["--method", "joint"], "concat"),
        (["--method", "joint", "--fusion", "late"], "late"),
        (["--method", "late_fusion"], "late"),
        (["--method", "mla", "--mla_alpha", "0.5"], "shared"),
    ):
        script, training = parse(arguments)
        assert script.fusion == expected and Path(training.output_dir).name.startswith(f"digits-{expected}-")
    for method, own in (("late_fusion", "late"), ("mla", "shared")):
        with pytest.raises(ValueError, match=f"Expected --fusion {own} with --method {method}, got film; leave it out"):
            parse(["--method", method, "--fusion", "film"])


def test_arguments_of_modalities_that_are_left_out():
    more = ["--columns", "a=x", "b=y", "c=z", "--backbones", "a=numbers", "b=numbers", "c=numbers", "--modalities", "b"]
    more += ["--freeze", "a", "--modality_learning_rates", '{"b": 0.5, "c": 0.1}', "--train_file", __file__]
    script_args, args = parse_arguments([*more, "--label_column", "label"])
    leave_out_modalities(script_args, args)
    assert args.freeze is None and args.modality_learning_rates == {"b": 0.5}
    script_args, args = parse_arguments([*more, "--label_column", "label", "--freeze", "typo"])
    leave_out_modalities(script_args, args)
    assert args.freeze == ["typo"]  # the trainer names it


def test_pretrained_encoders_learn_at_a_tenth_unless_they_are_frozen_or_have_a_rate():
    encoders = ["--backbones", "image=a", "text=b", "audio=c", "stats=numbers"]
    more = ["--freeze", "image", "--modality_learning_rates", '{"audio": 0.5}', "--learning_rate", "0.01"]
    script_args, args = parse_arguments(["--train_file", __file__, "--label_column", "y", *encoders, *more])
    lower_pretrained_rates(script_args, args)
    assert args.modality_learning_rates == {"text": pytest.approx(0.001), "audio": 0.5}
