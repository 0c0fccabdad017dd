"""Fusion heads: built-in ones against the paper's formulas, and one of a user."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig

from pmr_hf import Fusion, MultimodalModel, NumericConfig, register_fusion
from pmr_hf.model.fusion import FUSIONS, build_fusion


WIDTHS = {"image": 3, "text": 5, "audio": 4}
SAME_WIDTHS = dict.fromkeys(WIDTHS, 5)  # for the shared head
HEADS = ["concat", "sum", "film", "gated", "attention", "late"]


def embeddings_of(names, batch=6):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, WIDTHS[name], generator=generator) for name in names}


@pytest.mark.parametrize("head", [*HEADS, "shared"])
@pytest.mark.parametrize("names", [["image", "text"], ["image", "text", "audio"]])
def test_logits_have_their_shape_and_depend_on_every_embedding(head, names):
    fusion = build_fusion(head, {name: 3 if head == "shared" else WIDTHS[name] for name in names}, num_labels=7)
    embeddings = embeddings_of(names)
    if head == "shared":
        embeddings = {name: values[:, :3].clone() for name, values in embeddings.items()}
    embeddings = {name: values.requires_grad_() for name, values in embeddings.items()}
    logits = fusion(embeddings)
    assert logits.shape == (6, 7)
    logits.square().sum().backward()
    assert all(values.grad.abs().min() > 0 for values in embeddings.values())
    assert all(parameter.grad is not None for parameter in fusion.parameters())
    # the order of the dict does not matter, only that of the widths
    assert torch.equal(fusion(dict(reversed(embeddings.items()))), logits)


def parameters(fusion):
    return {name: value.detach() for name, value in fusion.named_parameters()}


def test_fusion_of_two_modalities_as_in_the_paper():
    widths = {"image": 3, "text": 5}
    z0, z1 = embeddings_of(widths).values()

    def linear(p, name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    concat = build_fusion("concat", widths, 7)
    p = parameters(concat)
    torch.testing.assert_close(concat({"image": z0, "text": z1}), linear(p, "classifier", torch.cat([z0, z1], 1)))
    sums = build_fusion("sum", widths, 7)
    p = parameters(sums)
    expected = linear(p, "classifiers.image", z0) + linear(p, "classifiers.text", z1)
    torch.testing.assert_close(sums({"image": z0, "text": z1}), expected)
    film = build_fusion("film", widths, 7)
    p = parameters(film)
    modulated = linear(p, "gamma.text", z0) * z1 + linear(p, "beta.text", z0)
    torch.testing.assert_close(film({"image": z0, "text": z1}), linear(p, "classifier", modulated))
    gated = build_fusion("gated", widths, 7)
    p = parameters(gated)
    modulated = torch.sigmoid(linear(p, "gate.text", z0)) * linear(p, "value.text", z1)
    torch.testing.assert_close(gated({"image": z0, "text": z1}), linear(p, "classifier", modulated))


@pytest.mark.parametrize("head", ["concat", "sum"])
def test_modality_logits_sum_to_the_fused_ones_and_each_sees_its_modality_alone(head):
    fusion = build_fusion(head, WIDTHS, num_labels=7)
    embeddings = embeddings_of(WIDTHS)
    parts = fusion.modality_logits(embeddings)
    assert list(parts) == list(WIDTHS)
    torch.testing.assert_close(sum(parts.values()), fusion(embeddings))
    changed = fusion.modality_logits(embeddings | {"text": embeddings["text"] + 1})
    assert [torch.equal(parts[name], changed[name]) for name in WIDTHS] == [True, False, True]


@pytest.mark.parametrize("head", ["film", "gated", "attention", "late", "shared"])
def test_heads_that_do_not_split_say_so(head):
    fusion = build_fusion(head, SAME_WIDTHS, num_labels=7)
    assert not fusion.splits_by_modality
    with pytest.raises(TypeError, match="splits by modality"):
        fusion.modality_logits(embeddings_of(WIDTHS))


def attention_by_hand(head, embeddings, present):
    """The logits of `AttentionFusion` for one sample, with a loop for each head and token; embeddings (D_m,)."""
    p = {name: value.double() for name, value in parameters(head).items()}

    def linear(name, x):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def norm(name, x):
        scaled = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        return p[f"{name}.weight"] * scaled + p[f"{name}.bias"]

    tokens = {name: linear(f"tokens.{name}", embeddings[name].double()) for name in present}
    parts = {name: linear("query_key_value", norm("attention_norm", x)).chunk(3) for name, x in tokens.items()}
    outputs = []
    for name, token in tokens.items():
        mixed = []
        for rows in torch.arange(len(token)).chunk(4):  # the dimensions of one attention head
            query = parts[name][0][rows]
            scores = {other: math.exp(query @ parts[other][1][rows] / math.sqrt(len(rows))) for other in present}
            total = sum(scores.values())
            mixed.append(sum(score / total * parts[other][2][rows] for other, score in scores.items()))
        token = token + linear("attended", torch.cat(mixed))
        hidden = nn.functional.gelu(linear("feed_forward.0", norm("feed_forward_norm", token)))
        outputs.append(norm("norm", token + linear("feed_forward.2", hidden)))
    mean = sum(outputs) / len(outputs) if outputs else torch.zeros(len(p["norm.bias"]), dtype=torch.float64)
    return linear("classifier", mean)


SUBSETS = [["image", "text", "audio"], ["image", "audio"], ["text"], []]  # the modalities of four samples
PRESENT = {name: torch.tensor([name in subset for subset in SUBSETS]) for name in WIDTHS}


def masking_head(name, widths=WIDTHS):
    torch.manual_seed(0)
    head = build_fusion(name, widths, num_labels=7)
    for parameter in head.parameters():  # norms and biases must count, and large scores too
        nn.init.normal_(parameter)
    return head


def test_attention_equals_loops_over_the_modalities_that_are_there():
    head, embeddings = masking_head("attention"), embeddings_of(WIDTHS, batch=4)
    found = head(embeddings, PRESENT)
    for i, subset in enumerate(SUBSETS):
        sample = {name: values[i] for name, values in embeddings.items()}
        torch.testing.assert_close(found[i].double(), attention_by_hand(head, sample, subset), atol=1e-4, rtol=1e-4)
        own = {name: mask[i : i + 1] for name, mask in PRESENT.items()}
        alone = head({name: value[None] for name, value in sample.items()}, own)
        torch.testing.assert_close(found[i : i + 1], alone)  # the batch does not count
    torch.testing.assert_close(head(embeddings)[0], found[0])
    torch.testing.assert_close(found[3], head.classifier.bias)


def test_late_fusion_is_the_weighted_mean_of_the_probabilities_that_are_there():
    head, embeddings = masking_head("late"), embeddings_of(WIDTHS, batch=4)
    p = parameters(head)
    for weights in ((1.0, 1.0, 1.0), (0.5, 3.0, 0.01)):
        head.log_weights.copy_(torch.tensor(weights).log())
        found = head(embeddings, PRESENT)
        for i, subset in enumerate(SUBSETS):
            mean, total = [0.0] * 7, sum(w for name, w in zip(WIDTHS, weights, strict=True) if name in subset)
            for name, weight in zip(WIDTHS, weights, strict=True):
                scores = p[f"classifiers.{name}.weight"] @ embeddings[name][i] + p[f"classifiers.{name}.bias"]
                odds = [math.exp(score) for score in scores]
                if name in subset:
                    mean = [m + weight / total * odd / sum(odds) for m, odd in zip(mean, odds, strict=True)]
            assert found[i].exp().tolist() == pytest.approx(mean if subset else [1 / 7] * 7, rel=1e-4)
        torch.testing.assert_close(head(embeddings)[0], found[0])


def test_late_fusion_without_saved_weights_weighs_all_modalities_the_same(make_model, tmp_path):
    model = make_model(fusion="late")
    model.fusion.log_weights.fill_(1.0)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["fusion.log_weights"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for _ in range(3):
        loaded = MultimodalModel.from_pretrained(tmp_path)
        assert loaded.fusion.log_weights.tolist() == [0, 0]
        assert torch.equal(loaded.fusion.classifiers["text"].weight, model.fusion.classifiers["text"].weight)


def test_shared_fusion_weighs_the_logits_of_each_modality_that_is_there_by_its_entropy():
    torch.manual_seed(0)
    head = build_fusion("shared", SAME_WIDTHS, num_labels=7)
    nn.init.normal_(head.classifier.bias)
    embeddings = {name: 3 * torch.randn(4, 5) for name in WIDTHS}
    p, found = parameters(head), head(embeddings, PRESENT)
    for i, subset in enumerate(SUBSETS):
        logits, weights = {}, {}
        for name in subset:
            logits[name] = (p["classifier.weight"] @ embeddings[name][i] + p["classifier.bias"]).tolist()
            odds = [math.exp(value) for value in logits[name]]
            probabilities = [odd / sum(odds) for odd in odds]
            weights[name] = math.exp(sum(q * math.log(q) for q in probabilities))  # of minus the entropy
        total = sum(weights.values())
        expected = [sum(weights[name] / total * logits[name][k] for name in subset) for k in range(7)]
        assert found[i].tolist() == pytest.approx(expected if subset else p["classifier.bias"].tolist(), abs=1e-5)
        assert len(subset) < 2 or max(weights.values()) > 1.1 * min(weights.values())
    torch.testing.assert_close(head(embeddings)[0], found[0])
    with pytest.raises(ValueError, match=r"one width for fusion='shared'.*'text': 5.*; set `embedding_dim`, such as 5"):
        build_fusion("shared", WIDTHS, num_labels=7)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_an_entropy_of_classes_needs_one_label_per_sample(make_model, problem_type):
    with pytest.raises(
        ValueError, match=f"Expected one label per sample for fusion='shared'.*got '{problem_type}'; use"
    ):
        make_model(fusion="shared", problem_type=problem_type)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_late_fusion_of_labels_and_of_numbers(problem_type):
    torch.manual_seed(0)
    head, embeddings = build_fusion("late", WIDTHS, 7, problem_type), embeddings_of(WIDTHS, batch=4)
    weights = dict(zip(WIDTHS, (0.5, 3.0, 0.01), strict=True))
    head.log_weights.copy_(torch.tensor(list(weights.values())).log())
    found, p = head(embeddings, PRESENT), parameters(head)
    if problem_type == "multi_label_classification":
        found = found.sigmoid()
    for i, subset in enumerate(SUBSETS):
        mean = [0.5 if problem_type == "multi_label_classification" and not subset else 0.0] * 7
        for name in subset:
            scores = p[f"classifiers.{name}.weight"] @ embeddings[name][i] + p[f"classifiers.{name}.bias"]
            if problem_type == "multi_label_classification":
                scores = [1 / (1 + math.exp(-score)) for score in scores]
            share = weights[name] / sum(weights[other] for other in subset)
            mean = [m + share * float(score) for m, score in zip(mean, scores, strict=True)]
        assert found[i].tolist() == pytest.approx(mean, abs=1e-5)
    torch.testing.assert_close(head(embeddings)[0], head(embeddings, PRESENT)[0])


@pytest.mark.parametrize("name", ["attention", "late", "shared"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_absent_modality_is_masked_to_the_bit_and_gets_no_gradient(name, dtype):
    head = masking_head(name, SAME_WIDTHS if name == "shared" else WIDTHS).to(dtype)
    embeddings = {name: values.to(dtype) for name, values in embeddings_of(WIDTHS, batch=4).items()}
    if name == "shared":
        embeddings = {key: torch.randn(4, 5).to(dtype) for key in WIDTHS}
    expected = head(embeddings, PRESENT)
    assert expected.dtype == (torch.float32 if name == "late" else dtype) and expected.isfinite().all()
    other = {
        name: torch.where(PRESENT[name][:, None], values, 1000 * torch.randn_like(values)).requires_grad_()
        for name, values in embeddings.items()
    }
    found = head(other, PRESENT)
    assert torch.equal(found, expected)
    found.float().square().sum().backward()
    for name, values in other.items():
        assert not values.grad[~PRESENT[name]].any() and values.grad[PRESENT[name]].any(1).all()


def test_attention_does_not_depend_on_the_order_of_the_modalities():
    head = masking_head("attention")
    turned = build_fusion("attention", dict(reversed(WIDTHS.items())), num_labels=7)
    turned.load_state_dict(head.state_dict())
    embeddings = embeddings_of(WIDTHS, batch=4)
    torch.testing.assert_close(turned(embeddings, PRESENT), head(embeddings, PRESENT))


def test_a_model_gives_the_masks_to_attention_in_training_and_after_loading(make_model, tmp_path):
    model = make_model(fusion="attention", embedding_dim=6, modality_dropout=0.5, initialization="kaiming")
    for vector in model.absent.values():
        nn.init.normal_(vector)  # no logits depend on it
    batch = {"image": {"pixel_values": torch.rand(16, 1, 8, 8)}, "text": {"input_ids": torch.arange(16)[:, None]}}
    output = model.train()(**batch)
    assert not output.present["image"].all() and not output.present["text"].all()
    fused = {name: model.projections[name](values) for name, values in output.embeddings.items()}
    torch.testing.assert_close(output.logits, model.fusion(fused, output.present))
    output.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(vector.grad.any() for vector in model.absent.values())
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
    found = loaded(text=batch["text"]).logits
    for i in range(16):
        expected = attention_by_hand(model.fusion, {"text": fused["text"][i].detach()}, ["text"])
        torch.testing.assert_close(found[i].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def product_head():
    @register_fusion("product")
    class ProductFusion(Fusion):
        def __init__(self, widths, num_labels):
            super().__init__()
            self.heads = nn.ModuleDict({name: nn.Linear(width, num_labels) for name, width in widths.items()})

        def forward(self, embeddings):
            return torch.stack([head(embeddings[name]) for name, head in self.heads.items()]).prod(0)

    yield
    FUSIONS.pop("product", None)


def test_a_users_head_is_one_class_and_loads_where_it_is_registered(product_head, make_model, tmp_path):
    model = make_model(fusion="product").eval()
    model.save_pretrained(tmp_path)
    batch = {"image": {"pixel_values": torch.rand(2, 1, 8, 8)}, "text": {"input_ids": torch.tensor([[2, 3], [4, 5]])}}
    expected = model(**batch).logits
    assert torch.equal(MultimodalModel.from_pretrained(tmp_path).eval()(**batch).logits, expected)
    FUSIONS.pop("product")
    with pytest.raises(ValueError, match=r'import the module that defines it with `@register_fusion\("product"\)`'):
        MultimodalModel.from_pretrained(tmp_path)


def test_unknown_fusion(make_model):
    with pytest.raises(
        ValueError, match=r"one of \['attention', 'concat', 'film', 'gated', 'late', 'shared', 'sum'.*got 'nope'"
    ):
        make_model(fusion="nope")


def test_conditioned_fusion_of_one_modality(make_model):
    with pytest.raises(ValueError, match="at least two modalities"):
        make_model(
            fusion="film", backbones={"text": BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1)}
        )


def test_parameters_of_a_users_head_that_a_checkpoint_lacks_are_zero(tmp_path):
    @register_fusion("scaled")
    class Scaled(Fusion):
        def __init__(self, widths, num_labels):
            super().__init__()
            self.heads = nn.ModuleDict({name: nn.Linear(width, num_labels) for name, width in widths.items()})
            self.scales = nn.ParameterDict({name: torch.ones(num_labels) for name in widths})

        def forward(self, embeddings):
            return sum(head(embeddings[name]) * self.scales[name] for name, head in self.heads.items())

    try:
        config = NumericConfig(num_features=2, hidden_size=4)
        MultimodalModel.from_backbones({"a": config}, num_labels=3, fusion="scaled").save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        kept = {name: value for name, value in weights.items() if ".scales." not in name}
        assert len(kept) == len(weights) - 1
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        for _ in range(3):
            assert MultimodalModel.from_pretrained(tmp_path).fusion.scales["a"].tolist() == [0, 0, 0]
    finally:
        FUSIONS.pop("scaled")
