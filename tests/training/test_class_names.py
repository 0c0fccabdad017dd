"""The names of classes: those of a dataset's `ClassLabel` and those of the model's `id2label`."""

import numpy as np
import pytest
from datasets import ClassLabel
from helpers.digits import NUM_LABELS, WORDS

from pmr_hf import MultimodalCollator, MultimodalPipeline, PMRTrainer, PrototypeTrainer, evaluate_report


NAMES = WORDS[:NUM_LABELS]


def named(digits, names):
    """The digits with the ids of their names in another order."""
    ids = [names.index(NAMES[label]) for label in digits["label"]]
    return digits.remove_columns("label").add_column("label", ids, feature=ClassLabel(names=names))


def test_a_model_without_names_takes_those_of_the_data(make_trainer, make_model, processor, digits):
    trainer = make_trainer()
    assert trainer.model.config.id2label == dict(enumerate(NAMES))
    assert trainer.model.config.label2id == {name: k for k, name in enumerate(NAMES)}
    trainer.train()
    answers = MultimodalPipeline(trainer.model, processor)(
        image=digits["picture"][:], text=digits["caption"][:], top_k=1
    )
    right = np.mean(
        [answer[0]["label"] == NAMES[label] for answer, label in zip(answers, digits["label"], strict=True)]
    )
    assert right == trainer.evaluate()["eval_accuracy"]


def test_each_model_of_model_init_takes_them(make_model, make_args, digits, collator):
    trainer = PMRTrainer(
        model_init=lambda: make_model(), args=make_args(max_steps=1), train_dataset=digits, data_collator=collator
    )
    assert trainer.model.config.id2label == dict(enumerate(NAMES))
    trainer.train()
    assert trainer.model.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize("names", [["cat", "dog", "owl", "ant"], ["cat", "one", "two", "three"]])
def test_names_that_the_user_chose_stay(make_trainer, make_model, names):
    trainer = make_trainer(make_model(id2label=dict(enumerate(names))))
    assert trainer.model.config.id2label == dict(enumerate(names))


def test_classes_in_another_order_are_refused_before_training_and_in_evaluation(make_trainer, make_model, digits):
    moved = ["one", "zero", "two", "three"]
    said = r"got '\w+' as \d in place of \d \(2 classes differ\); give the model the names"
    with pytest.raises(ValueError, match=said):
        make_trainer(make_model(id2label=dict(enumerate(moved))))
    trainer, other = make_trainer(), named(digits, moved)
    for evaluated in (trainer.evaluate, trainer.predict, lambda rows: evaluate_report(trainer, rows)):
        with pytest.raises(ValueError, match=said):
            evaluated(other)


def test_a_collator_of_two_trainers_has_the_names_of_each(make_args, make_model, make_trainer, processor, digits):
    rows = digits.remove_columns("label").add_column("label", [NAMES[label] for label in digits["label"]])
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"})
    trainers = [
        PrototypeTrainer(
            model=make_model(id2label=dict(enumerate(names))),
            args=make_args(PrototypeTrainer.args_class),
            train_dataset=rows,
            data_collator=collator,
        )
        for names in (NAMES, NAMES[::-1])
    ]
    ids = [trainer.data_collator(list(rows))["labels"].tolist() for trainer in trainers]
    assert ids[0] == digits["label"][:] and ids[1] == [NUM_LABELS - 1 - label for label in ids[0]]
    assert collator.class_names is None
