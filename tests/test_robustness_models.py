"""Models and processors of users: their labels reach the loss, and what cannot work stops with a sentence."""

import numpy as np
import pytest
import torch
from helpers.digits import NUM_LABELS
from helpers.snapshots import weights_of
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    GPT2Config,
    RobertaConfig,
    TimmWrapperConfig,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from pmr_hf import (
    GradientBoostTrainer,
    MultimodalCollator,
    MultimodalModel,
    MultimodalPipeline,
    MultimodalProcessor,
    MultimodalTrainer,
    NumericConfig,
    NumericProcessor,
    PMRTrainer,
    attach_prototypes,
)
from pmr_hf.model.kind_registry import kind_of
from pmr_hf.training.setup_checks import check_not_adapted, check_processor


# ---- Models of users ----


class Named(nn.Module):
    """Two encoders and a head, as a user writes them."""

    def __init__(self):
        super().__init__()
        self.x, self.y, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, x, y, labels=None):
        embeddings = {"x": self.x(x), "y": self.y(y)}
        logits = self.head(torch.cat(list(embeddings.values()), 1))
        output = {"logits": logits, "embeddings": embeddings}
        return output if labels is None else {"loss": F.cross_entropy(logits, labels)} | output


class AnyBatch(Named):
    def forward(self, **batch):
        return super().forward(**batch)


class SomeNamed(Named):
    def forward(self, x, **others):
        return super().forward(x, **others)


class Tuple(Named):
    def forward(self, x, y):
        return tuple(super().forward(x, y).values())


def user_trainer(make_args, model, wrap=lambda model: model, **kwargs):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, 3, generator=generator)
    rows = [{"x": x[i], "y": y[i], "labels": torch.tensor(i % 2)} for i in range(16)]
    attach_prototypes(model, {"x": 4, "y": 4}, num_labels=2)
    return PMRTrainer(
        model=wrap(model), args=make_args(num_train_epochs=1, **kwargs), train_dataset=rows, eval_dataset=rows
    )


def made(cls):
    torch.manual_seed(0)
    return cls()


def compiled(model):
    return torch.compile(model, backend="eager")


def with_compiled_part(model):
    model.x = compiled(model.x)
    return model


@pytest.mark.parametrize("cls", [AnyBatch, SomeNamed])
def test_labels_reach_a_forward_that_takes_them_among_others(make_args, cls):
    """The trained weights are those of the model whose `forward` names its labels."""
    named, other = user_trainer(make_args, made(Named)), user_trainer(make_args, made(cls))
    named.train()
    other.train()
    for name, value in weights_of(named.model).items():
        assert torch.equal(weights_of(other.model)[name], value), name
    assert other.evaluate()["eval_loss"] == pytest.approx(named.evaluate()["eval_loss"])


@pytest.mark.parametrize("wrap", [compiled, with_compiled_part, lambda model: compiled(with_compiled_part(model))])
@pytest.mark.parametrize("cls", [Named, AnyBatch])
def test_a_compiled_model_has_its_loss_its_class_and_the_names_of_its_weights(make_args, wrap, cls):
    torch._dynamo.reset()
    plain, other = user_trainer(make_args, made(cls)), user_trainer(make_args, made(cls), wrap)
    assert other.model.state_dict().keys() == plain.model.state_dict().keys()
    assert type(other.unwrapped_model) is cls
    batch = other.data_collator(other.train_dataset)
    expected = F.cross_entropy(Named.forward(plain.model, batch["x"], batch["y"])["logits"], batch["labels"])
    assert other.compute_loss(other.model.eval(), batch).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_compiled_multimodal_model_is_still_one(make_model, make_trainer, tmp_path):
    """It can be frozen, saved and loaded, though its encoder was compiled too."""
    torch._dynamo.reset()
    model = make_model()
    model.backbones["text"] = compiled(model.backbones["text"])
    trainer = make_trainer(compiled(model), freeze=["image"])
    assert trainer.unwrapped_model is model and model._compiled_call_impl is not None
    trainer.save_model(str(tmp_path / "saved"))
    loaded = MultimodalModel.from_pretrained(tmp_path / "saved")
    for name, value in weights_of(make_model()).items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.slow
def test_a_pipeline_takes_a_compiled_model(make_model, processor):
    torch._dynamo.reset()
    expected = MultimodalPipeline(make_model(), processor, missing="fused")(text="the digit one")
    found = MultimodalPipeline(compiled(make_model()), processor, missing="fused")(text="the digit one")
    assert found[0]["label"] == expected[0]["label"]
    assert found[0]["score"] == pytest.approx(expected[0]["score"])


