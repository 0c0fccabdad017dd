"""The class prototypes of every modality, saved with the weights of their model."""

import os
from collections.abc import Mapping

import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME

from .configuration import check_modality_name
from .distance import MIN_DISTANCE, prototype_logits
from .exact_sums import add_rows, from_file, to_file, value_of, zero_sum
from .fp32_buffers import Fp32Buffers
from .missing_modalities import Masks, stack_masks


# For each modality, the sums (K, D_m) of the embeddings of each class, and the numbers (K,) of samples in these sums,
# as `exact_sums.py` keeps them
Sums = dict[str, tuple[torch.Tensor, torch.Tensor]]

# Modalities of one width are stacked and computed together, which takes half the time. Stacking copies the prototypes,
# so modalities whose prototypes have more numbers than this are computed one by one.
STACKED = 2**21

SHARPNESS = 10.0  # multiplies the distances in `Prototypes.answer`, in units of the distance between prototypes


class Prototypes(Fp32Buffers):
    """
    Class means of each modality's embeddings (Eq. 6), and their momentum update (Eq. 12).

    Each modality `m` has three persistent buffers: `m_mean` (K, D_m) fp32, the class means; `m_count` (K,) fp32, the
    number of samples of each class in the latest update; and `m_seen` (K,) bool, the classes that have a prototype.

    Args:
        widths (`dict[str, int]`): width D_m of each modality's embedding, in the order of the modalities.
        num_labels (`int`): number of classes K.

    Raises:
        ValueError: for a modality name that is not an identifier or is already taken, no modality, or no class.
    """

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        if not widths or num_labels < 1:
            raise ValueError(f"Expected at least one modality and one class, got {widths} and {num_labels}; add one.")
        for name in widths:
            check_modality_name(name)
        self.widths = dict(widths)
        self.num_labels = num_labels
        for name, width in widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(num_labels, width, dtype=torch.float32))
            self.register_buffer(f"{name}_count", torch.zeros(num_labels, dtype=torch.float32))
            self.register_buffer(f"{name}_seen", torch.zeros(num_labels, dtype=torch.bool))

    def mean(self, modality: str) -> torch.Tensor:
        """The prototypes (K, D_m) of one modality. They are zero for a class without a prototype."""
        return self.get_buffer(f"{modality}_mean")

    def count(self, modality: str) -> torch.Tensor:
        """The number of samples (K,) of each class in the latest update."""
        return self.get_buffer(f"{modality}_count")

    def seen(self, modality: str) -> torch.Tensor:
        """The classes that have a prototype, (K,) bool."""
        return self.get_buffer(f"{modality}_seen").bool()  # loading in half precision turns it into floats

    def forward(self, embeddings: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        The prototype logits of every modality in fp32 (Eq. 7). Embeddings (B, D_m) give logits (B, K), and embeddings
        of segments (B, T, D_m) give logits (B, T, K).
        """
        return dict(zip(self.widths, self.stacked_logits(embeddings), strict=True))

    def stacked_logits(self, embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The prototype logits of all modalities in one tensor, (M, B, K) or (M, B, T, K)."""
        self.check(embeddings, segments=True)
        rows = next(iter(embeddings.values())).shape[:-1]
        flat = [embeddings[name].flatten(0, -2) for name in self.widths]
        means = [self.mean(name) for name in self.widths]
        if len(set(self.widths.values())) == 1 and means[0].numel() <= STACKED:
            logits = prototype_logits(torch.stack(flat), torch.stack(means), self.stacked_seen())
        else:
            parts = zip(flat, means, self.stacked_seen(), strict=True)
            logits = torch.stack([prototype_logits(*part) for part in parts])
        return logits.unflatten(1, rows)

    def answer(self, embeddings: Mapping[str, torch.Tensor], present: Masks | None = None) -> torch.Tensor:
        """
        The answer of all prototype classifiers together, which does not use the fusion head.

        It is the mean over the modalities of softmax_k(-10 d_k / D), where d_k is the distance to the prototype of
        class k, and D the root mean square distance between the prototypes of that modality. The division makes
        modalities with embeddings of different sizes comparable. In the mean, the modality that is the most certain
        decides. This answer is ours and not in the paper.

        Args:
            embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), or (B, T, D_m) of segments, by modality.
            present (`Mapping[str, torch.Tensor]`, *optional*): the masks (B,) bool, by modality, of the samples that
                have it; all by default. The mean is over the modalities that a sample has.

        Returns:
            `torch.Tensor`: log-probabilities (B, K) or (B, T, K) in fp32. They are all equal for a sample without
            modalities, or if there are no prototypes.
        """
        sharp = self.relative_logits(embeddings)
        seen = self.stacked_seen()  # (M, K)
        between = (1,) * (sharp.dim() - 2)  # the dimensions of the batch
        counts = stack_masks(present, self.widths, sharp[0]) & seen.any(1, keepdim=True)  # (M, B)
        weights = counts / counts.sum(0).clamp(min=1)
        mean = (sharp.softmax(-1) * weights.reshape(*weights.shape, *between)).sum(0)
        none = ~counts.any(0).reshape(-1, *between)
        return torch.where(none, 1 / self.num_labels, mean).clamp(min=torch.finfo(mean.dtype).tiny).log()

    def relative_logits(self, embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        The logits -10 d_k / D (M, B, K) or (M, B, T, K) in fp32, where D is the root mean square distance between the
        prototypes of the modality. They stay the same if embeddings and prototypes are multiplied by a number.
        """
        logits = self.stacked_logits(embeddings)
        seen = self.stacked_seen()  # (M, K)
        between = (1,) * (logits.dim() - 2)  # the dimensions of the batch
        scale = (SHARPNESS / self.spreads()).reshape(-1, *between, 1)
        return torch.where(seen.reshape(len(seen), *between, -1), logits * scale, torch.finfo(logits.dtype).min)

    def spreads(self) -> torch.Tensor:
        """The root mean square distance (M,) between two prototypes of each modality, at least 1e-6."""
        return torch.stack([self._spread(name) for name in self.widths])

    def _spread(self, name: str) -> torch.Tensor:
        # The mean square distance of two of K points is 2 K / (K - 1) times their variance.
        seen = self.seen(name)[:, None]
        count = seen.sum().clamp(min=1)
        mean = torch.where(seen, self.mean(name), 0)
        squares = torch.where(seen, mean - mean.sum(0) / count, 0).square().sum()
        return (2 * squares / (count - 1).clamp(min=1)).sqrt().clamp(min=MIN_DISTANCE)

    def stacked_seen(self) -> torch.Tensor:
        """The classes that have a prototype of each modality, (M, K) bool."""
        return torch.stack([self.seen(name) for name in self.widths])

    def common_classes(self) -> torch.Tensor:
        """
        The classes that have a prototype of every modality, (K,) bool. A modality without any prototype is left out.
        """
        return in_every_modality(self.stacked_seen())

    def zero_sums(self) -> Sums:
        """Sums and counts of zero, by modality, to which batches can be added, see [`Prototypes.class_sums`]."""
        sums = {}
        for name in self.widths:
            mean, count = self.mean(name), self.count(name)
            sums[name] = zero_sum(mean.shape, mean.device), zero_sum(count.shape, count.device)
        return sums

    @torch.no_grad()
    def class_sums(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        present: Mapping[str, torch.Tensor] | None = None,
        sums: Sums | None = None,
    ) -> Sums:
        """
        Sum the embeddings of one batch per class and modality. Sums of batches and of processes can be added;
        [`Prototypes.momentum_update`] divides by the counts.

        Args:
            embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), by modality.
            labels (`torch.Tensor`): (B,) int64 classes in 0..K-1.
            present (`Mapping[str, torch.Tensor]`, *optional*): the masks (B,) bool, by modality, of the samples to add.
                By default, all samples are added.
            sums (`Sums`, *optional*): earlier sums, to which this batch is added in place.

        Returns:
            `Sums`: the sums (K, D_m) and counts (K,) in fp64, by modality. On a device without fp64, such as Apple's
            MPS, they are pairs of fp32 tensors (2, K, D_m) and (2, K), which are about as exact.

        Raises:
            ValueError: for embeddings, labels or masks of other shapes.
        """
        self.check(embeddings)
        batch = next(iter(embeddings.values())).shape[:1]
        found = {"labels": labels.shape} | {name: mask.shape for name, mask in (present or {}).items()}
        expected = dict.fromkeys(["labels", *(() if present is None else self.widths)], batch)
        if found != expected:
            raise ValueError(
                f"Expected labels, and masks of all modalities or none, of shapes {expected}, got {found}; give one "
                "label per embedding, and one bool for each modality."
            )
        sums = self.zero_sums() if sums is None else sums
        for name, (total, count) in sums.items():
            values, ones = embeddings[name], torch.ones_like(labels)
            if present is not None:
                values, ones = torch.where(present[name][:, None], values, 0), present[name]
            add_rows(total, labels, values)
            add_rows(count, labels, ones)
        return sums

    @torch.no_grad()
    def momentum_update(self, sums: Sums, momentum: float) -> None:
        """
        Move the prototypes towards new class means, c <- momentum * c + (1 - momentum) * c_new (Eq. 12).

        A class that is seen for the first time takes its new mean. A class without a new sample keeps its old mean.

        Args:
            sums (`dict[str, tuple[torch.Tensor, torch.Tensor]]`): sums (K, D_m) and counts (K,) of each modality, as
                [`Prototypes.class_sums`] returns them.
            momentum (`float`): eps of Eq. 12, in [0, 1).
        """
        for name, (total, count) in sums.items():
            mean, seen = self.mean(name), self.seen(name)
            total, count = value_of(total), value_of(count)
            new = total / count.clamp(min=1)[:, None]
            new = torch.where(seen[:, None], momentum * mean + (1 - momentum) * new, new)
            mean.copy_(torch.where(count[:, None] > 0, new, mean))
            self.count(name).copy_(count)
            self.get_buffer(f"{name}_seen").copy_(seen | (count > 0))

    def check(self, embeddings: Mapping[str, torch.Tensor], segments: bool = False) -> None:
        """
        Raise `ValueError` unless `embeddings` has one embedding (B, D_m) for each modality and no other, all with the
        same B. With `segments`, embeddings (B, T, D_m) with the same B and T are valid, too.
        """
        found = {name: tuple(embedding.shape) for name, embedding in embeddings.items()}
        rows = next(iter(found.values()), ())[:-1]
        if not 1 <= len(rows) <= 1 + segments or found != {name: (*rows, width) for name, width in self.widths.items()}:
            expected = {name: ("batch", width) for name, width in self.widths.items()}
            raise ValueError(
                f"Expected one embedding per modality, of shapes {expected}, got {found}; make the prototypes' widths "
                "and the model's embeddings (or `embeddings_fn`) agree."
            )


def save_sums(sums: Sums, file: str | os.PathLike) -> None:
    """Save class sums and counts to a safetensors file, in fp64 on every device."""
    totals = {f"{name}_sum": to_file(total) for name, (total, _) in sums.items()}
    save_file(totals | {f"{name}_count": to_file(count) for name, (_, count) in sums.items()}, file)


def load_sums(sums: Sums, file: str | os.PathLike) -> None:
    """
    Set sums to those in a file of [`save_sums`], which are in fp32 if an earlier version wrote it. Raises `ValueError`
    if the file holds the sums of other modalities, classes or widths.
    """
    parts = load_file(file)
    found = {key: tuple(value.shape) for key, value in parts.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for name, (total, count) in sums.items():
        expected |= {f"{name}_sum": tuple(value_of(total).shape), f"{name}_count": tuple(value_of(count).shape)}
    if found != expected:
        raise ValueError(
            f"Expected class sums of shapes {expected} in {file}, got {found}; resume from a checkpoint of this model."
        )
    for name, (total, count) in sums.items():
        from_file(total, parts[f"{name}_sum"])
        from_file(count, parts[f"{name}_count"])


def attach_prototypes(model: nn.Module, widths: dict[str, int], num_labels: int) -> Prototypes:
    """
    Give any model the `prototypes` that [`PMRTrainer`] keeps with its weights. A [`MultimodalModel`] has its own.

    Args:
        model (`torch.nn.Module`): a model without an attribute `prototypes`.
        widths (`dict[str, int]`): width of each embedding that your `embeddings_fn` returns, by modality.
        num_labels (`int`): number of classes.

    Returns:
        `Prototypes`: the attached prototypes.

    Raises:
        ValueError: if the model already has prototypes.
    """
    if "prototypes" in dict(model.named_children()):
        raise ValueError(f"Expected a {type(model).__name__} without prototypes, but it has some; attach them once.")
    device = next(model.parameters()).device
    model.prototypes = Prototypes(widths, num_labels).to(device)
    return model.prototypes


def load_prototypes(model: nn.Module, name_or_path: str | os.PathLike) -> None:
    """
    Load the attached prototypes of a model from the weights that it was saved with.

    `CLIPModel.from_pretrained(folder)` drops the prototypes that [`PMRTrainer`] saved there, because its class does not
    know them. Call [`attach_prototypes`] and then this function. A [`MultimodalModel`] needs neither.

    Args:
        model (`torch.nn.Module`): the model, with prototypes attached.
        name_or_path (`str`): the folder or Hub name that it was saved to, with its weights in one safetensors file.

    Raises:
        ValueError: if the model has no prototypes, or if the file does not hold exactly the prototypes of its
            modalities, or holds some that are not finite.
    """
    if os.path.isdir(name_or_path):
        file = os.path.join(name_or_path, SAFE_WEIGHTS_NAME)
    else:
        file = hf_hub_download(str(name_or_path), SAFE_WEIGHTS_NAME)
    if "prototypes" not in dict(model.named_children()):
        raise ValueError(f"Expected a {type(model).__name__} with prototypes, got one without; attach them first.")
    prototypes = model.get_submodule("prototypes")
    with safe_open(file, framework="pt") as weights:
        saved = {key for key in weights.keys() if key.startswith("prototypes.")}  # noqa: SIM118
        expected = {f"prototypes.{key}" for key in prototypes.state_dict()}
        if saved != expected:
            raise ValueError(
                f"Expected the weights in {file} to hold {sorted(expected)}, got {sorted(saved)}; was this model "
                "trained with PMRTrainer, on modalities of these names?"
            )
        state = {key.removeprefix("prototypes."): weights.get_tensor(key) for key in saved}
    wrong = sorted(key for key, value in state.items() if not value.isfinite().all())
    if wrong:
        raise ValueError(
            f"Expected finite prototypes in {file}, got NaN or infinity in {wrong}; train the model again."
        )
    prototypes.load_state_dict(state)


def in_every_modality(known: torch.Tensor) -> torch.Tensor:
    """The classes that every modality has, (K,) bool, from `known` (M, K) bool. A modality without any is left out."""
    return (known | ~known.any(1, keepdim=True)).all(0)
