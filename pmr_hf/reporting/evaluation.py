"""What an evaluation found about a trained model, as text, as JSON and as a page."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..model.targets import MODALITY_METRIC, REGRESSION, SINGLE_LABEL
from .aligned_table import aligned


MOST_CELLS = 20  # a confusion matrix of more classes is shown by its most confused pairs
MOST_LINES = 20  # of more classes, the text shows those of the lowest F1
# How reports and model cards call the metrics of the fused answer
CALLED = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "mAP": "mean average precision",
    "subset_accuracy": "all labels right",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
}


@dataclass(frozen=True)
class ClassScores:
    """
    The scores of one class or label, in [0, 1].

    Args:
        name (`str`): the class or label.
        rows (`int`): number of rows that have it.
        precision (`float`, *optional*): the share of the rows predicted to have it that do; `None` if there are none.
        recall (`float`, *optional*): the share of the rows with it that are predicted so; `None` if there are none.
        f1 (`float`, *optional*): 2 hits / (rows + predicted); `None` if it is neither true nor predicted.
        average_precision (`float`, *optional*): of several labels, the average precision; `None` without any such row.
    """

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None = None


@dataclass(frozen=True)
class TargetScores:
    """
    The errors of one target of a regression, in its units.

    Args:
        name (`str`): the target.
        mae (`float`): mean absolute error.
        rmse (`float`): root mean square error.
        r2 (`float`, *optional*): R², at most 1; `None` if all rows have the same value.
        pairs (`list[tuple[float, float]]`): true and predicted values of at most 1,000 rows, evenly spaced.
    """

    name: str
    mae: float
    rmse: float
    r2: float | None
    pairs: list[tuple[float, float]]


@dataclass(frozen=True)
class ModalityScores:
    """
    The scores of one modality. `alone` and `prototypes` are accuracies on the rows that have it. With several labels,
    they are micro F1; in a regression, mean absolute errors.

    Args:
        name (`str`): the modality.
        rows (`int`): number of rows that have it.
        alone (`float`, *optional*): score of the model's answer from this modality alone.
        prototypes (`float`, *optional*): score of its prototype classifier, if there is one.
        share (`float`, *optional*): its mean Shapley value for the probability of the truth, in [-1, 1], or by how much
            it lowers the absolute error of a regression. `None` for a single modality, or more than ten.
    """

    name: str
    rows: int
    alone: float | None
    prototypes: float | None
    share: float | None


@dataclass(frozen=True)
class SubsetScore:
    """
    The score of the answer from some modalities.

    Args:
        modalities (`list[str]`): the modalities that are used; the others are taken away.
        rows (`int`): number of rows that have all of these.
        score (`float`, *optional*): accuracy, micro F1 or mean absolute error of these rows; `None` without any.
    """

    modalities: list[str]
    rows: int
    score: float | None


@dataclass(frozen=True)
class Bin:
    """
    The samples whose confidence is in one of 15 bins of equal width: their number, mean confidence and accuracy.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """
    How well probabilities agree with accuracies.

    Args:
        ece (`float`): expected calibration error, in [0, 1], see
            [`~pmr_hf.reporting.evaluation.EvaluationReport`].
        nll (`float`, *optional*): mean negative log-likelihood in nats; `None` if a true class has probability 0.
        temperature (`float`): what the fused logits were divided by.
        bins (`list[Bin]`): 15 bins of confidence.
    """

    ece: float
    nll: float | None
    temperature: float
    bins: list[Bin]


