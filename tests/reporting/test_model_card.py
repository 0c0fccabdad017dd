import re

from huggingface_hub import ModelCard


def test_the_card_holds_what_was_measured(make_trainer, digits, tmp_path):
    trainer = make_trainer(num_train_epochs=1, eval_strategy="epoch", pmr_alpha=1.25)
    trainer.train()
    metrics = trainer.evaluate(digits.select(range(20)), metric_key_prefix="test")
    trainer.create_model_card(dataset="two digits", license="apache-2.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["accuracy, all modalities fused"] == round(metrics["test_accuracy"], 4)
    assert results["accuracy of text alone, by its prototypes"] == round(metrics["test_text_prototype_accuracy"], 4)
    assert card.data.eval_results[0].dataset_name == "two digits" and card.data.license == "apache-2.0"
    assert "| α, weight of the prototypical cross entropy | 1.25 |" in card.text
    assert "(training_dynamics.png)" in card.text and (tmp_path / "out" / "training_dynamics.png").is_file()


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
