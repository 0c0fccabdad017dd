"""
Load model folders of an attacker in a process with a limit of memory, and print what happens: for each attack its
name, the seconds that it took, and the error.
"""

import json
import resource
import sys
import time
from pathlib import Path


def set_config(**changes):
    """Change the config of the encoder."""
    return lambda folder: edit(folder / "config.json", lambda file: file["backbones"]["m"].update(changes))


def replace_config(**config):
    """Put another encoder in its place."""

    def change(folder):
        edit(folder / "config.json", lambda file: file["backbones"].update(m=config))

    return change


def set_top(**changes):
    return lambda folder: edit(folder / "config.json", lambda file: file.update(changes))


def set_lora(**settings):
    return set_top(lora={"m": settings})


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


MANY = 10**9
REPEATED = "(a+)+$"  # a regular expression that takes exponential time
ATTACKS = {
    "layers": set_config(num_hidden_layers=MANY),
    "layers as a float": set_config(num_hidden_layers=1e9),
    "modules": set_config(num_hidden_layers=499),
    "vocabulary": set_config(vocab_size=MANY),
    "width": set_config(hidden_size=10**6),
    "inner width": set_config(intermediate_size=10**12),
    "positions": set_config(max_position_embeddings=10**18),
    "no heads": set_config(num_attention_heads=0),
    "layers of another class": replace_config(model_type="modernbert", num_hidden_layers=MANY),
    "depths": replace_config(model_type="resnet", depths=[10**8, 1, 1, 1]),
    "window": replace_config(model_type="swin", window_size=10**4),
    "picture": replace_config(model_type="vit", image_size=10**6),
    "patch of nothing": replace_config(model_type="vit", patch_size=0),
    "convolutions": replace_config(
        model_type="wav2vec2", conv_dim=[8] * 30_000, conv_stride=[1] * 30_000, conv_kernel=[1] * 30_000
    ),
    "own width": replace_config(model_type="pmr_numeric", hidden_size=10**7),
    "own layers": replace_config(model_type="pmr_numeric", num_hidden_layers=MANY),
    "own channels": replace_config(model_type="cg_mnist", num_channels=10**10),
    "timm's depth": replace_config(
        model_type="timm_wrapper", architecture="vit_tiny_patch16_224", model_args={"depth": MANY}
    ),
    "timm's file": replace_config(
        model_type="timm_wrapper", architecture="resnet18", model_args={"checkpoint_path": "/etc/passwd"}
    ),
    "timm's folder": replace_config(model_type="timm_wrapper", architecture="local-dir:/etc"),
    "modalities": set_top(
        backbones={f"m{i}": {"model_type": "pmr_numeric"} for i in range(10**5)},
        modalities=[f"m{i}" for i in range(10**5)],
        pooling="auto",
    ),
    "embedding_dim": set_top(embedding_dim=MANY),
    "lora: rank": set_lora(r=MANY),
    "lora: NaN": set_lora(lora_alpha=float("nan")),
    "lora: ranks": set_lora(rank_pattern={"query": MANY}),
    "lora: pattern of ranks": set_lora(rank_pattern={REPEATED: 2}),
    "lora: pattern of alphas": set_lora(alpha_pattern={REPEATED: 2}),
    "lora: infinite alpha": set_lora(alpha_pattern={"query": float("inf")}),
    "lora: pattern of modules": set_lora(target_modules=REPEATED),
    "lora: pattern of layers": set_lora(layers_pattern=[REPEATED], layers_to_transform=[0]),
    "lora: layers": set_lora(layer_replication=[[0, MANY]]),
    "lora: iterations": set_lora(init_lora_weights=f"pissa_niter_{MANY}"),
    "lora: import": set_lora(megatron_config={}, megatron_core="this"),
    "lora: a list": set_top(lora={"m": [8]}),
}


def main(memory, work):
    # Imported before the limit, which counts the code of torch too
    from transformers import BertConfig

    from pmr_hf import MultimodalModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = BertConfig(vocab_size=16, max_position_embeddings=16, **sizes)
    model = MultimodalModel.from_backbones({"m": encoder}, num_labels=2)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for name, attack in {"none": lambda folder: None, **ATTACKS}.items():
        folder = work / name.replace(" ", "_")
        model.save_pretrained(folder)
        attack(folder)
        start, error = time.monotonic(), None
        try:
            MultimodalModel.from_pretrained(folder)
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
        print(json.dumps([name, time.monotonic() - start, error]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
