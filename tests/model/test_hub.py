"""Pushing and pulling with the real Hub client, against a server on localhost."""

from pathlib import Path

import pytest
import torch
from helpers.hub_server import TOKEN, Hub
from helpers.preloaded import Preloaded
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from pmr_hf import MultimodalModel, MultimodalProcessor, NumericConfig


NAME = "me/digits"

# argv: the model's name or folder, the data's folder, an output folder, the number of epochs
TRAIN = """
import sys
from datasets import load_from_disk
from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor, PMRTrainer, PMRTrainingArguments
from pmr_hf.data.saved_examples import save_examples
name, folder, output, epochs = sys.argv[1:]
model, processor = MultimodalModel.from_pretrained(name), MultimodalProcessor.from_pretrained(name)
args = PMRTrainingArguments(
    output, num_train_epochs=float(epochs), learning_rate=1e-2, eval_strategy="epoch", report_to="none", use_cpu=True,
    disable_tqdm=True, push_to_hub=True, hub_model_id="me/digits", save_strategy="epoch",
)
data = load_from_disk(folder + "/data")
collator = MultimodalCollator(processor, columns={"image": "picture", "text": "caption"}, label="label")
trainer = PMRTrainer(
    model, args, train_dataset=data, eval_dataset=data, processing_class=processor, data_collator=collator
)
trainer.train()
save_examples(output, data.select(range(2)), collator)
trainer.push_to_hub(dataset="digits", license="apache-2.0")
"""
# argv: where to write the logits, "with" or "without" pmr_hf, the folder of the data
PREDICT = """
import sys
output, package, folder = sys.argv[1:]
if package == "with":
    import pmr_hf
else:
    sys.modules["pmr_hf"] = None
import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("me/digits", trust_remote_code=package == "without").eval()
processor = AutoProcessor.from_pretrained("me/digits", trust_remote_code=package == "without")
rows = load_from_disk(folder + "/data")[:16]
with torch.no_grad():
    result = model(**processor(image=rows["picture"], text=rows["caption"]))
save_file({"fused": result.logits, **model.prototypes(result.embeddings)}, output)
"""
PUSH_PARTS = """
import sys
from pmr_hf import MultimodalModel, MultimodalProcessor
MultimodalModel.from_pretrained(sys.argv[1]).push_to_hub("me/digits")
processor = MultimodalProcessor.from_pretrained(sys.argv[1])
processor.push_to_hub("me/processor")
processor.save_pretrained(sys.argv[2])
"""

# argv: the folders of a model of titles and of one of numbers, and that of the fused model
FUSE = """
import sys
from transformers import AutoModelForSequenceClassification
from pmr_hf import MultimodalModel
titles, numbers, output = sys.argv[1:]
AutoModelForSequenceClassification.from_pretrained(titles).push_to_hub("me/titles")
MultimodalModel.from_pretrained(numbers).push_to_hub("me/numbers")
MultimodalModel.from_unimodal({"text": "me/titles", "stats": "me/numbers"}).save_pretrained(output)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Runs code in a process of a user of a Hub. The user of each Hub has one home folder."""
    users = {}

    def run(code, hub, *arguments, token=TOKEN, offline="0"):
        if (hub, offline) not in users:
            home = users[hub, "0"][1] if (hub, "0") in users else tmp_path_factory.mktemp("home")
            settings = {
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(home),
                "HF_MODULES_CACHE": str(home / "modules"),
                "HF_HUB_OFFLINE": offline,
                "HF_HUB_DISABLE_XET": "1",
            }
            # Not the package itself, which one of the users lacks.
            modules = ("transformers.trainer", "transformers.models.auto", "datasets", "timm", "matplotlib.pyplot")
            users[hub, offline] = Preloaded(*modules, **settings), home
        return users[hub, offline][0].run(["-c", code, *arguments], HF_TOKEN=token)

    yield run
    for process, _ in users.values():
        process.close()


