"""The demo: what strangers upload or type opens no file of the machine and no address."""

import json
import time
from http.server import BaseHTTPRequestHandler

import httpx
import numpy as np
import pytest
from helpers.local_server import serving
from helpers.media_files import write_video, write_wav
from helpers.scripts import load_example
from PIL import Image
from transformers import BertConfig, ViTImageProcessor

from pmr_hf import CGMNISTConfig, MultimodalPipeline, MultimodalProcessor, SpectrogramFeatureExtractor
from pmr_hf.data.saved_examples import read_examples


pytestmark = pytest.mark.usefixtures("limited")
SECRET = "digit three seven"  # words of the vocabulary, so that their embedding would differ


class Internal(BaseHTTPRequestHandler):
    """A server that only this machine reaches."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def internal():
    with serving(Internal) as address:
        yield address


@pytest.fixture(scope="module")
def pipe(make_model, processor):
    """A model with a modality of each medium that takes files, and with texts."""
    small = {"size": {"height": 8, "width": 8}}
    text = BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=16
    )
    model = make_model(
        backbones={
            "sound": CGMNISTConfig(num_channels=1),
            "clip": CGMNISTConfig(),
            "photo": CGMNISTConfig(),
            "text": text,
        }
    )
    processors = MultimodalProcessor(
        {
            "sound": SpectrogramFeatureExtractor(seconds=1),
            "clip": ViTImageProcessor(**small),
            "photo": ViTImageProcessor(**small),
            "text": processor.processors["text"],
        },
        num_frames={"clip": 2},
    )
    return MultimodalPipeline(model, processors, missing="fused")


@pytest.fixture(scope="module")
def demo(pipe):
    """The address of the running demo."""
    page = load_example("app").build(pipe, "demo")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield f"{address}gradio_api"
    page.close()


class Refused(Exception):
    """Raised for an answer of the demo that is an error."""


def classify(demo, **given):
    """The answer to a request as an attacker writes it: the scores by class, and what each modality said."""
    values = [*(given.get(name) for name in ("sound", "clip", "photo")), given.get("text", "")]
    event = httpx.post(f"{demo}/call/classify", json={"data": values}).raise_for_status().json()["event_id"]
    with httpx.stream("GET", f"{demo}/call/classify/{event}", timeout=20) as stream:
        kind, data = "".join(stream.iter_text()).strip().split("\n")[-2:]
    if kind != "event: complete":
        raise Refused(data)
    _, scores, said = json.loads(data.removeprefix("data: "))
    return {entry["label"]: entry["confidence"] for entry in scores["confidences"]}, said


def file_at(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def uploaded(demo, path):
    """A file that was uploaded as the browser does it."""
    found = httpx.post(f"{demo}/upload", files={"files": (path.name, path.read_bytes())}).raise_for_status()
    return file_at(found.json()[0])


@pytest.mark.parametrize("field", ["sound", "clip", "photo"])
def test_files_of_the_browser_are_read(demo, field, tmp_path):
    write_wav(tmp_path / "a.wav", np.sin(np.arange(8000) / 9), 8000)
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 5)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    name = {"sound": "a.wav", "clip": "a.mp4", "photo": "a.png"}[field]
    _, said = classify(demo, **{field: uploaded(demo, tmp_path / name)})
    assert said.count("not given") == 3


@pytest.mark.parametrize("field", ["sound", "clip"])
@pytest.mark.parametrize("kind", ["hls", "hls of a file", "ffconcat", "sdp"])
def test_an_uploaded_playlist_opens_nothing(demo, internal, tmp_path, field, kind):
    write_video(tmp_path / "secret.mp4", np.zeros((4, 32, 32, 3), np.uint8), 5, np.zeros(8000))
    secret = tmp_path / "secret.mp4"
    text = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{internal}/segment.ts\n#EXT-X-ENDLIST\n",
        "hls of a file": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    }[kind]
    suffix = {"ffconcat": ".ffconcat", "sdp": ".sdp"}.get(kind, ".m3u8")
    for name in (f"list{suffix}", "list.mp4" if field == "clip" else "list.wav"):
        (tmp_path / name).write_text(text)
        Internal.asked.clear()
        start = time.monotonic()
        with pytest.raises(Refused):
            classify(demo, **{field: uploaded(demo, tmp_path / name)})
        assert time.monotonic() - start < 5 and not Internal.asked


@pytest.mark.parametrize("field", ["sound", "clip", "photo"])
def test_a_path_or_address_in_place_of_an_upload_is_refused(demo, internal, tmp_path, field):
    write_wav(tmp_path / "secret.wav", np.sin(np.arange(8000) / 9), 8000)
    write_video(tmp_path / "secret.mp4", np.zeros((4, 32, 32, 3), np.uint8), 5)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    path = str(tmp_path / {"sound": "secret.wav", "clip": "secret.mp4", "photo": "secret.png"}[field])
    for value in (
        file_at(path),
        file_at(f"file://{path}"),
        file_at(path, url=f"{internal}/secret"),
        file_at(f"{internal}/secret", url=f"{internal}/secret"),
        path,
    ):
        Internal.asked.clear()
        with pytest.raises(Refused):
            classify(demo, **{field: value})
        assert not Internal.asked
    assert httpx.get(f"{demo}/file={path}").status_code in (403, 404)


def test_a_text_that_names_a_file_or_an_address_is_a_text(demo, pipe, internal, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    Internal.asked.clear()
    scores = lambda text: {entry["label"]: entry["score"] for entry in pipe(text=text)}  # noqa: E731
    for text in (str(tmp_path / "secret.txt"), f"file://{tmp_path / 'secret.txt'}", f"{internal}/secret"):
        found = classify(demo, text=text)[0]
        assert found == pytest.approx(scores(text), abs=1e-7) != pytest.approx(scores(SECRET), abs=1e-7)
    assert not Internal.asked


@pytest.fixture
def stranger(tmp_path):
    """A function that writes the examples of a stranger's model folder, beside files that they must not name."""
    for place in (tmp_path, tmp_path / "model" / "_examples"):
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place / "0-photo.png")

    def write(content):
        file = tmp_path / "model" / "_examples" / "examples.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path / "model"

    return write


