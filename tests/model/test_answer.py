"""The answer of the prototypes in place of the fusion head, against explicit loops."""

import math

import pytest
import torch
from helpers.digits import take_prototypes

from pmr_hf import MultimodalConfig, MultimodalModel, MultimodalPipeline
from pmr_hf.inference.export import ExportableModel
from pmr_hf.model.prototypes import Prototypes


def by_loops(prototypes, embeddings, present=None):
    """Probabilities (B, K) by explicit loops in float64, from prototypes of which each class is seen or not."""
    rows = len(next(iter(embeddings.values())))
    answers = []
    for i in range(rows):
        spoken = []
        for name in prototypes.widths:
            seen = prototypes.seen(name).tolist()
            if not any(seen) or (present is not None and not present[name][i]):
                continue
            means = prototypes.mean(name).double().tolist()
            known = [means[k] for k in range(len(means)) if seen[k]]
            squares = [math.dist(a, b) ** 2 for j, a in enumerate(known) for b in known[:j]]
            spread = max(math.sqrt(sum(squares) / len(squares)), 1e-6) if squares else 1e-6
            z = embeddings[name][i].double().tolist()
            weights = [math.exp(-10 * math.dist(z, means[k]) / spread) if seen[k] else 0.0 for k in range(len(means))]
            spoken.append([w / sum(weights) for w in weights])
        uniform = [1 / prototypes.num_labels] * prototypes.num_labels
        answers.append([sum(column) / len(spoken) for column in zip(*spoken, strict=True)] if spoken else uniform)
    return torch.tensor(answers)


@pytest.fixture
def seeded():
    torch.manual_seed(0)
    prototypes = Prototypes({"a": 3, "b": 5}, num_labels=4)
    for name, width in prototypes.widths.items():
        prototypes.mean(name).copy_(torch.randn(4, width))
        prototypes.get_buffer(f"{name}_seen").fill_(True)
    return prototypes, {"a": torch.randn(6, 3), "b": 2 * torch.randn(6, 5)}


def test_the_answer_is_the_mean_of_the_scaled_classifiers(seeded):
    prototypes, embeddings = seeded
    torch.testing.assert_close(prototypes.answer(embeddings).exp(), by_loops(prototypes, embeddings))


def test_a_modality_that_is_missing_or_a_class_that_is_unseen_does_not_speak(seeded):
    prototypes, embeddings = seeded
    present = {"a": torch.tensor([1, 1, 0, 0, 1, 0]).bool(), "b": torch.tensor([1, 0, 1, 0, 1, 1]).bool()}
    prototypes.get_buffer("b_seen")[2] = False
    found = prototypes.answer(embeddings, present)
    torch.testing.assert_close(found.exp(), by_loops(prototypes, embeddings, present))
    assert torch.equal(found[3], torch.full((4,), 0.25).log())  # the sample without modalities
    assert found.isfinite().all()
    prototypes.get_buffer("a_seen").fill_(False)
    torch.testing.assert_close(prototypes.answer(embeddings).exp(), by_loops(prototypes, embeddings))
    prototypes.get_buffer("b_seen").fill_(False)
    assert torch.equal(prototypes.answer(embeddings), torch.full((6, 4), 0.25).log())


def test_one_class_and_equal_prototypes_stay_finite(seeded):
    prototypes, embeddings = seeded
    for name in "ab":
        prototypes.get_buffer(f"{name}_seen")[1:] = False
    assert torch.equal(prototypes.answer(embeddings).argmax(1), torch.zeros(6).long())
    for name in "ab":
        prototypes.get_buffer(f"{name}_seen").fill_(True)
        prototypes.mean(name).fill_(1.0)
    assert prototypes.answer(embeddings).isfinite().all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_size_of_the_embeddings_does_not_matter(seeded, factor):
    prototypes, embeddings = seeded
    before = prototypes.answer(embeddings)
    prototypes.mean("b").mul_(factor)
    torch.testing.assert_close(
        prototypes.answer({**embeddings, "b": factor * embeddings["b"]}), before, atol=1e-4, rtol=1e-4
    )


def test_segments_answer_as_their_rows(seeded):
    prototypes, embeddings = seeded
    present = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, False, True])}
    by_row = {name: mask.repeat_interleave(2) for name, mask in present.items()}
    segments = {name: embedding.unflatten(0, (3, 2)) for name, embedding in embeddings.items()}
    found = prototypes.answer(segments, present)
    torch.testing.assert_close(found.flatten(0, 1), prototypes.answer(embeddings, by_row))


def test_the_model_answers_by_its_prototypes_in_evaluation_alone(make_model, processor, digits, tmp_path):
    model = make_model(answer="prototypes")
    take_prototypes(model, processor, digits)
    batch = processor(image=digits["picture"][:8], text=digits["caption"][:8])
    with torch.no_grad():
        outputs = model.eval()(**batch, labels=torch.tensor(digits["label"][:8]))
        expected = model.prototypes.answer(outputs.embeddings)
        assert torch.equal(outputs.logits, expected)
        log_probabilities = expected[range(8), digits["label"][:8]]
        assert outputs.loss.item() == pytest.approx(-log_probabilities.mean().item(), abs=1e-6)
        assert torch.equal(model.train()(**batch).logits, model.fusion(model.eval()(**batch).embeddings))
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**batch).logits, outputs.logits)
    flat = ExportableModel(loaded, batch)
    torch.testing.assert_close(flat(*flat.arguments(batch)), outputs.logits)
    pipe = MultimodalPipeline(model=loaded, processor=processor)
    whole = [pipe(image=digits["picture"][i], text=digits["caption"][i], top_k=1) for i in range(3)]
    best = [answer[0]["score"] for answer in whole]
    assert best == pytest.approx(outputs.logits[:3].exp().amax(1).tolist(), abs=1e-4)
    alone = pipe(image=digits["picture"][0], top_k=None)
    embeddings = {"image": outputs.embeddings["image"][:1], "text": torch.zeros(1, 12)}
    present = {"image": torch.tensor([True]), "text": torch.tensor([False])}
    scores = {entry["label"]: entry["score"] for entry in alone}
    for k, expected in enumerate(loaded.prototypes.answer(embeddings, present)[0].exp().tolist()):
        assert scores[loaded.config.id2label[k]] == pytest.approx(expected, abs=1e-4)


def test_another_answer_is_refused():
    with pytest.raises(ValueError, match="Expected `answer` to be one of"):
        MultimodalConfig(answer="both")
