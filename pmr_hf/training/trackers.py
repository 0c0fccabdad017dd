"""How trackers such as TensorBoard name what is logged: the curves of one quantity stand side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK


TRACKERS = tuple(INTEGRATION_TO_CALLBACK.values())
# What an evaluation puts before its names: on validation, on the test split, and to choose an answer or weights
PREFIXES = ("eval_", "test_", "answers_", "weights_")


def group_curves(callbacks: Iterable[TrainerCallback], modalities: Sequence[str]) -> None:
    """Let the trackers among `callbacks` name the values of modalities as [`by_quantity`] does."""
    for callback in callbacks:
        if isinstance(callback, TRACKERS):
            callback.on_log = _renaming(callback.on_log, "logs", modalities)
            callback.on_predict = _renaming(callback.on_predict, "metrics", modalities)


def by_quantity(logs: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """
    Put the quantity before the modality in the names of what is logged. Names of other values stay.

    Args:
        logs (`Mapping[str, Any]`): values by the names of [`~pmr_hf.training.multimodal_trainer.MultimodalTrainer`],
            such as `image_score` or `eval_image_accuracy`.
        modalities (`Sequence[str]`): the names of the modalities.

    Returns:
        `dict[str, Any]`: the values by names such as `score/image` or `eval_accuracy/image`.
    """
    longest_first = sorted(modalities, key=len, reverse=True)  # `image_back` before `image`
    return {_quantity_first(key, longest_first): value for key, value in logs.items()}


def _quantity_first(key: str, modalities: Sequence[str]) -> str:
    evaluation = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
    rest = key.removeprefix(evaluation)
    modality = next((name for name in modalities if rest.startswith(f"{name}_")), None)
    return key if modality is None else f"{evaluation}{rest.removeprefix(f'{modality}_')}/{modality}"


def _renaming(event: Callable, argument: str, modalities: Sequence[str]) -> Callable:
    """The event of a tracker that gets the values of `argument` by their other names."""

    def renamed(*args, **kwargs):
        return event(*args, **(kwargs | {argument: by_quantity(kwargs[argument], modalities)}))

    return renamed
