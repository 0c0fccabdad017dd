"""Properties of the losses, the prototypes and the collator that hold for any numbers, shapes, labels and rows."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.mean_terms import prototypical_cross_entropy, prototypical_entropy, true_class_probability
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor, NumericConfig, NumericProcessor, Prototypes
from pmr_hf.data.collator import integer_labels
from pmr_hf.model.distance import prototype_logits
from pmr_hf.model.equations import imbalance_ratio, masked_mean, rebalance_weights


# Derandomized: the same examples in every run. The fixtures of conftest hold nothing that an example changes.
settings.register_profile(
    "pmr_hf",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("pmr_hf")

EPS = torch.finfo(torch.float32).eps
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
EXTREME = st.just(0.0) | st.builds(
    lambda sign, digits, exponent: sign * digits * 10.0**exponent,
    st.sampled_from([-1, 1]),
    st.floats(1, 9.99),
    st.integers(-15, 14),
)
MODERATE = st.integers(-80, 80).map(lambda value: value / 8)  # exact in every dtype but bf16
SCORES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1e-45, 1e-38, 1e-15, 1.0])


def tensors(*shape, elements=EXTREME):
    """A tensor of fp64; numpy's `fill` repeats one element, so that duplicates are common."""
    return arrays(np.float64, shape, elements=elements, fill=elements).map(torch.from_numpy)


def cast(tensor, dtype):
    return tensor.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else tensor.to(dtype)


@st.composite
def classifiers(draw, elements=EXTREME):
    """Embeddings (B, D), prototypes (K, D), which classes are seen (K,), and labels (B,), at times all of one class."""
    size, classes, width = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    embeddings, prototypes = (
        draw(tensors(size, width, elements=elements)),
        draw(tensors(classes, width, elements=elements)),
    )
    if draw(st.booleans()):  # a sample that is its class's prototype
        embeddings[0] = prototypes[0]
    seen = torch.tensor(draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
    one = st.integers(0, classes - 1)
    labels = draw(one.map(lambda label: [label] * size) | st.lists(one, min_size=size, max_size=size))
    return embeddings, torch.where(seen[:, None], prototypes, 0), seen, torch.tensor(labels)


def rows(tensor, kept):
    return [row if keep else None for row, keep in zip(tensor.tolist(), kept.tolist(), strict=True)]


def masked_score(logits, labels, mask):
    return masked_mean(true_class_probability(logits, labels), mask)


# ---- Losses ----


@given(classifiers(), DTYPES)
def test_terms_and_gradients_are_finite_and_in_range_at_any_magnitude(case, dtype):
    embeddings, prototypes, seen, labels = case
    embeddings, prototypes = cast(embeddings, dtype).requires_grad_(), cast(prototypes, dtype)
    logits, mask = prototype_logits(embeddings, prototypes, seen), seen[labels]
    assert logits.dtype == torch.float32 and logits.shape == (len(labels), len(seen))
    assert logits.isfinite().all() and (logits <= -1e-6).all()
    scores = true_class_probability(logits, labels)
    assert ((scores >= 0) & (scores <= 1)).all()
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(len(labels)))
    pce, entropy = prototypical_cross_entropy(logits, labels, mask), prototypical_entropy(logits, mask)
    assert pce.isfinite() and pce >= 0
    assert 0 <= entropy <= math.log(max(seen.sum(), 1)) + 1e-6
    (gradient,) = torch.autograd.grad(pce - entropy + scores.sum(), embeddings)
    assert gradient.dtype == dtype and gradient.isfinite().all()