@dataclass(frozen=True)
class EvaluationReport:
    """
    What [`evaluate_report`] found. `print(report)` shows tables, `save` writes a page with pictures.

    The expected calibration error is that of Guo et al. (2017): the mean over samples of |accuracy - confidence| of
    their bin, with 15 bins of equal width of the probability of the best class. With several labels, each label of each
    row is a sample: its confidence is the probability of the label, and its accuracy whether the row has it.

    Args:
        problem_type (`str`): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        rows (`int`): number of labelled rows.
        metrics (`dict[str, float]`): the metrics of the answer from all modalities.
        modalities (`list[ModalityScores]`): the scores of each modality.
        sweep (`list[SubsetScore]`): the score of the answer from each subset of up to six modalities. If there are
            more: from all of them, from all but one, and from each one alone.
        classes (`list[ClassScores]`): the scores of each class or label; empty in a regression.
        targets (`list[TargetScores]`): the errors of each target of a regression; empty otherwise.
        confusion (`list[list[int]]`, *optional*): of up to 100 classes, the number of rows by true class (line) and
            predicted class (column).
        confused (`list[tuple[str, str, int]]`): the up to 20 most frequent mistakes: true class, predicted class, rows.
        calibration (`Calibration`, *optional*): `None` in a regression.
    """

    problem_type: str
    rows: int
    metrics: dict[str, float]
    modalities: list[ModalityScores]
    sweep: list[SubsetScore]
    classes: list[ClassScores]
    targets: list[TargetScores]
    confusion: list[list[int]] | None
    confused: list[tuple[str, str, int]]
    calibration: Calibration | None

    @property
    def metric(self) -> str:
        """The metric of modalities and subsets."""
        return MODALITY_METRIC[self.problem_type]

    def number(self, value: float | None) -> str:
        """A score as text: in percent, or in the units of a regression."""
        if value is None:
            return "-"
        return f"{value:.4g}" if self.problem_type == REGRESSION else f"{100 * value:.1f}"

    def tables(self) -> dict[str, list[list[str]]]:
        """The tables of the report by title, each with a header and lines."""
        unit = "" if self.problem_type == REGRESSION else ", percent"
        called = CALLED[self.metric]
        tables = {f"All modalities{unit}": [["metric", "value"], *self._metric_lines()]}
        lines = [
            [
                each.name,
                str(each.rows),
                self.number(each.alone),
                self.number(each.prototypes),
                "-" if each.share is None else f"{each.share:.3g}",
            ]
            for each in self.modalities
        ]
        tables[f"Each modality: {called}{unit}"] = [["", "rows", "alone", "prototypes", "share"], *lines]
        lines = [[" + ".join(each.modalities), str(each.rows), self.number(each.score)] for each in self.sweep]
        tables[f"By which modalities are there: {called}{unit}"] = [["", "rows", called], *lines]
        if self.targets:
            lines = [[each.name, *map(self.number, (each.mae, each.rmse, each.r2))] for each in self.targets]
            tables["Each target"] = [["", "mae", "rmse", "R²"], *lines]
            return tables
        several, shown = self.problem_type != SINGLE_LABEL, self.classes
        title = f"Each {'label' if several else 'class'}, percent"
        if len(shown) > MOST_LINES:
            shown = sorted(shown, key=lambda each: (each.f1 is None, each.f1))[:MOST_LINES]
            kinds = "labels" if several else "classes"
            title = f"The {MOST_LINES} of {len(self.classes)} {kinds} with the lowest F1, percent"
        lines = []
        for each in shown:
            values = [each.precision, each.recall, each.f1, *([each.average_precision] if several else [])]
            lines.append([each.name, str(each.rows), *map(self.number, values)])
        header = ["", "rows", "precision", "recall", "F1", *(["average precision"] if several else [])]
        return tables | {title: [header, *lines]}

    def _metric_lines(self) -> list[list[str]]:
        lines = [[CALLED[key], self.number(value)] for key, value in self.metrics.items() if key in CALLED]
        if self.calibration is not None:
            lines.append(["expected calibration error", self.number(self.calibration.ece)])
        return lines

    @property
    def calibration_sentence(self) -> str:
        """The calibration in words; empty in a regression."""
        found = self.calibration
        if found is None:
            return ""
        samples = sum(each.samples for each in found.bins)
        confidence = sum(each.samples * each.confidence for each in found.bins) / samples
        accuracy = sum(each.samples * each.accuracy for each in found.bins) / samples
        what = "the best class" if self.problem_type == SINGLE_LABEL else "a label"
        right = "is right in" if self.problem_type == SINGLE_LABEL else "is there in"
        by = "" if found.temperature == 1 else f", with logits divided by {found.temperature:.4g}"
        return (
            f"The mean probability of {what} is {100 * confidence:.1f} percent, and it {right} {100 * accuracy:.1f} "
            f"percent{by}; the expected calibration error is {100 * found.ece:.1f} points."
        )

    def __str__(self) -> str:
        """All tables, with columns aligned."""
        parts = [f"{self.rows} rows"]
        for title, table in self.tables().items():
            parts.append(f"{title}\n{aligned(table)}")
        return "\n\n".join(parts + [self.calibration_sentence] * (self.calibration is not None))

    def to_dict(self) -> dict[str, object]:
        """All findings, for JSON."""
        return asdict(self)

    def save(self, folder: str | Path) -> Path:
        """Write `report.json` and `report.html`, a page with pictures in one file. Returns the page."""
        from .evaluation_page import page_of  # draws with matplotlib, which is slow to import

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        page = folder / "report.html"
        page.write_text(page_of(self), encoding="utf-8")
        return page
