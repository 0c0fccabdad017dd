"""PMR on models that this package did not build: CLIP, and a ViT with one modality."""

import pytest
import torch
from helpers.digits import NUM_LABELS, batch_of
from helpers.snapshots import assert_equal_tensors
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification, set_seed

from pmr_hf import PMRTrainer, attach_prototypes, load_prototypes


class CLIPCollator:
    """Turns rows into the flat batch that `CLIPModel` takes."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows):
        batch = self.processor(image=[row["picture"] for row in rows], text=[row["caption"] for row in rows])
        labels = torch.tensor([row["label"] for row in rows])
        return {**batch["image"], **batch["text"], "labels": labels, "return_loss": True}


def tiny_clip():
    set_seed(0)
    text = {
        "vocab_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    vision = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "intermediate_size": 8}
    config = CLIPConfig(text_config=text | {"eos_token_id": 0}, vision_config=vision, projection_dim=8)
    return CLIPModel(config)


def clip_embeddings(output):
    return {"image": output.image_embeds, "text": output.text_embeds}


def test_a_foreign_model_trains_saves_and_resumes(make_args, digits, processor, tmp_path):
    def trainer_of(model, **kwargs):
        attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
        return PMRTrainer(
            model=model,
            args=make_args(**{"prototype_fraction": 1.0, "save_strategy": "epoch", **kwargs}),
            embeddings_fn=clip_embeddings,
            train_dataset=digits,
            eval_dataset=digits,
            data_collator=CLIPCollator(processor),
        )

    trainer = trainer_of(tiny_clip())
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_image_prototype_accuracy"] > 0 and "eval_accuracy" not in metrics
    log = trainer.state.log_history[8]
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    assert log["rho"] > 0 and loss.item() != pytest.approx(outputs.loss.item())

    trainer.save_model(str(tmp_path / "clip"))
    loaded = CLIPModel.from_pretrained(tmp_path / "clip")
    attach_prototypes(loaded, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
    load_prototypes(loaded, tmp_path / "clip")
    assert_equal_tensors(loaded.state_dict(), trainer.model.state_dict())

    resumed = trainer_of(CLIPModel(tiny_clip().config))
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))
    assert_equal_tensors(resumed.model.state_dict(), trainer.model.state_dict())


class ViTCollator(CLIPCollator):
    def __call__(self, rows):
        batch = super().__call__(rows)
        return {"pixel_values": batch["pixel_values"], "labels": batch["labels"], "output_hidden_states": True}


@pytest.mark.parametrize("model_init", [False, True])
def test_a_foreign_vit_resumes_though_its_class_saves_legacy_names(make_args, digits, processor, model_init):
    def model_of(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return new_model()

    def new_model():
        config = ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1)
        config.num_attention_heads, config.num_labels = 2, NUM_LABELS
        model = ViTForImageClassification(config)
        attach_prototypes(model, {"image": 16}, num_labels=NUM_LABELS)
        return model

    def trainer_of(seed):
        return PMRTrainer(
            **({"model_init": lambda: model_of(seed)} if model_init else {"model": model_of(seed)}),
            args=make_args(save_strategy="epoch"),
            embeddings_fn=lambda output: {"image": output.hidden_states[-1][:, 0]},
            train_dataset=digits,
            eval_dataset=digits,
            data_collator=ViTCollator(processor),
        )

    trainer, resumed = trainer_of(0), trainer_of(1)
    trainer.train()
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-8")
    assert_equal_tensors(resumed.model.state_dict(), trainer.model.state_dict())
    assert "rho" not in trainer.state.log_history[0]  # a ratio needs two modalities
    assert {"eval_accuracy", "eval_image_prototype_accuracy"} <= trainer.evaluate().keys()


def test_a_foreign_model_without_embeddings_fn_is_told_what_to_do(make_args, digits, processor):
    model = tiny_clip()
    attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
    trainer = PMRTrainer(model=model, args=make_args(), train_dataset=digits, data_collator=CLIPCollator(processor))
    with pytest.raises(ValueError, match=r"to have `embeddings`, got .*pass an `embeddings_fn`"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_labels_of_a_users_own_collator(make_args, digits, processor):
    """Its columns are unknown, so the first batches of the prototypes are checked."""
    model = tiny_clip()
    attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS - 1)
    trainer = PMRTrainer(
        model=model,
        args=make_args(),
        embeddings_fn=clip_embeddings,
        train_dataset=digits,
        data_collator=CLIPCollator(processor),
    )
    with pytest.raises(ValueError, match=r"Expected labels in 0..2, got labels from . to 3"):
        trainer.train()


def test_a_foreign_model_without_prototypes_is_told_what_to_do(make_args, digits):
    with pytest.raises(ValueError, match=r"call `attach_prototypes\(model, widths, num_labels\)`"):
        PMRTrainer(model=tiny_clip(), args=make_args(), embeddings_fn=clip_embeddings, train_dataset=digits)