@given(classifiers(), DTYPES)
def test_distances_equal_the_oracle_as_far_as_fp32_has_digits(case, dtype):
    """The square loses digits next to the largest of the terms that it is expanded into."""
    embeddings, prototypes, seen, _ = case
    assume(seen.any())
    embeddings, prototypes = cast(embeddings, dtype).float(), cast(prototypes, dtype).float()
    logits = prototype_logits(embeddings, prototypes, seen).double()
    center = prototypes[seen].double().mean(0)
    reach = (prototypes[seen].double() - center).norm(dim=1).max()
    for z, row in zip(embeddings.double(), logits, strict=True):
        lost = 8 * EPS * ((z - center).norm() + reach).item() ** 2
        for c, logit in zip(prototypes[seen].double(), row[seen], strict=True):
            distance = oracle.distance(z.tolist(), c.tolist())
            assert -logit == pytest.approx(distance, rel=1e-6, abs=min(math.sqrt(lost), lost / distance))


@given(classifiers(MODERATE), DTYPES)
def test_terms_equal_the_oracle(case, dtype):
    embeddings, prototypes, seen, labels = case
    mask = seen[labels]
    assume(mask.any())
    embeddings, prototypes = cast(embeddings, dtype), cast(prototypes, dtype)
    logits = prototype_logits(embeddings, prototypes, seen)
    lists = embeddings.tolist(), rows(prototypes, seen), labels.tolist()
    score = masked_score(logits, labels, mask)
    # Of two prototypes at one place, one takes the exact distance and the other loses digits: 1e-3 of a distance of 30
    assert score == pytest.approx(oracle.score(*lists), abs=2e-3)
    assert prototypical_cross_entropy(logits, labels, mask) == pytest.approx(oracle.cross_entropy(*lists), abs=5e-3)
    assert prototypical_entropy(logits, mask) == pytest.approx(oracle.entropy(*lists), abs=5e-3)


@given(classifiers(MODERATE), st.randoms(use_true_random=False), st.integers(-1000, 1000))
def test_neither_the_order_nor_the_origin_matters(case, random, shift):
    embeddings, prototypes, seen, labels = case
    samples, classes = list(range(len(labels))), list(range(len(seen)))
    random.shuffle(samples)
    random.shuffle(classes)
    before = prototype_logits(embeddings, prototypes, seen)
    after = prototype_logits(embeddings[samples] + shift, prototypes[classes] + shift, seen[classes])
    torch.testing.assert_close(after, before[samples][:, classes], atol=2e-2, rtol=1e-5)
    moved = torch.tensor(classes).argsort()[labels[samples]]
    for term in (masked_score, prototypical_cross_entropy):
        expected = term(before, labels, seen[labels])
        torch.testing.assert_close(term(after, moved, seen[labels][samples]), expected, atol=2e-2, rtol=1e-5)


@given(classifiers(), st.integers(2, 3))
def test_a_batch_given_twice_has_the_same_terms(case, times):
    embeddings, prototypes, seen, labels = case
    found = []
    for count in (1, times):
        y = labels.repeat(count)
        logits = prototype_logits(embeddings.repeat(count, 1), prototypes, seen)
        terms = (term(logits, y, seen[y]) for term in (masked_score, prototypical_cross_entropy))
        found.append([*terms, prototypical_entropy(logits, seen[y])])
    torch.testing.assert_close(found[1], found[0])


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_weights_of_any_scores_are_in_range_and_equal_the_oracle(modalities, random):
    scores, present = (torch.tensor(column) for column in zip(*modalities, strict=True))
    pce, per = rebalance_weights(scores, present)
    for weights in (pce, per):
        assert weights.shape == scores.shape and ((weights >= 0) & (weights <= 1)).all()
        assert not weights[~present].any()
    floored = scores.double().clamp(min=torch.finfo(torch.float32).tiny)[present].tolist()
    if floored:
        expected = oracle.weights(floored)
        assert pce[present].tolist() == pytest.approx(expected[0], abs=1e-6)
        assert per[present].tolist() == pytest.approx(expected[1], abs=1e-6)
        assert pce[present][scores[present].argmax()] == 0  # the dominant one is not accelerated
        assert per[present][scores[present].argmin()] == 0  # nor the slow one held back
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = rebalance_weights(scores[order], present[order])
    assert torch.equal(shuffled[0], pce[order]) and torch.equal(shuffled[1], per[order])
    # An absent modality weighs on no other, whatever its score.
    other = rebalance_weights(torch.where(present, scores, 0.5), present)
    assert torch.equal(other[0], pce) and torch.equal(other[1], per)


