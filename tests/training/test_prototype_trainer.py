"""Options of `Trainer` that could lose or falsify the prototypes."""

import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback

from pmr_hf import MultimodalModel, PMRTrainer


def prototypes_of(trainer):
    """The prototypes of the trained encoders, taken once more."""
    trainer.refresh_prototypes(momentum=0.0)
    return {name: trainer.prototypes.mean(name).clone() for name in trainer.prototypes.widths}


def test_compiled_training_is_uncompiled_training(make_trainer, make_model, tmp_path):
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "optim": "sgd"}
    eager = make_trainer(make_model(), **settings)
    eager.train()
    compiled = make_trainer(make_model(), torch_compile=True, torch_compile_backend="aot_eager", **settings)
    compiled.train()
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    for (name, a), b in zip(eager.model.state_dict().items(), compiled.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=1e-5, rtol=1e-4, msg=name)
    for a, b in zip(eager.state.log_history, compiled.state.log_history, strict=True):
        assert a.keys() == b.keys()
        assert a.get("rho", 0) == pytest.approx(b.get("rho", 0), rel=1e-3)
    compiled.save_model(str(tmp_path / "saved"))
    loaded = MultimodalModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.prototypes.mean("image"), compiled.prototypes.mean("image"))


def test_length_grouped_sampling(make_trainer, digits):
    with pytest.raises(ValueError, match="a column 'length' to sample by"):
        make_trainer(train_sampling_strategy="group_by_length")
    lengths = [len(caption.split()) + i % 7 for i, caption in enumerate(digits["caption"])]
    seen = []
    trainer = make_trainer(
        train_dataset=digits.add_column("length", lengths),
        train_sampling_strategy="group_by_length",
        prototype_source="online",
        num_train_epochs=1,
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append([row["length"] for row in rows]) or collate(rows)
    trainer.train()
    assert all(batch == sorted(batch, reverse=True) for batch in seen) and len(seen) == 8
    assert trainer.prototypes.count("text").sum() == 64


@pytest.mark.slow
def test_finding_a_batch_size(make_trainer, make_model):
    """A forward pass of more than five samples is out of memory, in a refresh as in a step."""

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
        if source == "online":  # the first steps have no terms, and the attempts that failed are forgotten
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
        learning_rate=0.0,  # nothing ever gets better than after the first epoch
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
    if source == "online":  # those of the epoch that ended with these weights
        assert all(torch.equal(after[name], best.prototypes.mean(name)) for name in after)
    else:  # taken anew by these weights
        assert all(torch.equal(after[name], value) for name, value in prototypes_of(trainer).items())


def test_ddp_sends_no_prototypes(make_trainer, tmp_path):
    """They are the same in every process, and may be large."""
    trainer = make_trainer()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(trainer.model)
        sent = {id(buffer) for buffer in wrapped.modules_buffers}
        assert sent.isdisjoint(map(id, trainer.prototypes.buffers()))
    finally:
        torch.distributed.destroy_process_group()
