"""
Compare PMR with the methods beside it, under one protocol: every method, fusion head and seed that you name.

    python examples/benchmark.py --methods joint pmr unimodal --seeds 0 1 2              # digits of scikit-learn
    python examples/benchmark.py --dataset cg_mnist --data_dir mnist --methods joint pmr \\
        --fusions concat sum film gated --learning_rates 1e-2 3e-2 --output_dir outputs/cg_mnist
    python examples/benchmark.py --methods pmr --vary pmr_alpha 0.5 1 2 4                # an ablation

Each run is one of `examples/run_pmr.py`, and every argument that is not listed by --help goes there. The learning rate
of each method is the one of the grid with the best validation accuracy on the first seed; the best epoch is chosen on
validation; the test is touched once, by the runs at the chosen rate. A run that is finished is not run again, and one
that was stopped goes on where it was: start the same command again.

In the folder of the output: `results.jsonl`, a line for each run, `results.md`, the table, and plots.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmark_report import write_report
from datasets import Dataset
from run_pmr import ScriptArguments, load_data, parse_arguments
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor
from pmr_hf.losses import true_class_probability
from pmr_hf.shapley import shapley_values


# Each method by the arguments of run_pmr.py; `unimodal` is a run for each modality alone.
METHODS = {
    "unimodal": ["--method", "joint"],
    "joint": ["--method", "joint"],
    "dropout": ["--method", "joint", "--modality_dropout", "0.3"],
    "pmr": ["--method", "pmr"],
    "pmr_without_per": ["--method", "pmr", "--pmr_mu", "0"],
    "pmr_hard": ["--method", "pmr", "--pmr_weights", "hard"],
    "pmr_dropout": ["--method", "pmr", "--modality_dropout", "0.3"],  # ours
    "acc": ["--method", "acc"],
    "ogm": ["--method", "ogm"],
    "ogm_ge": ["--method", "ogm", "--ogm_noise", "True"],
    "agm": ["--method", "agm"],
    "gblend": ["--method", "gblend"],
    "mmpareto": ["--method", "mmpareto"],
}
PROBE_ROWS = 10_000  # training rows that a linear probe is fitted to


class Cell(NamedTuple):
    """One run: a method on a fusion head, with a learning rate and a seed."""

    method: str
    fusion: str
    rate: str | None  # as it was given; that of run_pmr.py if `None`
    seed: int
    modality: str | None = None  # of `unimodal`
    setting: tuple[str, str] | None = None  # an argument that is varied, and its value

    @property
    def name(self) -> str:
        rate = None if self.rate is None else f"lr{self.rate}"
        setting = None if self.setting is None else "=".join(self.setting)
        parts = (self.fusion, self.method, self.modality, setting, rate, f"seed{self.seed}")
        return "-".join(part for part in parts if part is not None)

    @property
    def arguments(self) -> list[str]:
        arguments = ["--fusion", self.fusion, "--seed", str(self.seed), *METHODS[self.method]]
        arguments += [] if self.modality is None else ["--modalities", self.modality]
        arguments += [] if self.setting is None else [f"--{self.setting[0]}", self.setting[1]]
        return arguments + ([] if self.rate is None else ["--learning_rate", self.rate])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--methods", nargs="+", default=["joint", "pmr"], choices=list(METHODS))
    parser.add_argument("--fusions", nargs="+", default=["concat"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learning_rates", nargs="+", help="the grid, the same for all; by default run_pmr.py's rate")
    parser.add_argument("--vary", nargs="+", metavar=("ARGUMENT", "VALUE"), help="an argument of run_pmr.py and values")
    parser.add_argument("--output_dir", type=Path, help="by default outputs/benchmark and the name of the data")
    parser.add_argument("--only_report", action="store_true", help="run nothing, write table and plots anew")
    args, shared = parser.parse_known_args()
    if args.vary is not None and len(args.vary) < 2:
        parser.error(f"expected an argument and at least one value in --vary, got {args.vary}")
    script_args, _ = parse_arguments([*shared, "--output_dir", "unused"])
    folder = args.output_dir or Path("outputs") / f"benchmark-{script_args.data_name.replace('/', '-')}"

    chosen = []
    for group in groups_of(args, list(script_args.columns)):
        first = [group._replace(rate=rate, seed=args.seeds[0]) for rate in args.learning_rates or [None]]
        accuracies = [trained(cell, folder, shared, args.only_report).get("eval_accuracy", -1.0) for cell in first]
        best = first[int(np.argmax(accuracies))]  # the first of equals
        for seed in args.seeds:
            cell = best._replace(seed=seed)
            if trained(cell, folder, shared, args.only_report):
                chosen.append(measured(cell, folder, shared, args.only_report))
                write_report(folder, [result for result in chosen if result])


def groups_of(args: argparse.Namespace, modalities: list[str]) -> list[Cell]:
    """The cells of the command, but for learning rates and seeds, those of one method after the other."""
    settings = [None] if args.vary is None else [(args.vary[0], value) for value in args.vary[1:]]
    groups = []
    for method in args.methods:
        if method == "unimodal":  # no fusion, and nothing of a method to vary
            groups += [Cell(method, "concat", None, 0, modality=name) for name in modalities]
        else:
            groups += [
                Cell(method, fusion, None, 0, setting=setting) for fusion in args.fusions for setting in settings
            ]
    return groups


def trained(cell: Cell, folder: Path, shared: list[str], only_report: bool) -> dict[str, Any]:
    """What training and validation of a cell gave; runs it if that is not known yet."""
    out = folder / cell.name
    arguments = [*shared, *cell.arguments]
    file = out / "trained.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["arguments"] != arguments:
            raise ValueError(
                f"Expected the run in {out} to be of the arguments {arguments}, but it is of {found['arguments']}; "
                "give another --output_dir."
            )
        return found
    if only_report:
        return {}
    out.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).parent / "run_pmr.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", str(script), *arguments]
    command += ["--output_dir", str(out), "--do_predict", "False", "--resume_from_checkpoint", "True"]
    print(f"{cell.name}: training, see {out / 'log.txt'}", flush=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        code = subprocess.run([*command, "--disable_tqdm", "True"], stdout=log, stderr=subprocess.STDOUT).returncode
    if code != 0:
        lines = (out / "log.txt").read_text(encoding="utf-8").splitlines()
        said = next((line for line in reversed(lines) if "Error" in line), "")
        raise RuntimeError(f"Expected {cell.name} to train, but it ended with code {code} ({said}); see its log.txt.")
    results = json.loads((out / "all_results.json").read_text(encoding="utf-8"))
    found = {"arguments": arguments} | results
    write_json(file, found)
    return found


def measured(cell: Cell, folder: Path, shared: list[str], only_report: bool) -> dict[str, Any]:
    """All that is reported of a trained cell; its test split is read here, once."""
    out = folder / cell.name
    file = out / "result.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    if only_report:
        return {}
    print(f"{cell.name}: measuring", flush=True)
    train = trained(cell, folder, shared, only_report)
    script_args, training_args = parse_arguments([*shared, *cell.arguments, "--output_dir", str(out)])
    model = MultimodalModel.from_pretrained(out).to(training_args.device).eval()
    processor = MultimodalProcessor.from_pretrained(out)
    data = load_data(script_args, processor, cell.seed)
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    result: dict[str, Any] = {
        "name": cell.name,
        "data": script_args.data_name,
        "method": cell.method if cell.modality is None else f"{cell.method}: {cell.modality}",
        "setting": None if cell.setting is None else "=".join(cell.setting),
        "fusion": cell.fusion,
        "seed": cell.seed,
        "learning_rate": training_args.learning_rate,
        "epochs": training_args.num_train_epochs,
        "arguments": shared,
        "train_samples": len(data["train"]),
        "train_seconds": train["train_seconds"] if train["train_resumed"] == 0 else None,
        "peak_memory_mib": train["train_peak_memory_mib"],
        "eval_accuracy": train["eval_accuracy"],
        "rho": next((entry["rho"] for entry in reversed(history) if "rho" in entry), None),
    }
    result |= measure(model, processor, data, script_args, training_args.per_device_eval_batch_size, cell.seed)
    write_json(file, result)
    return result


def write_json(file: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, so that what is there is whole."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, file)


@torch.inference_mode()
def measure(
    model: MultimodalModel,
    processor: MultimodalProcessor,
    data: dict[str, Dataset],
    script_args: ScriptArguments,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """
    Test accuracy and macro F1, fused, and of each modality m `m_prototype_accuracy`, `m_head_accuracy` where the head
    splits, `m_probe_accuracy` (logistic regression on its embeddings) and `m_share`, its mean Shapley value for the
    probability of the true class by the fused head. The split is the test if there is one, else the validation.
    """
    split = "test" if "test" in data else "validation"
    collator = MultimodalCollator(
        processor, columns=script_args.columns, label=script_args.label_column, on_error=script_args.on_error
    )
    train = data["train"].shuffle(seed=seed).select(range(min(PROBE_ROWS, len(data["train"]))))
    fitted = embed(model, train, collator, batch_size, "Embedding training rows")
    tested = embed(model, data[split], collator, batch_size, f"Embedding {split} rows")
    embeddings, present, labels = tested
    logits = model.fuse(embeddings, present)
    guesses = logits.argmax(1)
    result = {
        "split": split,
        "test_accuracy": share_right(guesses, labels),
        "test_macro_f1": f1_score(labels.cpu(), guesses.cpu(), average="macro", zero_division=0),
    }
    alone = model.prototypes(embeddings)
    slices = model.modality_logits(embeddings, present) if model.fusion.splits_by_modality else {}
    names = list(embeddings)
    if len(names) == 1:  # all that is fused is this modality
        slices = {}

    def true_class_score(taking_part: tuple[bool, ...]) -> torch.Tensor:
        some = {name: present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
        return true_class_probability(model.fuse(embeddings, some), labels)

    shares = shapley_values(true_class_score, len(names)).mean(1)
    for name, share in zip(names, shares.tolist(), strict=True):
        has = present[name]
        result[f"{name}_prototype_accuracy"] = share_right(alone[name].argmax(1)[has], labels[has])
        if name in slices:
            result[f"{name}_head_accuracy"] = share_right(slices[name].argmax(1)[has], labels[has])
        seen = fitted[1][name].cpu()
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(fitted[0][name].float().cpu().numpy()[seen], fitted[2].cpu().numpy()[seen])
        rows = has.cpu()
        result[f"{name}_probe_accuracy"] = probe.score(
            embeddings[name].float().cpu().numpy()[rows], labels.cpu().numpy()[rows]
        )
        if len(names) > 1:
            result[f"{name}_share"] = share
    return result


def embed(
    model: MultimodalModel, rows: Dataset, collator: MultimodalCollator, batch_size: int, description: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Embeddings (N, D_m) and presence (N,) by modality, and labels (N,), of all rows."""
    embeddings: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    present: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    labels = []
    for batch in tqdm(DataLoader(rows, batch_size, collate_fn=collator), desc=description, leave=False):
        labels.append(batch.pop("labels").to(model.device))
        output = model(**{name: {key: v.to(model.device) for key, v in part.items()} for name, part in batch.items()})
        full = torch.ones_like(labels[-1], dtype=torch.bool)
        for name, embedding in output.embeddings.items():
            embeddings[name].append(embedding)
            present[name].append(full if output.present is None else output.present[name])
    return (
        {name: torch.cat(parts) for name, parts in embeddings.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
        torch.cat(labels),
    )


def share_right(guesses: torch.Tensor, labels: torch.Tensor) -> float:
    return (guesses == labels).double().mean().item()


if __name__ == "__main__":
    main()
