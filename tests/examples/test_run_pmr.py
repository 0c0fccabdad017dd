"""`examples/run_pmr.py`, run as a user runs it: on the digits and on a user's own data."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.digits import WORDS
from helpers.media_files import write_video, write_wav
from helpers.scripts import EXAMPLES, run_example
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import (
    BertConfig,
    BertModel,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    set_seed,
)

from pmr_hf import MultimodalModel, MultimodalProcessor
from pmr_hf.command_line.build import new_encoder
from pmr_hf.command_line.console import LAST_IS_BEST
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.data.cg_mnist import cg_mnist, read_sklearn_digits
from pmr_hf.data.saved_examples import read_examples


def run_pmr(folder, *arguments):
    run = run_example("run_pmr.py", *arguments, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """The first command with two epochs instead of forty. Every other option has its default."""
    folder = tmp_path_factory.mktemp("main_job")
    command = [sys.executable, str(EXAMPLES / "run_pmr.py"), "--num_train_epochs", "2"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    return run.stdout, folder / "outputs" / "digits-concat-pmr"


def test_a_header_then_a_line_for_each_epoch_then_the_table(main_job):
    lines = [line for line in main_job[0].splitlines() if line != LAST_IS_BEST]
    assert [line.split("  ")[0] for line in lines[:6]] == ["data", "gray", "colored", "training", "length", "device"]
    assert lines[0].endswith("digits, 10 classes; rows: 1,212 train, 135 validation, 450 test")
    assert lines[1].endswith(" cg_mnist_gray, 98.8 thousand parameters")
    assert lines[3].split()[1:4] == ["joint", "and", "then"]
    assert lines[4].endswith(" 2 epochs, 38 steps of 64 rows")
    epochs = {"joint": lines[7:11], "pmr": lines[12:16]}
    for method, (title, names, *rows) in epochs.items():
        assert title.startswith(f"{method}: loss in training, accuracy on validation")
        assert names.split() == ["epoch", "loss", "fused", "gray", "colored", "ratio"]
        folder = main_job[1] if method == "pmr" else main_job[1].with_name("digits-concat-pmr-joint")
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        for number, row in enumerate(rows, 1):
            (log,) = [entry for entry in history if "loss" in entry and number - 1 < entry["epoch"] <= number]
            evaluation = next(entry for entry in history if "eval_loss" in entry and entry["step"] == 19 * number)
            fused = "eval_best_answer_accuracy" if method == "pmr" else "eval_accuracy"
            keys = [fused, "eval_gray_prototype_accuracy", "eval_colored_prototype_accuracy"]
            values = [log["loss"], *(evaluation[key] for key in keys), log["gray_score"] / log["colored_score"]]
            assert row.split() == [f"{number}/2", *(f"{value:.3f}" for value in values)]
    assert lines[16] == "" and lines[17].startswith("digits, concat") and len(lines) == 29


def test_a_last_epoch_that_is_the_best_is_named(main_job):
    printed = main_job[0][: main_job[0].index("digits, concat")].split("\npmr: ")
    for text, name in zip(printed, ("digits-concat-pmr-joint", "digits-concat-pmr"), strict=True):
        state = json.loads((main_job[1].with_name(name) / "trainer_state.json").read_text())
        accuracies = [
            entry.get("eval_best_answer_accuracy", entry["eval_accuracy"])
            for entry in state["log_history"]
            if "eval_loss" in entry
        ][:2]  # the last evaluation is of the kept weights
        assert (LAST_IS_BEST in text.splitlines()) == (accuracies[1] > accuracies[0])


def test_run_pmr_prints_a_line_for_joint_training_and_one_for_pmr(main_job):
    table = main_job[0][main_job[0].index("digits, concat") :].splitlines()
    columns = ["test accuracy", "gray alone", "colored alone", "kept epoch", "training time", "answer"]
    assert re.split("  +", table[0])[1:] == columns
    labels = cg_mnist(read_sklearn_digits(), seed=42)
    constant = np.bincount(labels["train"]["label"]).argmax() == np.array(labels["test"]["label"])
    assert table[1].split() == ["most", "frequent", "class", f"{constant.mean():.3f}"]
    assert table[-1] == "saved to outputs/digits-concat-pmr" and len(table) == 12
    for lines, method in zip((table[2:5], table[5:8]), ("joint", "pmr"), strict=True):
        folder = main_job[1] if method == "pmr" else main_job[1].with_name("digits-concat-pmr-joint")
        results = json.loads((folder / "all_results.json").read_text())
        state = json.loads((folder / "trainer_state.json").read_text())
        keys = ("test_accuracy", "test_gray_prototype_accuracy", "test_colored_prototype_accuracy")
        accuracies = [f"{results[key]:.3f}" for key in keys]
        kept = 1 if state["best_model_checkpoint"].endswith("checkpoint-19") else 2
        seconds = f"{results['train_runtime']:.0f}"
        config = json.loads((folder / "config.json").read_text())
        answer = [config["answer"]] if method == "pmr" else []
        assert lines[0].split() == [method, *accuracies, str(kept), "of", "2", seconds, "s", *answer]
        log = next(entry for entry in state["log_history"] if "rho" in entry and entry["epoch"] == kept)
        scores = [log[f"{name}_score"] for name in ("gray", "colored")]
        assert lines[1].split() == ["score", *(f"{score:.3f}" for score in scores)]
        assert lines[2].split() == ["ratio", *(f"{score / min(scores):.2f}" for score in scores)]


def test_the_readme_shows_what_is_printed(main_job):
    """But for the numbers, and the epochs that it leaves out."""
    shown = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").split("```\n")
    (block,) = [part for part in shown if part.startswith("data ")]

    def words(text):
        lines = [" ".join(re.sub(r"\d[\d.,]*", "#", line).split()) for line in text.splitlines()]
        lines = [re.sub("(?<= s )(head|prototypes)$", "<answer>", line) for line in lines]
        return [line for line in lines if line not in ("", "...") and not line.startswith("device")]

    expected = words(main_job[0].replace(f"{LAST_IS_BEST}\n", ""))  # forty epochs are enough
    assert [line for line in words(block) if not line.startswith("#/#")] == [
        line for line in expected if not line.startswith("#/#")
    ]
    assert {line for line in words(block) if line.startswith("#/#")} == {"#/# # # # # #"}


@pytest.mark.slow
def test_accelerate_launch_gives_the_same_models(main_job, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", str(EXAMPLES / "run_pmr.py")]
    command += ["--num_train_epochs", "2"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[:6] == main_job[0].splitlines()[:6], run.stderr
    launched = load_file(tmp_path / "outputs" / "digits-concat-pmr" / "model.safetensors")
    for name, tensor in load_file(main_job[1] / "model.safetensors").items():
        torch.testing.assert_close(launched[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_the_joint_run_is_that_of_the_method_joint(main_job, tmp_path):
    """Neither the recipe nor a random state of PMR's run changes it."""
    run_pmr(tmp_path, "--method", "joint", "--num_train_epochs", "2")
    alone = json.loads((tmp_path / "outputs" / "digits-concat-joint" / "all_results.json").read_text())
    beside = json.loads((main_job[1].with_name("digits-concat-pmr-joint") / "all_results.json").read_text())
    assert alone["test_accuracy"] == beside["test_accuracy"] and alone["train_loss"] == beside["train_loss"]


