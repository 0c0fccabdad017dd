import pytest
import torch
from helpers import oracle
from torch import nn

from pmr_hf import Prototypes, attach_prototypes, load_prototypes


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    embeddings = {"image": torch.randn(10, 6, generator=generator), "text": torch.randn(10, 4, generator=generator)}
    return embeddings, torch.tensor([0, 1, 1, 2, 0, 0, 1, 2, 2, 0])


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
    """Also with modalities of one width, which are computed together, and with classes that only one has seen."""
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
