"""Prototypes: class sums, momentum, logits, and how they are attached to a model and saved."""

from itertools import pairwise

import pytest
import torch
from helpers import oracle
from helpers.strategies import DTYPES, EPS, EXTREME, NAMES, SHAPES, cast, tensors
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from pmr_hf import Prototypes, attach_prototypes, load_prototypes


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    embeddings = {"image": torch.randn(10, 6, generator=generator), "text": torch.randn(10, 4, generator=generator)}
    return embeddings, torch.tensor([0, 1, 1, 2, 0, 0, 1, 2, 2, 0])


WIDTHS = {"image": 3, "text": 2}


@st.composite
def batches(draw, elements=EXTREME, dtypes=DTYPES):
    """Embeddings of two modalities, labels, sometimes all of one class, and presence masks or `None`."""
    size, classes, dtype = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(dtypes)
    embeddings = {name: cast(draw(tensors(size, width, elements=elements)), dtype) for name, width in WIDTHS.items()}
    one = st.integers(0, classes - 1)
    labels = draw(one.map(lambda label: [label] * size) | st.lists(one, min_size=size, max_size=size))
    masks = st.fixed_dictionaries({name: arrays(bool, size).map(torch.from_numpy) for name in WIDTHS})
    return classes, embeddings, torch.tensor(labels), draw(st.none() | masks)


