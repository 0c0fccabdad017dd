"""The runs of the benchmark, by their arguments."""

from argparse import Namespace

import pytest

from pmr_hf.command_line.benchmark_cells import (
    BENCHMARK_METHODS,
    Cell,
    able_methods,
    groups_of,
    listed,
    untrainable_pairs,
)
from pmr_hf.command_line.split_command import options_of


def test_arguments_go_to_the_methods_that_know_them():
    shared = options_of(["--pmr_alpha", "2", "--no_remove_unused_columns", "--columns", "a=x", "b=y"])
    own = {name: Cell(name, "sum", "1e-2", 4).arguments(shared) for name in ("joint", "pmr_hard", "ogm_ge")}
    assert own["joint"][:4] == ["--no_remove_unused_columns", "--columns", "a=x", "b=y"]
    assert own["pmr_hard"][:3] == ["--pmr_alpha", "2", "--no_remove_unused_columns"]
    rest = ["--fusion", "sum", "--seed", "4", "--method", "ogm", "--ogm_noise", "True"]
    rest += ["--compare_with", "none", "--learning_rate", "1e-2"]
    assert own["ogm_ge"][4:] == rest


WITHOUT_CLASSES = ["unimodal", "joint", "dropout", "dgl", "uniform", "gblend", "mmpareto", "late_fusion"]


@pytest.mark.parametrize(
    ("problem_type", "fusions", "widths", "left_out"),
    [
        ("single_label_classification", ["concat", "sum"], {"a": 8, "b": 8}, {}),
        (
            "regression",
            ["film"],
            {},
            {name: "a regression has no" for name in BENCHMARK_METHODS if name not in WITHOUT_CLASSES},
        ),
        (
            "multi_label_classification",
            ["concat"],
            {"a": 8, "b": 16},
            {"mla": "one class per sample", "relearning": "one class per sample"},
        ),
        ("single_label_classification", ["film"], {}, {"reconboost": "it takes the fusion head concat or sum"}),
        ("single_label_classification", ["sum"], {"a": 8, "b": 16, "c": 8}, {"mla": "got {'a': 8, 'b': 16, 'c': 8}"}),
        ("single_label_classification", ["sum"], {"a": 8, "b": None}, {}),
    ],
)
def test_all_methods_are_those_that_can_train_the_data(problem_type, fusions, widths, left_out):
    every = list(BENCHMARK_METHODS)
    found = untrainable_pairs(every, fusions, problem_type, widths)
    assert {method for method, _ in found} == left_out.keys()
    assert all(left_out[method] in reason for (method, _), reason in found.items())
    assert able_methods(every, fusions, found) == [name for name in every if name not in left_out]


def test_a_method_keeps_the_fusion_heads_that_it_can_train():
    args = Namespace(methods=["joint", "reconboost"], fusions=["film", "sum", "gated"], vary=[])
    found = untrainable_pairs(args.methods, args.fusions, "single_label_classification", {})
    assert able_methods(args.methods, args.fusions, found) == args.methods
    cells = [(cell.method, cell.fusion) for cell in groups_of(args, ["a"], found)]
    assert cells == [("joint", "film"), ("joint", "sum"), ("joint", "gated"), ("reconboost", "sum")]
    what = "reconboost with film, reconboost with gated (it takes the fusion head concat or sum)"
    assert listed(found, args.fusions) == what
    found = untrainable_pairs(["pmr", "reconboost", "ogm_ge"], ["film"], "regression", {})
    assert listed(found, ["film"]) == "pmr, reconboost, ogm_ge (a regression has no class prototypes)"


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
