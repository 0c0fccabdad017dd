"""A new kind of modality is one registered class: it is read, collated, saved, loaded and shown like any other."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from pmr_hf import MultimodalCollator, MultimodalProcessor
from pmr_hf.model.kind_registry import KINDS, Kind, kind_for_encoder, kind_of, register_kind
from pmr_hf.model.media import UnreadableError
from pmr_hf.model.numeric_processor import NumericProcessor


class Alphabet:
    """A processor of a user's own: letters become their places in an alphabet."""

    def __init__(self, letters):
        self.letters = letters

    def save_pretrained(self, folder):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "alphabet.json").write_text(json.dumps(self.letters))

    @classmethod
    def from_pretrained(cls, folder, subfolder, trust_remote_code):
        return cls(json.loads(Path(folder, subfolder, "alphabet.json").read_text()))


@pytest.fixture
def letters():
    @register_kind
    class Letters(Kind):
        word = "letters"
        processor_class = loader = Alphabet
        medium = "text"
        strings_are_paths = False
        padding_value = -1

        def read(self, value):
            if not set(value) <= set(self.processor.letters):
                raise UnreadableError(f"{value!r} has letters that are not in {self.processor.letters!r}")
            return value

        def extract(self, values):
            return [{"places": torch.tensor([self.processor.letters.index(letter) for letter in v])} for v in values]

        def example(self, config):
            return '"ab"', "letters"

    yield Letters
    KINDS.pop("letters")


def test_a_new_kind_is_one_class(letters, tmp_path):
    processor = MultimodalProcessor({"code": Alphabet("abc")})
    assert processor.kinds == {"code": "letters"} and isinstance(processor.kind("code"), letters)
    processor.save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert loaded.processors["code"].letters == "abc"
    collator = MultimodalCollator(loaded, {"code": "column"})
    batch = collator([{"column": "cab", "label": 0}, {"column": None, "label": 1}, {"column": "b", "label": 0}])
    assert batch["code"]["places"].tolist() == [[2, 0, 1], [0, 0, 0], [1, -1, -1]]
    assert batch["code"]["present"].tolist() == [True, False, True]
    with pytest.raises(UnreadableError, match="Expected 'code' in row 0 of this batch, column 'column', but 'x' has"):
        collator([{"column": "x", "label": 0}])
    assert loaded.kind("code").example(BertConfig()) == ('"ab"', "letters")


def test_a_subclass_of_a_processor_is_of_the_kind_of_its_base_until_it_has_its_own():
    class Own(NumericProcessor):
        pass

    assert kind_of("vitals", Own()).word == "numbers"

    @register_kind
    class OwnKind(Kind):
        word = "own"
        processor_class = Own

    try:
        assert kind_of("vitals", Own()).word == "own" and kind_of("vitals", NumericProcessor()).word == "numbers"
    finally:
        KINDS.pop("own")


def test_a_processor_of_no_kind_is_named():
    with pytest.raises(TypeError, match=r"Expected the processor of 'code' .*, got Alphabet; pass that part of it"):
        kind_of("code", Alphabet("abc"))


def test_a_kind_of_a_subclass_does_not_take_over_the_encoders_of_its_base():
    picture = kind_for_encoder("image", "pixel_values")

    @register_kind
    class Scan(picture):
        word = "scan"
        processor_class = Alphabet

    try:
        assert kind_for_encoder("image", "pixel_values") is picture
    finally:
        KINDS.pop("scan")