def part(rows, embeddings, labels, present):
    return (
        {name: values[rows] for name, values in embeddings.items()},
        labels[rows],
        present and {name: mask[rows] for name, mask in present.items()},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_class_sums_over_batches_give_the_oracles_means(batch, dtype):
    embeddings, labels = batch
    embeddings = {name: values.to(dtype) for name, values in embeddings.items()}
    prototypes = Prototypes({"image": 6, "text": 4}, num_labels=4)
    parts = [
        prototypes.class_sums({name: values[rows] for name, values in embeddings.items()}, labels[rows])
        for rows in (slice(0, 7), slice(7, 10))
    ]
    sums = {name: tuple(a + b for a, b in zip(parts[0][name], parts[1][name], strict=True)) for name in embeddings}
    prototypes.momentum_update(sums, momentum=0.5)
    for name, values in embeddings.items():
        expected = oracle.prototypes(values.tolist(), labels.tolist(), 4)
        assert expected[3] is None
        assert prototypes.seen(name).tolist() == [True, True, True, False]
        assert prototypes.count(name).tolist() == [4, 3, 3, 0]
        torch.testing.assert_close(prototypes.mean(name)[:3], torch.tensor(expected[:3]), atol=1e-5, rtol=1e-5)
        assert prototypes.mean(name)[3].abs().max() == 0


def test_momentum_of_old_new_and_absent_classes():
    prototypes = Prototypes({"image": 1}, num_labels=3)

    def update(means, counts, momentum):
        counts = torch.tensor(counts)
        prototypes.momentum_update({"image": (torch.tensor(means)[:, None] * counts[:, None], counts)}, momentum)
        return prototypes.mean("image").squeeze(1).tolist()

    # The first mean is taken as it is, whatever the momentum.
    assert update([10.0, 0.0, 0.0], [2.0, 0.0, 0.0], 0.75) == [10, 0, 0]
    # 0.75 * 10 + 0.25 * 2 = 8; the second class is new.
    assert update([2.0, 6.0, 0.0], [1.0, 5.0, 0.0], 0.75) == [8, 6, 0]
    # The first class is not in this subset and keeps its mean; 0.75 * 6 + 0.25 * 2 = 5.
    assert update([0.0, 2.0, 0.0], [0.0, 1.0, 0.0], 0.75) == [8, 5, 0]
    assert prototypes.count("image").tolist() == [0, 1, 0]
    assert prototypes.seen("image").tolist() == [True, True, False]


def test_buffers_are_persistent_fp32_and_not_trained():
    prototypes = Prototypes({"image": 6, "text": 4}, num_labels=3)
    assert not list(prototypes.parameters())
    assert {name: (tuple(value.shape), value.dtype) for name, value in prototypes.state_dict().items()} == {
        "image_mean": ((3, 6), torch.float32),
        "image_count": ((3,), torch.float32),
        "image_seen": ((3,), torch.bool),
        "text_mean": ((3, 4), torch.float32),
        "text_count": ((3,), torch.float32),
        "text_seen": ((3,), torch.bool),
    }


@pytest.mark.parametrize("stacked", [0, 2**21])
@pytest.mark.parametrize("width", [4, 6])
def test_forward_gives_the_logits_of_each_modality(batch, width, stacked, monkeypatch):
    """Also for modalities of one width, which are computed together, and for classes that one modality has not seen."""
    monkeypatch.setattr("pmr_hf.model.prototypes.STACKED", stacked)
    embeddings, labels = batch
    embeddings["text"] = torch.randn(10, width, generator=torch.Generator().manual_seed(1))
    embeddings = {name: values.requires_grad_() for name, values in embeddings.items()}
    prototypes = Prototypes({"image": 6, "text": width}, num_labels=4)
    present = {"image": labels != 1, "text": labels != 2}
    prototypes.momentum_update(prototypes.class_sums(embeddings, labels, present), momentum=0.0)
    logits = prototypes(embeddings)
    assert list(logits) == ["image", "text"]
    for name, values in embeddings.items():
        means = oracle.prototypes(values[present[name]].tolist(), labels[present[name]].tolist(), 4)
        assert [mean is None for mean in means] == (~prototypes.seen(name)).tolist()
        expected = torch.tensor([oracle.probabilities(z, means) for z in values.tolist()])
        torch.testing.assert_close(logits[name].softmax(1), expected, atol=1e-5, rtol=1e-5)
        # The gradient of a distance is the unit vector from the prototype.
        (gradient,) = torch.autograd.grad(logits[name][:, 0].sum(), values, retain_graph=True)
        unit = (values - prototypes.mean(name)[0]) / -logits[name][:, :1]
        torch.testing.assert_close(gradient, -unit, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [{"image": (2, 6)}, {"image": (2, 6), "text": (2, 5)}, {"image": (2, 6), "text": (2, 3, 4)}]
)
def test_embeddings_of_other_names_or_shapes(shapes):
    prototypes = Prototypes({"image": 6, "text": 4}, num_labels=3)
    with pytest.raises(ValueError, match="Expected one embedding per modality, of shapes"):
        prototypes({name: torch.zeros(shape) for name, shape in shapes.items()})


def test_attached_prototypes_are_saved_with_the_model_and_loaded_again(tmp_path, batch):
    from safetensors.torch import save_file

    model = nn.Linear(2, 2)
    prototypes = attach_prototypes(model, {"image": 6, "text": 4}, num_labels=4)
    prototypes.momentum_update(prototypes.class_sums(*batch), momentum=0.0)
    with pytest.raises(ValueError, match="without prototypes, but it has some"):
        attach_prototypes(model, {"image": 6}, num_labels=4)
    save_file(model.state_dict(), tmp_path / "model.safetensors")

    other = nn.Linear(2, 2)
    attach_prototypes(other, {"image": 6, "text": 4}, num_labels=4)
    load_prototypes(other, tmp_path)
    for name, value in prototypes.state_dict().items():
        assert torch.equal(other.prototypes.state_dict()[name], value)


def test_loading_prototypes_into_a_model_without(tmp_path):
    with pytest.raises(ValueError, match="got one without; attach them first"):
        load_prototypes(nn.Linear(2, 2), tmp_path)


def test_loading_prototypes_that_were_not_saved(tmp_path):
    from safetensors.torch import save_file

    model = nn.Linear(2, 2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    attach_prototypes(model, {"image": 6}, num_labels=4)
    with pytest.raises(ValueError, match=r"to hold \['prototypes.image_count'.*got \[\]; was this model trained"):
        load_prototypes(model, tmp_path)


@given(batches(), st.randoms(use_true_random=False))
def test_class_sums_over_any_split_add_up_to_those_of_the_whole(case, random):
    classes, *batch = case
    prototypes, labels = Prototypes(WIDTHS, classes), batch[1]
    whole = prototypes.class_sums(*batch)
    rows = list(range(len(labels)))
    random.shuffle(rows)
    cuts = sorted(random.choices(range(len(rows) + 1), k=2))  # a part may be empty
    parts = [prototypes.class_sums(*part(rows[i:j], *batch)) for i, j in pairwise([0, *cuts, len(rows)])]
    for name, (total, count) in whole.items():
        mask = torch.ones_like(labels, dtype=torch.bool) if batch[2] is None else batch[2][name]
        assert count.tolist() == [((labels == k) & mask).sum() for k in range(classes)]
        assert sum(each[name][1] for each in parts).tolist() == count.tolist()
        slack = 16 * EPS * batch[0][name].float().abs().max().item()
        torch.testing.assert_close(sum(each[name][0] for each in parts), total, atol=slack, rtol=0)
        assert total.dtype == torch.float64 and total.isfinite().all()


@given(batches())
def test_the_first_prototypes_are_the_oracles_means_and_give_finite_logits(case):
    classes, embeddings, labels, present = case
    prototypes = Prototypes(WIDTHS, classes)
    prototypes.momentum_update(prototypes.class_sums(embeddings, labels, present), momentum=0.5)
    for name, values in embeddings.items():
        kept = torch.ones_like(labels, dtype=torch.bool) if present is None else present[name]
        expected = oracle.prototypes(values.float()[kept].tolist(), labels[kept].tolist(), classes)
        assert prototypes.seen(name).tolist() == [mean is not None for mean in expected]
        slack = 16 * EPS * values.float().abs().max().item()
        for mean, found in zip(expected, prototypes.mean(name).tolist(), strict=True):
            assert found == pytest.approx(mean or [0] * WIDTHS[name], abs=slack, rel=1e-6)
    for name, logits in prototypes(embeddings).items():
        assert logits.shape == (len(labels), classes) and logits.isfinite().all()
        assert not logits.softmax(1)[:, ~prototypes.seen(name)].any() or not prototypes.seen(name).any()


@given(st.lists(batches(), min_size=2, max_size=4), st.floats(0, 1, exclude_max=True))
def test_prototypes_stay_between_the_old_and_the_new_mean(cases, momentum):
    classes = max(case[0] for case in cases)
    prototypes = Prototypes(WIDTHS, classes)
    for _, *batch in cases:
        sums = prototypes.class_sums(*batch)
        old = {name: (prototypes.mean(name).clone(), prototypes.seen(name).clone()) for name in WIDTHS}
        prototypes.momentum_update(sums, momentum)
        for name, (total, count) in sums.items():
            mean, (before, seen), now = (total / count.clamp(min=1)[:, None]).float(), old[name], count > 0
            after = prototypes.mean(name)
            assert torch.equal(prototypes.seen(name), seen | now) and torch.equal(prototypes.count(name), count.float())
            assert torch.equal(after[~now], before[~now]) and torch.equal(after[now & ~seen], mean[now & ~seen])
            slack = 4 * EPS * torch.maximum(before.abs(), mean.abs())
            low, high = torch.minimum(before, mean) - slack, torch.maximum(before, mean) + slack
            assert ((low <= after) & (after <= high))[now & seen].all()


@given(batches(st.integers(-100, 100).map(float)), st.integers(2, 3))
def test_prototypes_of_a_batch_given_twice_are_the_same(case, times):
    classes, *batch = case
    means = []
    for count in (1, times):
        prototypes = Prototypes(WIDTHS, classes)
        prototypes.momentum_update(
            prototypes.class_sums(*part(list(range(len(batch[1]))) * count, *batch)), momentum=0.0
        )
        means.append(torch.cat([prototypes.mean(name) for name in WIDTHS], dim=1))
    torch.testing.assert_close(means[1], means[0])


@given(st.dictionaries(NAMES, SHAPES, max_size=3), SHAPES, st.none() | st.dictionaries(NAMES, SHAPES, max_size=3))
@example({"image": (4, 3), "text": (4, 2)}, (3,), None)
@example({"image": (4, 3), "text": (3, 2)}, (4,), None)
@example({"image": (4, 3), "text": (4, 2)}, (4, 1), None)
@example({"image": (4, 3), "text": (4, 2)}, (4,), {"image": (4,)})
@example({"image": (4, 3), "text": (4, 2)}, (4,), {"image": (4,), "text": (3,)})
@example({"image": (4, 3), "text": (4, 2)}, (4,), {"image": (4,), "text": (4, 1)})
def test_other_shapes_and_names_stop_with_a_sentence(shapes, labels, present):
    prototypes = Prototypes(WIDTHS, 4)
    embeddings = {name: torch.zeros(shape) for name, shape in shapes.items()}
    labels = torch.zeros(labels, dtype=torch.long)
    present = present and {name: torch.ones(shape, dtype=torch.bool) for name, shape in present.items()}
    size = shapes.get("image", (0,))[0] if shapes.get("image") else None
    good = shapes == {"image": (size, 3), "text": (size, 2)}
    if good:
        prototypes(embeddings)
    else:
        with pytest.raises(ValueError, match=r"^Expected one embedding per modality"):
            prototypes(embeddings)
    if (
        good
        and labels.shape == (size,)
        and (not present or {n: m.shape for n, m in present.items()} == dict.fromkeys(WIDTHS, (size,)))
    ):
        prototypes.class_sums(embeddings, labels, present)
    else:
        with pytest.raises(ValueError, match=r"^Expected "):
            prototypes.class_sums(embeddings, labels, present)


def test_modality_names_of_prototypes_and_of_another_type():
    for widths, message in (({"a.b": 3}, "rename"), ({1: 3}, "make it a string"), ({}, "at least one modality")):
        with pytest.raises(ValueError, match=message):
            Prototypes(widths, num_labels=3)
    with pytest.raises(ValueError, match="one class"):
        Prototypes({"image": 3}, num_labels=0)
