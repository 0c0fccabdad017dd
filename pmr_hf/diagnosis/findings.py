"""What a diagnosis found, the verdict that follows, and both as text and as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..reporting.aligned_table import aligned


LEAST = 0.05  # a smaller difference in accuracy is no reason to rebalance
MOST_UNLEARNED = 0.1  # a linear probe further above every trained answer shows that the training was too short
STARVED, IGNORED, BALANCED, SHORT = "starved", "ignored", "balanced", "too short"
METHODS_PAGE = 'the page "Which method?" of the documentation'
# What to try, by verdict. The page says the same.
ADVICE = {
    STARVED: f"Try --recipe recommended of run_pmr.py, or another method of {METHODS_PAGE} that trains each encoder.",
    IGNORED: f"Try modality_dropout=0.3 with answer='best', or the method late_fusion; see {METHODS_PAGE}.",
    SHORT: "Train longer, by --num_train_epochs or --max_steps, or at a higher learning rate, and check the labels.",
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
        return self.value >= LEAST and self.is_sure

    @property
    def is_sure(self) -> bool:
        """Whether the difference is positive, and at least two standard errors."""
        return 0 < self.value >= 2 * self.error

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
        above_joint (`Difference`): `alone` minus the fused accuracy of joint training on the same rows.
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
        above_majority (`Difference`): the best answer of all models minus `majority`.
        joint (`float`): accuracy of joint training, fused.
        averaged (`float`): accuracy of the mean probability of the models of each modality alone.
        averaged_above_joint (`Difference`): `averaged` minus `joint`.
        modalities (`list[ModalityFindings]`): what was found about each modality.
    """

    metric: str
    rows: int
    steps: int
    majority: float
    above_majority: Difference
    joint: float
    averaged: float
    averaged_above_joint: Difference
    modalities: list[ModalityFindings]

    @property
    def metric_name(self) -> str:
        """The metric, as the table and the page call it."""
        return "Accuracy" if self.metric == "accuracy" else "Micro F1"

    @property
    def behind(self) -> list[str]:
        """
        The modalities, but for the fastest one, whose encoder joint training left behind: what it lost by a linear
        probe, or by prototypes, is a difference that counts, see `Difference.counts`.
        """
        fastest = max(self.modalities, key=lambda modality: modality.ratio)
        return [
            modality.name
            for modality in self.modalities
            if modality is not fastest and (modality.lost_by_probe.counts or modality.lost_by_prototypes.counts)
        ]

    @property
    def starved(self) -> list[str]:
        """
        The modalities left behind, if the answer suffers: a model of one modality, or the mean of all of them, is
        better than the joint model by a difference that counts.
        """
        return self.behind if self._answer_suffers else []

    @property
    def _best_probe(self) -> float:
        return max(modality.alone_probe for modality in self.modalities)

    @property
    def _best_answer(self) -> float:
        return max(self.joint, self.averaged, *(modality.alone for modality in self.modalities))

    @property
    def _answer_suffers(self) -> bool:
        return bool(self.ignored) or self.averaged_above_joint.counts

    @property
    def ignored(self) -> list[str]:
        """The modalities that alone are better than the joint model by a difference that counts, best first."""
        by_accuracy = sorted(self.modalities, key=lambda modality: -modality.alone)
        return [modality.name for modality in by_accuracy if modality.above_joint.counts]

    @property
    def verdict(self) -> str:
        """`"too short"`, `"starved"`, `"ignored"` or `"balanced"`, see `sentence`."""
        if not self.above_majority.is_sure or self._best_probe - self._best_answer > MOST_UNLEARNED:
            return SHORT
        return STARVED if self.starved else IGNORED if self._answer_suffers else BALANCED

    @property
    def sentence(self) -> str:
        """The verdict in words, with the numbers that it follows from."""
        in_words = {
            SHORT: self._short_in_words,
            STARVED: self._starved_in_words,
            IGNORED: self._ignored_in_words,
            BALANCED: self._balanced_in_words,
        }
        return in_words[self.verdict]()

    def _short_in_words(self) -> str:
        if not self.above_majority.is_sure:
            return (
                f"No model has learned enough to tell: the best of their answers has {percent(self._best_answer)}, and "
                f"the most frequent class {percent(self.majority)}."
            )
        return (
            f"The training was too short to tell: a linear probe of a modality has {percent(self._best_probe)}, and "
            f"the best answer of all models {percent(self._best_answer)}."
        )

    def _starved_in_words(self) -> str:
        better = f"the models alone, averaged, {percent(self.averaged)}"
        if self.ignored:
            better = f"{self.ignored[0]!r} alone, {percent(self._named(self.ignored[0]).alone)}"
        starved = [f"The encoder of {name!r} is starved: {self._lost_in_words(name)}." for name in self.starved]
        return " ".join([*starved, f"All modalities together have {percent(self.joint)}, less than {better}."])

    def _ignored_in_words(self) -> str:
        if not self.ignored:
            return (
                "The encoders are fine, and the head makes too little of them: the models alone, averaged, have "
                f"{percent(self.averaged)}, and all modalities together {percent(self.joint)}."
            )
        best = self._named(self.ignored[0])
        return (
            f"The encoder of {best.name!r} is fine, and the head ignores it: alone it has {percent(best.alone)}, its "
            f"linear probe after joint training {percent(best.joint_probe)}, and all modalities together "
            f"{percent(self.joint)}."
        )

    def _balanced_in_words(self) -> str:
        answers = (
            f"There is little to rebalance: joint training has {percent(self.joint)}, the best modality alone "
            f"{percent(max(modality.alone for modality in self.modalities))}, and the models alone, averaged, "
            f"{percent(self.averaged)}."
        )
        behind = [
            f"The encoder of {name!r} is behind, which matters where samples lack the others: "
            f"{self._lost_in_words(name)}."
            for name in self.behind
        ]
        return " ".join([answers, *behind])

    def _lost_in_words(self, name: str) -> str:
        modality = self._named(name)
        return (
            f"after joint training its prototypes have {percent(modality.joint_prototypes)} and its linear probe "
            f"{percent(modality.joint_probe)}, alone {percent(modality.alone_prototypes)} and "
            f"{percent(modality.alone_probe)}"
        )

    def _named(self, name: str) -> ModalityFindings:
        return next(modality for modality in self.modalities if modality.name == name)

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
            ["all, averaged", percent(self.averaged), *empty],
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
        return asdict(self) | words | {"behind": self.behind, "starved": self.starved, "ignored": self.ignored}

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