def test_examples_open_files_of_their_folder_alone(stranger, pipe, internal, tmp_path):
    (read,) = read_examples(stranger([{"photo": "0-photo.png"}]), pipe.processor)
    assert read["photo"].size == (8, 8) and read["sound"] is read["clip"] is read["text"] is None
    (tmp_path / "model" / "_examples" / "1-photo.png").symlink_to(tmp_path / "0-photo.png")
    Internal.asked.clear()
    names = ["../../0-photo.png", str(tmp_path / "0-photo.png"), "1-photo.png", "2-photo.png", "examples.json", "", "."]
    for name in [*names, "0-photo.png\x00", f"file://{tmp_path / '0-photo.png'}", f"{internal}/secret", 3, {"a": 1}]:
        with pytest.raises(ValueError, match="and no links, got"):
            read_examples(stranger([{"photo": name}]), pipe.processor)
    for field in ("clip", "sound"):  # a picture in their place
        with pytest.raises(ValueError, match=r"and no links, got '0-photo.png'"):
            read_examples(stranger([{field: "0-photo.png"}]), pipe.processor)
    assert not Internal.asked


def test_examples_of_another_folder_or_shape_are_refused(stranger, pipe, tmp_path):
    for content in ("{", "[" * 10**5, "{}", [[]], [{"other": "a"}], [{}] * 21, f'["{" " * 2**20}"]', "\x00"):
        with pytest.raises(ValueError, match="to hold a list of at most 20 examples"):
            read_examples(stranger(content), pipe.processor)
    for value in ({"array": [1]}, ["a"], [["a"]]):
        with pytest.raises(ValueError, match=r"Expected examples that can be read in .* is not a text; delete"):
            read_examples(stranger([{"text": value}]), pipe.processor)
    (tmp_path / "model" / "_examples" / "0-photo.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"Expected examples that can be read in .*0-photo.png"):
        read_examples(stranger([{"photo": "0-photo.png"}]), pipe.processor)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "_examples").symlink_to(tmp_path / "model" / "_examples")
    with pytest.raises(ValueError, match=r"and no links, got 'examples.json'"):
        read_examples(tmp_path / "linked", pipe.processor)
    assert read_examples(tmp_path / "nowhere", pipe.processor) == []