@given(st.lists(SCORES, min_size=1, max_size=5))
def test_ratios_are_finite_and_at_least_1(scores):
    ratios = imbalance_ratio(torch.tensor(scores))
    assert ratios.isfinite().all() and ratios.min() == 1
    assert ratios[torch.tensor(scores).argmax()] == ratios.max()


@given(arrays(np.float64, 4, elements=EXTREME), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_masked_mean_lies_between_what_it_keeps_and_reads_nothing_else(values, mask):
    values, mask = torch.tensor(values, dtype=torch.float32), torch.tensor(mask)
    mean = masked_mean(torch.where(mask, values, torch.nan), mask)
    if not mask.any():
        assert mean == 0
    else:
        slack = 4 * EPS * values[mask].abs().max()
        assert values[mask].min() - slack <= mean <= values[mask].max() + slack


# ---- Prototypes ----

WIDTHS = {"image": 3, "text": 2}


@st.composite
def batches(draw, elements=EXTREME, dtypes=DTYPES):
    """Embeddings of two modalities, labels, at times all of one class, and masks of what is present, or `None`."""
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
        assert total.dtype == torch.float32 and total.isfinite().all()


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
            mean, (before, seen), now = total / count.clamp(min=1)[:, None], old[name], count > 0
            after = prototypes.mean(name)
            assert torch.equal(prototypes.seen(name), seen | now) and torch.equal(prototypes.count(name), count)
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


# ---- Shapes ----

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NAMES = st.sampled_from(["image", "text", "audio", "Image", ""])


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


@pytest.fixture(scope="module")
def model():
    configs = {"image": NumericConfig(num_features=3, hidden_size=4), "text": NumericConfig(num_features=2)}
    return MultimodalModel.from_backbones(configs, num_labels=4).eval()


INPUTS = st.dictionaries(
    st.sampled_from(["values", "present", "attention_mask"]), SHAPES.map(torch.zeros) | st.sampled_from([None, [0.0]])
)


@given(
    st.dictionaries(NAMES, INPUTS | SHAPES.map(torch.zeros) | st.sampled_from([None, [[0.0] * 3]]), max_size=3),
    st.none() | SHAPES.map(torch.zeros),
)
@example({"image": {"values": torch.zeros(4, 3)}}, torch.zeros(3))
@example({"image": {"values": torch.zeros(4, 3)}}, torch.zeros(4, 1))
@example({"image": {"values": torch.zeros(4, 2)}}, None)
@example({"image": {"values": torch.zeros(4, 3), "present": torch.ones(4, 2)}}, None)
@example({"image": torch.zeros(4, 3)}, None)
def test_a_model_given_other_inputs_stops_with_a_sentence(model, inputs, labels):
    for dtype in (torch.long, torch.float32, torch.int32):
        y = None if labels is None else labels.to(dtype)
        try:
            output = model(labels=y, **inputs)
        except ValueError as error:
            assert str(error).startswith("Expected ")
        else:
            assert labels is None or (dtype == torch.long and (output.loss.isfinite() or len(labels) == 0))
            assert output.logits.isfinite().all()


# ---- The collator ----

NUMBER = EXTREME | st.none() | st.just(math.nan) | st.integers(-(10**15), 10**15)
MISSING = st.sampled_from([None, "", "  ", math.nan, []])
PICTURES = st.just((8, 8)).flatmap(lambda shape: arrays(np.uint8, shape)).map(Image.fromarray)
ROW = {
    "picture": PICTURES | st.none(),
    "caption": st.text(max_size=20) | st.sampled_from(["the digit two", 3, 2.5]) | MISSING,
    "sound": arrays(np.float32, st.integers(1, 900), elements=st.floats(-1, 1, width=32)) | st.none(),
    "numbers": st.lists(NUMBER, min_size=2, max_size=2)
    | st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=1, max_size=4)
    | MISSING,
}
LABEL = st.integers(0, 3)
LABELS = LABEL | LABEL.map(np.int32) | LABEL.map(np.uint8) | LABEL.map(torch.tensor)
COLUMNS = {"image": "picture", "text": "caption", "audio": "sound", "stats": "numbers"}


