"""What the methods that change the gradients of encoders have in common."""

import copy
import re

import pytest
import torch
from helpers.all_methods import GRADIENT, METHOD_CASES, METHOD_IDS, WITH_HEADS
from helpers.digits import batch_of
from helpers.gradients import gradients, gradients_of_step
from helpers.relatives import slow_but

from pmr_hf import AGMTrainer, GradientBoostTrainer, MMParetoTrainer, OGMTrainer, PrototypeTrainer
from pmr_hf.methods.gradient_scaling import GradientScalingTrainer


@pytest.mark.parametrize(
    ("cls", "options"), slow_but(("acc", "ogm_ge", "agm_update", "opm", "mmpareto", "gblend"), METHOD_CASES, METHOD_IDS)
)
def test_under_accumulation_each_micro_batch_has_its_own_scale(prepared, cls, options):
    trainer, _ = prepared(cls, **options)
    trainer.create_optimizer()
    halves = [batch_of(trainer, rows) for rows in (range(8), range(20, 36))]
    alone = [gradients_of_step(trainer, half) for half in halves]
    trainer.load_method_state(None)  # as before the first half
    trainer.model.zero_grad()
    for half in halves:
        trainer.compute_loss(trainer.model, half).backward()
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(gradient, alone[0][name] + alone[1][name])


@pytest.mark.parametrize("cls", [OGMTrainer, GradientBoostTrainer, MMParetoTrainer])
def test_methods_with_hooks_refuse_torch_compile(make_trainer, make_model, cls):
    model, options = make_model(unimodal_heads=cls in WITH_HEADS), {} if cls in WITH_HEADS else GRADIENT
    with pytest.raises(ValueError, match=f"a model in one piece for {cls.__name__}"):
        make_trainer(model, cls=cls, torch_compile=True, **options)


class FixedScales(GradientScalingTrainer):
    """Factors that are the same in each run: 0.2 for the image, and 1, 2, 3, ... for the text, by micro-batch."""

    calls = 0

    def gradient_scales(self, terms, outputs, labels):
        self.calls += 1
        return torch.tensor([0.2, float(self.calls)])


def steps_of(trainer):
    """The change of each parameter in training."""
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    return {name: parameter.detach() - before[name] for name, parameter in trainer.model.named_parameters()}


def test_under_adamw_the_update_is_scaled_and_the_rate_is_not(make_trainer, make_model):
    """Two steps of two micro-batches each. The oracle has an optimizer for each parameter, with a rate of its own."""
    settings = {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "max_steps": 2, "max_grad_norm": 0.0}
    settings |= {"modality_learning_rates": {"text": 0.03}, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(make_model(), cls=FixedScales, optim="adamw_torch", **settings)
    model = copy.deepcopy(trainer.model).train()
    trainer.train()
    decayed = trainer.get_decay_parameter_names(model)
    optimizers = {}
    for step, (text, schedule) in enumerate([(1.5, 1.0), (3.5, 0.5)]):  # means of 1, 2 and of 3, 4; linear schedule
        model.zero_grad()
        for half in (0, 1):
            (model(**batch_of(trainer, range(16 * step + 8 * half, 16 * step + 8 * half + 8))).loss / 2).backward()
        for name, parameter in model.named_parameters():
            part = name.split(".")[1]
            own = name.startswith("backbones.")
            factor = {"image": 0.2, "text": text}[part] if own else 1.0
            rate = 0.03 if own and part == "text" else 0.01
            optimizer = optimizers.setdefault(
                name, torch.optim.AdamW([parameter], weight_decay=0.1 if name in decayed else 0.0)
            )
            optimizer.param_groups[0]["lr"] = rate * schedule * factor
            optimizer.step()
    found = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-6, atol=1e-7, msg=name)
    logs = [entry for entry in trainer.state.log_history if "ce_loss" in entry]
    assert [entry["learning_rate"] for entry in logs] == pytest.approx([0.01, 0.005])
    assert [entry["text_update_scale"] for entry in logs] == [1.5, 3.5]


def test_under_sgd_scaling_the_update_is_scaling_the_gradient(make_trainer, make_model):
    """In one step without momentum, with projections and absent modalities."""
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "max_grad_norm": 0.0}
    by, plain = {}, make_trainer(make_model(embedding_dim=8, modality_dropout=0.3), cls=PrototypeTrainer, **settings)
    plain = steps_of(plain)
    for modulation in ("gradient", "update", None):
        model = make_model(embedding_dim=8, modality_dropout=0.3)
        trainer = make_trainer(model, cls=FixedScales, modulation=modulation, **settings)
        assert trainer.args.modulation == (modulation or "gradient")
        by[modulation] = steps_of(trainer)
    for name, step in plain.items():
        factor = 0.2 if name.split(".")[1] == "image" else 1.0
        torch.testing.assert_close(by["update"][name], factor * step, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(by["update"][name], by["gradient"][name], rtol=1e-4, atol=1e-7)
        assert torch.equal(by[None][name], by["gradient"][name])
    assert any(name.startswith("absent.image") and step.any() for name, step in plain.items())


def test_the_default_scales_updates_except_under_sgd(make_trainer, make_args, make_model, caplog):
    assert make_args(FixedScales.args_class).hyper_parameters["what is scaled in each encoder"] == "update"
    assert make_args(FixedScales.args_class, optim="sgd").modulation == "gradient"
    assert make_args(FixedScales.args_class, optim="rmsprop").modulation == "update"
    with pytest.raises(ValueError, match=r"whose step is proportional to the learning rate .* got 'schedule_free_sgd'"):
        make_args(FixedScales.args_class, optim="schedule_free_sgd")
    warned = "FixedScales scales gradients .* but AdamW may divide by their size"
    make_trainer(make_model(), cls=FixedScales, max_steps=1).train()
    assert not re.search(warned, caplog.text)
    trainer = make_trainer(make_model(), cls=FixedScales, max_steps=1, modulation="gradient")
    trainer.train()
    trainer.train()
    assert len(re.findall(warned, caplog.text)) == 1


def test_updates_need_an_optimizer_of_the_trainer(make_trainer, make_model):
    model = make_model()
    own = {"optimizers": (torch.optim.AdamW(model.parameters()), None)}
    with pytest.raises(ValueError, match=r"an optimizer that the trainer creates, .* got a A.* in `optimizers`"):
        make_trainer(model, cls=FixedScales, trainer_kwargs=own).train()
    model = make_model()
    own = {"optimizer_cls_and_kwargs": (torch.optim.RMSprop, {"lr": 1e-3})}
    trainer = make_trainer(model, cls=FixedScales, trainer_kwargs=own, max_steps=1)
    trainer.train()
    assert {group.get("modality") for group in trainer.optimizer.param_groups} == {"image", "text", None}


@pytest.mark.parametrize(
    "cls", slow_but(("ogm",), [OGMTrainer, GradientBoostTrainer, AGMTrainer], ["ogm", "acc", "agm"])
)
def test_updates_are_scaled_in_a_compiled_model(make_trainer, make_model, cls):
    settings = {"cls": cls, "max_steps": 3, "modulation": "update", "prototype_fraction": 1.0}
    plain = make_trainer(make_model(), **settings)
    compiled = make_trainer(make_model(), torch_compile=True, torch_compile_backend="aot_eager", **settings)
    for trainer in (plain, compiled):
        trainer.train()
    found = dict(compiled.unwrapped_model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-5, msg=name)
    logs = [entry for entry in compiled.state.log_history if "ce_loss" in entry]
    assert any(entry["image_update_scale"] != 1 or entry["text_update_scale"] != 1 for entry in logs)
