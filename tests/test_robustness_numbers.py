"""Numbers that would lose their digits, overflow, or not be numbers at all: right to the last digits, or refused."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from helpers.digits import take_prototypes
from helpers.scripts import EXAMPLES, load_example
from safetensors.torch import load_file, save_file
from transformers import ASTFeatureExtractor, ViTImageProcessor

from pmr_hf import (
    MultimodalModel,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    Prototypes,
    attach_prototypes,
    load_prototypes,
)
from pmr_hf.inference.export import ExportableModel
from pmr_hf.model.prototypes import load_sums, save_sums
from pmr_hf.training.finite_checks import check_finite_weights
from pmr_hf.training.term_sums import TermSums


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- Class sums ----


@pytest.fixture(params=["fp64", "pairs"])
def accumulator(request, monkeypatch):
    """Sums in fp64, and the pairs of fp32 of a device without fp64."""
    if request.param == "pairs":
        monkeypatch.setattr("pmr_hf.model.exact_sums.WITHOUT_FP64", {"cpu"})
    return request.param


def mean_of(batches, width=1, masks=None):
    prototypes, sums = Prototypes({"image": width}, 2), None
    for i, batch in enumerate(batches):
        present = None if masks is None else {"image": masks[i]}
        sums = prototypes.class_sums({"image": batch}, torch.ones(len(batch), dtype=torch.long), present, sums)
    prototypes.momentum_update(sums, 0.0)
    return prototypes.mean("image")[1], prototypes.count("image").tolist()


def test_the_mean_of_a_million_equal_samples_is_their_value(accumulator):
    mean, count = mean_of([torch.full((1000, 1), 1.1)] * 1000)
    assert count == [0, 1_000_000]
    assert mean.item() == pytest.approx(1.1, rel=1e-7)  # it was 1.112


def test_the_mean_far_from_the_origin_is_right_to_the_last_digit(accumulator):
    batches = [1000 + 0.01 * normal(64, 4, seed=seed) for seed in range(400)]
    mean, _ = mean_of(batches, width=4)
    exact = torch.cat(batches).double().mean(0)
    torch.testing.assert_close(mean.double(), exact, rtol=0, atol=3.1e-5)  # a float near 1000 is exact to 3e-5


def test_the_mean_of_masked_and_half_precision_samples(accumulator):
    batches = [normal(64, 3, seed=seed).to(torch.bfloat16) for seed in range(50)]
    masks = [normal(64, seed=100 + seed) > 0 for seed in range(50)]
    mean, count = mean_of(batches, 3, masks)
    kept = torch.cat([batch[mask] for batch, mask in zip(batches, masks, strict=True)]).double()
    torch.testing.assert_close(mean.double(), kept.mean(0), rtol=0, atol=1e-8)
    assert count == [0, len(kept)]


def test_counts_go_on_after_2_to_the_24(accumulator, tmp_path):
    """The sums of an older checkpoint, in fp32, are loaded and continued."""
    prototypes = Prototypes({"image": 1}, 2)
    old = {"image_sum": torch.tensor([[0.0], [2.0**24]]), "image_count": torch.tensor([0.0, 2.0**24])}
    save_file(old, tmp_path / "sums.safetensors")
    sums = prototypes.zero_sums()
    load_sums(sums, tmp_path / "sums.safetensors")
    for _ in range(4):
        prototypes.class_sums({"image": torch.tensor([[2.0]])}, torch.tensor([1]), None, sums)
    save_sums(sums, tmp_path / "again.safetensors")
    saved = load_file(tmp_path / "again.safetensors")
    assert saved["image_count"].tolist() == [0, 2**24 + 4]
    assert saved["image_sum"].tolist() == [[0], [2**24 + 8]]


def test_saved_sums_do_not_depend_on_the_device(tmp_path, monkeypatch):
    """Sums of a run on a GPU are continued on a device without fp64, and back, and lose nothing."""
    prototypes, file = Prototypes({"image": 3}, 2), tmp_path / "sums.safetensors"
    batch, labels = {"image": 1e4 + normal(64, 3)}, torch.arange(64) % 2
    sums = prototypes.class_sums(batch, labels)
    save_sums(sums, file)
    before = load_file(file)
    for devices in ({"cpu"}, set()):
        monkeypatch.setattr("pmr_hf.model.exact_sums.WITHOUT_FP64", devices)
        other = prototypes.zero_sums()
        load_sums(other, file)
        save_sums(other, file)
        for key, value in load_file(file).items():
            torch.testing.assert_close(value, before[key], rtol=1e-13, atol=0)


def test_sums_of_another_model_are_refused(tmp_path):
    save_sums(Prototypes({"image": 3}, 2).zero_sums(), tmp_path / "sums.safetensors")
    for other in (Prototypes({"text": 3}, 2), Prototypes({"image": 4}, 2), Prototypes({"image": 3}, 5)):
        with pytest.raises(ValueError, match=r"^Expected class sums of shapes .* resume from a checkpoint of this"):
            load_sums(other.zero_sums(), tmp_path / "sums.safetensors")


def test_logged_terms_keep_their_digits_over_many_steps(accumulator):
    terms = TermSums()
    terms.add(("loss",), torch.tensor([2.0**25]), torch.tensor([2.0**24]))
    for _ in range(100):
        terms.add(("loss",), torch.tensor([1.5]), torch.tensor([1.0]))
    assert terms.totals(Accelerator(cpu=True))["loss"] == pytest.approx((2**25 + 150, 2**24 + 100), rel=1e-7)


# ---- Weights that are missing or no numbers ----


@pytest.fixture(scope="module")
def saved(make_model, processor, digits, tmp_path_factory):
    """The folder of a model with prototypes and its processor."""
    folder = tmp_path_factory.mktemp("saved")
    model = make_model(unimodal_heads=True).eval()
    take_prototypes(model, processor, digits)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def edited(saved, folder, edit):
    """A copy of the saved folder whose weights are those that `edit` returns."""
    MultimodalProcessor.from_pretrained(saved).save_pretrained(folder)
    (folder / "config.json").write_bytes((saved / "config.json").read_bytes())
    save_file(edit(load_file(saved / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "left_out", ["backbones.", "backbones.text.", "prototypes.", "prototypes.image_mean", "fusion."]
)
def test_a_model_without_some_of_its_weights(saved, tmp_path, left_out):
    def drop(weights):
        return {name: value for name, value in weights.items() if not name.startswith(left_out)}

    folder = edited(saved, tmp_path / "model", drop)
    with pytest.raises(ValueError, match=rf"missing and would be random: {left_out}.*; give the folder"):
        MultimodalPipeline(folder)
    processor = MultimodalProcessor.from_pretrained(folder)
    model = MultimodalModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=rf"would be random: {left_out}"):
        MultimodalPipeline(model, processor)
    model.train()  # and then a training
    MultimodalPipeline(model, processor)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["prototypes.text_mean", "fusion.", "backbones.image.", "absent.", "unimodal_heads."])
def test_a_model_whose_weights_are_no_numbers(saved, tmp_path, processor, digits, name, value):
    def spoil(weights):
        weights[next(key for key in weights if key.startswith(name))].flatten()[-1] = value
        return weights

    folder = edited(saved, tmp_path / "model", spoil)
    with pytest.raises(
        ValueError, match=rf"^Expected finite weights .* got NaN or infinity in {name}.*; load an earlier"
    ):
        MultimodalPipeline(folder)
    model = MultimodalModel.from_pretrained(folder)
    inputs = processor(image=digits["picture"][:2], text=digits["caption"][:2])
    with pytest.raises(ValueError, match=rf"got NaN or infinity in {name}"):
        ExportableModel(model, inputs)
    with pytest.raises(FloatingPointError, match=rf"1 of \d+ weights, first {name}"):
        check_finite_weights(model, Accelerator(cpu=True), 3)


def test_prototypes_of_a_foreign_model_that_are_no_numbers(tmp_path):
    model = torch.nn.Linear(2, 2)
    prototypes = attach_prototypes(model, {"image": 3}, num_labels=2)
    prototypes.mean("image")[1, 2] = math.inf
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"^Expected finite prototypes in .* in \['image_mean'\]; train the model again"
    ):
        load_prototypes(model, tmp_path)


# ---- Processors and samples ----


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (ViTImageProcessor(image_mean=[0.5], image_std=[0.0]), "image_std"),
        (ViTImageProcessor(image_mean=[0.5], image_std=[math.nan]), "image_std"),
        (ViTImageProcessor(image_mean=[0.5], image_std=[-1.0]), "image_std"),
        (ViTImageProcessor(image_mean=[math.inf], image_std=[0.5]), "image_mean"),
        (ViTImageProcessor(rescale_factor=math.nan), "rescale_factor"),
        (ASTFeatureExtractor(num_mel_bins=16, std=0.0), "std"),
        (NumericProcessor([0.0, 1.0], [1.0, 0.0]), "std"),
        (NumericProcessor([0.0, math.nan], [1.0, 1.0]), "mean"),
    ],
)
def test_a_processor_that_divides_by_zero_or_has_no_numbers(part, field):
    with pytest.raises(ValueError, match=rf"^Expected .*finite numbers as `{field}` of the processor of 'one', got"):
        MultimodalProcessor({"one": part})


def test_statistics_that_a_processor_does_not_use_may_be_anything():
    MultimodalProcessor({"image": ViTImageProcessor(do_normalize=False, image_std=[0.0])})


@pytest.mark.parametrize(("field", "value"), [("image_std", [0]), ("image_mean", [math.nan])])
def test_a_saved_processor_that_divides_by_zero_is_refused_at_loading(saved, tmp_path, field, value):
    folder = edited(saved, tmp_path / "model", dict)
    file = folder / "image" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=rf"`{field}` of the processor of 'image'"):
        MultimodalPipeline(folder)


@pytest.fixture(scope="module")
def numeric(make_model, tmp_path_factory):
    """The folder of a model of numbers, whose embeddings are large and overflow in the head."""
    folder = tmp_path_factory.mktemp("numeric")
    model = make_model(backbones={"a": NumericConfig(num_features=1, hidden_size=4, dropout=0.0)}).eval()
    with torch.no_grad():
        for parameter in model.backbones.parameters():
            parameter.fill_(1e3)
        for parameter in model.fusion.parameters():
            parameter.fill_(1e38)
    model.save_pretrained(folder)
    MultimodalProcessor({"a": NumericProcessor([0.0], [1.0])}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("explain", [False, True])
def test_a_sample_whose_scores_are_no_numbers_is_named(numeric, explain):
    pipe = MultimodalPipeline(numeric, batch_size=2)
    with pytest.raises(ValueError, match=r"^Expected finite numbers for sample 0, counted from 0, got fused scores"):
        pipe(a=[[3.0], [4.0]], explain=explain)


def test_the_place_and_the_modality_of_a_sample_whose_embedding_overflows(numeric):
    pipe = MultimodalPipeline(numeric, batch_size=2)
    with torch.no_grad():
        for parameter in pipe.model.fusion.parameters():
            parameter.fill_(0.0)
    assert len(pipe(a=[[1.0], [2.0], [3.0]])) == 3
    with pytest.raises(ValueError, match=r"for sample 3, counted from 0, got an embedding of 'a' with NaN or infinity"):
        pipe(a=[[1.0], [2.0], [3.0], [3e38], [1.0]])


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="an installed package has no examples")
def test_predict_writes_valid_json_for_a_sample_without_scores(numeric, tmp_path, monkeypatch):
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"x": x}) + "\n" for x in (3.0, 4.0)))
    output = tmp_path / "out.jsonl"
    arguments = ["--model", numeric, "--input", table, "--output", output, "--columns", "a=x"]
    monkeypatch.setattr("sys.argv", ["predict.py", *map(str, arguments)])
    load_example("predict").main()

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in output.read_text().splitlines()]
    assert [line["row"] for line in lines] == [1, 2]
    assert all(line["error"].startswith("Expected finite numbers for sample 0") for line in lines)
