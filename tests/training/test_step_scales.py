"""Factors on the steps of an optimizer, against steps of the same optimizer without them."""

import copy

import pytest
import torch
from transformers import Adafactor

from pmr_hf import NumericConfig
from pmr_hf.training.learning_rates import set_modality_learning_rates
from pmr_hf.training.step_scales import StepScales


RATE = 0.01
OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "adamw_fused": (torch.optim.AdamW, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adafactor": (Adafactor, {"scale_parameter": False, "relative_step": False}),
}


@pytest.fixture
def model(make_model):
    backbones = {name: NumericConfig(num_features=3, hidden_size=6, dropout=0.0) for name in ("a", "b", "c")}
    return make_model(backbones=backbones, embedding_dim=5).double()


def modality_of(name):
    return name.split(".")[1] if name.startswith(("backbones.", "projections.", "absent.")) else None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_of_each_encoder_is_multiplied_by_the_mean_factor(model, optimizer):
    """The plain optimizer sees the same gradients at the same weights. Its rate is the same for all but `b`."""
    cls, options = OPTIMIZERS[optimizer]
    plain, scales = copy.deepcopy(model), StepScales()

    def groups(owner):
        decayed = [parameter for parameter in owner.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in owner.parameters() if parameter.dim() <= 1]
        return [{"params": decayed}, {"params": others} | ({"weight_decay": 0.0} if "weight_decay" in options else {})]

    scaled_optimizer, plain_optimizer = (cls(groups(owner), lr=RATE, **options) for owner in (model, plain))
    for owner, each in ((model, scaled_optimizer), (plain, plain_optimizer)):
        set_modality_learning_rates(each, owner, {"b": 0.03})
    scales.apply_to(scaled_optimizer, model)
    for step in range(4):
        factors = [{"a": 0.1, "b": 2.0, "c": 1e-6}, {"a": 0.3 + step, "b": 0.0, "c": 1.0}][: 1 + step % 2]
        scales.clear()
        for factor in factors:
            scales.add(torch.tensor(list(factor.values()), dtype=torch.float64))
        plain.load_state_dict(model.state_dict())
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for parameter, same in zip(model.parameters(), plain.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            same.grad = parameter.grad.clone()
        scaled_optimizer.step()
        plain_optimizer.step()
        for (name, parameter), same in zip(model.named_parameters(), plain.parameters(), strict=True):
            modality = modality_of(name)
            factor = 1.0 if modality is None else sum(each[modality] for each in factors) / len(factors)
            expected = factor * (same - before[name])
            assert expected.any()
            torch.testing.assert_close(parameter - before[name], expected, rtol=1e-6, atol=1e-12, msg=name)
    assert sorted({group["lr"] for group in scaled_optimizer.param_groups}) == [RATE, 0.03]


def test_a_step_without_a_batch_is_not_scaled(model):
    scales, optimizer = StepScales(), torch.optim.SGD(model.parameters(), lr=RATE)
    scales.apply_to(optimizer, model)
    before = model.backbones["a"].state_dict()
    before = {name: value.clone() for name, value in before.items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.backbones["a"].named_parameters():
        torch.testing.assert_close(parameter, before[name] - RATE)
