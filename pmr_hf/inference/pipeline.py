"""The pipeline, which classifies raw values with a trained model, or predicts numbers, and explains the answer."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from datasets import Dataset

from ..model.media_limits import MediaLimits
from ..model.media_values import is_frame, is_series, rows_of
from ..model.missing_modalities import all_present, stack_masks
from ..model.modeling import MultimodalModel, MultimodalOutput
from ..model.multimodal_processor import MultimodalProcessor
from ..model.targets import MULTI_LABEL
from .answers import answer_logits, answered_by_fusion
from .calibration import fit_temperature, labelled_rows
from .embed import embed
from .model_checks import check_scores, check_weights, require_prototypes, unseen_modalities
from .shapley import shapley_values


class MultimodalPipeline:
    """
    Classifies raw values with a trained model. The values are pictures, sound, video, texts, numbers and rows of a
    table, given as files, bytes, arrays, PIL images or dicts, and as addresses with
    `limits=MediaLimits(allow_urls=True)` (see [`MultimodalProcessor`]). A sample may lack some of the modalities, but
    not all.

    ```python
    pipe = MultimodalPipeline("me/my-model")
    pipe(image="cat.png", text="a cat")  # [{"label": "cat", "score": 0.98}, ...]
    pipe(image=["cat.png", "dog.png"], text=["a cat", None])  # a list of such lists
    pipe(text="a cat", explain=True)["modalities"]  # the answer of each modality alone, and its share
    ```

    Args:
        model (`MultimodalModel | str | os.PathLike`): a model, or the Hub name or local folder of one.
        processor (`MultimodalProcessor | str | os.PathLike`, *optional*): the processor of the model. By default, the
            processor that is saved with a model given by name.
        batch_size (`int`, *optional*, defaults to 32): number of samples in one forward pass.
        device (`str | torch.device`, *optional*): where to run. By default, a model given by name runs on a GPU, if
            available, and a loaded model stays on its device.
        missing (`str`, *optional*, defaults to `"prototypes"`): how to classify a sample that lacks modalities.
            `"prototypes"` multiplies the probabilities of the prototype classifiers (Eq. 7) of its modalities.
            `"fused"` uses the fusion head, which reads a learned vector in place of each missing embedding, or masks
            it. A regression has no prototypes, and always uses the fusion head.
        limits (`MediaLimits`, *optional*): what reading one file may cost, and whether addresses are opened. Defaults
            to those of the processor, which open none.

    Raises:
        ValueError: for a model without its processor, for modalities that differ between model and processor, or for a
            value of `batch_size` or `missing` outside its range. Also for a model whose files lack weights, for weights
            or prototypes that are not finite, and for a processor that divides by zero.
    """

    def __init__(
        self,
        model: MultimodalModel | str | os.PathLike,
        processor: MultimodalProcessor | str | os.PathLike | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        missing: str = "prototypes",
        limits: MediaLimits | None = None,
    ):
        if isinstance(model, (str, os.PathLike)):
            processor = model if processor is None else processor
            model = MultimodalModel.from_pretrained(model)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if isinstance(processor, (str, os.PathLike)):
            processor = MultimodalProcessor.from_pretrained(processor)
        if not isinstance(model, MultimodalModel):
            raise TypeError(
                f"Expected a MultimodalModel, a Hub name or a folder, got a {type(model).__name__}; give the model "
                "of a trainer as `trainer.model`."
            )
        if processor is None:
            raise ValueError("Expected the model's processor, got none; pass it, or give the model by name.")
        names, processors = model.config.modalities, list(processor.processors)
        if set(names) != set(processors):
            raise ValueError(
                f"Expected a processor for each of the model's modalities {names}, got processors for {processors}; "
                "give both the same names."
            )
        if limits is not None:
            processor = copy.copy(processor)
            processor.limits = limits
        processor.match_encoders(model.config.backbones)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"Expected `batch_size` of at least 1, got {batch_size!r}; correct it.")
        if missing not in ("fused", "prototypes"):
            raise ValueError(f"Expected `missing` to be 'fused' or 'prototypes', got {missing!r}; correct it.")
        check_weights(model)
        self.model = model.to(device).eval() if device else model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self.missing = missing

    def __call__(
        self, *, top_k: int | None = 5, explain: bool = False, **modalities: Any
    ) -> list[Any] | dict[str, Any]:
        """
        Classify one sample, or several given as lists.

        Args:
            top_k (`int`, *optional*, defaults to 5): number of best classes or labels to return, at least 1; all if
                `None`. A regression always returns all targets.
            explain (`bool`, *optional*, defaults to `False`): also return the answer and the share of each modality.
            modalities: the value of each modality, by name; or a list, tuple, dataset column or pandas Series of
                values, of the same length for each modality. A list of numbers is one value, a Series of numbers has
                one number per sample. A row of a table is a dict of its columns in any order; a pandas DataFrame has
                one row per sample. A modality that is left out or `None` is missing.

        Returns:
            For one sample, a list of `{"label", "score"}`, the best class first. For lists, a list of these lists. With
            several labels, each has a probability of its own. A regression gives a list of `{"label", "value"}`, with
            the name of each target and its value in the user's units.

            With `explain`, a dict takes the place of each list. Its `labels`, or `values` of a regression, are that
            list. Its `modalities` have, for each modality:

            * `labels`, the classes that its prototype classifier predicts, and `distances`, the `{"label", "distance"}`
              of its prototypes, the nearest first. Both are empty if the modality is missing or has no prototypes. With
              several labels, a distance is that to the mean of the samples with the label.
            * `share`, its Shapley value for the score of the best class, see
              [`~pmr_hf.inference.shapley.shapley_values`]. The shares sum to this score minus the score without any
              modality.

            In a regression, each modality has only `shares`, a `{"label", "share"}` of each target. They sum to its
            value minus the value without any modality.

        Raises:
            ValueError: for an unknown modality, lists of unequal lengths, a sample without any modality, or a sample
                whose embeddings or scores are not finite. With `missing="prototypes"`, also for a sample that lacks
                modalities if the model has no prototypes.
            UnreadableError: for a value that cannot be read.
        """
        self._check_names(modalities)
        modalities = {name: value for name, value in modalities.items() if value is not None} or modalities
        several = {name: self._is_list(name, value) for name, value in modalities.items()}
        if not any(several.values()):
            modalities = {name: [value] for name, value in modalities.items()}
        elif not all(several.values()):
            raise ValueError(
                f"Expected one value of each modality, or a list of each, got {several} (True for a list); give "
                "lists of all modalities or of none."
            )
        # The index of a Series may begin with any number, or consist of names.
        modalities = {
            name: list(values) if is_series(values) else rows_of(values) for name, values in modalities.items()
        }
        lengths = {name: len(values) for name, values in modalities.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"Expected the same number of values of each modality, got {lengths}; give one per sample."
            )
        (count,) = set(lengths.values())
        rows = ({name: values[i] for name, values in modalities.items()} for i in range(count))
        results = list(self.stream(rows, top_k, explain))
        return results if any(several.values()) else results[0]

    def stream(
        self, rows: Iterable[Mapping[str, Any]], top_k: int | None = 5, explain: bool = False
    ) -> Iterator[list[dict[str, Any]] | dict[str, Any]]:
        """
        Classify samples from any iterable of dicts with a value for each modality, or from a DataFrame, and yield the
        result of a call for each sample. Samples are read in batches of `batch_size`, so that only one batch is in
        memory.

        Raises:
            ValueError: see a call.
            UnreadableError: for a value that cannot be read.
        """
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"Expected `top_k` of at least 1, or None for all classes, got {top_k!r}; correct it.")
        rows, first = iter(rows_of(rows)), 0
        while batch := list(islice(rows, self.batch_size)):
            yield from self._classify(batch, first, top_k, explain)
            first += len(batch)

    @torch.inference_mode()
    def calibrate(self, dataset: Dataset, data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> float:
        """
        Fit the temperature of the model to labelled rows, and set `model.config.calibration_temperature` to it, which
        is saved and pushed with the model. Take validation rows: neither those of training nor those of the test.

        The fused logits, of the head or of the prototypes as `config.answer` says, are divided by it before softmax or
        sigmoid. The best class stays the same. The answers of single modalities, with `explain`, do not change. With
        `missing="prototypes"`, neither does the product of prototype classifiers that answers for incomplete samples,
        and such rows are left out here.

        Args:
            dataset (`Dataset | DataFrame`): the rows.
            data_collator (`MultimodalCollator`): turns rows into batches with labels.

        Returns:
            `float`: the temperature; above 1 if the model was too sure. See
            [`~pmr_hf.inference.calibration.fit_temperature`].

        Raises:
            ValueError: for a regression, for no labelled rows, and if no temperature is best.
        """
        model = self.model
        found = embed(model, dataset, data_collator, self.batch_size, "Embedding rows to calibrate")
        logits = model.fuse(found.embeddings, found.present).float()
        rows = labelled_rows(model.config.problem, found.labels)
        rows &= answered_by_fusion(model, found.present, logits, self.missing)
        model.config.calibration_temperature = fit_temperature(model.config.problem, logits[rows], found.labels[rows])
        return model.config.calibration_temperature

    def _is_list(self, name: str, value: Any) -> bool:
        if is_series(value) or is_frame(value):
            return True
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
            return False
        return not self.processor.kind(name).is_one_value(value)

    def _check_names(self, found: Iterable[str]) -> None:
        names, found = self.model.config.modalities, list(found)
        unknown = [name for name in found if name not in names]
        if unknown or not found:
            raise ValueError(
                f"Expected values by the names of the modalities, {names}, got {unknown or 'none'}; call it like "
                f"pipe({names[0]}=...)."
            )

    @torch.inference_mode()
    def _classify(self, rows: list[Mapping[str, Any]], first: int, top_k: int | None, explain: bool) -> list[Any]:
        names, model = self.model.config.modalities, self.model
        for row in rows:
            self._check_names(row)
            if all(self.processor.kind(name).is_missing(value) for name, value in row.items()):
                raise ValueError(
                    f"Expected a sample with some of the modalities {names}, got {row!r:.80}; give at least one value."
                )
        given = [name for name in names if any(name in row for row in rows)]
        inputs = self.processor(**{name: [row.get(name) for row in rows] for name in given})
        output = model(**{name: {key: v.to(model.device) for key, v in inputs[name].items()} for name in given})
        present = output.present or all_present(names, output.logits)
        whole = stack_masks(present, names, output.logits).all(0)
        if model.prototypes is None:
            return self._predict_numbers(output, present, first, explain)
        several = model.config.problem == MULTI_LABEL
        probabilities = torch.Tensor.sigmoid if several else partial(torch.softmax, dim=1)
        logits = model.prototypes(output.embeddings)
        alone = logits if several else {name: values.log_softmax(1) for name, values in logits.items()}
        seen = model.prototypes.known() if several else model.prototypes.stacked_seen()  # (M, K)
        unseen = unseen_modalities(model)
        if self.missing == "prototypes" and not whole.all():
            require_prototypes(model)

        def scores(present: dict[str, torch.Tensor]) -> torch.Tensor:
            """The scores (B, K) from these modalities, fused only for samples that have all modalities."""
            return probabilities(answer_logits(model, output.embeddings, present, self.missing, whole))

        decision = scores(present)
        check_scores(decision, output.embeddings, first)
        results: list[Any] = [self._labels(row, top_k) for row in decision]
        if not explain:
            return results
        best = decision.argmax(1, keepdim=True)

        def score_of(taking_part: tuple[bool, ...]) -> torch.Tensor:
            some = {name: present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
            return scores(some).gather(1, best).squeeze(1)

        shares = shapley_values(score_of, len(names))
        closeness = model.prototypes.stacked_logits(output.embeddings)[..., 1 if several else 0 :: 2 if several else 1]
        for i, labels in enumerate(results):
            results[i] = {"labels": labels, "modalities": {}}
            for m, name in enumerate(names):
                speaks = present[name][i] and name not in unseen
                said = self._labels(probabilities(alone[name][i : i + 1])[0], top_k) if speaks else []
                near = self._nearest(closeness[m, i], seen[m], top_k) if speaks else []
                results[i]["modalities"][name] = {"labels": said, "distances": near, "share": shares[m, i].item()}
        return results

    def _predict_numbers(
        self, output: MultimodalOutput, present: dict[str, torch.Tensor], first: int, explain: bool
    ) -> list[Any]:
        """The results of a regression: the value of each target, and with `explain` the share of each modality."""
        model, names = self.model, self.model.config.modalities
        targets = model.config.id2label
        check_scores(output.logits, output.embeddings, first)
        results: list[Any] = [
            [{"label": targets[r], "value": value} for r, value in enumerate(row)] for row in output.logits.tolist()
        ]
        if not explain:
            return results

        def values_of(taking_part: tuple[bool, ...]) -> torch.Tensor:
            some = {name: present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
            return model.fuse(output.embeddings, some)

        shares = shapley_values(values_of, len(names)).tolist()  # (M, B, R)
        for i, values in enumerate(results):
            parts = {
                name: {"shares": [{"label": targets[r], "share": share} for r, share in enumerate(of_modality[i])]}
                for name, of_modality in zip(names, shares, strict=True)
            }
            results[i] = {"values": values, "modalities": parts}
        return results

    def _labels(self, scores: torch.Tensor, top_k: int | None) -> list[dict[str, Any]]:
        best = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        names = self.model.config.id2label
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"label": names[label], "score": score} for label, score in pairs]

    def _nearest(self, closeness: torch.Tensor, seen: torch.Tensor, top_k: int | None) -> list[dict[str, Any]]:
        count = int(seen.sum())  # classes without a prototype are the farthest
        found = self._labels(closeness, count if top_k is None else min(top_k, count))
        return [{"label": entry["label"], "distance": -entry["score"]} for entry in found]
