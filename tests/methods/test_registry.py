"""`METHODS` is the one list of methods: a file of its own for each, and the choices of the command line."""

import dataclasses

import pytest

import pmr_hf
from pmr_hf import METHODS, MultimodalTrainingArguments, PrototypeTrainer
from pmr_hf.command_line.script_arguments import ScriptArguments


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
