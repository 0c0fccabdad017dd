"""`benchmarks/peers.py`: the order, the measures and the table of its runs, and the page with their numbers."""

import json
import sys
from pathlib import Path

import pytest
from helpers.scripts import BENCHMARKS, load_benchmark


peers = load_benchmark("peers")
clock = load_benchmark("peers_clock")
DOCS = Path(__file__).parents[2] / "docs"


def run(tool, seed, **measures):
    shared = {"epochs": 1, "batch": 4, "rows": 10, **{name: 2.0 for name, _ in peers.COLUMNS.values()}}
    return {"tool": tool, "seed": seed, **shared, **measures}


def write_runs(folder, runs):
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in runs), encoding="utf-8")


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["peers.py", *map(str, arguments)])
    peers.main()


def test_the_tool_that_begins_changes_from_seed_to_seed():
    assert peers.order_of_runs([5, 7], ["a", "b"]) == [(5, "a"), (5, "b"), (7, "b"), (7, "a")]


def test_the_measures_of_two_epochs_by_hand():
    # 10 rows in steps of 4, 4 and 2. The pause of 20 seconds after the first epoch is its validation.
    found = peers.measures(
        rows=10, batch=4, started=100.0, wall=[103, 104, 105, 125, 126, 127], cpu=[2, 3, 4, 8, 9, 10]
    )
    assert found == {
        "samples_per_second": 4.0,
        "samples_per_cpu_second": 4.0,
        "samples_per_cpu_second_overall": (4 + 2 + 4 + 4 + 2) / 8,
        "seconds_to_first_step": 3.0,
        "steps": 6,
    }


def test_one_step_is_too_few_to_measure():
    with pytest.raises(ValueError, match="Expected two steps or more"):
        peers.measures(rows=4, batch=4, started=0.0, wall=[1.0], cpu=[1.0])


def test_the_table_has_means_deviations_and_ratios():
    runs = [run("AutoGluon", 0, accuracy=0.5, samples_per_second=4.0, peak_memory_mib=1000.0)]
    runs += [run("pmr_hf", seed, accuracy=0.5 + 0.1 * seed, samples_per_second=6.0 + 2 * seed) for seed in (0, 1)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in peers.table(runs).splitlines()]
    assert [row[0] for row in rows] == ["mean of the seeds", "---", "pmr_hf", "AutoGluon", "pmr_hf / AutoGluon"]
    assert rows[2][1:3] == ["0.550 ± 0.071", "7.0 ± 1.4"]
    assert rows[3][1:3] == ["0.500", "4.0"]
    assert rows[4][1:3] == ["1.10", "1.75"]
    assert rows[4][1 + list(peers.COLUMNS).index("memory, MiB")] == "0.00"


def test_without_autogluon_a_sentence_is_printed_and_finished_runs_are_skipped(tmp_path, monkeypatch, capsys):
    """No run is started here: the table does not exist."""
    write_runs(tmp_path, [run("pmr_hf", 0, accuracy=0.75), run("AutoGluon", 0)])
    shared = ("--seeds", 0, "--epochs", 1, "--batch", 4, "--output_dir", tmp_path)
    start(monkeypatch, tmp_path / "none", "--peer_python", tmp_path / "python", *shared)
    printed = capsys.readouterr().out
    assert "pmr_hf runs alone" in printed and "cannot import autogluon.multimodal" in printed
    assert "| pmr_hf | 0.750 |" in printed and "| AutoGluon" not in printed


def test_a_python_without_autogluon_is_told(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", "")
    assert not peers.has_autogluon(sys.executable)
    assert "No module named 'autogluon'" in capsys.readouterr().out


def test_a_run_with_other_settings_is_not_skipped(tmp_path, monkeypatch):
    """The run of one epoch is finished, that of two starts, and fails on a table that does not exist."""
    write_runs(tmp_path, [run("pmr_hf", 0)])
    shared = ("--seeds", 0, "--epochs", 2, "--batch", 4, "--output_dir", tmp_path)
    monkeypatch.setitem(peers.SCRIPTS, "pmr_hf", tmp_path / "none.py")
    with pytest.raises(RuntimeError, match=r"got exit code 2; see .*pmr_hf-0\.log"):
        start(monkeypatch, tmp_path / "none", "--peer_python", tmp_path / "python", *shared)


def test_the_clock_stamps_each_optimizer_step(tmp_path):
    """In a process of its own, since the hook stays for all optimizers of a process."""
    code = """
import json, sys, torch
from pathlib import Path
from peers_clock import Clock
clock, weight = Clock(), torch.nn.Parameter(torch.ones(1))
for optimizer in (torch.optim.SGD([weight], 0.1), torch.optim.AdamW([weight])):
    weight.sum().backward()
    optimizer.step()
clock.write(Path(sys.argv[1]), 0.5, ["torch"])
"""
    file = tmp_path / "run.json"
    peers.subprocess.run([sys.executable, "-c", code, str(file)], cwd=BENCHMARKS, check=True)
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert facts["accuracy"] == 0.5 and list(facts["versions"]) == ["torch"]
    assert len(facts["wall"]) == len(facts["cpu"]) == 2 and facts["wall"] == sorted(facts["wall"])


def test_lines_between_the_comments_are_counted(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("import a\n# A user writes\nb = 1\n\nc = 2\n# until here\nd = 3\n", encoding="utf-8")
    assert clock.user_lines(file) == 2


def test_the_page_has_the_table_of_its_runs():
    runs = peers.finished_runs(DOCS / "results" / "peers.jsonl")
    assert {(one["tool"], one["seed"]) for one in runs} == {
        (tool, seed) for tool in peers.SCRIPTS for seed in (0, 1, 2)
    }
    assert peers.table(runs) in (DOCS / "peers.md").read_text(encoding="utf-8")
