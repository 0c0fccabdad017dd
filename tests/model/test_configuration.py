"""The configuration: what it keeps when it is saved, and what it refuses."""

import copy
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, BertConfig, TimmWrapperConfig, ViTConfig

from pmr_hf import MultimodalConfig, MultimodalModel, MultimodalProcessor, NumericConfig


NAMES = ["a.b", "", "2d", "two words", "class", "_hidden", "keys", "type", "train", "training", "forward"]
NAMES += ["x_prototype"]


@pytest.mark.parametrize("name", NAMES)
def test_modality_names_that_cannot_be_used(name):
    with pytest.raises(ValueError, match="rename this modality"):
        MultimodalConfig(backbones={name: BertConfig()})


@pytest.mark.parametrize(
    "name", ["labels", "label", "loss", "logits", "input_ids", "return_loss", "embeddings", "eval"]
)
def test_modality_names_that_are_taken(name, processor):
    with pytest.raises(ValueError, match="already taken"):
        MultimodalConfig(backbones={name: BertConfig()})
    with pytest.raises(ValueError, match="already taken"):
        MultimodalProcessor({name: processor.processors["text"]})


def test_a_backbone_config_without_its_type():
    with pytest.raises(ValueError, match=r"to have a `model_type`, got \['hidden_size'\]"):
        MultimodalConfig(backbones={"image": {"hidden_size": 3}})


def test_modalities_that_are_not_the_backbones():
    with pytest.raises(ValueError, match="to name each backbone once"):
        MultimodalConfig(backbones={"image": BertConfig()}, modalities=["image", "text"])


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "num_attention_heads": 2}
VALID = json.loads(
    MultimodalConfig(
        backbones={
            "stats": NumericConfig(num_features=2, hidden_size=4),
            "text": BertConfig(vocab_size=16, max_position_embeddings=16, **SIZES),
        },
        num_labels=3,
        embedding_dim=4,
        lora={"stats": {"r": 2}},
    ).to_json_string(use_diff=False)
)
KEYS = st.sampled_from([*VALID, "num_labels", "stats", "text", "model_type", "r", "0", "x"])
NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([10**7, 10**12, 10**400, float("nan"), float("inf"), -1.5, 0.5, 1e300])
    | st.sampled_from(["", "x", "auto", "stats", "text", "bert", "pmr_numeric", "pmr_multimodal", "float32", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
# The numbers of the encoders' own configs are left to transformers.
PLACES = [(key,) for key in [*VALID, "num_labels", "extra"]]
PLACES += [(field, name) for field in ("backbones", "pooling", "lora") for name in ("stats", "text", "x")]
PLACES += [
    ("backbones", "text", "model_type"),
    ("backbones", "text", "dtype"),
    ("lora", "stats", "r"),
    ("id2label", "9"),
]


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(PLACES), NONSENSE | st.just("drop")), min_size=1, max_size=2))
@example([(("num_labels",), 10**12), (("id2label",), "drop")])
@example([(("embedding_dim",), 10**12)])
@example([(("lora", "stats", "r"), 10**12)])
@example([(("pooling",), None)])
@example([(("modality_dropout",), "0.5")])
@example([(("backbones", "text"), [1])])
@example([(("backbones", "text", "model_type"), "nope")])
@example([(("modalities",), [["stats"]])])
def test_any_config_loads_or_stops_with_a_sentence(config_folder, changes):
    fields = copy.deepcopy(VALID)
    for (*path, last), value in changes:
        inner = fields
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
            if value != "drop":
                inner[last] = value
    (config_folder / "config.json").write_text(json.dumps(fields))
    try:
        config = MultimodalConfig.from_pretrained(config_folder)
        model = MultimodalModel(config)
    except ValueError as error:
        assert str(error).startswith("Expected ")
    else:
        assert 1 <= model.prototypes.num_labels <= 10 and list(model.backbones) == config.modalities
        assert 0 <= config.modality_dropout < 1 and config.pooling.keys() == set(config.modalities)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"a": ', "\0", '"text"'])
def test_a_file_that_is_no_config_stops(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((OSError, TypeError)):  # raised by transformers
        MultimodalConfig.from_pretrained(tmp_path)


def test_config_round_trips_to_real_sub_configs_in_the_same_order(tmp_path):
    config = MultimodalConfig(
        backbones={
            "z": BertConfig(vocab_size=20, max_position_embeddings=12, **SIZES),
            "a": ViTConfig(image_size=8, patch_size=4, **SIZES),
            "m": TimmWrapperConfig(architecture="resnet10t"),
        },
        fusion="sum",
        embedding_dim=6,
        num_labels=5,
    )
    config.save_pretrained(tmp_path)
    assert list(json.loads((tmp_path / "config.json").read_text())["backbones"]) == [
        "a",
        "m",
        "z",
    ]  # sorted in the file
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MultimodalConfig)
    assert loaded.modalities == ["z", "a", "m"] and list(loaded.backbones) == ["z", "a", "m"]
    assert isinstance(loaded.backbones["z"], BertConfig) and isinstance(loaded.backbones["a"], ViTConfig)
    assert isinstance(loaded.backbones["m"], TimmWrapperConfig) and loaded.backbones["m"].architecture == "resnet10t"
    assert (loaded.fusion, loaded.embedding_dim, loaded.num_labels) == ("sum", 6, 5)
    assert loaded.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert MultimodalConfig().modalities == []  # every field has a default
