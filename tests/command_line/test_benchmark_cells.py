"""The runs of the benchmark, by their arguments."""

from argparse import Namespace

import pytest

from pmr_hf.command_line.benchmark_cells import Cell, groups_of, mistake_in
from pmr_hf.command_line.options import options_of


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


def test_a_method_with_a_head_of_its_own_runs_once_for_all_heads():
    args = Namespace(methods=["unimodal", "joint", "late_fusion"], fusions=["sum", "film"], vary=["seed", "1"])
    groups = [(cell.fusion, cell.method, cell.modality) for cell in groups_of(args, ["a", "b"])]
    assert groups == [
        ("concat", "unimodal", "a"),
        ("concat", "unimodal", "b"),
        ("sum", "joint", None),
        ("film", "joint", None),
        ("late", "late_fusion", None),
    ]
    (cell,) = groups_of(Namespace(methods=["late_fusion"], fusions=["sum"], vary=[]), ["a", "b"])
    assert cell.name == "late-late_fusion-seed0" and cell.arguments([])[:2] == ["--fusion", "late"]
