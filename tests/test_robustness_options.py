"""Options that cannot work stop when they are given, and what is logged, plotted and reported was applied."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers.digits import batch_of
from transformers import AutoConfig, ViTConfig

from pmr_hf import (
    MultimodalCollator,
    PMRTrainer,
    PrototypeTrainer,
)
from pmr_hf.data.labels import encode_labels
from pmr_hf.data.shortened import shortened
from pmr_hf.model.hub_card import what_it_does
from pmr_hf.model.prototypes import Prototypes
from pmr_hf.reporting.dynamics import holds_the_other_back
from pmr_hf.reporting.model_card import HubMetadata, Results, TrainingRun, card_data
from pmr_hf.training.prototype_refresh import warn_of_unseen_classes
from pmr_hf.training.setup_checks import check_rows


# ---- Arguments ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": "1e-3"}, "`learning_rate` to be a number, got '1e-3' of type str"),
        ({"num_train_epochs": "2"}, "`num_train_epochs` to be a number, got '2' of type str"),
        ({"pmr_alpha": "1"}, "`pmr_alpha` to be a number, got '1' of type str"),
        ({"pmr_alpha": None}, "`pmr_alpha` to be a number, got None of type NoneType"),
        ({"pmr_epochs": "2"}, "`pmr_epochs` to be a number, got '2' of type str"),
        ({"prototype_fraction": True}, "`prototype_fraction` to be a number, got True of type bool"),
        ({"per_device_train_batch_size": 2.5}, "`per_device_train_batch_size` to be an integer, got 2.5 of type float"),
        ({"seed": 1.5}, "`seed` to be an integer, got 1.5 of type float"),
        ({"seed": None}, "`seed` to be an integer, got None"),
        ({"prototype_refresh_steps": 1.5}, "`prototype_refresh_steps` to be an integer, got 1.5"),
        ({"eval_accumulation_steps": 0}, "`eval_accumulation_steps` of at least 1, got 0"),
        ({"save_total_limit": 0}, "`save_total_limit` of at least 1, got 0"),
        ({"dataloader_num_workers": -1}, "`dataloader_num_workers` of at least 0, got -1"),
        ({"max_grad_norm": -1.0}, "`max_grad_norm` of at least 0, got -1.0"),
        ({"adam_beta1": 1.5}, "`adam_beta1` below 1, got 1.5"),
        ({"adam_epsilon": -1e-8}, "`adam_epsilon` of at least 0, got -1e-08"),
        ({"label_smoothing_factor": 1.0}, "`label_smoothing_factor` below 1, got 1.0"),
        ({"logging_steps": 0}, "`logging_steps` above 0, got 0"),
        ({"logging_steps": -5}, "`logging_steps` above 0, got -5"),
        ({"save_strategy": "steps", "save_steps": 0}, "`save_steps` above 0, got 0.*`save_strategy='no'`"),
        ({"eval_strategy": "steps", "eval_steps": -3}, "`eval_steps` above 0, got -3"),
        ({"train_sampling_strategy": "foo"}, "`train_sampling_strategy` to be 'random', 'sequential'.*got 'foo'"),
        ({"freeze": True}, "`freeze` to be a list of modalities, got True"),
        ({"freeze": {"text": True}}, "`freeze` to be a list of modalities, got {'text': True}"),
        ({"include_for_metrics": ["outputs"]}, r"`include_for_metrics` of 'loss' or 'inputs', got \['outputs'\]"),
        ({"label_names": ["label"]}, r"`label_names` with 'labels'.*got \['label'\]"),
        ({"label_names": []}, r"`label_names` with 'labels'.*got \[\]"),
    ],
)
def test_arguments_that_would_fail_late_or_do_nothing(make_args, options, said):
    with pytest.raises(ValueError, match=f"Expected {said}"):
        make_args(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1},
        {"learning_rate": np.float32(0.1)},
        {"seed": np.int64(3)},
        {"max_grad_norm": 0.0},
        {"save_steps": 0.1, "save_strategy": "steps"},
        {"save_steps": 0},
        {"pmr_epochs": None},
        {"label_smoothing_factor": 0.99},
    ],
)
def test_arguments_that_work(make_args, options):
    args = make_args(**options)
    assert all(getattr(args, name) == value for name, value in options.items())


@pytest.mark.parametrize("name", ["freeze", "label_names", "include_for_metrics"])
def test_a_word_is_a_list_of_one(make_args, name):
    word = {"freeze": "text", "label_names": "labels", "include_for_metrics": "loss"}[name]
    assert getattr(make_args(**{name: word}), name) == [word]


@pytest.mark.parametrize("freeze", ["text", ["text"], ("text",), {"text"}])
def test_freezing_one_modality(make_trainer, make_model, freeze):
    trainer = make_trainer(freeze=freeze)
    trained = {name: any(p.requires_grad for p in part.parameters()) for name, part in trainer.model.backbones.items()}
    assert trained == {"image": True, "text": False}
    model = make_model()
    model.freeze(freeze)
    assert not any(parameter.requires_grad for parameter in model.backbones["text"].parameters())


@pytest.mark.parametrize(
    ("given", "expected"),
    [("true", True), ("True", True), ("TRUE", True), ("false", None), ("False", None), ("out/checkpoint-8",) * 2],
)
def test_resuming_is_a_switch_or_a_folder(make_args, given, expected):
    assert make_args(resume_from_checkpoint=given).resume_from_checkpoint == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"include_for_metrics": ["inputs"]}, r"`include_for_metrics` without 'inputs'.*got \['inputs'\]"),
        ({"include_for_metrics": ["loss", "inputs"]}, "`include_for_metrics` without 'inputs'"),
        ({"neftune_noise_alpha": 5.0}, "no `neftune_noise_alpha`, got 5.0"),
        ({"use_liger_kernel": True}, "`use_liger_kernel=False`, got True"),
        ({"include_num_input_tokens_seen": True}, "`include_num_input_tokens_seen='no'`, got 'all'"),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 65},
            "at least 65 rows to train, .* got 64; lower `per_device_train_batch_size`",
        ),
        (
            {"dataloader_drop_last": True, "per_device_eval_batch_size": 65},
            "at least 65 rows to eval, .* got 64; lower `per_device_eval_batch_size`",
        ),
        ({"metric_for_best_model": "acc"}, "`metric_for_best_model` to be 'loss', 'accuracy'.*got 'acc'"),
        ({"metric_for_best_model": "best_answer_accuracy"}, "`metric_for_best_model` to be .*'prototypes_accuracy' or"),
        ({"metric_for_best_model": "sound_accuracy"}, "`metric_for_best_model` to be .*, got 'sound_accuracy'"),
    ],
)
def test_options_that_a_model_of_several_encoders_cannot_have(make_trainer, options, said):
    with pytest.raises(ValueError, match=f"Expected {said}"):
        make_trainer(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"include_for_metrics": ["loss"]},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 64, "per_device_eval_batch_size": 64},
        {"metric_for_best_model": "eval_macro_f1"},
        {"metric_for_best_model": "text_prototype_accuracy"},
        {"metric_for_best_model": "prototypes_accuracy"},
        {"metric_for_best_model": "best_answer_accuracy", "answer": "best"},
        {"metric_for_best_model": "acc", "trainer_kwargs": {"compute_metrics": lambda prediction: {"acc": 1.0}}},
    ],
)
def test_options_that_it_can_have(make_trainer, options):
    make_trainer(**options)


def test_the_best_metric_of_several_evaluation_sets(make_trainer, digits):
    sets = {"day": digits, "night": digits}
    make_trainer(eval_dataset=sets, metric_for_best_model="eval_night_accuracy")
    with pytest.raises(ValueError, match="got 'eval_dusk_accuracy'"):
        make_trainer(eval_dataset=sets, metric_for_best_model="eval_dusk_accuracy")


def test_evaluation_of_no_rows(make_trainer, digits):
    with pytest.raises(ValueError, match="Expected the evaluation dataset to have at least one row, got none"):
        make_trainer().evaluate(digits.select([]))


# ---- Learning rates ----


def sgd_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_an_optimizer_of_the_user_has_its_own_rates(make_trainer, make_model):
    model = make_model()
    given = {"optimizers": (sgd_of(model), None)}
    with pytest.raises(ValueError, match=r"an optimizer in `optimizers`, got \{'text': 0.4\} and a SGD.*leave one out"):
        make_trainer(model, modality_learning_rates={"text": 0.4}, trainer_kwargs=given)
    make_trainer(model, trainer_kwargs=given)


def test_rates_apply_to_an_optimizer_class_of_the_user(make_trainer):
    given = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}
    trainer = make_trainer(modality_learning_rates={"text": 0.4}, trainer_kwargs=given)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert rates[parameter] == (0.4 if name.startswith("backbones.text") else 0.1), name


def test_rates_that_the_optimizer_cannot_apply(make_trainer):
    """As the layerwise optimizers of transformers, it holds no parameters of the encoder."""

    class Other(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__([torch.zeros(1, requires_grad=True)], lr=lr)

    given = {"optimizer_cls_and_kwargs": (Other, {"lr": 0.1})}
    trainer = make_trainer(modality_learning_rates={"text": 0.4}, trainer_kwargs=given)
    with pytest.raises(ValueError, match="Expected the Other to hold parameters of the encoder of 'text'"):
        trainer.create_optimizer()


def test_the_rate_of_a_frozen_encoder(make_trainer):
    with pytest.raises(ValueError, match=r"encoders that are trained, got \['text'\], which are frozen"):
        make_trainer(freeze=["text"], modality_learning_rates={"text": 0.4, "image": 0.1})


# ---- The weights that were applied ----


@pytest.fixture
def imbalanced(make_trainer):
    """A trainer whose prototypes make `image` the slow modality: a = (a, 0) and e = (0, e) with a, e > 0."""

    def make(cls=PMRTrainer, epoch=0.0, **options):
        trainer = make_trainer(cls=cls, **options)
        for name in trainer.prototypes.widths:
            trainer.prototypes.seen(name).fill_(True)
        batch = batch_of(trainer, range(16))
        text = trainer.model.eval()(**batch).embeddings["text"].detach()
        means = torch.stack([text[batch["labels"] == k].mean(0) for k in range(4)])
        trainer.prototypes.mean("text").copy_(100 * (means - means.mean(0)))
        trainer.state.epoch = epoch
        loss = trainer.compute_loss(trainer.model.train(), batch)
        logs = trainer.summarize(trainer.term_sums.totals(trainer.accelerator))
        weights = [logs[f"{name}_{term}"] for term in ("pce_weight", "per_weight") for name in ("image", "text")]
        return weights, loss.item() - logs["ce_loss"]

    return make


@pytest.mark.parametrize(
    ("options", "epoch", "pce", "per"),
    [
        ({}, 0.0, True, True),
        ({"pmr_weights": "hard"}, 0.0, True, True),
        ({"pmr_entropy_epochs": 2}, 1.99, True, True),
        ({"pmr_entropy_epochs": 2}, 2.0, True, False),
        ({"pmr_weights": "hard", "pmr_entropy_epochs": 2}, 2.0, True, False),
        ({"pmr_epochs": 3}, 2.99, True, True),
        ({"pmr_epochs": 3}, 3.0, False, False),
        ({"pmr_epochs": 0}, 0.0, False, False),
        ({"pmr_alpha": 0}, 0.0, False, True),
        ({"pmr_mu": 0}, 0.0, True, False),
        ({"pmr_alpha": 0, "pmr_mu": 0}, 0.0, False, False),
        ({"pmr_alpha": 0, "pmr_entropy_epochs": 2}, 2.0, False, False),
    ],
)
def test_the_logged_weights_are_those_of_the_loss(imbalanced, options, epoch, pce, per):
    unweighted, _ = imbalanced(PrototypeTrainer)
    assert sum(unweighted[:2]) > 0 and sum(unweighted[2:]) > 0
    weights, added = imbalanced(epoch=epoch, **options)
    assert (sum(weights[:2]) > 0, sum(weights[2:]) > 0) == (pce, per)
    assert (added != pytest.approx(0, abs=1e-7)) == (pce or per)
    if options.get("pmr_weights") != "hard":
        assert weights == pytest.approx([w * on for w, on in zip(unweighted, (pce, pce, per, per), strict=True)])


def test_joint_training_logs_the_weights_that_pmr_would_apply(imbalanced):
    weights, added = imbalanced(PrototypeTrainer)
    assert max(weights) > 0 and added == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "entropy", "epochs"),
    [
        ({}, "10", "all"),
        ({"pmr_epochs": 2.5}, "10", "2.5"),
        ({"pmr_mu": 0}, "0", "all"),
        ({"pmr_epochs": 0}, "10", "none, so training was joint"),
        ({"pmr_alpha": 0, "pmr_mu": 0}, "0", "none, so training was joint"),
        ({"pmr_alpha": 0, "pmr_entropy_epochs": 0}, "0", "none, so training was joint"),
    ],
)
def test_the_card_says_how_long_the_terms_were_on(make_args, options, entropy, epochs):
    facts = make_args(**options).hyper_parameters
    assert facts["E_r, epochs of entropy regularisation"] == entropy
    assert facts["epochs with PMR"] == epochs


@pytest.mark.parametrize(
    ("per", "expected"), [({"a": 0.0, "b": 0.4}, True), ({"a": 0.0, "b": 0.0}, False), ({"a": 0.1, "b": 0.4}, False)]
)
def test_one_line_in_the_plot_only_for_equal_weights(per, expected):
    entry = {"a_pce_weight": 0.4, "b_pce_weight": 0.0} | {f"{name}_per_weight": value for name, value in per.items()}
    assert holds_the_other_back(entry, "a", "b") == expected


# ---- Long lists ----


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "[]"),
        (["a"], "['a']"),
        (list("abcdefghij"), str(list("abcdefghij"))),
        (range(5000), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (5000 in all)]"),
        (dict.fromkeys("abcdefghijk"), "['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', ... (11 in all)]"),
    ],
)
def test_long_lists_are_shortened(values, text):
    assert shortened(values) == text


NAMES = [f"class number {i}" for i in range(5000)]


@pytest.mark.parametrize("other", [[*NAMES[:-1], "odd one"], NAMES[::-1]], ids=["another name", "another order"])
def test_different_names_of_many_classes(processor, other):
    rows = [{"picture": "a.png", "caption": "a", "label": 0}]
    sets = {}
    for split, names in {"training": NAMES, "evaluation": other}.items():
        sets[split] = Dataset.from_list(rows).cast_column("label", ClassLabel(names=names))
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"})
    said = r"differing in \['class number 4999', 'odd one'\]" if "odd one" in other else "in different orders"
    with pytest.raises(ValueError, match=f"the same class names in each dataset, .* {said}") as raised:
        check_rows(collator, sets)
    assert len(str(raised.value)) < 1000


def test_many_columns(processor):
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"})
    with pytest.raises(ValueError, match=r"\['label', 'caption'\] are not among .* \(5001 in all\)") as raised:
        collator.check_columns(["picture", *NAMES])
    assert len(str(raised.value)) < 1000


def test_a_label_column_that_lists_many_classes():
    rows = Dataset.from_dict({"label": [[0]], "source_row": ["row 1"]})
    rows = rows.cast_column("label", [ClassLabel(names=NAMES)])
    with pytest.raises(ValueError, match="Expected one label per row in column 'label'") as raised:
        encode_labels({"train": rows}, "label")
    assert len(str(raised.value)) < 300


def test_the_card_names_fifty_classes_at_most():
    config = ViTConfig(num_labels=5000, id2label=dict(enumerate(NAMES)))
    sentence = what_it_does(config, ["image"], 5000)
    assert "into 5000 classes: class number 0, class number 1, " in sentence
    assert sentence.endswith("class number 49, ....") and "class number 50" not in sentence


def test_classes_that_slowly_get_prototypes_give_few_warnings():
    """5,000 classes, of which each refresh finds ten more."""
    messages, before = [], {}
    prototypes = Prototypes({"image": 1, "text": 1}, num_labels=5000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pmr_hf.training.prototype_refresh.logger.warning", messages.append)
        for first in range(0, 5000, 10):
            for name in prototypes.widths:
                prototypes.get_buffer(f"{name}_seen")[first : first + 10] = True
            before = warn_of_unseen_classes(prototypes, dict(enumerate(NAMES)), before, show=True)
    assert 5 <= len(messages) <= 13 and sum(map(len, messages)) < 10_000


@pytest.mark.parametrize("tags", ["mine", ["mine"]])
def test_one_tag_of_a_card(tags):
    run = TrainingRun(AutoConfig.for_model("bert"), ["text"], 2, "", "", {}, [], True)
    data = card_data(run, HubMetadata("name", tags=tags), Results("test", {}, {}))
    assert data.tags[-1] == "mine" and "m" not in data.tags
