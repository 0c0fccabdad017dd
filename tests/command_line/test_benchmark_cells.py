"""The runs of the benchmark, by their arguments."""

from argparse import Namespace

import pytest

from pmr_hf.command_line.benchmark_cells import BENCHMARK_METHODS, Cell, able_methods, groups_of, mistake_in
from pmr_hf.command_line.split_command import options_of


def test_arguments_go_to_the_methods_that_know_them():
    shared = options_of(["--pmr_alpha", "2", "--no_remove_unused_columns", "--columns", "a=x", "b=y"])
    own = {name: Cell(name, "sum", "1e-2", 4).arguments(shared) for name in ("joint", "pmr_hard", "ogm_ge")}
    assert own["joint"][:4] == ["--no_remove_unused_columns", "--columns", "a=x", "b=y"]
    assert own["pmr_hard"][:3] == ["--pmr_alpha", "2", "--no_remove_unused_columns"]
    rest = ["--fusion", "sum", "--seed", "4", "--method", "ogm", "--ogm_noise", "True"]
    rest += ["--compare_with", "none", "--learning_rate", "1e-2"]
    assert own["ogm_ge"][4:] == rest


@pytest.mark.parametrize("option", [["--problem_type", "regression"], ["--problem-type=regression"]])
def test_a_regression_refuses_methods_that_need_classes(option):
    args = Namespace(methods=["joint", "pmr", "ogm_ge"], vary=[], learning_rates=[])
    assert mistake_in(args, options_of(option)) == (
        "Expected --methods among unimodal, joint, dropout, dgl, uniform, gblend, mmpareto, late_fusion with "
        "--problem_type regression, got pmr, ogm_ge too; leave out what needs class prototypes."
    )
    args.methods = ["unimodal", "joint", "dropout", "gblend", "mmpareto"]
    assert mistake_in(args, options_of(option)) is None
    args.methods = ["pmr"]
    assert mistake_in(args, options_of(["--problem_type", "multi_label_classification"])) is None


def test_all_methods_are_those_that_can_train_the_data():
    assert able_methods([]) == list(BENCHMARK_METHODS)
    able = able_methods([["--problem_type", "regression"]])
    assert {"joint", "unimodal"} < set(able) and not {"pmr", "recipe", "ogm_ge"} & set(able)


def test_a_method_with_its_own_fusion_head_ignores_the_others():
    args = Namespace(methods=["joint", "mla", "late_fusion", "unimodal"], fusions=["sum", "film"], vary=[])
    found = [(cell.method, cell.fusion, cell.modality) for cell in groups_of(args, ["a"])]
    assert found == [
        ("joint", "sum", None),
        ("joint", "film", None),
        ("mla", "shared", None),
        ("late_fusion", "late", None),
        ("unimodal", "concat", "a"),
    ]
