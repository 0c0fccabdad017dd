import re

import pytest
from helpers.digits import WORDS
from huggingface_hub import ModelCard
from PIL import Image as PILImage

from pmr_hf import evaluate_report
from pmr_hf.reporting.model_card import HubMetadata, TrainingRun, write_model_card


def test_the_card_holds_what_was_measured(make_trainer, digits, tmp_path):
    trainer = make_trainer(num_train_epochs=1, eval_strategy="epoch", pmr_alpha=1.25)
    trainer.train()
    metrics = trainer.evaluate(digits.select(range(20)), metric_key_prefix="test")
    trainer.create_model_card(dataset="two digits", license="apache-2.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["accuracy, all modalities fused"] == round(metrics["test_accuracy"], 4)
    assert results["accuracy of text alone, by its prototypes"] == round(metrics["test_text_prototype_accuracy"], 4)
    fused = results["accuracy, all modalities fused by their prototypes"]
    assert fused == round(metrics["test_prototypes_accuracy"], 4) and "fused by `concat`" in card.text
    assert card.data.eval_results[0].dataset_name == "two digits" and card.data.license == "apache-2.0"
    assert "| α, weight of the prototypical cross entropy | 1.25 |" in card.text
    assert "(training_dynamics.png)" in card.text and (tmp_path / "out" / "training_dynamics.png").is_file()


def test_the_card_says_that_the_prototypes_answer(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=1, answer="prototypes")
    trainer.train()
    trainer.create_model_card()
    assert "fused by their class prototypes, into 4 classes" in (tmp_path / "out" / "README.md").read_text()


def test_the_cards_code_runs_as_printed(make_trainer, digits, tmp_path, monkeypatch, capsys):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="out")
    code = ModelCard.load(tmp_path / "out" / "README.md").text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    word = f"({'|'.join(WORDS)})"
    assert re.fullmatch(rf"{word}\nimage {word}\ntext {word}\n", capsys.readouterr().out)


@pytest.fixture
def plain_run(make_model):
    return TrainingRun(
        config=make_model().config,
        modalities=["image", "text"],
        num_labels=4,
        description="Trained in a test",
        citation="@misc{test}",
        hyper_parameters={"seed": 3},
        log_history=[],
        applies_weights=False,
    )


def test_a_run_without_results_and_processor(plain_run, tmp_path):
    write_model_card(tmp_path, plain_run, HubMetadata("me/digits"))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and card.data.model_name == "me/digits"
    for part in ("# me/digits\n", "The model was not evaluated.", "| training samples | streamed", "| seed | 3 |"):
        assert part in card.text
    assert "```python" not in card.text and (tmp_path / "training_dynamics.png").is_file()


def test_the_card_shows_a_report(make_trainer, digits, tmp_path):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    report = evaluate_report(trainer, digits)
    trainer.model.config.calibration_temperature = 1.5
    trainer.create_model_card(report=report)
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("![Confusion of classes](confusion.png)", report.calibration_sentence, "![Accuracy by confidence]"):
        assert part in text
    assert f"| text | 64 | {report.sweep[2].score:.4f} |" in text and "divides its logits by 1.5" in text
    assert "not calibrated" not in text and "when a modality is missing" not in text
    for name in ("confusion.png", "reliability.png"):
        assert PILImage.open(tmp_path / "out" / name).size > (400, 400)


@pytest.mark.parametrize(
    ("dataset", "linked"),
    [
        ("me/posts.v2", ["me/posts.v2"]),
        ("out/posts", None),  # a folder
        ("shop/posts.csv", None),  # a file, perhaps of another machine
        ("a/b/posts", None),
        ("./posts", None),
        ("my shop/posts", None),
        ("digits", None),
        (None, None),
    ],
)
def test_the_metadata_link_to_a_dataset_of_the_hub_alone(plain_run, dataset, linked, tmp_path, monkeypatch):
    """The Hub refuses `datasets` that are no names."""
    (tmp_path / "out" / "posts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write_model_card(tmp_path, plain_run, HubMetadata("me/digits", dataset))
    assert ModelCard.load(tmp_path / "README.md").data.datasets == linked


def test_a_card_has_a_name_and_no_path(make_trainer, digits, tmp_path):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    (tmp_path / "my-vit").mkdir()
    trainer.create_model_card(finetuned_from=[str(tmp_path / "my-vit"), "me/bert"], dataset=str(tmp_path / "data"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in text and "\n# out\n" in text and 'from_pretrained("out")' in text
    card = ModelCard(text)
    assert card.data.base_model == ["my-vit", "me/bert"] and card.data.eval_results is None
    assert "| training samples | 64, data |" in text
    trainer.create_model_card(model_name=str(tmp_path / "other"))
    assert "\n# other\n" in (tmp_path / "out" / "README.md").read_text()
