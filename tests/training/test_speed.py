"""What a training step must not do on any machine: wait for the device, or build a tensor of size B x K x D."""

import pytest
import torch
from helpers.mean_terms import prototypical_cross_entropy, prototypical_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments

from pmr_hf import Prototypes


class Count(TorchDispatchMode):
    """Counts how often the host reads a value, and records the size of the largest tensor."""

    reads, largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += str(function) in (
            "aten._local_scalar_dense.default",
            "aten.nonzero.default",
            "aten.equal.default",
        )
        output = function(*args, **(kwargs or {}))
        tensors = [part for part in torch.utils._pytree.tree_leaves(output) if isinstance(part, torch.Tensor)]
        self.largest = max(self.largest, *(part.numel() for part in tensors), 0)
        return output


def reads_of(trainer):
    with Count() as count:
        trainer.train()
    return count.reads


@pytest.mark.parametrize("source", ["subset", "online"])
def test_a_step_reads_no_more_from_the_device_than_one_of_plain_trainer(
    make_trainer, make_model, make_args, digits, collator, source
):
    reads = {}
    for steps in (4, 8):  # within one epoch: the difference is that of four steps
        settings = {"max_steps": steps, "logging_steps": 100}
        args = make_args(TrainingArguments, remove_unused_columns=False, logging_nan_inf_filter=False, **settings)
        plain = Trainer(model=make_model(), args=args, train_dataset=digits, data_collator=collator)
        trainer = make_trainer(make_model(), prototype_source=source, **settings)
        reads[steps] = (reads_of(plain), reads_of(trainer))
    assert reads[8][0] > reads[4][0]  # plain `Trainer` reads some values too, so the count works
    assert reads[8][1] - reads[4][1] == reads[8][0] - reads[4][0]


def test_the_terms_build_nothing_of_samples_by_classes_by_width():
    batch, classes, width = 16, 40, 30
    prototypes = Prototypes({"image": width, "text": width}, classes)
    embeddings = {name: torch.randn(batch, width, requires_grad=True) for name in ("image", "text")}
    labels = torch.arange(batch)
    with Count() as count:
        prototypes.momentum_update(prototypes.class_sums(embeddings, labels), 0.0)
        logits = prototypes(embeddings).values()
        sum(prototypical_cross_entropy(value, labels) + prototypical_entropy(value) for value in logits).backward()
    assert count.largest == 2 * classes * width  # the prototypes of both modalities
