"""What a model predicts: the loss of each problem type, the scale of a regression, and labels that are refused."""

import pytest
import torch
from torch.nn import functional as F

from pmr_hf import MultimodalConfig, MultimodalModel, NumericConfig


def model_of(problem_type, num_labels, **kwargs):
    torch.manual_seed(0)
    backbones = {name: NumericConfig(num_features=3, hidden_sizes=[4]) for name in ("a", "b")}
    return MultimodalModel.from_backbones(backbones, num_labels=num_labels, problem_type=problem_type, **kwargs)


def batch(size=5):
    generator = torch.Generator().manual_seed(1)
    return {name: {"values": torch.randn(size, 3, generator=generator)} for name in ("a", "b")}


def test_the_loss_of_several_labels_is_the_mean_binary_cross_entropy():
    model, labels = model_of("multi_label_classification", 4), torch.tensor([[1.0, 0, 0, 1]] * 5)
    output = model(**batch(), labels=labels)
    p = output.logits.double().sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    each = model.loss_of(output.logits, labels, reduction="none")
    assert each.shape == (5,) and each.mean().item() == pytest.approx(output.loss.item(), abs=1e-6)


def test_a_regression_predicts_in_the_users_units_and_learns_standardised_targets():
    model = model_of("regression", 2, unimodal_heads=True).eval()
    raw, head = model(**batch()), model.unimodal_heads["a"]
    targets = torch.tensor([[10.0, -2], [20, -2], [30, -2], [40, -2], [50, -2]])
    model.fit_targets(targets)
    output = model(**batch(), labels=targets)
    mean, std = torch.tensor([30.0, -2]), torch.tensor([200**0.5, 1])  # the second target never changes
    torch.testing.assert_close(output.logits, raw.logits * std + mean)
    torch.testing.assert_close(output.unimodal_logits["a"], head(output.embeddings["a"]) * std + mean)
    expected = F.mse_loss(raw.logits, (targets - mean) / std)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.prototypes is None


def test_one_target_may_have_one_dimension():
    model = model_of("regression", 1).eval()
    targets = torch.tensor([1.0, 2, 3, 4, 6])
    model.fit_targets(targets)
    losses = [model(**batch(), labels=labels).loss.item() for labels in (targets, targets[:, None])]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scale_is_saved_with_the_model_and_stays_in_fp32(dtype, tmp_path):
    model = model_of("regression", 1)
    assert not model.target_scale.is_fitted
    model.fit_targets(torch.tensor([1234.5, 1234.75]))
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.config.problem_type == "regression" and loaded.target_scale.is_fitted
    assert loaded.target_scale.mean.item() == 1234.625 and loaded.target_scale.std.item() == 0.125
    assert loaded.bfloat16().target_scale.mean.item() == 1234.625
    assert loaded(**{name: {"values": part["values"].bfloat16()} for name, part in batch().items()}).logits.dtype == (
        torch.float32
    )


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        ("multi_label_classification", torch.tensor([0, 1]), r"shape \(2, 3\) and type torch.float32, got \(2,\)"),
        ("multi_label_classification", torch.zeros(2, 3).long(), "torch.int64; give a 0 or 1 for each label"),
        ("regression", torch.zeros(2), r"shape \(2, 3\).*give the targets of each sample"),
        ("single_label_classification", torch.zeros(2, 3), r"shape \(2,\) and type torch.int64"),
    ],
)
def test_labels_of_another_problem_are_refused(problem_type, labels, message):
    with pytest.raises(ValueError, match=message):
        model_of(problem_type, 3)(**batch(2), labels=labels)


def test_configs_that_are_refused():
    with pytest.raises(ValueError, match="Expected `problem_type` to be one of"):
        MultimodalConfig(problem_type="ranking")
    with pytest.raises(ValueError, match="Expected `answer='head'` with `problem_type='regression'`"):
        MultimodalConfig(problem_type="regression", answer="prototypes")
    with pytest.raises(ValueError, match="Expected a model with problem_type='regression' to fit targets"):
        model_of(None, 3).fit_targets(torch.zeros(2))
    with pytest.raises(ValueError, match=r"Expected finite targets of shape \(rows, 2\), got \(3,\)"):
        model_of("regression", 2).fit_targets(torch.zeros(3))
    assert MultimodalConfig().problem == "single_label_classification"


@pytest.mark.parametrize(
    "targets",
    [
        [1.7e9 + i for i in range(5)],  # seconds: steps of fp32 are 128 there
        [[0.0, 20260101.0 + i] for i in range(5)],
        [1e39 * i for i in range(5)],
        [1e39] * 5,
        [1e-39 * i for i in range(5)],
        [-1e300, 1e300],
    ],
)
def test_targets_that_fp32_does_not_tell_apart_are_refused(targets):
    targets = torch.tensor(targets, dtype=torch.float64)
    model = model_of("regression", 1 if targets.dim() == 1 else 2)
    with pytest.raises(
        ValueError, match=r"Expected targets that fp32 holds and tells apart, got target [01] with the mean"
    ):
        model.fit_targets(targets)


@pytest.mark.parametrize(
    ("targets", "std"),
    [
        ([0.1] * 3, 1.0),  # the mean of which is not 0.1 in fp64
        ([1e9 / 3] * 7, 1.0),
        ([1.7e9, 1.7e9 + 172_800], 86_400.0),  # two days
        ([2e-30, 4e-30], 1e-30),
    ],
)
def test_equal_targets_and_those_of_any_unit_have_a_scale(targets, std):
    model = model_of("regression", 1)
    model.fit_targets(torch.tensor(targets, dtype=torch.float64))
    assert model.target_scale.std.item() == pytest.approx(std)
