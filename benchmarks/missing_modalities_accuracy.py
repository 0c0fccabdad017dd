"""
Compare two answers for samples that lack modalities: the fusion head's, and the product of prototype classifiers.

    python benchmarks/prepare_six_views.py six_views
    python benchmarks/missing_modalities_accuracy.py six_views

PMR trains on six feature views of real digits, with and without `modality_dropout`, with three seeds. A default can be
chosen on the validation split, a tenth of the training rows; the test split is for the table. The script prints the
accuracy by the number of views that are present: the mean over all sets of so many views, with the standard deviation
over the seeds.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import PrinterCallback, set_seed

from pmr_hf import (
    MultimodalCollator,
    MultimodalModel,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    PMRTrainer,
    PMRTrainingArguments,
)
from pmr_hf.data.tables import load_table


VIEWS = ["fac", "fou", "kar", "mor", "pix", "zer"]
DROPOUTS = (0.0, 0.3)
SEEDS = (0, 1, 2)


def train(data, dropout: float, seed: int) -> tuple[MultimodalModel, MultimodalProcessor]:
    processors = {view: NumericProcessor.fit(data["train"][view]) for view in VIEWS}
    set_seed(seed)
    backbones = {view: NumericConfig(num_features=len(processors[view].mean)) for view in VIEWS}
    model = MultimodalModel.from_backbones(backbones, num_labels=10, modality_dropout=dropout)
    processor = MultimodalProcessor(processors)
    with tempfile.TemporaryDirectory() as folder:
        args = PMRTrainingArguments(
            folder,
            num_train_epochs=20,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        collator = MultimodalCollator(processor, columns={view: view for view in VIEWS}, label="digit")
        trainer = PMRTrainer(
            model, args, train_dataset=data["train"], processing_class=processor, data_collator=collator
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model, processor


def accuracies(pipe: MultimodalPipeline, rows) -> dict[int, float]:
    """Mean accuracy over all sets of views, by the number of views in the set."""
    found: dict[int, list[float]] = {}
    for count in range(1, len(VIEWS) + 1):
        for views in itertools.combinations(VIEWS, count):
            results = pipe(top_k=1, **{view: rows[view][:] for view in views})
            right = [int(result[0]["label"]) == digit for result, digit in zip(results, rows["digit"], strict=True)]
            found.setdefault(count, []).append(statistics.mean(right))
    return {count: statistics.mean(values) for count, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that prepare_six_views.py wrote")
    files = {split: str(parser.parse_args().folder / f"{split}.parquet") for split in ("train", "test")}
    data = load_table({view: view for view in VIEWS}, label="digit", files=files)
    tables: dict[tuple[str, float, str], list[dict[int, float]]] = {}
    for dropout, seed in itertools.product(DROPOUTS, SEEDS):
        model, processor = train(data, dropout, seed)
        model.config.id2label = dict(enumerate(map(str, range(10))))
        for split, missing in itertools.product(("validation", "test"), ("fused", "prototypes")):
            pipe = MultimodalPipeline(model, processor, batch_size=500, missing=missing)
            tables.setdefault((split, dropout, missing), []).append(accuracies(pipe, data[split]))
        print(f"trained with modality_dropout={dropout}, seed {seed}", flush=True)
    counts = range(1, len(VIEWS) + 1)
    print(f"\ntorch {torch.__version__}\n\n| split | modality_dropout | missing= | {' | '.join(map(str, counts))} |")
    print("|---|---|---|" + "---|" * len(VIEWS))
    for (split, dropout, missing), runs in sorted(tables.items()):
        cells = (
            f"{statistics.mean(run[count] for run in runs):.3f} ± {statistics.stdev(run[count] for run in runs):.3f}"
            for count in counts
        )
        print(f"| {split} | {dropout} | {missing} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
