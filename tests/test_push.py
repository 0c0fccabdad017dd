"""Pushing a processor with the real Hub client to a small server on loopback."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Hub(BaseHTTPRequestHandler):
    """The few calls that the client makes to commit small files; it keeps what it is sent in `server.files`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.server.repository = json.loads(body)
            return self.answer({"url": f"{self.server.url}/me/processor", "id": "me/processor"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/models/me/processor/preupload/main":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if self.path.startswith("/api/models/me/processor/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/me/processor"})
        return self.answer({"error": f"unexpected {self.path}"}, status=404)

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.files = f"http://127.0.0.1:{server.server_port}", {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_processor_is_pushed_whole(hub, processor, tmp_path):
    processor.save_pretrained(tmp_path / "first")
    code = f"""
from pmr_hf import MultimodalProcessor
processor = MultimodalProcessor.from_pretrained({str(tmp_path / "first")!r})
processor.push_to_hub("me/processor")
processor.save_pretrained({str(tmp_path / "second")!r})
"""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert hub.repository["name"] == "processor"
    folder = tmp_path / "second"
    saved = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {"processor_config.json", "image/preprocessor_config.json", "text/tokenizer.json"} <= saved.keys()
    assert {name: content for name, content in hub.files.items() if name != "README.md"} == saved


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