def test_the_output_folder_holds_everything(main_job):
    folder = main_job[1]
    results = json.loads((folder / "all_results.json").read_text())
    keys = {"test_accuracy", "test_macro_f1", "test_gray_prototype_accuracy", "test_colored_prototype_accuracy"}
    assert keys | {"eval_accuracy", "train_loss", "train_runtime"} <= results.keys()
    assert (folder / "README.md").is_file() and Image.open(folder / "training_dynamics.png").width > 1000
    state = json.loads((folder / "trainer_state.json").read_text())
    # the test split is used once, after the last selection on validation
    kinds = [
        "test" if "test_loss" in entry else "eval"
        for entry in state["log_history"]
        if {"test_loss", "eval_loss"} & entry.keys()
    ]
    assert kinds == ["eval", "eval", "eval", "test"]
    assert state["best_model_checkpoint"] is not None


def test_the_saved_model_gives_the_reported_test_accuracy(main_job):
    folder = main_job[1]
    model, processor = MultimodalModel.from_pretrained(folder).eval(), MultimodalProcessor.from_pretrained(folder)
    test = cg_mnist(read_sklearn_digits(), seed=42)["test"]
    output = model(**processor(gray=test["gray"][:], colored=test["colored"][:]))
    right = [guess == label for guess, label in zip(output.logits.argmax(1).tolist(), test["label"][:], strict=True)]
    results = json.loads((folder / "all_results.json").read_text())
    assert sum(right) / len(right) == pytest.approx(results["test_accuracy"])
    assert model.config.id2label[3] == "three"


