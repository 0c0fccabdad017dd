import re

from huggingface_hub import ModelCard

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
    assert re.fullmatch(r"LABEL_\d\nimage LABEL_\d\ntext LABEL_\d\n", capsys.readouterr().out)


def test_a_run_without_results_and_processor(make_model, tmp_path):
    run = TrainingRun(
        config=make_model().config,
        modalities=["image", "text"],
        num_labels=4,
        description="Trained in a test",
        citation="@misc{test}",
        hyper_parameters={"seed": 3},
        log_history=[],
        applies_weights=False,
    )
    write_model_card(tmp_path, run, HubMetadata("me/digits"))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and card.data.model_name == "me/digits"
    for part in ("# me/digits\n", "The model was not evaluated.", "| training samples | streamed", "| seed | 3 |"):
        assert part in card.text
    assert "```python" not in card.text and (tmp_path / "training_dynamics.png").is_file()
