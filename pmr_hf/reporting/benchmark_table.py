"""The tables of `examples/benchmark.py`, with each method's accuracies and its gains over joint training."""

import statistics
from typing import Any


Result = dict[str, Any]  # what `examples/benchmark.py` reports about one run
Rows = dict[tuple[str, str], list[Result]]  # the runs of each row of a table, by fusion head and method


def table_of(results: list[Result]) -> str:
    """
    Two Markdown tables: one for the fused model, and one for each modality alone. Accuracies are in percent, as mean ±
    standard deviation over the seeds.
    """
    rows = rows_of(results)
    return f"{markdown(fused_table(rows, results))}\n{markdown(modality_table(rows, results))}"


def fused_table(rows: Rows, results: list[Result]) -> list[list[str]]:
    """A header and a line for each row, with accuracy, gain over joint training, macro F1, costs and learning rates."""
    splits = " and ".join(sorted({result["split"] for result in results}))
    accuracy = f"{splits} accuracy" + (", selected by" if "validation" in splits else "")
    table = [["fusion", "method", "seeds", accuracy, "over joint", "macro F1", "time", "memory", "learning rate"]]
    for (fusion, method), group in rows.items():
        joint = reference_of((fusion, method), rows)
        pairs = [(result, joint[result["seed"]]) for result in group if result["seed"] in joint]
        table.append(
            [
                *(fusion, method, str(len(group)), percent(group, "test_accuracy"), gain(pairs)),
                *(percent(group, "test_macro_f1"), cost(pairs, "train_seconds"), cost(pairs, "peak_memory_mib")),
                learning_rates(group),
            ]
        )
    return table


def modality_table(rows: Rows, results: list[Result]) -> list[list[str]]:
    """A header and a line for each row, with accuracies and share of each modality, and the ratio of two modalities."""
    names = modalities_of(results)
    columns = [f"{name}, {what}" for name in names for what in ("prototypes", "head", "probe", "share")]
    table = [["fusion", "method", *columns, "ratio"]]
    for (fusion, method), group in rows.items():
        line = [fusion, method]
        for name in names:
            for what in ("prototype_accuracy", "head_accuracy", "probe_accuracy"):
                line.append(percent(group, f"{name}_{what}"))
            line.append(mean([result[f"{name}_share"] for result in group if f"{name}_share" in result]))
        line.append(mean([result["rho"] for result in group if result["rho"] is not None]))
        table.append(line)
    return table


# ---- The rows ----


def rows_of(results: list[Result]) -> Rows:
    """Group the runs of several seeds by fusion head and method. A varied setting is part of the method's name."""
    rows: Rows = {}
    for result in results:
        method = result["method"] + ("" if result["setting"] is None else f", {result['setting']}")
        fusion = "none" if result["method"].startswith("unimodal") else result["fusion"]
        rows.setdefault((fusion, method), []).append(result)
    return rows


def modalities_of(results: list[Result]) -> list[str]:
    """The modalities of all runs, each once, in their order."""
    return list(dict.fromkeys(name for result in results for name in result["modalities"]))


def reference_of(row: tuple[str, str], rows: Rows) -> dict[int, Result]:
    """
    The runs of joint training to compare a row with, by seed: with the same head and setting, or else with the same
    head and no setting. Joint training itself has none.
    """
    fusion, setting = row[0], rows[row][0]["setting"]
    candidates = [(fusion, f"joint, {setting}"), (fusion, "joint")]
    found = [rows[other] for other in candidates if other in rows and other != row]
    return {result["seed"]: result for result in found[0]} if found else {}


# ---- The cells ----


def gain(pairs: list[tuple[Result, Result]]) -> str:
    """The gain in accuracy over joint training, in percentage points, and the number of seeds with a positive gain."""
    gains = [100 * (own["test_accuracy"] - joint["test_accuracy"]) for own, joint in pairs]
    ahead = sum(difference > 0 for difference in gains)
    return f"{spread(gains, signed=True)} ({ahead} of {len(gains)} ahead)" if gains else ""


def cost(pairs: list[tuple[Result, Result]], key: str) -> str:
    """The median of a value over the value of joint training; empty if no pair of runs has both values."""
    known = [own[key] / joint[key] for own, joint in pairs if own[key] and joint[key]]
    return f"{statistics.median(known):.2f}" if known else ""


def learning_rates(group: list[Result]) -> str:
    """The learning rates of the runs, and the grid that they were chosen from, if there was one."""
    rates = ", ".join(sorted({f"{result['learning_rate']:g}" for result in group}))
    grid = group[-1].get("grid", {})
    return rates + (f" of {', '.join(grid)}" if len(grid) > 1 else "")


def percent(group: list[Result], key: str) -> str:
    """Mean ± standard deviation, in percent, over the runs that have this accuracy; empty if none has it."""
    values = [100 * result[key] for result in group if key in result]
    return spread(values) if values else ""


def spread(values: list[float], signed: bool = False) -> str:
    """Mean ± sample standard deviation, or only the mean of a single value."""
    mean = f"{statistics.mean(values):+.1f}" if signed else f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def mean(values: list[float]) -> str:
    """The mean of some values; empty if there are none."""
    return f"{statistics.mean(values):.2f}" if values else ""


def markdown(table: list[list[str]]) -> str:
    """A table in Markdown. Its first line is the header."""
    header, *others = ["| " + " | ".join(line) + " |\n" for line in table]
    return "".join([header, "|---" * len(table[0]) + "|\n", *others])