def test_four_digits_of_validation_lie_beside_the_model(main_job):
    folder = main_job[1]
    examples = read_examples(folder, MultimodalProcessor.from_pretrained(folder))
    validation = cg_mnist(read_sklearn_digits(), seed=42)["validation"]
    found = [validation["label"][i] for i, row in enumerate(validation) for each in examples if same(row, each)]
    assert len(examples) == 4 == len(set(found))
    assert sum(path.stat().st_size for path in (folder / "_examples").iterdir()) < 10_000


def same(row, example):
    return all(np.array_equal(np.asarray(row[name]), np.asarray(example[name])) for name in ("gray", "colored"))


@pytest.mark.slow
def test_joint_training_and_another_head(tmp_path):
    table = run_pmr(
        tmp_path,
        "--method",
        "joint",
        "--fusion",
        "film",
        "--num_train_epochs",
        "1",
        "--max_train_samples",
        "128",
        "--logging_steps",
        "1",
        "--license",
        "mit",
    )
    assert "digits, film" in table and len(table[table.index("digits, film") :].splitlines()) == 9
    folder = tmp_path / "outputs" / "digits-film-joint"
    results = json.loads((folder / "all_results.json").read_text())
    assert "test_gray_prototype_accuracy" in results and "test_gray_accuracy" not in results
    state = json.loads((folder / "trainer_state.json").read_text())
    entry = next(entry for entry in state["log_history"] if "ce_loss" in entry)
    assert entry["loss"] == pytest.approx(entry["ce_loss"], abs=1e-4)
    assert ModelCard.load(folder / "README.md").data.license == "mit"


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, processor):
    """A user's folder with tables, pictures, sound and encoders. Some samples lack a modality."""
    folder = tmp_path_factory.mktemp("own")
    scans = load_digits(n_class=3)
    for name, rows in {"train": range(60), "test": range(60, 80)}.items():
        lines = []
        for i in rows:
            Image.fromarray((scans.images[i] * 15.9).astype("uint8")).save(folder / f"{i}.png")
            label = int(scans.target[i])
            write_wav(folder / f"{i}.wav", 0.3 * np.sin(np.arange(400 + 10 * i) * (0.1 + 0.2 * label)), 8000)
            lines.append(
                {
                    "scan": f"{i}.png" if i % 7 else None,
                    "title": f"the digit {WORDS[label]}" if i % 5 else "",
                    "speech": f"{i}.wav",
                    "ink": float(scans.data[i].sum()),
                    "top": float(scans.data[i][:8].sum()),
                    "what": WORDS[label],
                }
            )
        pd.DataFrame(lines).to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    vit = ViTModel(ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes))
    bert = BertModel(BertConfig(vocab_size=16, max_position_embeddings=16, **sizes))
    speech = {"conv_dim": [8, 8], "conv_kernel": [8, 4], "conv_stride": [4, 4], "num_feat_extract_layers": 2}
    wav2vec2 = Wav2Vec2Model(Wav2Vec2Config(**speech, **sizes, num_conv_pos_embeddings=4, mask_time_prob=0.0))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16000)
    tools = {"vit": processor.processors["image"], "bert": processor.processors["text"], "wav2vec2": extractor}
    for name, model in {"vit": vit, "bert": bert, "wav2vec2": wav2vec2}.items():
        model.save_pretrained(folder / "encoders" / name)
        tools[name].save_pretrained(folder / "encoders" / name)
    return folder


