"""What a run shows: a plot of the training dynamics and a model card."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from transformers import PreTrainedConfig

from ..model.configuration import MultimodalConfig
from ..model.equations import imbalance_ratio
from ..model.hub_card import BEGIN, END, TAGS, hub_names, keep_own_text, what_it_does
from ..model.processor import MultimodalProcessor
from ..training.arguments import PMRTrainingArguments, PrototypeTrainingArguments


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
{imports}from transformers import AutoModel, AutoProcessor

import pmr_hf  # where it is not installed, leave this out and load both with trust_remote_code=True

model = AutoModel.from_pretrained("{model_name}").eval()
processor = AutoProcessor.from_pretrained("{model_name}")
inputs = processor(
{values}
)  # a list of samples of each modality; None where a sample lacks one
with torch.no_grad():
    output = model(**inputs)
print(model.config.id2label[output.logits.argmax(1).item()])
for name, logits in model.prototypes(output.embeddings).items():  # what each modality says alone
    print(name, model.config.id2label[logits.argmax(1).item()])
```
"""
# By kind of processor: an empty value of a modality, as code, and what may stand in its place
EXAMPLES = {
    "numbers": ("[0.0] * {width}", "numbers"),
    "spectrogram": ('{{"array": np.zeros(16000), "sampling_rate": 16000}}', "a waveform, or a file's path"),
    "feature_extractor": ('{{"array": np.zeros(16000), "sampling_rate": 16000}}', "a waveform, or a file's path"),
    "tokenizer": ('"a text"', "a text"),
    "video_processor": ('[Image.new("RGB", ({width}, {width}))] * 8', "frames, or a file's path"),
    "image_processor": ('Image.new("RGB", ({width}, {width}))', "a picture, or a file's path"),
}
EXAMPLES["timm"] = EXAMPLES["image_processor"]


