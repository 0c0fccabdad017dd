"""What each method refuses before training: models of other classes, fusion heads, sharding and labels of segments."""

import re

import pytest
from helpers.all_methods import parts_of, rows_of_three
from torch import nn
from transformers import Trainer

from pmr_hf import METHODS, attach_prototypes
from pmr_hf.model.fusion import FUSIONS


FOREIGN = "Expected a MultimodalModel for {}, got a Linear, whose encoders and fusion head it does not know; "
FOREIGN += "PMRTrainer trains any model, also on labels of segments (B, T)."
WHOLE_HEAD = "Expected a model with a whole fusion head for {}, which runs it again in each step, got DeepSpeed; "
ONE_PIECE = "Expected a model in one piece for {}, since it "
HOOKS, TURNS = ONE_PIECE + "scales gradients by hooks, got ", ONE_PIECE + "freezes parts of it in turns, got "
WHOLE = "Expected a whole model for {}, of which each turn trains a part, got FSDP or DeepSpeed; "
ENCODERS = "Expected a model with whole encoders for {}, which keeps their initial weights, got FSDP or DeepSpeed; "
SHARED = "Expected a model with fusion='shared' for {}, one head that all modalities train, got "
LATE = "Expected a MultimodalModel with fusion='late' for {}, got fusion="
SPLIT = "Expected two or more modalities and fusion='concat' or 'sum' for {}, whose learners are the parts of the head"
# How each method refuses a model of another class, FSDP and DeepSpeed; None for what it takes
REFUSED = {
    "joint": (None, None, None),
    "pmr": (None, None, None),
    "acc": (FOREIGN, None, None),
    "agm": (FOREIGN, None, WHOLE_HEAD),
    "ogm": (FOREIGN, None, WHOLE_HEAD),
    "opm": (FOREIGN, None, WHOLE_HEAD),
    "dgl": (FOREIGN, None, WHOLE_HEAD),
    "valuation": (FOREIGN, None, WHOLE_HEAD),
    "reconboost": (FOREIGN, TURNS, TURNS),
    "uniform": (FOREIGN, None, None),
    "gblend": (FOREIGN, None, None),
    "mmpareto": (FOREIGN, HOOKS, HOOKS),
    "mla": (FOREIGN, WHOLE, WHOLE),
    "relearning": (FOREIGN, ENCODERS, ENCODERS),
    "late_fusion": (FOREIGN, None, WHOLE_HEAD),
}
# The heads that a method trains, and how it refuses the others
HEADS = {"mla": ({"shared"}, SHARED), "late_fusion": ({"late"}, LATE), "reconboost": ({"concat", "sum"}, SPLIT)}
SCALING = dict.fromkeys(("acc", "agm", "ogm"), HOOKS)  # with modulation="gradient"


def expect(sentence, cls, make):
    """Expect this refusal, or none, of what makes a trainer of the class."""
    if sentence is None:
        make()
        return
    with pytest.raises(ValueError, match="^" + re.escape(sentence.format(cls.__name__))):
        make()


def test_each_method_is_listed():
    assert list(REFUSED) == list(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_another_class(make_trainer_of_three, method):
    model = nn.Linear(6, 4)
    attach_prototypes(model, {"a": 6, "b": 6}, 4)
    expect(REFUSED[method][0], METHODS[method], lambda: make_trainer_of_three(METHODS[method], model))


@pytest.mark.parametrize("method", METHODS)
def test_fusion_heads(make_trainer_of_three, make_model_of_three, method):
    cls = METHODS[method]
    taken, sentence = HEADS.get(method, (FUSIONS.keys(), None))
    for fusion in FUSIONS if method in HEADS else ("late", "shared"):
        model = make_model_of_three(**parts_of(cls) | {"fusion": fusion})
        expect(None if fusion in taken else sentence, cls, lambda model=model: make_trainer_of_three(cls, model))


@pytest.mark.parametrize(("column", "flag"), [(1, "is_fsdp_enabled"), (2, "is_deepspeed_enabled")])
@pytest.mark.parametrize("method", METHODS)
def test_sharded_models(make_trainer_of_three, make_model_of_three, monkeypatch, method, column, flag):
    """Neither runs on this CPU, so `Trainer` is told that it does."""
    prepare = Trainer.create_accelerator_and_postprocess

    def prepare_sharded(trainer):
        prepare(trainer)
        setattr(trainer, flag, True)

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", prepare_sharded)
    cls = METHODS[method]
    expect(REFUSED[method][column], cls, lambda: make_trainer_of_three(cls, make_model_of_three(**parts_of(cls))))
    if method in SCALING:
        model = make_model_of_three()
        expect(SCALING[method], cls, lambda: make_trainer_of_three(cls, model, modulation="gradient"))


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_segments_for_a_multimodal_model(make_trainer_of_three, make_model_of_three, method):
    """A collator of the user makes them, so that they are found in the first batch."""
    cls = METHODS[method]
    rows = [row | {"label": [row["label"]] * 2} for row in rows_of_three(12)]
    trainer = make_trainer_of_three(cls, make_model_of_three(**parts_of(cls)), train_dataset=rows, eval_dataset=rows)
    with pytest.raises(ValueError, match=r"got \(\d, 2\) and .*; labels of segments \(B, T\) need a model that is not"):
        trainer.train()
    assert trainer.state.global_step == 0