@pytest.fixture(scope="module")
def collate(processor):
    others = {"audio": Wav2Vec2FeatureExtractor(), "stats": NumericProcessor([1.0, -2.0], [3.0, 1e-3])}
    return MultimodalCollator(MultimodalProcessor(processor.processors | others), COLUMNS, num_labels=4)


@given(st.lists(st.fixed_dictionaries({**ROW, "label": LABELS}), min_size=1, max_size=4), st.booleans())
@example([dict.fromkeys(ROW) | {"numbers": n, "label": 0} for n in ([1.0, 2.0], [[3.0, 4.0]])], False)
def test_a_row_is_collated_as_it_is_alone_and_padded_with_zeros(collate, rows, twice):
    rows = rows * (1 + twice)
    batch = collate(rows)
    assert batch["labels"].tolist() == [int(row["label"]) for row in rows] and batch["labels"].dtype == torch.long
    for name in COLUMNS:
        assert {len(value) for value in batch[name].values()} == {len(rows)}
        assert all(value.isfinite().all() for value in batch[name].values())
        for i, row in enumerate(rows):
            for key, value in collate([row])[name].items():
                found, alone = batch[name].get(key, torch.ones(len(rows), dtype=torch.bool))[i], value[0]
                if found.dim() > alone.dim():  # a vector among sequences
                    found, padding = found[0], found[1:]
                elif alone.dim():
                    found, padding = found[: len(alone)], found[len(alone) :]
                else:
                    padding = alone.new_zeros(0)
                assert torch.equal(found, alone) and not padding.any(), (name, key)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            object(),
            10**400,
            "\ud800",
            "\0",
            [[1.0], [2.0, 3.0]],
            "nothing.png",
            np.zeros((2, 0)),
            np.ones((9, 9, 9)),
            1j,
            {1, 2},
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "path", "array", "sampling_rate"]), inner)
    ),
    max_leaves=5,
)


@given(st.sampled_from([*COLUMNS.items()]), JUNK)
@example(("audio", "sound"), {"array": [0.1], "sampling_rate": 0})
@example(("audio", "sound"), {"array": [0.1], "sampling_rate": "16000"})
def test_a_bad_value_is_named_or_taken_as_missing(collate, place, value):
    (name, column), row = place, {"picture": None, "caption": "two", "sound": None, "numbers": [1, 2], "label": 0}
    rows = [row, {**row, column: value}]
    try:
        batch = collate(rows)
    except ValueError as error:
        assert str(error).startswith(f"Expected {name!r} in row 1 of this batch, column {column!r}, but ")
        batch = MultimodalCollator(collate.processor, COLUMNS, on_error="missing")(rows)
        assert not batch[name]["present"][1]
    assert all(
        value.isfinite().all()
        for inputs in batch.values()
        if inputs is not batch["labels"]
        for value in inputs.values()
    )


@given(st.lists(LABELS | JUNK, max_size=4), st.none() | st.integers(1, 3))
def test_labels_are_integers_of_the_classes_or_stop_with_a_sentence(labels, num_labels):
    whole = [isinstance(label, (int, np.integer, torch.Tensor)) for label in labels]
    good = labels and all(whole) and all(0 <= label < (num_labels or 2**63) for label in labels)
    try:
        found = integer_labels(labels, num_labels)
    except ValueError as error:
        assert (not good or set(map(type, labels)) == {bool}) and str(error).startswith("Expected ")
    else:
        assert good or (num_labels is None and all(whole))
        assert found.dtype == torch.long and found.tolist() == [int(label) for label in labels]


@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "label"]), st.none()), max_size=3))
def test_rows_without_their_columns_stop_with_a_sentence(collate, rows):
    with pytest.raises(ValueError, match=r"^Expected "):
        collate(rows)