@pytest.fixture(scope="module")
def parts(make_model, processor, digits, tmp_path_factory):
    """A folder with an untrained model, its processor and the data."""
    folder = tmp_path_factory.mktemp("parts")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    digits.save_to_disk(folder / "data")
    return folder


@pytest.fixture(scope="module")
def pushed(client, parts, tmp_path_factory):
    """The server after a training run has pushed its model, and the folder of the run."""
    with Hub() as hub:
        output = tmp_path_factory.mktemp("run") / "out"
        run = client(TRAIN, hub, parts, parts, output, 1)
        assert run.returncode == 0, run.stderr
        yield hub, output


def test_a_run_pushes_model_processor_card_and_plot_and_no_pickle_or_example(pushed):
    hub, output = pushed
    files = hub.files[NAME]
    expected = {"config.json", "model.safetensors", "processor_config.json", "README.md", "training_dynamics.png"}
    assert expected | {"image/preprocessor_config.json", "text/tokenizer.json", "modeling.py"} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name]
    assert (output / "_examples" / "0-image.png").is_file() and not [name for name in files if "example" in name]
    assert {name: content for name, content in files.items() if (output / name).read_bytes() != content} == {}
    assert any(request.startswith("PUT /lfs/") and request.count("/") == 3 for request in hub.requests)  # in parts
    assert TOKEN.encode() not in b"".join(files.values())


@pytest.mark.parametrize("package", [pytest.param("with", marks=pytest.mark.slow), "without"])
def test_a_model_pulled_elsewhere_gives_equal_logits(client, pushed, parts, digits, package, tmp_path):
    hub, output = pushed
    run = client(PREDICT, hub, tmp_path / "logits", package, parts)
    assert run.returncode == 0, run.stderr
    model, processor = MultimodalModel.from_pretrained(output).eval(), MultimodalProcessor.from_pretrained(output)
    rows = digits[:16]
    with torch.no_grad():
        result = model(**processor(image=rows["picture"], text=rows["caption"]))
    expected = {"fused": result.logits, **model.prototypes(result.embeddings)}
    found = load_file(tmp_path / "logits")
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    assert model.prototypes.seen("image").all()

    if package == "with":
        return
    requests = len(hub.requests)
    (tmp_path / "logits").unlink()
    run = client(PREDICT, hub, tmp_path / "logits", package, parts, offline="1")
    assert run.returncode == 0, run.stderr
    assert len(hub.requests) == requests and torch.equal(load_file(tmp_path / "logits")["fused"], expected["fused"])


def test_finished_models_are_fused_by_their_names_on_a_hub(client, pushed, tmp_path):
    labels = {"num_labels": 3, "id2label": dict(enumerate(["cat", "dog", "owl"]))}
    titles = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **labels)
    BertForSequenceClassification(titles).save_pretrained(tmp_path / "titles")
    numbers = {"stats": NumericConfig(num_features=2, hidden_size=8)}
    MultimodalModel.from_backbones(numbers, **labels).save_pretrained(tmp_path / "numbers")
    run = client(FUSE, pushed[0], tmp_path / "titles", tmp_path / "numbers", tmp_path / "fused")
    assert run.returncode == 0, run.stderr
    assert {"me/titles", "me/numbers"} <= pushed[0].files.keys()
    local = MultimodalModel.from_unimodal({"text": tmp_path / "titles", "stats": tmp_path / "numbers"})
    found, expected = load_file(tmp_path / "fused" / "model.safetensors"), local.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_a_users_own_text_is_kept_on_the_next_push(client, pushed, parts, tmp_path):
    hub, _ = pushed
    card = hub.files[NAME]["README.md"].decode()
    metadata, body = card.split("\n---\n", 1)
    edited = f"{metadata}\nlanguage: sl\n---\n\nMy words above.\n{body}\nMy words below.\n"
    hub.commit(NAME, {"README.md": edited.encode()})
    run = client(TRAIN, hub, NAME, parts, tmp_path / "again", 2)  # from the model that was pushed
    assert run.returncode == 0, run.stderr
    new = hub.files[NAME]["README.md"].decode()
    assert new.index("My words above.") < new.index("# me/digits") < new.index("My words below.")
    assert new.count("## Results") == 1 and "| epochs | 2 |" in new
    data = ModelCard(new).data
    assert data.language == "sl" and data.license == "apache-2.0"
    assert {result.metric_type for result in data.eval_results} == {"accuracy", "f1"}


