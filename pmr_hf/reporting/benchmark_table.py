"""The tables of `examples/benchmark.py`, with each method's metrics and its gains over joint training."""

import statistics
from typing import Any

from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL


Result = dict[str, Any]  # what `examples/benchmark.py` reports about one run
Rows = dict[tuple[str, str], list[Result]]  # the runs of each row of a table, by fusion head and method

OWN_HEAD = ("late_fusion", "mla")  # the methods whose fusion head is their own, see `own_fusion` of a trainer
# The metrics of the fused model and their names in a header, by problem type. The gain is that of the first.
FUSED_METRICS = {
    SINGLE_LABEL: {"accuracy": "accuracy", "macro_f1": "macro F1"},
    MULTI_LABEL: {
        "micro_f1": "micro F1",
        "macro_f1": "macro F1",
        "mAP": "mAP",
        "subset_accuracy": "subset accuracy",
    },
    REGRESSION: {"mae": "MAE", "rmse": "RMSE", "r2": "R²"},
}


def table_of(results: list[Result]) -> str:
    """
    Two Markdown tables: one for the fused model, and one for each modality alone. Metrics are in percent, as mean ±
    standard deviation over the seeds. Those of a regression have four digits, and errors have the units of the targets.
    """
    rows = rows_of(results)
    return f"{markdown(fused_table(rows, results))}\n{markdown(modality_table(rows, results))}"


def fused_table(rows: Rows, results: list[Result]) -> list[list[str]]:
    """A header and a line for each row, with metrics, gain over joint training, costs and learning rates."""
    (metric, called), *others = FUSED_METRICS[problem_of(results)].items()
    splits = " and ".join(sorted({result["split"] for result in results}))
    header = f"{splits} {called}" + (", selected by" if "validation" in splits else "")
    names = [name for _, name in others]
    table = [["fusion", "method", "seeds", header, "over joint", *names, "time", "memory", "learning rate"]]
    for (fusion, method), group in rows.items():
        joint = reference_of((fusion, method), rows)
        pairs = [(result, joint[result["seed"]]) for result in group if result["seed"] in joint]
        table.append(
            [
                *(fusion, method, str(len(group)), shown(group, f"test_{metric}"), gain(pairs, metric)),
                *(shown(group, f"test_{other}") for other, _ in others),
                *(cost(pairs, "train_seconds"), cost(pairs, "peak_memory_mib")),
                learning_rates(group),
            ]
        )
    return table


def modality_table(rows: Rows, results: list[Result]) -> list[list[str]]:
    """
    A header and a line for each row, with metrics and share of each modality, and the ratio of two modalities. A
    regression has no prototypes, so that only the probe and the share are left.
    """
    names, problem = modalities_of(results), problem_of(results)
    is_regression, form = problem == REGRESSION, ".4g" if problem == REGRESSION else ".2f"
    kinds = {"probe": "probe"} if is_regression else {"prototypes": "prototype", "head": "head", "probe": "probe"}
    columns = [f"{name}, {what}" for name in names for what in [*kinds, "share"]]
    table = [["fusion", "method", *columns, *([] if is_regression else ["ratio"])]]
    for (fusion, method), group in rows.items():
        line = [fusion, method]
        for name in names:
            line += [shown(group, f"{name}_{kind}_{MODALITY_METRIC[problem]}") for kind in kinds.values()]
            line.append(mean([result[f"{name}_share"] for result in group if f"{name}_share" in result], form))
        if not is_regression:
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


def problem_of(results: list[Result]) -> str:
    """The problem type of the runs, which all have the same. Results of one class do not name it."""
    return results[0].get("problem_type", SINGLE_LABEL)


def modalities_of(results: list[Result]) -> list[str]:
    """The modalities of all runs, each once, in their order."""
    return list(dict.fromkeys(name for result in results for name in result["modalities"]))


def reference_of(row: tuple[str, str], rows: Rows) -> dict[int, Result]:
    """
    The runs of joint training to compare a row with, by seed: with the same head and setting, or else with the same
    head and no setting. A method whose head is its own is compared with joint training of another head if there is one
    such head. Joint training without a setting has none.
    """
    fusion, setting = row[0], rows[row][0]["setting"]
    heads = {head for head, method in rows if method.startswith("joint")}
    if rows[row][0]["method"] in OWN_HEAD and fusion not in heads and len(heads) == 1:
        (fusion,) = heads
    candidates = [(fusion, f"joint, {setting}"), (fusion, "joint")]
    found = [rows[other] for other in candidates if other in rows and other != row]
    return {result["seed"]: result for result in found[0]} if found else {}


# ---- The cells ----


def gain(pairs: list[tuple[Result, Result]], metric: str) -> str:
    """
    The difference in a metric to joint training, in percentage points or the units of a regression, and the number of
    seeds that are better than joint training.
    """
    if not pairs:
        return ""
    scale, form = scale_and_form(pairs[0][0])
    gains = [scale * (own[f"test_{metric}"] - joint[f"test_{metric}"]) for own, joint in pairs]
    ahead = sum(difference < 0 if metric == "mae" else difference > 0 for difference in gains)
    return f"{spread(gains, form, sign='+')} ({ahead} of {len(gains)} ahead)"


def cost(pairs: list[tuple[Result, Result]], key: str) -> str:
    """The median of a value over the value of joint training; empty if no pair of runs has both values."""
    known = [own[key] / joint[key] for own, joint in pairs if own[key] and joint[key]]
    return f"{statistics.median(known):.2f}" if known else ""


def learning_rates(group: list[Result]) -> str:
    """The learning rates of the runs, and the grid that they were chosen from, if there was one."""
    rates = ", ".join(sorted({f"{result['learning_rate']:g}" for result in group}))
    grid = group[-1].get("grid", {})
    return rates + (f" of {', '.join(grid)}" if len(grid) > 1 else "")


def shown(group: list[Result], key: str) -> str:
    """Mean ± standard deviation over the runs that have this metric; empty if none has it."""
    scale, form = scale_and_form(group[0])
    values = [scale * result[key] for result in group if key in result]
    return spread(values, form) if values else ""


def scale_and_form(result: Result) -> tuple[int, str]:
    """How to show the metrics of a run: in percent with one decimal; of a regression, as they are with four digits."""
    return (1, ".4g") if problem_of([result]) == REGRESSION else (100, ".1f")


def spread(values: list[float], form: str, sign: str = "") -> str:
    """Mean ± sample standard deviation, or only the mean of a single value. The mean has a sign with `sign="+"`."""
    mean = f"{statistics.mean(values):{sign}{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def mean(values: list[float], form: str = ".2f") -> str:
    """The mean of some values; empty if there are none."""
    return f"{statistics.mean(values):{form}}" if values else ""


def markdown(table: list[list[str]]) -> str:
    """A table in Markdown, whose columns are aligned also as plain text. Its first line is the header."""
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    header, *others = ["| " + " | ".join(line) + " |\n" for line in padded]
    return "".join([header, *(f"|{'-' * (width + 2)}" for width in widths), "|\n", *others])
