"""The panels of the benchmark's plots."""

import json

from PIL import Image

from pmr_hf.reporting.benchmark_plots import plot_curves, plot_varied


def test_the_plot_has_a_panel_for_each_curve_that_was_logged(tmp_path):
    """Fused, two modalities, the ratio, two cosines, in two rows of three; or fused and one modality alone."""
    history = [{"epoch": epoch, "eval_accuracy": 0.5, "eval_a_prototype_accuracy": 0.4} for epoch in (1.0, 2.0)]
    logged = {"epoch": 2.0, "eval_b_prototype_accuracy": 0.4, "rho": 1.0}
    logged |= {"a_gradient_cosine": 0.1, "b_gradient_cosine": 0.2}
    sizes = {}
    for name, log in {"all": [*history, logged], "one": history}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        result = {"name": name, "method": "joint", "setting": None, "fusion": name, "seed": 0, "modalities": ["a", "b"]}
        plot_curves(tmp_path, name, [result])
        sizes[name] = Image.open(tmp_path / f"curves-{name}.png").size
    assert sizes == {"all": (3 * 473, 858), "one": (2 * 473, 462)}


def test_a_regression_has_a_panel_of_the_fused_error(tmp_path):
    (tmp_path / "run").mkdir()
    history = [{"epoch": epoch, "eval_mae": 500.0, "eval_rmse": 600.0} for epoch in (1.0, 2.0)]
    (tmp_path / "run" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    result = {"name": "run", "method": "joint", "setting": "d=1", "fusion": "sum", "seed": 0, "modalities": ["a", "b"]}
    result |= {"problem_type": "regression", "test_mae": 400.0}
    plot_curves(tmp_path, "sum", [result])
    plot_varied(tmp_path, "sum", "d", [result])
    assert Image.open(tmp_path / "curves-sum.png").width == Image.open(tmp_path / "d-sum.png").width == 473


def test_the_plot_of_a_varied_argument(tmp_path):
    base = {"fusion": "sum", "rho": None, "modalities": ["a"], "a_prototype_accuracy": 0.1}
    results = [{**base, "method": "joint", "setting": None, "seed": 0, "test_accuracy": 0.2}]
    for value in ("1", "2"):
        results += [{**base, "method": "pmr", "setting": f"d={value}", "seed": s, "test_accuracy": 0.5} for s in (0, 1)]
    plot_varied(tmp_path, "sum", "d", results)
    assert Image.open(tmp_path / "d-sum.png").width == 2 * 473