def test_a_model_and_a_processor_push_themselves_beside_what_is_there(client, pushed, parts, tmp_path):
    """Also when the upload is cut off once: the client sends it again."""

    def cut_once(method, path):
        if method == "PUT" and not cuts:
            cuts.append(path)
            return "cut"
        return None

    hub, _ = pushed
    before, cuts = dict(hub.files[NAME]), []
    hub.fail = cut_once
    run = client(PUSH_PARTS, hub, parts, tmp_path / "saved")
    hub.fail = None
    assert run.returncode == 0, run.stderr
    assert len(cuts) == 1
    after = hub.files[NAME]
    assert after["model.safetensors"] == (parts / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert before.keys() == after.keys() and after["training_dynamics.png"] == before["training_dynamics.png"]
    processor = {name: content for name, content in hub.files["me/processor"].items() if name != "README.md"}
    assert {"processor_config.json", "image/preprocessor_config.json", "text/tokenizer.json"} <= processor.keys()
    assert [name for name, content in processor.items() if content != (tmp_path / "saved" / name).read_bytes()] == []


PUSH_MODEL = """
import sys
from pmr_hf import MultimodalModel
MultimodalModel.from_pretrained(sys.argv[1]).push_to_hub(sys.argv[2])
"""


def test_a_model_of_a_trained_folder_takes_card_plot_and_processor_along(client, pushed, tmp_path):
    hub, output = pushed
    run = client(PUSH_MODEL, hub, output, "me/copy")
    assert run.returncode == 0, run.stderr
    files = hub.files["me/copy"]
    assert files["training_dynamics.png"] == (output / "training_dynamics.png").read_bytes()
    assert {"model.safetensors", "processor_config.json", "image/preprocessor_config.json", "text/tokenizer.json"} <= (
        files.keys()
    )
    card = ModelCard(files["README.md"].decode())
    assert "# me/copy\n" in card.text and 'AutoModel.from_pretrained("me/copy")' in card.text
    assert card.data.model_name == "me/copy" and NAME not in files["README.md"].decode()
    assert len(card.data.eval_results) == len(ModelCard(hub.files[NAME]["README.md"].decode()).data.eval_results)


@pytest.mark.slow
def test_a_model_alone_says_what_it_is_and_a_trainers_card_takes_the_place(client, parts, tmp_path):
    with Hub() as hub:
        run = client(PUSH_MODEL, hub, parts, NAME)
        assert run.returncode == 0, run.stderr
        card = hub.files[NAME]["README.md"].decode()
        assert "It classifies samples of 2 modalities, image (`vit`), text (`bert`), fused by `concat`" in card
        assert ModelCard(card).data.library_name == "pmr_hf" and "More Information Needed" not in card
        run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1)
        assert run.returncode == 0, run.stderr
        card = hub.files[NAME]["README.md"].decode()
        assert card.count("# me/digits") == card.count("It classifies samples") == card.count("## Results") == 1


@pytest.mark.slow
def test_a_card_that_cannot_be_read_is_not_replaced(client, parts, tmp_path):
    """Not even by an older version in the cache, to which its owner has added text since."""
    with Hub() as hub:
        assert client(TRAIN, hub, parts, parts, tmp_path / "out", 1).returncode == 0
        run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1)  # this run reads the card
        assert run.returncode == 0, run.stderr
        hub.commit(NAME, {"README.md": b"My own words."})
        hub.fail = lambda method, path: 503 if path.endswith("README.md") else None
        run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1)
        assert run.returncode != 0
        assert hub.files[NAME]["README.md"] == b"My own words."


