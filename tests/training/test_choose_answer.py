"""The trainer sets what answers in evaluation: the fusion head, the prototypes, or the better on validation."""

import pytest
import torch

from pmr_hf import MultimodalModel, PMRTrainer, PrototypeTrainer


def accuracy_of(trainer, logits_of):
    batch = trainer.data_collator(list(trainer.eval_dataset))
    with torch.no_grad():
        outputs = trainer.model.eval()(**batch)
        return (logits_of(outputs).argmax(1) == batch["labels"]).float().mean().item()


@pytest.mark.parametrize("cls", [PMRTrainer, PrototypeTrainer])
def test_the_better_answer_is_chosen_on_the_evaluation_set(make_trainer, cls, tmp_path):
    trainer = make_trainer(cls=cls, answer="best", num_train_epochs=1, eval_strategy="epoch", prototype_fraction=1.0)
    trainer.train()
    head = accuracy_of(trainer, lambda outputs: trainer.model.fusion(outputs.embeddings))
    prototypes = accuracy_of(trainer, lambda outputs: trainer.prototypes.answer(outputs.embeddings))
    assert head != prototypes
    assert trainer.model.config.answer == ("prototypes" if prototypes > head else "head")
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(max(head, prototypes))
    assert metrics["eval_best_answer_accuracy"] == metrics["eval_accuracy"]
    during = next(entry for entry in trainer.state.log_history if "eval_best_answer_accuracy" in entry)
    assert during["eval_best_answer_accuracy"] == max(during["eval_accuracy"], during["eval_prototypes_accuracy"])
    trainer.save_model(tmp_path / "saved")
    assert MultimodalModel.from_pretrained(tmp_path / "saved").config.answer == trainer.model.config.answer


def test_either_answer_can_win(make_trainer):
    trainer = make_trainer(answer="best", num_train_epochs=1, prototype_fraction=1.0)
    trainer.train()
    with torch.no_grad():
        for parameter in trainer.model.fusion.parameters():
            parameter.zero_()  # the head always answers class 0
    assert trainer.choose_answer() == "prototypes"
    for name in trainer.prototypes.widths:
        trainer.prototypes.mean(name).copy_(trainer.prototypes.mean(name).flip(0).clone())
    labels = torch.tensor(trainer.eval_dataset["label"])
    with torch.no_grad():
        trainer.model.fusion.classifier.bias[labels.mode().values] = 1.0
    assert trainer.choose_answer() == "head"


def test_a_given_answer_stays(make_trainer, make_model):
    trainer = make_trainer(answer="prototypes", num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == metrics["eval_prototypes_accuracy"]
    assert "eval_best_answer_accuracy" not in metrics
    assert make_trainer(make_model(answer="prototypes")).model.config.answer == "prototypes"
    assert make_trainer(make_model(answer="prototypes"), answer="head").model.config.answer == "head"


def test_training_does_not_depend_on_the_answer(make_trainer, make_model):
    weights = []
    for answer in ("head", "prototypes", "best"):
        trainer = make_trainer(make_model(), answer=answer, num_train_epochs=1)
        trainer.train()
        weights.append(torch.cat([parameter.flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_what_is_refused(make_trainer, make_args, digits):
    with pytest.raises(ValueError, match="Expected `answer` to be 'head', 'prototypes' or 'best', got 'both'"):
        make_args(answer="both")
    with pytest.raises(ValueError, match="Expected one evaluation set with `answer='best'`"):
        make_trainer(answer="best", eval_dataset=None)
    with pytest.raises(ValueError, match=r"Expected one evaluation set with `answer='best'`, .* got dict"):
        make_trainer(answer="best", eval_dataset={"one": digits, "two": digits})
