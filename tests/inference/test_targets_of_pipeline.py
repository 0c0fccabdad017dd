"""The pipeline on several labels and on a regression, against the model itself, and the export of both."""

import pytest
import torch

from pmr_hf import ExportableModel, MultimodalPipeline


NAMES = ["cat", "dog", "owl"]


def of_problem(make_model, processor, digits, problem_type):
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    model = make_model(num_labels=3, problem_type=problem_type, **names).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [*model.absent.values(), *model.fusion.parameters()]:
            parameter.normal_()
        embeddings = model(**processor(image=digits["picture"], text=digits["caption"])).embeddings
    if problem_type == "regression":
        model.fit_targets(torch.randn(9, 3) * 100 + 7)
    else:
        labels = torch.tensor([[label > 1, label % 2, label == 3] for label in digits["label"]]).float()
        model.prototypes.momentum_update(model.prototypes.class_sums(embeddings, labels), 0.0)
    return model, MultimodalPipeline(model, processor, batch_size=8)


def test_each_label_has_a_probability_of_its_own(make_model, processor, digits):
    model, pipe = of_problem(make_model, processor, digits, "multi_label_classification")
    rows = digits[:10]
    with torch.no_grad():
        output = model(**processor(image=rows["picture"], text=rows["caption"]))
    for result, logits in zip(pipe(image=rows["picture"], text=rows["caption"]), output.logits, strict=True):
        expected = dict(zip(NAMES, (1 / (1 + (-logits).exp())).tolist(), strict=True))
        assert {each["label"]: each["score"] for each in result} == pytest.approx(expected, abs=1e-6)
        assert [each["score"] for each in result] == pytest.approx(sorted(expected.values(), reverse=True))


def test_a_modality_alone_answers_by_its_distances_and_shares_sum_up(make_model, processor, digits):
    model, pipe = of_problem(make_model, processor, digits, "multi_label_classification")
    row = digits[5]
    result = pipe(image=row["picture"], text=row["caption"], top_k=None, explain=True)
    with torch.no_grad():
        output = model(**processor(image=[row["picture"]], text=[row["caption"]]))
        none = {name: torch.zeros(1, dtype=torch.bool) for name in ("image", "text")}
        without_any = model.fuse(output.embeddings, none).sigmoid()
    best = NAMES.index(result["labels"][0]["label"])
    shares = sum(part["share"] for part in result["modalities"].values())
    assert shares == pytest.approx(result["labels"][0]["score"] - without_any[0, best].item(), abs=1e-5)
    for name, part in result["modalities"].items():
        means, z = model.prototypes.mean(name), output.embeddings[name][0]
        distances = (means - z).norm(dim=1).tolist()
        assert [each["distance"] for each in part["distances"]] == pytest.approx(sorted(distances[1::2]), rel=1e-4)
        for each in part["labels"]:
            k = NAMES.index(each["label"])
            alone = torch.tensor([-distances[2 * k], -distances[2 * k + 1]]).softmax(0)[1]
            assert each["score"] == pytest.approx(alone.item(), abs=1e-5)
    alone = {each["label"]: each["score"] for each in result["modalities"]["text"]["labels"]}
    only = {each["label"]: each["score"] for each in pipe(text=row["caption"], top_k=None)}
    assert only == pytest.approx(alone, abs=1e-5)  # with one modality, its prototypes answer


def test_a_regression_gives_values_in_the_users_units(make_model, processor, digits):
    model, pipe = of_problem(make_model, processor, digits, "regression")
    row = digits[5]
    with torch.no_grad():
        expected = model(**processor(image=[row["picture"]], text=[row["caption"]])).logits[0].tolist()
        text_alone = model(text=processor(text=[row["caption"]])["text"]).logits[0].tolist()
    assert pipe(image=row["picture"], text=row["caption"], top_k=1) == [
        {"label": name, "value": pytest.approx(value, rel=1e-5)} for name, value in zip(NAMES, expected, strict=True)
    ]
    result = pipe(text=row["caption"], explain=True)  # the fusion head answers, since there are no prototypes
    assert [each["value"] for each in result["values"]] == pytest.approx(text_alone, rel=1e-5)
    assert [each["share"] for each in result["modalities"]["image"]["shares"]] == pytest.approx([0, 0, 0], abs=1e-4)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_an_exported_model_has_the_logits_of_the_model(problem_type, make_model, processor, digits):
    model, _ = of_problem(make_model, processor, digits, problem_type)
    inputs = processor(image=digits["picture"][:3])
    flat = ExportableModel(model, inputs)
    program = torch.export.export(flat, flat.arguments(inputs), dynamic_shapes=flat.dynamic_shapes)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*flat.arguments(inputs)), model(**inputs).logits)


def test_a_scale_that_is_not_finite_is_refused(make_model, processor, digits):
    model, _ = of_problem(make_model, processor, digits, "regression")
    model.target_scale.std[1] = torch.inf
    with pytest.raises(ValueError, match=r"got NaN or infinity in target_scale\.std"):
        MultimodalPipeline(model, processor)