@pytest.mark.slow
def test_an_upload_that_is_cut_off_each_time_loses_nothing(client, parts, tmp_path):
    with Hub() as hub:
        hub.fail = lambda method, path: "cut" if method == "PUT" else None
        run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1)
        assert run.returncode != 0
        assert f"The model is saved in {tmp_path / 'out'}: push again" in run.stderr
    assert MultimodalModel.from_pretrained(tmp_path / "out").prototypes.seen("image").all()


def test_a_wrong_token_stops_before_training(client, pushed, parts, tmp_path):
    """Where the repository does not exist: the Hub client takes one that does for one's own until it pushes."""
    hub, _ = pushed
    kept = hub.files.pop(NAME)
    run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1, token="hf_wrong")
    assert run.returncode != 0 and "Invalid username or password" in run.stderr and "hf_wrong" not in run.stderr
    assert NAME not in hub.files and not (tmp_path / "out" / "checkpoint-8").exists()
    hub.files[NAME] = kept


@pytest.mark.slow
def test_an_error_of_the_server_loses_nothing(client, parts, tmp_path):
    with Hub() as hub:
        hub.fail = lambda method, path: 500 if "/commit/" in path else None
        run = client(TRAIN, hub, parts, parts, tmp_path / "out", 1)
        assert run.returncode != 0
        assert "Expected to push to me/digits, but the upload failed" in run.stderr, run.stderr
        assert f"The model is saved in {tmp_path / 'out'}: push again" in run.stderr
        assert not hub.files[NAME]
    assert MultimodalModel.from_pretrained(tmp_path / "out").prototypes.seen("image").all()


def test_retraining_goes_on_from_the_prototypes(pushed, make_trainer, collator, digits):
    model = MultimodalModel.from_pretrained(pushed[1])
    old = model.prototypes.mean("text").clone()
    digits = digits.select(range(len(digits) // 2))  # other rows than those the saved prototypes are means of
    trainer = make_trainer(model, train_dataset=digits, prototype_fraction=1.0, prototype_momentum=0.25)
    with torch.no_grad():
        embeddings = model.eval()(**collator(list(digits))).embeddings["text"]
    labels = torch.tensor(digits["label"])
    new = torch.stack([embeddings[labels == label].mean(0) for label in range(4)])
    trainer.refresh_prototypes()
    torch.testing.assert_close(model.prototypes.mean("text"), 0.25 * old + 0.75 * new)
    assert (old - new).abs().max() > 0.01


def test_the_pickles_of_a_search_are_not_pushed(make_trainer):
    trainer = make_trainer()
    folder = Path(trainer.args.output_dir)
    for name in ("run-0/checkpoint-8/optimizer.pt", "checkpoint-8/optimizer.pt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"got 1, first run-0/checkpoint-8/optimizer.pt; delete them"):
        trainer.push_to_hub()


def test_a_token_is_in_no_file_and_no_log(make_trainer, capfd, caplog):
    token = "hf_aSecretThatNobodyElseMayRead"
    caplog.set_level("DEBUG")
    trainer = make_trainer(hub_token=token, num_train_epochs=1, save_strategy="epoch", disable_tqdm=False)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(dataset="digits")
    print(trainer.args, trainer.model.config, trainer.args.to_json_string())
    files = [path for path in Path(trainer.args.output_dir).rglob("*") if path.is_file() and path.suffix != ".bin"]
    assert {"README.md", "config.json", "trainer_state.json"} <= {path.name for path in files}
    assert [path for path in files if token.encode() in path.read_bytes()] == []
    output = capfd.readouterr()
    assert token not in output.out + output.err + caplog.text
    assert "hub_token" in output.out  # the arguments were printed