def test_methods_with_hooks_refuse_a_compiled_model(make_model, make_trainer):
    with pytest.raises(ValueError, match=r"a model in one piece for GradientBoostTrainer.*got torch_compile"):
        make_trainer(compiled(make_model()), cls=GradientBoostTrainer, modulation="gradient")


def test_a_model_wrapped_by_peft_is_told_how_to_use_lora(make_model, make_trainer):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(make_model(), LoraConfig(target_modules="all-linear"))
    for cls in (PMRTrainer, MultimodalTrainer):
        with pytest.raises(
            ValueError, match=r"got a MultimodalModel in a PeftModel.*give `lora=\{'image': \{'r': 8\}\}"
        ):
            make_trainer(wrapped, cls=cls)
    with pytest.raises(ValueError, match=r"got a Named in a PeftModel.*`peft.inject_adapter_in_model`"):
        check_not_adapted(get_peft_model(Named(), LoraConfig(target_modules=["x"])))


def test_adapters_that_transformers_added_are_refused(make_model):
    model = make_model()
    encoder = model.backbones["text"]
    model._hf_peft_config_loaded = encoder._hf_peft_config_loaded = True  # as `add_adapter` sets it
    with pytest.raises(ValueError, match=r"got a MultimodalModel after `add_adapter`.*give `lora="):
        check_not_adapted(model)
    with pytest.raises(ValueError, match=r"Expected the encoder of 'text' without adapters of PEFT.*give `lora`"):
        MultimodalModel.from_backbones({"text": encoder}, num_labels=2)


def test_adapters_that_were_injected_are_refused(make_model, make_trainer):
    from peft import LoraConfig, inject_adapter_in_model

    model = make_model()
    inject_adapter_in_model(LoraConfig(target_modules=["query"], r=2), model.backbones["text"])
    with pytest.raises(
        ValueError, match=r"the encoder of 'text' without adapters of PEFT, got some that were injected"
    ):
        make_trainer(model)
    check_not_adapted(make_model(lora={"text": {"r": 2}}))


@pytest.mark.parametrize("whole", [True, False])
def test_encoders_that_share_weights_are_refused(make_model, whole):
    first, second = (make_model().backbones["text"] for _ in range(2))
    second.embeddings.word_embeddings = first.embeddings.word_embeddings
    with pytest.raises(ValueError, match="an encoder of its own for each modality, got one for 'front' and 'back'"):
        MultimodalModel.from_backbones({"front": first, "back": first if whole else second}, num_labels=2)


def test_a_model_loaded_for_other_classes_cannot_answer_yet(make_model, processor, tmp_path):
    make_model(num_labels=4).save_pretrained(tmp_path)
    model = MultimodalModel.from_pretrained(tmp_path, num_labels=6, ignore_mismatched_sizes=True)
    assert "fusion.classifier.weight" in model.missing_weights
    with pytest.raises(ValueError, match=r"these are missing and would be random: fusion\.classifier\.bias"):
        MultimodalPipeline(model, processor)


def test_the_encoders_have_the_attention_of_the_model(make_model, tmp_path):
    assert {part.config._attn_implementation for part in make_model().backbones.values()} == {"sdpa"}
    eager = make_model(attn_implementation="eager")
    eager.save_pretrained(tmp_path)
    for model in (eager, MultimodalModel.from_pretrained(tmp_path, attn_implementation="eager")):
        assert {part.config._attn_implementation for part in model.backbones.values()} == {"eager"}


def test_a_failed_push_has_saved_the_model(make_trainer, tmp_path):
    trainer = make_trainer(hub_model_id="me/digits")
    with pytest.raises(
        RuntimeError, match=rf"to push to me/digits, but the upload failed .* is saved in {tmp_path}/out"
    ):
        trainer.push_to_hub()  # there is no hub
    assert (tmp_path / "out" / "model.safetensors").is_file() and (tmp_path / "out" / "processor_config.json").is_file()


def test_logits_that_were_made_classes_need_metrics(make_trainer):
    options = {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    with pytest.raises(ValueError, match=r"got \(64,\) from `preprocess_logits_for_metrics`; pass a `compute_metrics`"):
        make_trainer(trainer_kwargs=options).evaluate()


def test_a_loss_that_is_no_scalar(make_args):
    trainer = user_trainer(make_args, made(Tuple))
    batch = trainer.data_collator(trainer.train_dataset)
    with pytest.raises(ValueError, match=r"Expected a scalar loss, got a tensor \(16, 2\) as the loss of a Tuple"):
        trainer.compute_loss(trainer.model, batch)


# ---- Pictures: means and channels ----


def gray_vit(channels=1):
    return ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=channels,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )


@pytest.mark.parametrize("mean", [0.5, 1, [0.5], (0.5,), [0.5] * 3, None])
@pytest.mark.parametrize("channels", [1, 3])
def test_means_as_a_number_or_a_list(mean, channels):
    """A mean for all channels fits any encoder. A list fits an encoder with as many channels, and no other."""
    own = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=mean, image_std=mean, do_normalize=mean is not None
    )
    processor = MultimodalProcessor({"image": own})
    model = MultimodalModel.from_backbones({"image": gray_vit(channels)}, num_labels=2)
    if isinstance(mean, (list, tuple)) and len(mean) != channels:
        with pytest.raises(ValueError, match=rf"pictures of {channels} channel\(s\).*'image'.*makes {len(mean)};"):
            MultimodalPipeline(model, processor, missing="fused")
        return
    processor.match_encoders(model.config.backbones)
    pixels = processor(image=[Image.new("RGB", (9, 9), (255, 255, 255))])["image"]["pixel_values"]
    value = 1.0 if mean is None else (1 - np.ravel(mean)[0]) / np.ravel(mean)[0]
    assert pixels.shape == (1, channels, 8, 8)
    assert pixels.unique().tolist() == pytest.approx([value])
    assert model(image={"pixel_values": pixels}).logits.shape == (1, 2)


def test_the_channels_of_timm_stand_in_its_data_config():
    gray = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}
    processor = MultimodalProcessor({"image": TimmWrapperImageProcessor(gray, "resnet10t")})
    pixels = processor(image=[Image.new("RGB", (40, 40), (255, 255, 255))])["image"]["pixel_values"]
    assert pixels.shape == (1, 1, 32, 32) and pixels.unique().tolist() == pytest.approx([1.0])
    encoder = TimmWrapperConfig(architecture="resnet10t", model_args={"in_chans": 1})
    processor.match_encoders({"image": encoder})
    colored = MultimodalProcessor({"image": TimmWrapperImageProcessor({"input_size": (3, 32, 32)}, "resnet10t")})
    with pytest.raises(ValueError, match=r"pictures of 1 channel\(s\), which the encoder of 'image'.*makes 3"):
        colored.match_encoders({"image": encoder})


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_mean_for_each_channel_of_timm(size):
    with pytest.raises(ValueError, match=f"1 channel .gray. or 3 .RGB., with a mean of each, got {size} channels"):
        MultimodalProcessor({"image": TimmWrapperImageProcessor({"input_size": (size, 32, 32)}, "resnet10t")})


# ---- Texts: the limit of a tokenizer ----

