"""What a run shows: a plot of the training dynamics and a model card."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from transformers import PreTrainedConfig

from .configuration import MultimodalConfig
from .losses import imbalance_ratio
from .training_args import PMRTrainingArguments


PLOT_NAME = "training_dynamics.png"

CITATION = """@inproceedings{fan2023pmr,
    title     = {{PMR}: Prototypical Modal Rebalance for Multimodal Learning},
    author    = {Fan, Yunfeng and Xu, Wenchao and Wang, Haozhao and Wang, Junxiao and Guo, Song},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2023},
}"""

USAGE = """
## Use

```python
from pmr_hf import MultimodalModel, MultimodalProcessor

model = MultimodalModel.from_pretrained("{model_name}").eval()
processor = MultimodalProcessor.from_pretrained("{model_name}")
output = model(**processor({inputs}))  # one raw value of each modality, in a list
print(model.config.id2label[output.logits.argmax(1).item()])
print(model.prototypes(output.embeddings))  # the prototype classifier of each modality alone
```
"""


def plot_dynamics(
    log_history: list[dict[str, Any]], modalities: list[str], file: str | Path, applied: bool = True
) -> None:
    """
    Draw accuracy, imbalance ratio and weights over training, side by side, to a PNG file.

    Args:
        log_history (`list[dict]`): `trainer.state.log_history` of a [`PMRTrainer`].
        modalities (`list[str]`): names of the modalities, in the order of fusion.
        file (`str | Path`): where to write.
        applied (`bool`, *optional*, defaults to `True`): whether the weights were applied, or only watched (alpha = 0).
    """
    evals: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if "eval_loss" in entry:
            evals.setdefault(entry["step"], entry)  # not what the best model gave once more after the last step
    steps = [entry for entry in log_history if "ce_loss" in entry]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    accuracy, ratio, weights = figure.subplots(1, 3)
    colors = dict(zip(modalities, cycle(matplotlib.color_sequences["tab10"]), strict=False))

    def line(axes, entries, key, label, **style):
        points = [(entry["epoch"], entry[key]) for entry in entries if key in entry]
        if points:
            marker = "." if len(points) < 60 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)

    line(accuracy, evals.values(), "eval_accuracy", "all modalities, fused", color="black")
    for name in modalities:
        line(accuracy, evals.values(), f"eval_{name}_prototype_accuracy", f"{name}, prototypes", color=colors[name])
        line(
            accuracy, evals.values(), f"eval_{name}_accuracy", f"{name}, slice of the head", color=colors[name], ls=":"
        )
    accuracy.set(title="Validation accuracy", ylim=(0, 1.02))

    if len(modalities) == 2:
        line(ratio, steps, "rho", None, color="tab:gray")
        ratio.set_title(f"Imbalance ratio ρ = {modalities[0]} / {modalities[1]}")
    else:
        ratios = []
        for entry in steps:
            if all(f"{name}_score" in entry for name in modalities):
                values = imbalance_ratio(torch.tensor([entry[f"{name}_score"] for name in modalities])).tolist()
                ratios.append({"epoch": entry["epoch"], **dict(zip(modalities, values, strict=True))})
        for name in modalities:
            line(ratio, ratios, name, name, color=colors[name])
        ratio.set_title("Imbalance ratio, score over the least score")
    ratio.axhline(1, color="black", lw=0.8, ls="--")
    ratio.set_yscale("log")
    if steps:
        ratio.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ratio.yaxis.set_minor_formatter(FormatStrFormatter("%g"))

    for name in modalities:
        line(weights, steps, f"{name}_pce_weight", f"{name}, accelerated", color=colors[name])
        if len(modalities) > 2:  # of two, one is held back with the weight that accelerates the other
            line(weights, steps, f"{name}_per_weight", f"{name}, held back", color=colors[name], ls=":")
    title = "Weights of the PMR terms (Eq. 11)"
    weights.set(title=title if applied else f"{title}, not applied", ylim=(-0.02, 1.02))
    for axes, entries in ((accuracy, evals), (ratio, steps), (weights, steps)):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if not entries:
            axes.text(0.5, 0.5, "no logs", ha="center", transform=axes.transAxes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    figure.savefig(file, dpi=110)


def write_model_card(
    folder: str | Path,
    model_name: str,
    modalities: list[str],
    config: PreTrainedConfig,
    num_labels: int,
    args: PMRTrainingArguments,
    log_history: list[dict[str, Any]],
    dataset: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
) -> None:
    """
    Write `README.md` and the plot that it shows to a trained model's folder.

    Args:
        folder (`str | Path`): where to write.
        model_name (`str`): the Hub name or folder that the code sample loads.
        modalities (`list[str]`): their names, in the order of fusion.
        config (`PreTrainedConfig`): the model's configuration.
        num_labels (`int`): number of classes.
        args (`PMRTrainingArguments`): the arguments of the run.
        log_history (`list[dict]`): `trainer.state.log_history`, of which the last test entry is reported, else the last
            validation entry.
        dataset (`str`, *optional*): name of the data.
        license (`str`, *optional*): license of the model, as the Hub spells it.
        tags (`list[str]`, *optional*): further tags.
    """
    folder = Path(folder)
    plot_dynamics(log_history, modalities, folder / PLOT_NAME, applied=args.pmr_alpha > 0)

    split = "test" if any("test_loss" in entry for entry in log_history) else "eval"
    metrics: dict[str, Any] = next((entry for entry in reversed(log_history) if f"{split}_loss" in entry), {})
    names = {"accuracy": "accuracy, all modalities fused", "macro_f1": "macro F1, all modalities fused"}
    for name in modalities:
        names[f"{name}_prototype_accuracy"] = f"accuracy of {name} alone, by its prototypes"
        names[f"{name}_accuracy"] = f"accuracy of {name} alone, by its slice of the fusion head"
    results = {key: metrics[f"{split}_{key}"] for key in names if f"{split}_{key}" in metrics}

    data = ModelCardData(
        model_name=model_name,
        library_name="pmr_hf",
        license=license,
        tags=["multimodal", "prototypical-modal-rebalance", *(tags or [])],
        metrics=["accuracy", "f1"] if "macro_f1" in results else ["accuracy"],
        eval_results=[
            EvalResult(
                task_type="other",
                task_name="Multimodal classification",
                dataset_type=dataset or "unknown",
                dataset_name=dataset or "unknown",
                dataset_split="test" if split == "test" else "validation",
                metric_type="f1" if key == "macro_f1" else "accuracy",
                metric_name=names[key],
                metric_value=round(value, 4),
            )
            for key, value in results.items()
        ]
        or None,
    )
    table = "\n".join(f"| {names[key]} | {value:.4f} |" for key, value in results.items())
    if isinstance(config, MultimodalConfig):
        kinds = {name: config.backbones[name].model_type for name in modalities}
        model = f"fused by `{config.fusion}`: " + ", ".join(f"{name} (`{kind}`)" for name, kind in kinds.items())
        usage = USAGE.format(model_name=model_name, inputs=", ".join(f"{name}=[{name}]" for name in modalities))
    else:
        model = f"in a `{config.model_type}` model: " + ", ".join(modalities)
        usage = ""
    if args.pmr_alpha or args.pmr_mu:
        how = "Trained with [PMR](https://arxiv.org/abs/2211.07089), which keeps the slow modality learning"
    else:
        how = "Trained jointly, without PMR (α = μ = 0), while class prototypes watched each modality"
    if len(modalities) == 2:
        reading = f"A ratio below 1 says that {modalities[0]} is the slow modality, above 1 that {modalities[1]} is."
    else:
        reading = "The ratio of a modality is its score over that of the slowest."
    epochs = f"{args.num_train_epochs:g}"
    if args.load_best_model_at_end:
        epochs += f", of which the weights with the best validation {args.metric_for_best_model} were kept"
    rates = f"{args.learning_rate:g}"
    if args.modality_learning_rates:
        own = ", ".join(f"{name} {rate:g}" for name, rate in args.modality_learning_rates.items())
        rates += f" (encoders: {own})"
    if args.freeze:
        rates += f" (frozen: {', '.join(args.freeze)})"
    card = f"""---
{data.to_yaml()}
---

# {model_name}

{how}, on {len(modalities)} modalities {model}.

Classes: {", ".join(map(str, config.id2label.values())) if config.num_labels == num_labels else num_labels}.
{usage}
## Results

On the {"test" if split == "test" else "validation"} split{f" of {dataset}" if dataset else ""}.

| metric | value |
|---|---|
{table}

![Accuracy, imbalance ratio and weights over training]({PLOT_NAME})

{reading}

## Training

| hyper-parameter | value |
|---|---|
| α, weight of the prototypical cross entropy | {args.pmr_alpha} |
| μ, weight of the entropy regularisation | {args.pmr_mu} |
| E_r, epochs of entropy regularisation | {args.pmr_entropy_epochs:g} |
| weights | {args.pmr_weights} |
| ε, momentum of the prototypes | {args.prototype_momentum} |
| share of the training set behind the prototypes | {args.prototype_fraction} |
| learning rate, optimizer | {rates}, {args.optim.value} {args.optim_args or ""} |
| batch size per process x accumulation | {args.per_device_train_batch_size} x {args.gradient_accumulation_steps} |
| epochs | {epochs} |
| seed | {args.seed} |

## Citation

```bibtex
{CITATION}
```
"""
    ModelCard(card).save(folder / "README.md")
