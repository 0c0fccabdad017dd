"""
One run of pmr_hf for `peers.py`, which starts it: `examples/run_pmr.py` on a table whose columns it infers.

    python benchmarks/peers_pmr_hf.py '{"table": ..., "seed": 0, "epochs": 3, "batch": 32, "folder": ...}'
"""

import json
import runpy
import sys
from pathlib import Path

from peers_clock import Clock


COMMAND = """
# A user writes
accelerate launch examples/run_pmr.py --use_cpu --dataset_name {table} --label_column category --pooling text=mean \
    --backbones image={table}/encoders/efficientnet_lite0 text={table}/encoders/minilm --num_train_epochs {epochs} \
    --per_device_train_batch_size {batch} --seed {seed} --output_dir {folder}/model
# until here
"""


def main() -> None:
    settings = json.loads(sys.argv[1])
    clock = Clock()
    words = COMMAND.format(**settings).split("# until here")[0].split()
    script = words.index("examples/run_pmr.py")
    sys.argv = words[script:]
    runpy.run_path(str(Path(__file__).parents[1] / words[script]), run_name="__main__")
    folder = Path(settings["folder"])
    results = json.loads((folder / "model" / "all_results.json").read_text(encoding="utf-8"))
    clock.write(folder / "run.json", results["test_accuracy"], ["pmr_hf", "torch", "transformers", "timm"])


if __name__ == "__main__":
    main()
