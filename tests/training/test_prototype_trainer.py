"""Prototypes are kept, saved and restored with the model under each option of `Trainer`."""

import pytest
import torch
from helpers.digits import batch_of
from helpers.oracle_inputs import class_means
from helpers.snapshots import assert_equal_tensors
from torch import nn
from transformers import EarlyStoppingCallback

from pmr_hf import MultimodalModel, PMRTrainer


def prototypes_of(trainer):
    """The prototypes of the trained encoders, computed once more."""
    trainer.refresh_prototypes(momentum=0.0)
    return {name: trainer.prototypes.mean(name).clone() for name in trainer.prototypes.widths}


@pytest.mark.slow
def test_finding_a_batch_size(make_trainer, make_model):
    """A forward pass with more than five samples runs out of memory, in a refresh and in a step."""

    class Small(PMRTrainer):
        def run_model(self, model, inputs):
            sizes.append(len(inputs["labels"]))
            if sizes[-1] > 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().run_model(model, inputs)

        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if len(inputs["labels"]) > 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return loss

    for source in ("subset", "online"):
        sizes = []
        trainer = make_trainer(
            make_model(),
            cls=Small,
            auto_find_batch_size=True,
            prototype_source=source,
            modality_learning_rates={"text": 1e-3},
            num_train_epochs=2,
        )
        trainer.train()
        if source == "online":  # the first steps have no terms, and failed attempts leave no traces
            logged = trainer.state.log_history[0]
            assert logged["ce_loss"] == pytest.approx(logged["loss"], abs=1e-6)
        assert trainer.state.train_batch_size == 5 and trainer.state.global_step == 26
        assert all(group["params"] for group in trainer.optimizer.param_groups)
        expected = 64 if source == "online" else 7  # a tenth, rounded up
        assert trainer.prototypes.count("image").sum() == expected


def test_early_stopping_keeps_the_prototypes_of_the_best_model(make_trainer):
    trainer = make_trainer(
        num_train_epochs=20,
        prototype_fraction=1.0,
        learning_rate=0.0,  # nothing improves after the first epoch
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        trainer_kwargs={"callbacks": [EarlyStoppingCallback(early_stopping_patience=2)]},
    )
    trainer.train()
    assert trainer.state.global_step == 3 * 8
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-8")
    kept = {name: trainer.prototypes.mean(name).clone() for name in trainer.prototypes.widths}
    assert all(torch.equal(kept[name], value) for name, value in prototypes_of(trainer).items())


@pytest.mark.parametrize("source", ["subset", "online"])
def test_the_best_of_checkpoints_without_optimizer_has_its_prototypes(make_trainer, make_model, source):
    trainer = make_trainer(
        make_model(),
        prototype_source=source,
        prototype_fraction=1.0,
        num_train_epochs=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=False,
    )
    trainer.train()
    best = MultimodalModel.from_pretrained(trainer.state.best_model_checkpoint)
    weights = {name: value for name, value in best.state_dict().items() if "prototypes" not in name}
    for name, value in weights.items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    after = {name: trainer.prototypes.mean(name).clone() for name in trainer.prototypes.widths}
    if source == "online":  # the prototypes of the epoch that ended with these weights
        assert all(torch.equal(after[name], best.prototypes.mean(name)) for name in after)
    else:  # computed again with these weights
        assert all(torch.equal(after[name], value) for name, value in prototypes_of(trainer).items())


def test_ddp_sends_no_prototypes(make_trainer, tmp_path):
    """They are equal in every process, and can be large."""
    trainer = make_trainer()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(trainer.model)
        sent = {id(buffer) for buffer in wrapped.modules_buffers}
        assert sent.isdisjoint(map(id, trainer.prototypes.buffers()))
    finally:
        torch.distributed.destroy_process_group()


def test_no_prototype_accuracy_before_there_are_prototypes(make_trainer):
    assert "eval_image_prototype_accuracy" not in make_trainer().evaluate()


def test_saved_prototypes_belong_to_the_saved_encoders(make_trainer, tmp_path):
    from transformers import AutoModel

    trainer = make_trainer(prototype_fraction=1.0, prototype_momentum=0.9)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for name, means in class_means(trainer, range(64)).items():
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(means), atol=1e-5, rtol=1e-5)
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert_equal_tensors(trainer.model.state_dict(), loaded.state_dict())


def test_a_batch_without_labels(make_trainer, digits, processor):
    from pmr_hf import MultimodalCollator

    trainer = make_trainer()
    trainer.data_collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"}, label=None)
    with pytest.raises(ValueError, match="Expected a batch with `labels`"):
        trainer.train()
    with pytest.raises(ValueError, match="Expected a batch with `labels`"):
        trainer.compute_loss(trainer.model, batch_of(trainer, range(8)))