WIDTHS = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
TEXTS = {
    "bert": (BertConfig(vocab_size=16, max_position_embeddings=16, **WIDTHS), 16),
    "roberta": (RobertaConfig(vocab_size=16, max_position_embeddings=16, pad_token_id=1, **WIDTHS), 14),
    "gpt2": (GPT2Config(vocab_size=16, n_positions=12, n_embd=8, n_layer=1, n_head=1), 12),
}


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("limit", [8, 512, None])
@pytest.mark.parametrize("entry", ["trainer", "pipeline"])
def test_the_smaller_of_the_limits_of_tokenizer_and_encoder(processor, make_args, digits, family, limit, entry):
    config, positions = TEXTS[family]
    tokenizer = type(processor.processors["text"])(
        tokenizer_object=processor.processors["text"].backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.model_max_length = limit or 10**30
    own = MultimodalProcessor({"text": tokenizer})
    model = MultimodalModel.from_backbones({"text": config}, num_labels=NUM_LABELS)
    text = "digit " * 600
    if entry == "pipeline":
        assert len(MultimodalPipeline(model, own, missing="fused")(text=text)) == NUM_LABELS
    else:
        collator = MultimodalCollator(own, {"text": "caption"})
        MultimodalTrainer(model=model, args=make_args(MultimodalTrainer.args_class), data_collator=collator)
        batch = collator([{"caption": text, "label": 1}] * 2)
        assert model(**batch).loss.isfinite()
    assert tokenizer.model_max_length == min(positions, limit or positions)


def test_a_tokenizer_that_is_cut_says_so(processor, monkeypatch):
    messages = []
    monkeypatch.setattr("pmr_hf.model.kinds.logger.warning", messages.append)
    tokenizer = processor.processors["text"]
    before = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = 512
        for _ in range(2):
            kind_of("text", tokenizer).match_encoder(TEXTS["bert"][0])
    finally:
        tokenizer.model_max_length = before
    assert len(messages) == 1 and "'text' allows 512 tokens, but its encoder has 16 positions" in messages[0]


# ---- Batch norm ----


@pytest.mark.parametrize("rows", ["one of four", "a batch of one"])
def test_batch_norm_with_one_sample_names_the_modality(rows):
    model = MultimodalModel.from_backbones(
        {"photo": TimmWrapperConfig(architecture="resnet10t"), "text": TEXTS["bert"][0]}, num_labels=2
    )
    count = 4 if rows == "one of four" else 1
    batch = {
        "photo": {"pixel_values": torch.randn(count, 3, 16, 16)},
        "text": {"input_ids": torch.ones(count, 3, dtype=torch.long)},
    }
    if count > 1:
        batch["photo"]["present"] = torch.arange(count) == 2
    with pytest.raises(ValueError, match=r"at least 2 samples with 'photo'.*batch norm, got 1.*`freeze=\['photo'\]`"):
        model.train()(**batch)
    model.freeze("photo")
    assert model.train()(**batch).logits.shape == (count, 2)


# ---- What is given in place of a processor or an encoder ----


def test_the_processor_is_taken_from_the_collator(make_model, make_args, digits, collator, tmp_path):
    trainer = PMRTrainer(model=make_model(), args=make_args(), train_dataset=digits, data_collator=collator)
    trainer.save_model(str(tmp_path / "saved"))
    assert trainer.processing_class is collator.processor
    pipe = MultimodalPipeline(tmp_path / "saved", missing="fused")
    assert len(pipe(text="the digit one")) == NUM_LABELS


@pytest.mark.parametrize("part", ["text", "image"])
def test_the_processor_of_one_modality_is_refused(make_model, make_args, digits, processor, collator, part):
    own = processor.processors[part]
    for kwargs in ({"data_collator": collator}, {}):
        with pytest.raises(
            ValueError, match=rf"a MultimodalProcessor as `processing_class`, got a {type(own).__name__}"
        ):
            PMRTrainer(model=make_model(), args=make_args(), train_dataset=digits, processing_class=own, **kwargs)
    check_processor(Named(), own)  # a model of another class may have it


def test_the_collator_has_other_modalities_than_the_model(make_model, make_args, digits, collator):
    model = make_model(backbones={"text": TEXTS["bert"][0]})
    with pytest.raises(ValueError, match=r"for each of the model's modalities \['text'\], got processors for"):
        PMRTrainer(model=model, args=make_args(), train_dataset=digits, data_collator=collator)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            NumericConfig(num_features=3),
            r"got NumericConfig, which is for the model; pass NumericProcessor\(mean, std\)",
        ),
        (gray_vit(), "got ViTConfig, which is for the model; pass the processor that belongs to it"),
        ("bert-base-uncased", r"got 'bert-base-uncased'; call `MultimodalProcessor.from_backbones`"),
        (nn.Linear(1, 1), "got Linear; pass that part of it"),
    ],
)
def test_what_is_no_processor(given, said):
    with pytest.raises(TypeError, match=f"Expected the processor of 'vitals' to be .*{said}"):
        MultimodalProcessor({"vitals": given})


def test_a_loaded_encoder_is_no_processor_and_a_processor_is_no_encoder(make_model):
    with pytest.raises(TypeError, match="got BertModel, which is for the model"):
        MultimodalProcessor.from_backbones({"text": make_model().backbones["text"]})
    with pytest.raises(TypeError, match=r"got NumericProcessor.*give processors to MultimodalProcessor"):
        MultimodalModel.from_backbones({"vitals": NumericProcessor([0.0], [1.0])}, num_labels=2)


@pytest.mark.parametrize(
    "form", ["{}/vit-bas", "./no-such-encoder", "../no-such-encoder", "~/no-such", "a/b/c", "path"]
)
@pytest.mark.parametrize("build", [MultimodalProcessor.from_backbones, MultimodalModel.from_backbones])
def test_a_mistyped_folder_is_named_before_the_hub_is_asked(form, build, tmp_path):
    path = tmp_path / "nothing" if form == "path" else form.format(tmp_path)
    options = {"num_labels": 2} if build == MultimodalModel.from_backbones else {}
    with pytest.raises(
        FileNotFoundError, match=r"Expected the folder of an encoder for 'image' at .*, found no folder"
    ):
        build({"image": path}, **options)


@pytest.mark.parametrize("build", [MultimodalProcessor.from_backbones, MultimodalModel.from_backbones])
def test_a_mistyped_name_is_named_with_its_modality(build):
    options = {"num_labels": 2} if build == MultimodalModel.from_backbones else {}
    with pytest.raises(
        OSError, match="Expected no-such-owner/no-such-model to be the Hub name or the folder of an enc"
    ):
        build({"image": "no-such-owner/no-such-model"}, **options)
