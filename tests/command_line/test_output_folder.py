"""The default output folder, and a folder with the model of another run."""

import json
import sys

import pytest
from helpers.scripts import load_example

from pmr_hf.command_line.output_folder import take_folder
from pmr_hf.command_line.parse_arguments import parse_arguments


WRITTEN = ("model.safetensors", "config.json", "all_results.json", "test_results.json", "trainer_state.json")
PROCESSOR = {"modalities": {"gray": "image", "text": "text"}}


def parsed(*arguments):
    return parse_arguments(["--use_cpu", *arguments])


def take(*arguments):
    script_args, training_args = parsed(*arguments)
    take_folder(training_args, script_args.overwrite_output_dir)


@pytest.fixture
def trained(tmp_path):
    """A folder with what a run has written, a card, and files of the user."""
    for name in (
        *WRITTEN,
        "README.md",
        "notes.json",
        "data/a.csv",
        "gray/a.json",
        "text/a.json",
        "checkpoint-3/a.pt",
        "_examples/a",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "processor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path


def test_default_names_differ_by_table_seed_fusion_and_method(tmp_path):
    names = []
    for folder in ("posts", "reviews"):
        (tmp_path / folder).mkdir()
        table = tmp_path / folder / "train.csv"
        table.write_text("text,label\n")
        own = ["--train_file", str(table), "--columns", "text=text", "--backbones", "text=a"]
        names += [parsed(*own, *more)[1].output_dir for more in ([], ["--seed", "3"], ["--fusion", "sum"])]
    names += [parsed(*more)[1].output_dir for more in ([], ["--seed=3"], ["--method", "joint"])]
    assert len(set(names)) == 9
    assert names[:2] == ["outputs/posts-train-concat-pmr", "outputs/posts-train-concat-pmr-seed3"]
    assert names[6:8] == ["outputs/digits-concat-pmr", "outputs/digits-concat-pmr-seed3"]


def test_a_folder_has_its_whole_name(tmp_path, monkeypatch):
    own = ["--columns", "text=text", "--backbones", "text=a", "--label_column", "label"]
    for name in ("ds.v1", "ds.v2"):
        (tmp_path / name).mkdir()
        assert parsed("--dataset_name", str(tmp_path / name), *own)[0].data_name == name
    monkeypatch.chdir(tmp_path / "ds.v1")
    assert parsed("--dataset_name", ".", *own)[0].data_name == "ds.v1"


@pytest.mark.parametrize("name", [*WRITTEN[::2][:2], "model-00001-of-00002.safetensors", "adapter_model.safetensors"])
def test_the_model_or_results_of_another_run_are_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"got .* with {name}; give another --output_dir, --overwrite_output_dir"):
        take("--output_dir", str(tmp_path))
    take("--output_dir", str(tmp_path), "--resume_from_checkpoint", "True")
    assert (tmp_path / name).exists()


def test_the_checkpoints_of_a_stopped_run_are_refused(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match=r"got .* with checkpoint-3; .* --resume_from_checkpoint True to continue"):
        take("--output_dir", str(tmp_path))
    take("--output_dir", str(tmp_path), "--resume_from_checkpoint", "True")
    assert (tmp_path / "checkpoint-3").exists()
    take("--output_dir", str(tmp_path), "--overwrite_output_dir")
    assert not (tmp_path / "checkpoint-3").exists()


@pytest.mark.parametrize("name", ["event_localisation", "intermediate_fusion"])
def test_the_scripts_of_other_models_have_folders_of_their_own(tmp_path, monkeypatch, name):
    module = load_example(name)
    monkeypatch.chdir(tmp_path)
    fusion = "-mmtm" if name == "intermediate_fusion" else ""
    folder = tmp_path / "outputs" / f"{name}-digits{fusion}-joint-seed3"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("{}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--use_cpu", "--method", "joint", "--seed", "3"])
    with pytest.raises(ValueError, match=f"got outputs/{folder.name} with model.safetensors; give another"):
        module.main()


def test_an_empty_folder_and_a_users_files_are_no_models(tmp_path):
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    take("--output_dir", str(tmp_path))
    take("--output_dir", str(tmp_path / "none"))


def test_overwriting_removes_what_a_run_has_written_and_nothing_else(trained):
    take("--output_dir", str(trained), "--overwrite_output_dir")
    assert {str(path.relative_to(trained)) for path in trained.rglob("*")} == {
        "README.md",
        "notes.json",
        "data",
        "data/a.csv",
    }


def test_the_script_asks_before_it_trains(trained, monkeypatch):
    module = load_example("run_pmr")
    monkeypatch.setattr(sys, "argv", ["run_pmr.py", "--use_cpu", "--output_dir", str(trained)])
    with pytest.raises(ValueError, match="Expected an output folder without the model or checkpoints of another run"):
        module.main()
