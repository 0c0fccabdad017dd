"""
One run of AutoGluon for `peers.py`, which starts it with the Python of AutoGluon's environment.

    python benchmarks/peers_autogluon.py '{"table": ..., "seed": 0, "epochs": 3, "batch": 32, "folder": ...}'
"""

import json
import sys
from pathlib import Path

import pandas as pd
import timm
import torch
from autogluon.multimodal import MultiModalPredictor
from peers_clock import Clock
from safetensors.torch import load_file


PREFIX = "timm_model."  # of the weights in a folder of transformers


def timm_folder(encoder: Path, folder: Path) -> Path:
    """Write an encoder that transformers saved as the folder that AutoGluon loads timm's encoders from."""
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    name = config["architecture"]
    folder.mkdir(parents=True)
    facts = {
        "architecture": name,
        "num_features": timm.create_model(name, num_classes=0).num_features,
        "pretrained_cfg": config["pretrained_cfg"],
    }
    (folder / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    weights = {key.removeprefix(PREFIX): value for key, value in load_file(encoder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin")  # the only format that AutoGluon reads here
    return folder


def main() -> None:
    settings = json.loads(sys.argv[1])
    clock = Clock()
    folder, table = Path(settings["folder"]), settings["table"]
    seed, epochs, batch = (settings[name] for name in ("seed", "epochs", "batch"))
    image_encoder = str(timm_folder(Path(table, "encoders", "efficientnet_lite0"), folder / "efficientnet_lite0"))

    # A user writes
    def read(split: str) -> pd.DataFrame:
        rows = pd.read_json(f"{table}/{split}.jsonl", lines=True).drop(columns="keywords")
        return rows.assign(image=f"{table}/" + rows["image"])

    hyperparameters = {
        "model.timm_image.checkpoint_name": image_encoder,
        "model.hf_text.checkpoint_name": f"{table}/encoders/minilm",
        "model.hf_text.pooling_mode": "mean",
        "optim.max_epochs": epochs,
        "env.batch_size": batch,
        "env.per_gpu_batch_size": batch,
        "env.num_workers": 0,
        "env.num_workers_inference": 0,
        "env.num_gpus": 0,
        "env.precision": "32",
    }
    predictor = MultiModalPredictor(label="category", path=f"{folder}/model")
    predictor.fit(
        read("train"),
        tuning_data=read("validation"),
        column_types={"title": "text"},  # titles of two words are categories to it, without an encoder
        hyperparameters=hyperparameters,
        seed=seed,
    )
    accuracy = predictor.evaluate(read("test"), metrics="acc")["acc"]
    # until here
    clock.write(folder / "run.json", accuracy, ["autogluon.multimodal", "torch", "transformers", "timm"])


if __name__ == "__main__":
    main()