def plot_dynamics(
    log_history: list[dict[str, Any]], modalities: list[str], file: str | Path, applied: bool = True
) -> None:
    """
    Draw accuracy, imbalance ratio and weights over training, side by side, to a PNG file; for a method that scales
    gradients the scales in place of the weights.

    Args:
        log_history (`list[dict]`): `trainer.state.log_history` of a [`PrototypeTrainer`].
        modalities (`list[str]`): names of the modalities, in the order of fusion.
        file (`str | Path`): where to write.
        applied (`bool`, *optional*, defaults to `True`): whether the weights were applied, or only watched.
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
    scale_for_ratio(ratio)

    scaled = any(f"{modalities[0]}_gradient_scale" in entry for entry in steps)
    for name in modalities:
        if scaled:
            line(weights, steps, f"{name}_gradient_scale", name, color=colors[name])
            continue
        line(weights, steps, f"{name}_pce_weight", f"{name}, accelerated", color=colors[name])
        if len(modalities) > 2:  # of two, one is held back with the weight that accelerates the other
            line(weights, steps, f"{name}_per_weight", f"{name}, held back", color=colors[name], ls=":")
    title = "Weights of the PMR terms (Eq. 11)"
    if scaled:
        weights.set(title="What each encoder's gradient was multiplied by")
    else:
        weights.set(title=title if applied else f"{title}, not applied", ylim=(-0.02, 1.02))
    for axes, entries in ((accuracy, evals), (ratio, steps), (weights, steps)):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if not entries:
            axes.text(0.5, 0.5, "no logs", ha="center", transform=axes.transAxes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    figure.savefig(file, dpi=110)


def scale_for_ratio(axes: Axes) -> None:
    """A logarithmic axis for the imbalance ratio, with a line where the modalities are level."""
    axes.axhline(1, color="black", lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def write_model_card(
    folder: str | Path,
    model_name: str,
    modalities: list[str],
    config: PreTrainedConfig,
    num_labels: int,
    args: PrototypeTrainingArguments,
    description: str,
    citation: str,
    log_history: list[dict[str, Any]],
    processor: MultimodalProcessor | None = None,
    previous: str | None = None,
    train_size: int | None = None,
    dataset: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    finetuned_from: str | list[str] | None = None,
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
        args (`PrototypeTrainingArguments`): the arguments of the run.
        description (`str`): how it was trained, the beginning of a sentence.
        citation (`str`): of the method, as BibTeX.
        log_history (`list[dict]`): `trainer.state.log_history`, of which the last test entry is reported, else the last
            validation entry.
        processor (`MultimodalProcessor`, *optional*): with it, there is a code sample.
        previous (`str`, *optional*): a card whose own text and metadata are kept, by default the folder's.
        train_size (`int`, *optional*): number of training samples.
        dataset (`str`, *optional*): name of the data.
        license (`str`, *optional*): license of the model, as the Hub spells it.
        language (`str | list[str]`, *optional*): its languages, as the Hub spells them.
        finetuned_from (`str | list[str]`, *optional*): Hub names of what it was trained from; by default those of its
            encoders.
        tags (`list[str]`, *optional*): further tags.
    """
    folder = Path(folder)
    plot_dynamics(log_history, modalities, folder / PLOT_NAME, applied=isinstance(args, PMRTrainingArguments))

    split = "test" if any("test_loss" in entry for entry in log_history) else "eval"
    metrics: dict[str, Any] = next((entry for entry in reversed(log_history) if f"{split}_loss" in entry), {})
    names = {"accuracy": "accuracy, all modalities fused", "macro_f1": "macro F1, all modalities fused"}
    for name in modalities:
        names[f"{name}_prototype_accuracy"] = f"accuracy of {name} alone, by its prototypes"
        names[f"{name}_accuracy"] = f"accuracy of {name} alone, by its slice of the fusion head"
    results = {key: metrics[f"{split}_{key}"] for key in names if f"{split}_{key}" in metrics}
    encoders = hub_names(config, modalities)

    data = ModelCardData(
        model_name=model_name,
        library_name="pmr_hf",
        license=license,
        language=language,
        base_model=finetuned_from or sorted(set(encoders.values())) or None,
        tags=[*TAGS, *(tags or [])],
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
    table = "It was not evaluated."
    if results:
        rows = "\n".join(f"| {names[key]} | {value:.4f} |" for key, value in results.items())
        source = f"On the {'test' if split == 'test' else 'validation'} split{f' of {dataset}' if dataset else ''}."
        table = f"{source}\n\n| metric | value |\n|---|---|\n{rows}"
    usage = "" if processor is None else usage_of(model_name, config, processor)
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
    settings = "\n".join(f"| {name} | {value} |" for name, value in args.hyper_parameters.items())
    dropout = getattr(config, "modality_dropout", 0.0)
    lacking = (
        f"It was trained with each modality left out at random (probability {dropout:g})"
        if dropout
        else "Modalities were not left out at random in training"
    )
    card = f"""---
{data.to_yaml()}
---

{BEGIN}

# {model_name}

{what_it_does(config, modalities, num_labels)}

{description}.
{usage}
## Results

{table}

![Accuracy, imbalance ratio and weights over training]({PLOT_NAME})

{reading}

## Training

| hyper-parameter | value |
|---|---|
| training samples | {"a stream" if train_size is None else f"{train_size:,}"}{f", {dataset}" if dataset else ""} |
{settings}
| learning rate, schedule | {rates}, {args.lr_scheduler_type.value} |
| optimizer | {args.optim.value} {args.optim_args or ""} |
| batch size per process x accumulation | {args.per_device_train_batch_size} x {args.gradient_accumulation_steps} |
| epochs | {epochs} |
| seed | {args.seed} |

## Limits

It knows the classes above and no others, and its scores are not calibrated. The results hold for data like that of the
table. {lacking}; how well it does without one is not in the table.

## Citation

```bibtex
{citation}
```

{END}
"""
    file = folder / "README.md"
    if previous is None and file.is_file():
        previous = file.read_text(encoding="utf-8")
    ModelCard(card if previous is None else keep_own_text(card, previous)).save(file)


def usage_of(model_name: str, config: MultimodalConfig, processor: MultimodalProcessor) -> str:
    """The card's code sample, which runs as it is printed, on an empty value of each modality."""
    lines = []
    for name, kind in processor.kinds.items():
        value, what = EXAMPLES[kind]
        backbone = config.backbones[name]
        width = len(processor.processors[name].mean) if kind == "numbers" else getattr(backbone, "image_size", 224)
        if name in processor.num_frames:
            value, what = EXAMPLES["video_processor"]
        lines.append(f"    {name}=[{value.format(width=width)}],  # {what}")
    values = "\n".join(lines)
    imports = ("import numpy as np\n" if "np." in values else "") + "import torch\n"
    imports += "from PIL import Image\n" if "Image." in values else ""
    return USAGE.format(imports=imports, model_name=model_name, values=values)