def own_run(folder, data, *more):
    encoders = data / "encoders"
    return run_pmr(
        folder,
        *("--dataset_name", str(data), "--label_column", "what"),
        *("--columns", "image=scan", "text=title", "audio=speech", "stats=ink,top"),
        "--backbones",
        *(f"image={encoders / 'vit'}", f"text={encoders / 'bert'}", f"audio={encoders / 'wav2vec2'}", "stats=numbers"),
        *("--pooling", "text=mean", "--embedding_dim", "8", "--fusion", "gated", "--learning_rate", "1e-2"),
        *("--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--use_cpu", *more),
    )


def test_a_dataset_of_ones_own_cached_and_on_the_fly(own_data, tmp_path):
    outputs = {}
    for preprocess in ("on_the_fly", "cached"):
        folder = tmp_path / preprocess
        workers = ("--dataloader_num_workers", "1") if preprocess == "on_the_fly" else ()
        more = ("--save_examples", "2") if preprocess == "cached" else ()
        table = own_run(tmp_path, own_data, "--preprocess", preprocess, "--output_dir", str(folder), *workers, *more)
        for name in ("test accuracy", "image alone", "text alone", "audio alone", "stats alone"):
            assert f"  {name}  " in table
        outputs[preprocess] = load_file(folder / "model.safetensors")
    for name, tensor in outputs["cached"].items():
        assert torch.equal(tensor, outputs["on_the_fly"][name]), name

    model = MultimodalModel.from_pretrained(tmp_path / "cached").eval()
    assert model.config.id2label == {0: "one", 1: "two", 2: "zero"} and model.config.pooling["text"] == "mean"
    processor = MultimodalProcessor.from_pretrained(tmp_path / "cached")
    assert not (tmp_path / "on_the_fly" / "_examples").exists()  # a user's rows are not copied unasked
    assert [list(each) for each in read_examples(tmp_path / "cached", processor)] == [list(model.config.modalities)] * 2
    rows = [json.loads(line) for line in (own_data / "test.jsonl").read_text().splitlines()]
    batch = processor(
        image=[row["scan"] and str(own_data / row["scan"]) for row in rows],
        text=[row["title"] for row in rows],
        audio=[str(own_data / row["speech"]) for row in rows],
        stats=[[row["ink"], row["top"]] for row in rows],
    )
    guesses = [model.config.id2label[i] for i in model(**batch).logits.argmax(1).tolist()]
    right = sum(guess == row["what"] for guess, row in zip(guesses, rows, strict=True))
    results = json.loads((tmp_path / "cached" / "all_results.json").read_text())
    assert right / len(rows) == pytest.approx(results["test_accuracy"])
    mean = pd.read_json(own_data / "train.jsonl", lines=True)["ink"].mean()
    assert processor.processors["stats"].mean[0] == pytest.approx(mean, rel=0.02)  # from the training rows only


INFERRED = {"image": "vit", "text": "bert", "audio": "wav2vec2"}


