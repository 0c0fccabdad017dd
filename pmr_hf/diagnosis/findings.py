"""What a diagnosis found, the verdict that follows, and both as text and as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..reporting.aligned_table import aligned


LEAST = 0.05  # a smaller difference in accuracy is no reason to rebalance
STARVED, IGNORED, BALANCED = "starved", "ignored", "balanced"
METHODS_PAGE = "docs/which_method.md"
# What to try, by verdict
ADVICE = {
    STARVED: f"Try --recipe recommended of run_pmr.py, or another method of {METHODS_PAGE} that trains each encoder.",
    IGNORED: f"Try modality_dropout=0.3 and answer='best', or a method of {METHODS_PAGE} for the head.",
    BALANCED: "Train jointly: a method of this library costs time and has little to mend.",
}


@dataclass(frozen=True)
class Difference:
    """
    A metric of one model minus that of another on the same rows.

    Args:
        value (`float`): the difference, in [-1, 1].
        error (`float`): its standard error over the choice of rows, at least 0, see
            [`~pmr_hf.diagnosis.measure.difference`]. It does not say what another seed of training would change.
    """

    value: float
    error: float

    @property
    def counts(self) -> bool:
        """Whether the difference is at least 0.05, and at least two standard errors."""
        return self.value >= max(LEAST, 2 * self.error)

    def __str__(self) -> str:
        """In points, such as "+12.6 ± 3.0"."""
        return f"{100 * self.value:+.1f} ± {100 * self.error:.1f}"


@dataclass(frozen=True)
class ModalityFindings:
    """
    What was found about one modality. Accuracies are of the evaluation rows that have it, in [0, 1]; with several
    labels they are micro F1.

    Args:
        name (`str`): the modality.
        alone (`float`): accuracy of a model of this modality alone.
        alone_prototypes (`float`): accuracy of that model's class prototypes.
        alone_probe (`float`): accuracy of a linear probe on that model's embeddings.
        joint_prototypes (`float`): accuracy of its prototypes after joint training.
        joint_probe (`float`): accuracy of a linear probe on its embeddings after joint training.
        lost_by_prototypes (`Difference`): what joint training lost: `alone_prototypes` minus `joint_prototypes`.
        lost_by_probe (`Difference`): the same by linear probes.
        above_joint (`Difference`): `alone` minus the fused accuracy of joint training.
        share (`float`): its mean Shapley value for the probability of the truth, in the joint model, in [-1, 1].
        ratio (`float`): its score over the highest score of a modality, the mean over joint training, in [0, 1].
        ratios (`list[tuple[float, float]]`): that ratio at each epoch that was logged.
    """

    name: str
    alone: float
    alone_prototypes: float
    alone_probe: float
    joint_prototypes: float
    joint_probe: float
    lost_by_prototypes: Difference
    lost_by_probe: Difference
    above_joint: Difference
    share: float
    ratio: float
    ratios: list[tuple[float, float]]


@dataclass(frozen=True)
class Diagnosis:
    """
    What [`diagnose`] found. `print(diagnosis)` shows a table and the verdict, `save` writes a page with pictures.

    Args:
        metric (`str`): `"accuracy"`, or `"micro_f1"` with several labels.
        rows (`int`): number of evaluation rows.
        steps (`int`): number of steps of each training.
        majority (`float`): accuracy of always giving the most frequent class of the training rows.
        joint (`float`): accuracy of joint training, fused.
        modalities (`list[ModalityFindings]`): what was found about each modality.
    """

    metric: str
    rows: int
    steps: int
    majority: float
    joint: float
    modalities: list[ModalityFindings]

    @property
    def metric_name(self) -> str:
        """The metric, as the table and the page call it."""
        return "Accuracy" if self.metric == "accuracy" else "Micro F1"

    @property
    def starved(self) -> list[str]:
        """
        The modalities, but for the fastest one, whose encoder joint training left behind: by a linear probe or by
        prototypes, what it lost of what it learns alone [counts][pmr_hf.diagnosis.findings.Difference].
        """
        fastest = max(self.modalities, key=lambda modality: modality.ratio)
        return [
            modality.name
            for modality in self.modalities
            if modality is not fastest and (modality.lost_by_probe.counts or modality.lost_by_prototypes.counts)
        ]

    @property
    def ignored(self) -> list[str]:
        """The modalities that alone are better than the joint model by a difference that counts, best first."""
        by_accuracy = sorted(self.modalities, key=lambda modality: -modality.alone)
        return [modality.name for modality in by_accuracy if modality.above_joint.counts]

    @property
    def verdict(self) -> str:
        """`"starved"`, `"ignored"` or `"balanced"`, see `sentence`."""
        return STARVED if self.starved else IGNORED if self.ignored else BALANCED

    @property
    def sentence(self) -> str:
        """The verdict in words, with the numbers that it follows from."""
        points = {modality.name: modality for modality in self.modalities}
        if self.verdict == STARVED:
            parts = [
                f"The encoder of {name!r} is starved: after joint training its prototypes have "
                f"{percent(points[name].joint_prototypes)} and its linear probe {percent(points[name].joint_probe)}, "
                f"alone {percent(points[name].alone_prototypes)} and {percent(points[name].alone_probe)}."
                for name in self.starved
            ]
        elif self.verdict == IGNORED:
            parts = [
                f"The encoder of {name!r} is fine, and the head ignores it: alone it has "
                f"{percent(points[name].alone)}, its linear probe after joint training "
                f"{percent(points[name].joint_probe)}, and all modalities together {percent(self.joint)}."
                for name in self.ignored[:1]
            ]
        else:
            parts = [
                f"There is little to rebalance: joint training has {percent(self.joint)}, the best modality alone "
                f"{percent(max(modality.alone for modality in self.modalities))}, and no slower encoder lost at least "
                f"{100 * LEAST:.0f} points and two standard errors."
            ]
        if self.verdict == STARVED and self.ignored:
            parts.append(
                f"All modalities together have {percent(self.joint)}, less than {self.ignored[0]!r} alone, "
                f"{percent(points[self.ignored[0]].alone)}."
            )
        return " ".join(parts)

    @property
    def advice(self) -> str:
        """What to try."""
        return ADVICE[self.verdict]

    def table(self) -> list[list[str]]:
        """A header and a line for each modality, and for all together, in percent."""
        header = ["", "alone", "joint, prototypes", "joint, probe", "lost, prototypes", "lost, probe", "share", "ratio"]
        lines = [
            [
                modality.name,
                percent(modality.alone),
                percent(modality.joint_prototypes),
                percent(modality.joint_probe),
                str(modality.lost_by_prototypes),
                str(modality.lost_by_probe),
                f"{modality.share:.2f}",
                f"{modality.ratio:.2f}",
            ]
            for modality in self.modalities
        ]
        empty = [""] * (len(header) - 2)
        return [
            header,
            *lines,
            ["all, jointly", percent(self.joint), *empty],
            ["most frequent", percent(self.majority), *empty],
        ]

    def __str__(self) -> str:
        title = (
            f"{self.metric_name} in percent on {self.rows} evaluation rows, after {self.steps} steps of each training; "
            "±: standard error"
        )
        return "\n".join([title, aligned(self.table()), "", self.sentence, self.advice])

    def to_dict(self) -> dict[str, object]:
        """All findings and the verdict, for JSON."""
        words = {"verdict": self.verdict, "sentence": self.sentence, "advice": self.advice}
        return asdict(self) | words | {"starved": self.starved, "ignored": self.ignored}

    def save(self, folder: str | Path) -> Path:
        """Write `diagnosis.json` and `report.html`, a page with pictures in one file. Returns the page."""
        from .page import page_of  # draws with matplotlib, which is slow to import

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        (folder / "diagnosis.json").write_text(text + "\n", encoding="utf-8")
        page = folder / "report.html"
        page.write_text(page_of(self), encoding="utf-8")
        return page


def percent(value: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * value:.1f}"
