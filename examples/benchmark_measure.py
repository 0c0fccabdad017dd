"""What `examples/benchmark.py` reports of a trained model: each modality alone, and its part in the fused answer."""

from typing import Any

import torch
from datasets import Dataset
from run_pmr import ScriptArguments
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor
from pmr_hf.equations import true_class_probability
from pmr_hf.inference.shapley import shapley_values


PROBE_ROWS = 10_000  # training rows that a linear probe is fitted to


@torch.inference_mode()
def measure(
    model: MultimodalModel,
    processor: MultimodalProcessor,
    data: dict[str, Dataset],
    script_args: ScriptArguments,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """
    Test accuracy and macro F1, fused, and of each modality m `m_prototype_accuracy`, `m_head_accuracy` where the head
    splits, `m_probe_accuracy` (logistic regression on its embeddings) and `m_share`, its mean Shapley value for the
    probability of the true class by the fused head. The split is the test if there is one, else the validation. A
    modality that no row of it has is left out, as is the probe of one that the training rows have of one class alone.
    """
    split = "test" if "test" in data else "validation"
    collator = MultimodalCollator(
        processor, columns=script_args.columns, label=script_args.label_column, on_error=script_args.on_error
    )
    train = data["train"].shuffle(seed=seed).select(range(min(PROBE_ROWS, len(data["train"]))))
    fitted = embed(model, train, collator, batch_size, "Embedding training rows")
    tested = embed(model, data[split], collator, batch_size, f"Embedding {split} rows")
    embeddings, present, labels = tested
    logits = model.fuse(embeddings, present)
    guesses = logits.argmax(1)
    result = {
        "split": split,
        "modalities": list(embeddings),
        "test_accuracy": share_right(guesses, labels),
        "test_macro_f1": f1_score(labels.cpu(), guesses.cpu(), average="macro", zero_division=0),
    }
    alone = model.prototypes(embeddings)
    slices = model.modality_logits(embeddings, present) if model.fusion.splits_by_modality else {}
    names = list(embeddings)
    if len(names) == 1:  # all that is fused is this modality
        slices = {}

    def true_class_score(taking_part: tuple[bool, ...]) -> torch.Tensor:
        some = {name: present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
        return true_class_probability(F.cross_entropy(model.fuse(embeddings, some).float(), labels, reduction="none"))

    shares = shapley_values(true_class_score, len(names)).mean(1)
    for name, share in zip(names, shares.tolist(), strict=True):
        has, seen = present[name], fitted[1][name]
        if has.any():
            result[f"{name}_prototype_accuracy"] = share_right(alone[name].argmax(1)[has], labels[has])
            if name in slices:
                result[f"{name}_head_accuracy"] = share_right(slices[name].argmax(1)[has], labels[has])
            if len(fitted[2][seen].unique()) > 1:
                probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                probe.fit(fitted[0][name][seen].float().cpu().numpy(), fitted[2][seen].cpu().numpy())
                result[f"{name}_probe_accuracy"] = probe.score(
                    embeddings[name][has].float().cpu().numpy(), labels[has].cpu().numpy()
                )
        if len(names) > 1:
            result[f"{name}_share"] = share
    return result


def embed(
    model: MultimodalModel, rows: Dataset, collator: MultimodalCollator, batch_size: int, description: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Embeddings (N, D_m) and presence (N,) by modality, and labels (N,), of all rows."""
    embeddings: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    present: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    labels = []
    for batch in tqdm(DataLoader(rows, batch_size, collate_fn=collator), desc=description, leave=False):
        labels.append(batch.pop("labels").to(model.device))
        output = model(**{name: {key: v.to(model.device) for key, v in part.items()} for name, part in batch.items()})
        full = torch.ones_like(labels[-1], dtype=torch.bool)
        for name, embedding in output.embeddings.items():
            embeddings[name].append(embedding)
            present[name].append(full if output.present is None else output.present[name])
    return (
        {name: torch.cat(parts) for name, parts in embeddings.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
        torch.cat(labels),
    )


def share_right(guesses: torch.Tensor, labels: torch.Tensor) -> float:
    return (guesses == labels).double().mean().item()