def test_only_a_table_its_label_and_encoders(own_data, tmp_path):
    """The columns are inferred. Their modalities, kinds and encoders are those of the saved model."""
    tables = []
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (own_data / f"{name}.jsonl").read_text().splitlines()]
        frame = pd.DataFrame(rows)
        frame["id"], frame["style"] = range(len(rows)), [["thin", "bold", "old"][i % 3] for i in range(len(rows))]
        frame["note"] = [f"scan {i} of the digit {row['what']}" for i, row in enumerate(rows)]
        tables += [f"--{name}_file", str(own_data / f"all_{name}.csv")]
        frame.to_csv(tables[-1], index=False)
    printed = run_pmr(
        tmp_path,
        *(*tables, "--label_column", "what", "--use_cpu", "--output_dir", "out", "--learning_rate", "1e-2"),
        *("--backbones", *(f"{kind}={own_data / 'encoders' / encoder}" for kind, encoder in INFERRED.items())),
        *("--per_device_train_batch_size", "8", "--num_train_epochs", "1"),
    )
    lines = {line.split()[0]: line.split()[1:3] for line in printed[printed.index("column") :].splitlines()[1:9]}
    assert lines == {
        "scan": ["image", "image"],
        "title": ["left", "out"],  # it names the label
        "speech": ["audio", "audio"],
        "ink": ["number", "tabular"],
        "top": ["number", "tabular"],
        "id": ["left", "out"],
        "style": ["category", "tabular"],
        "note": ["text", "text"],
    }
    processor = MultimodalProcessor.from_pretrained(tmp_path / "out")
    assert list(processor.processors) == ["image", "audio", "tabular", "text"]
    assert processor.processors["tabular"].columns == ["ink", "top", "style"]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert "test_tabular_prototype_accuracy" in results and printed.count("left out") == 2


@pytest.mark.slow
def test_a_table_of_one_modality_is_trained(tmp_path):
    """With the method's own terms, of which PMR's are 0."""
    lines = [f"{i % 3 + i % 2 / 4},{i % 5},{'abc'[i % 3]}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y,label", *lines]), encoding="utf-8")
    command = ["run_pmr.py", "--train_file", "a.csv", "--output_dir", "out"]
    command += ["--use_cpu", "--save_strategy", "no", "--load_best_model_at_end", "False", "--eval_strategy", "no"]
    run = run_example(*command, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "One modality, 'tabular': there is nothing to rebalance." in run.stderr
    assert "54 training rows make 2 steps in an epoch: training takes 40 epochs, 80 steps." in run.stderr
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["epoch"] == 40 and results["eval_accuracy"] == 1


@pytest.mark.slow
def test_a_mistake_on_the_command_line_stops_with_a_sentence(own_data, tmp_path):
    for arguments, message in [
        (["--columns", "image"], "Expected --columns as modality=value, got ['image']"),
        (
            ["--columns", "image=scan", "--backbones", "sound=x", "--label_column", "what"],
            "got ['sound'] too; correct these names, or name their columns with --columns.",
        ),
        (
            ["--columns", "stats=title", "--backbones", "stats=numbers", "--label_column", "what"],
            "Expected numbers in train.jsonl, row 2, column 'title', but 'the digit",
        ),
        (
            ["--columns", "stats=inc", "--backbones", "stats=numbers", "--label_column", "what"],
            "['inc'] are not among",
        ),
    ]:
        run = run_example("run_pmr.py", "--dataset_name", own_data, *arguments, cwd=tmp_path)
        assert run.returncode != 0 and message in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(("name", "frames", "width"), [("crema_d", 3, 299), ("ave", 4, 1004)])
def test_the_papers_audio_visual_setting(name, frames, width, tmp_path):
    """A clip on disk becomes spectrograms and frames of the paper's sizes, which go through its encoders."""
    args = ScriptArguments(dataset=name, data_dir=str(tmp_path))
    write_video(tmp_path / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8), 5, wave=np.sin(np.arange(32000) / 9))
    encoders = {modality: new_encoder(modality, args, None) for modality in args.columns}
    processor = MultimodalProcessor({key: value[1] for key, value in encoders.items()}, num_frames=args.num_frames)
    model = MultimodalModel.from_backbones({key: value[0] for key, value in encoders.items()}, num_labels=6).eval()
    clips = [str(tmp_path / "a.mp4")] * 2
    batch = processor(audio=clips, visual=clips)
    assert batch["audio"]["pixel_values"].shape == (2, 1, 257, width)
    assert batch["visual"]["pixel_values"].shape == (2, frames, 3, 224, 224)
    assert model.prototypes.widths == {"audio": 512, "visual": 512}
    assert model(**batch).logits.shape == (2, 6)
