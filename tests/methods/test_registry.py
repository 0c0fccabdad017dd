"""`METHODS` is the one list of methods: a file of its own for each, and the choices of the command line."""

import dataclasses

import pytest

import pmr_hf
from pmr_hf import METHODS, MultimodalTrainingArguments, PrototypeTrainer
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.methods.method_checks import reason_against
from pmr_hf.model.fusion import FUSIONS
from pmr_hf.model.targets import SINGLE_LABEL


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_trainer_is_in_the_file_of_its_name(name):
    expected = "training.prototype_trainer" if name == "joint" else f"methods.{name}"
    assert METHODS[name].__module__ == f"pmr_hf.{expected}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_trainer_and_its_arguments(name):
    trainer_class = METHODS[name]
    assert issubclass(trainer_class, PrototypeTrainer)
    assert issubclass(trainer_class.args_class, MultimodalTrainingArguments)
    for exported in (trainer_class, trainer_class.args_class):
        assert getattr(pmr_hf, exported.__name__) is exported


def test_the_methods_are_the_choices_of_the_command_line():
    (method,) = [field for field in dataclasses.fields(ScriptArguments) if field.name == "method"]
    assert method.metadata["choices"] == list(METHODS)


@pytest.mark.parametrize("name", ["pmr", "mla", "late_fusion", "reconboost"])
def test_the_fusion_heads_of_a_method_are_those_that_its_trainer_takes(name, make_model, make_trainer):
    cls = METHODS[name]
    for head in ("concat", "sum", "film", "gated", "attention", "late", "shared"):
        model, taken = make_model(fusion=head, embedding_dim=8), True
        try:
            make_trainer(model, cls=cls)
        except ValueError as error:
            assert "fusion=" in str(error)
            taken = False
        assert (reason_against(cls, SINGLE_LABEL, FUSIONS[head]) is None) == taken, head
    assert cls.own_fusion is None or issubclass(FUSIONS[cls.own_fusion], cls.fusion_heads)
