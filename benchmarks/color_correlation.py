"""
Measure how the accuracy on colored-and-gray digits depends on the correlation of colour and class in the test.

    python benchmarks/color_correlation.py outputs/cg_mnist/concat-* --data_dir mnist

The folders are runs of `examples/run_pmr.py` or `examples/benchmark.py`. Runs whose names differ only after the last
hyphen, in the seed, are printed together as mean and standard deviation. Training does not depend on the colours of the
test, but the best epoch was selected on validation digits with the correlation of the run.
"""

import argparse
import re
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor
from pmr_hf.data.cg_mnist import cg_mnist, read_mnist, read_sklearn_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data_dir", help="folder of the raw MNIST files; without it the digits of scikit-learn")
    parser.add_argument("--correlations", nargs="+", type=float, default=[0.0, 0.25, 0.5, 0.75, 1.0])
    args = parser.parse_args()
    digits = read_sklearn_digits() if args.data_dir is None else read_mnist(args.data_dir)
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in tqdm([folder for folder in args.folders if (folder / "model.safetensors").is_file()], unit="run"):
        group, _, seed = folder.name.rpartition("-")
        for correlation in args.correlations:
            test = cg_mnist(digits, correlation, max_train_samples=1, seed=int(re.sub(r"\D", "", seed) or 0))["test"]
            for answer, accuracy in accuracies(folder, test).items():
                found[group, answer][correlation].append(100 * accuracy)
    print("| run | accuracy of | " + " | ".join(f"correlation {value:g}" for value in args.correlations) + " |")
    print("|---" * (len(args.correlations) + 2) + "|")
    for (group, answer), values in found.items():
        cells = []
        for each in values.values():
            spread = f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else ""
            cells.append(f"{statistics.mean(each):.1f}{spread}")
        print(f"| {group} | {answer} | " + " | ".join(cells) + " |")


@torch.inference_mode()
def accuracies(folder: Path, test: Dataset) -> dict[str, float]:
    """Accuracy of the fused answer and of each modality's prototypes."""
    model, processor = MultimodalModel.from_pretrained(folder).eval(), MultimodalProcessor.from_pretrained(folder)
    collator = MultimodalCollator(processor, columns={name: name for name in model.config.modalities}, label="label")
    right: dict[str, int] = defaultdict(int)
    for batch in DataLoader(test, 256, collate_fn=collator):
        output = model(**batch)
        answers = {"fused": output.logits} | {
            f"{name} alone": logits for name, logits in model.prototypes(output.embeddings).items()
        }
        for answer, logits in answers.items():
            right[answer] += int((logits.argmax(1) == batch["labels"]).sum())
    return {answer: count / len(test) for answer, count in right.items()}


if __name__ == "__main__":
    main()
