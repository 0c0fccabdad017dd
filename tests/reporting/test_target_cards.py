"""The card of a model of several labels and of a regression."""

import pytest
from huggingface_hub import ModelCard

from pmr_hf import METHODS


CASES = {
    "multi_label_classification": (
        "It finds which of 2 labels samples of 2 modalities, image (`vit`), text (`bert`), fused by `concat`, have: "
        "big, odd.",
        {"micro_f1": "micro F1", "mAP": "mean average precision", "macro_f1": "macro F1"},
        {"f1", "average_precision", "accuracy"},
    ),
    "regression": (
        "It predicts 2 numbers for samples of 2 modalities, image (`vit`), text (`bert`), fused by `concat`: big, odd.",
        {"mae": "mean absolute error", "rmse": "root mean square error", "r2": "R²"},
        {"mae", "rmse", "r2"},
    ),
}


@pytest.mark.parametrize("problem_type", CASES)
def test_the_card_holds_what_was_measured_and_its_code_runs(
    problem_type, make_model, make_args, digits, collator, tmp_path, monkeypatch, capsys
):
    sentence, titles, types = CASES[problem_type]
    data = digits.remove_columns("label").add_column("label", [[int(k > 1), k % 2] for k in digits["label"]])
    names = {"id2label": {0: "big", 1: "odd"}, "label2id": {"big": 0, "odd": 1}}
    trainer = METHODS["joint"](
        model=make_model(num_labels=2, problem_type=problem_type, **names),
        args=make_args(METHODS["joint"].args_class, num_train_epochs=1, eval_strategy="epoch"),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name="out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    for key, title in titles.items():
        assert results[f"{title}, all modalities fused"] == round(metrics[f"eval_{key}"], 4)
    assert {result.metric_type for result in card.data.eval_results} == types and sentence in card.text
    assert (tmp_path / "out" / "training_dynamics.png").stat().st_size > 10_000
    code = card.text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == (
        ["big", "odd"] if problem_type == "regression" else [printed.splitlines()[0].split()[0], "image", "text"]
    )
