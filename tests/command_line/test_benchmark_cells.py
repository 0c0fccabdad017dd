"""The runs of the benchmark, by their arguments."""

from argparse import Namespace

from pmr_hf.command_line.benchmark_cells import Cell, mistake_in
from pmr_hf.command_line.options import options_of


def test_arguments_go_to_the_methods_that_know_them():
    shared = options_of(["--pmr_alpha", "2", "--no_remove_unused_columns", "--columns", "a=x", "b=y"])
    own = {name: Cell(name, "sum", "1e-2", 4).arguments(shared) for name in ("joint", "pmr_hard", "ogm_ge")}
    assert own["joint"][:4] == ["--no_remove_unused_columns", "--columns", "a=x", "b=y"]
    assert own["pmr_hard"][:3] == ["--pmr_alpha", "2", "--no_remove_unused_columns"]
    rest = ["--fusion", "sum", "--seed", "4", "--method", "ogm", "--ogm_noise", "True"]
    rest += ["--compare_with", "none", "--learning_rate", "1e-2"]
    assert own["ogm_ge"][4:] == rest


def test_problems_without_accuracies_are_refused():
    args = Namespace(methods=["joint"], vary=[], learning_rates=[])
    shared = options_of(["--problem_type", "regression"])
    assert mistake_in(args, shared) == (
        "Expected no --problem_type here: it is set to one class, since the benchmark compares accuracies."
    )
