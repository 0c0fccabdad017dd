"""Tensors of a trainer or a test as the nested lists that the oracle takes."""

import torch

from helpers import oracle
from helpers.digits import NUM_LABELS, batch_of


def prototype_rows(means, seen):
    """Prototypes (classes, width) as lists, with `None` for a class that is not seen."""
    return [row if is_seen else None for row, is_seen in zip(means.tolist(), seen.tolist(), strict=True)]


def as_lists(embeddings, prototypes, seen, labels):
    """The three arguments of the oracle's terms for one modality."""
    return embeddings.tolist(), prototype_rows(prototypes, seen), labels.tolist()


def oracle_inputs(trainer, outputs):
    """Embeddings and prototypes, each a list over the modalities."""
    names = list(trainer.prototypes.widths)
    embeddings = [outputs.embeddings[name].tolist() for name in names]
    return embeddings, [prototype_rows(trainer.prototypes.mean(n), trainer.prototypes.seen(n)) for n in names]


def class_means(trainer, rows):
    """By the oracle: the class means of each modality's embeddings of these training rows."""
    trainer.model.eval()
    batch = batch_of(trainer, rows)
    with torch.no_grad():
        embeddings = trainer.model(**batch).embeddings
    return {
        name: oracle.prototypes(values.tolist(), batch["labels"].tolist(), NUM_LABELS)
        for name, values in embeddings.items()
    }
