"""The model card of a training run: what the model does, how to use it, its results, and how it was trained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from matplotlib.figure import Figure
from transformers import PreTrainedConfig

from ..model.configuration import MultimodalConfig
from ..model.hub_card import BEGIN, END, IMPORT_LINE, LIBRARY, TAGS, hub_names, keep_own_text, what_it_does
from ..model.multimodal_processor import MultimodalProcessor
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .card_template import CARD, CODE_SAMPLE, LIMITS, MISSING, PRINTING
from .dynamics import PLOT_NAME, PLOT_TITLES, evaluation_sets, loss_keys, plot_dynamics
from .evaluation import CALLED, EvaluationReport
from .evaluation_plots import confusion_figure, predictions_figure, reliability_figure


CONFUSION_NAME, RELIABILITY_NAME, PREDICTIONS_NAME = "confusion.png", "reliability.png", "predictions.png"
# A relative path with such an end is a table of another machine or folder, even if it looks like a name of the Hub.
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
# The metrics of the fused logits of every problem type, as the card calls them
TITLES = CALLED | {"subset_accuracy": "share of samples with all labels right"}


@dataclass
class TrainingRun:
    """
    The facts about a training run that its card reports.

    Args:
        config (`PreTrainedConfig`): configuration of the model.
        modalities (`list[str]`): names of the modalities, in the order of fusion.
        num_labels (`int`): number of classes, labels or targets.
        description (`str`): how the model was trained, as a sentence without its full stop.
        citation (`str`): BibTeX entry of the method.
        hyper_parameters (`dict[str, object]`): the settings of the run, each one row of the table.
        log_history (`list[dict]`): `trainer.state.log_history`.
        applies_weights (`bool`): whether the loss contained the weighted PMR terms, see [`plot_dynamics`].
        train_size (`int`, *optional*): number of training samples; `None` for a stream.
        processor (`MultimodalProcessor`, *optional*): processor of the model. Without one, the card has no code sample.
    """

    config: PreTrainedConfig
    modalities: list[str]
    num_labels: int
    description: str
    citation: str
    hyper_parameters: dict[str, object]
    log_history: list[dict[str, Any]]
    applies_weights: bool
    train_size: int | None = None
    processor: MultimodalProcessor | None = None

    @property
    def problem_type(self) -> str:
        """What the model predicts. A model of another class predicts one class."""
        return self.config.problem if isinstance(self.config, MultimodalConfig) else SINGLE_LABEL


@dataclass
class HubMetadata:
    """
    The metadata of a model for the Hub, as its user states them.

    Args:
        model_name (`str`): the Hub name or local folder that the code sample loads.
        dataset (`str`, *optional*): name of the dataset. The metadata link to a dataset of the Hub, `"user/data"`.
        license (`str`, *optional*): license of the model, by its identifier on the Hub.
        language (`str | list[str]`, *optional*): languages of the model, by their codes on the Hub.
        finetuned_from (`str | list[str]`, *optional*): Hub names of the base models. Defaults to the encoders'.
        tags (`list[str] | str`, *optional*): tags to add to those that every card of pmr_hf has.
    """

    model_name: str
    dataset: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    finetuned_from: str | list[str] | None = None
    tags: list[str] | str | None = None


@dataclass
class Results:
    """
    The metrics of the last evaluation of a run.

    Args:
        split (`str`): `"test"` or `"validation"`.
        values (`dict[str, float]`): value of each measured metric, by its key in the log without the prefix.
        names (`dict[str, str]`): the name of each metric in the card.
    """

    split: str
    values: dict[str, float]
    names: dict[str, str]


def write_model_card(
    folder: str | Path,
    run: TrainingRun,
    metadata: HubMetadata,
    previous: str | None = None,
    report: EvaluationReport | None = None,
) -> None:
    """
    Write `README.md`, and the plots that it shows, to the folder of a trained model.

    Args:
        folder (`str | Path`): the folder; it must exist.
        run (`TrainingRun`): what the card reports.
        metadata (`HubMetadata`): the metadata for the Hub.
        previous (`str`, *optional*): an earlier card, whose user-written text and metadata are kept, see
            [`~pmr_hf.model.hub_card.keep_own_text`]. Defaults to the card in the folder, if there is one.
        report (`EvaluationReport`, *optional*): adds the score of each set of modalities, and its confusion matrix and
            calibration, or in a regression the predicted over the true values.
    """
    folder = Path(folder)
    for name, figure in figures_of(report).items():
        figure.savefig(folder / name, dpi=110)
    plot_dynamics(run.log_history, run.modalities, folder / PLOT_NAME, run.applies_weights, run.problem_type)
    file = folder / "README.md"
    if previous is None and file.is_file():
        previous = file.read_text(encoding="utf-8")
    card = model_card(run, metadata, report)
    ModelCard(card if previous is None else keep_own_text(card, previous)).save(file)


def model_card(run: TrainingRun, metadata: HubMetadata, report: EvaluationReport | None = None) -> str:
    """The text of the card, with its metadata at the top."""
    metadata = replace(
        metadata,
        model_name=as_name(metadata.model_name),
        dataset=metadata.dataset and as_name(metadata.dataset),
        finetuned_from=as_names(metadata.finetuned_from),
    )
    results = last_results(run)
    return CARD.format(
        metadata=card_data(run, metadata, results).to_yaml(),
        begin=BEGIN,
        model_name=metadata.model_name,
        what_it_does=what_it_does(run.config, run.modalities, run.num_labels),
        description=run.description,
        code_sample="" if run.processor is None else code_sample(metadata.model_name, run.config, run.processor),
        results=results_table(results, metadata.dataset),
        plot=PLOT_NAME,
        plot_title=PLOT_TITLES[run.problem_type],
        how_to_read_the_ratio="" if run.problem_type == REGRESSION else how_to_read_the_ratio(run.modalities),
        evaluation=evaluation_part(report),
        limits=limits_of(run, report),
        training_samples=training_samples(run.train_size, metadata.dataset),
        hyper_parameters="\n".join(f"| {name} | {cell_text(value)} |" for name, value in run.hyper_parameters.items()),
        modality_dropout=modality_dropout(run.config),
        missing="" if report is not None else MISSING,
        citation=run.citation,
        end=END,
    )


def as_name(name: str) -> str:
    """A Hub name or a relative path as it is, and the last part of an absolute path, which holds on one machine."""
    return Path(name).name if Path(name).is_absolute() else name


def as_names(names: str | list[str] | None) -> str | list[str] | None:
    """The names of base models: of a local folder, its own name."""
    if names is None:
        return None
    if isinstance(names, str):
        return Path(names).resolve().name if Path(names).is_absolute() or Path(names).is_dir() else names
    return [as_names(name) for name in names]


def figures_of(report: EvaluationReport | None) -> dict[str, Figure]:
    """The plots of a report by their files."""
    figures: dict[str, Figure] = {}
    if report is None:
        return figures
    if report.confusion is not None or report.confused:
        figures[CONFUSION_NAME] = confusion_figure(report)
    if report.calibration is not None:
        figures[RELIABILITY_NAME] = reliability_figure(report.calibration, report.problem_type == MULTI_LABEL)
    if report.targets:
        figures[PREDICTIONS_NAME] = predictions_figure(report)
    return figures


def evaluation_part(report: EvaluationReport | None) -> str:
    """The sections of a report: the score of each set of modalities, confusions, calibration and predictions."""
    if report is None:
        return ""
    parts, figures = [], figures_of(report)
    if len(report.modalities) > 1:
        called = TITLES[report.metric]
        lines = [
            f"| {', '.join(each.modalities)} | {each.rows} | {each.score:.4f} |"
            for each in report.sweep
            if each.score is not None
        ]
        header = f"| modalities | rows that have them | {called} |\n|---|---|---|\n"
        parts.append("### When modalities are missing\n\n" + header + "\n".join(lines))
    if CONFUSION_NAME in figures:
        parts.append(f"### Confusion\n\n![Confusion of classes]({CONFUSION_NAME})")
    if RELIABILITY_NAME in figures:
        picture = f"![Accuracy by confidence]({RELIABILITY_NAME})"
        parts.append(f"### Calibration\n\n{report.calibration_sentence}\n\n{picture}")
    if PREDICTIONS_NAME in figures:
        parts.append(f"### Predictions\n\n![Predicted over true values]({PREDICTIONS_NAME})")
    text = "\n\n".join(parts)
    return f"\nMeasured on {report.rows} rows.\n\n{text}\n"


def limits_of(run: TrainingRun, report: EvaluationReport | None) -> str:
    """What the model does not do, and whether its probabilities are calibrated."""
    limits = LIMITS[run.problem_type]
    temperature = getattr(run.config, "calibration_temperature", 1.0)
    if run.problem_type != REGRESSION:
        limits += (
            " Its probabilities are not calibrated."
            if temperature == 1
            else f" `MultimodalPipeline` divides its logits by {temperature:.4g}, which calibrates its probabilities."
        )
    return limits


def last_results(run: TrainingRun) -> Results:
    """The metrics of the last test of a run, or of its last validation if it was not tested."""
    names = {key: f"{title}, all modalities fused" for key, title in TITLES.items()}
    metric = MODALITY_METRIC[run.problem_type]
    title = TITLES[metric]
    names[f"prototypes_{metric}"] = f"{title}, all modalities fused by their prototypes"
    for name in run.modalities:
        names[f"{name}_prototype_{metric}"] = f"{title} of {name} alone, by its prototypes"
        names[f"{name}_{metric}"] = f"{title} of {name} alone, by its slice of the fusion head"
    for one in evaluation_sets(run.log_history):
        names |= {f"{one}_{key}": f"{title}, all modalities fused, on {one}" for key, title in TITLES.items()}
    prefix = "test" if any("test_loss" in entry for entry in run.log_history) else "eval"
    metrics: dict[str, Any] = next((entry for entry in reversed(run.log_history) if f"{prefix}_loss" in entry), {})
    if not metrics:  # several evaluation sets, each in an entry of its own
        metrics = {key: value for entry in run.log_history for key, value in entry.items() if loss_keys(entry)}
    values = {key: metrics[f"{prefix}_{key}"] for key in names if f"{prefix}_{key}" in metrics}
    return Results("test" if prefix == "test" else "validation", values, names)


def card_data(run: TrainingRun, metadata: HubMetadata, results: Results) -> ModelCardData:
    """The metadata block, which the Hub uses to list and find the model."""
    encoders = hub_names(run.config, run.modalities).values()
    evaluations = [
        EvalResult(
            task_type="other",
            task_name=f"Multimodal {'regression' if run.problem_type == REGRESSION else 'classification'}",
            dataset_type=metadata.dataset or "unknown",
            dataset_name=metadata.dataset or "unknown",
            dataset_split=results.split,
            metric_type=metric_type(key),
            metric_name=results.names[key],
            metric_value=round(value, 4),
        )
        for key, value in results.values.items()
    ]
    return ModelCardData(
        model_name=metadata.model_name,
        library_name=LIBRARY,
        license=metadata.license,
        language=metadata.language,
        datasets=[metadata.dataset] if is_hub_dataset(metadata.dataset) else None,
        base_model=metadata.finetuned_from or sorted(set(encoders)) or None,
        tags=[*TAGS, *([metadata.tags] if isinstance(metadata.tags, str) else metadata.tags or [])],
        metrics=sorted({metric_type(key) for key in results.values} or {"accuracy"}),
        eval_results=evaluations or None,
    )


def is_hub_dataset(name: str | None) -> bool:
    """
    Whether a dataset has a name of the Hub, `"user/data"`, and is no local path and no file. The Hub refuses a card
    whose `datasets` are anything else. A name without a user, such as `"digits"`, may be free text.
    """
    if name is None or name.count("/") != 1 or name.endswith(FILES) or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def metric_type(key: str) -> str:
    """The name of a metric on the Hub, such as "f1" for macro_f1."""
    for end, name in (("accuracy", "accuracy"), ("f1", "f1"), ("mAP", "average_precision")):
        if key.endswith(end):
            return name
    return key.rpartition("_")[2]


def cell_text(value: Any) -> str:
    """A value as a cell of a Markdown table shows it: with marks of tables and HTML, such as those in class names."""
    return str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def results_table(results: Results, dataset: str | None) -> str:
    """The table of metrics, under a line that names the split."""
    if not results.values:
        return "The model was not evaluated."
    source = f"Measured on the {results.split} split{f' of {dataset}' if dataset else ''}."
    rows = "\n".join(f"| {results.names[key]} | {value:.4f} |" for key, value in results.values.items())
    return f"{source}\n\n| metric | value |\n|---|---|\n{rows}"


def how_to_read_the_ratio(modalities: list[str]) -> str:
    """A sentence that explains the panel of the imbalance ratio."""
    if len(modalities) == 2:
        first, second = modalities
        return f"An imbalance ratio below 1 means that {first} is the slower modality; above 1, {second} is."
    return "The imbalance ratio of a modality is its score divided by the lowest score of all modalities."


def training_samples(train_size: int | None, dataset: str | None) -> str:
    """The number of samples that the model was trained on, and their dataset."""
    count = "streamed, number unknown" if train_size is None else f"{train_size:,}"
    return f"{count}, {dataset}" if dataset else count


def modality_dropout(config: PreTrainedConfig) -> str:
    """A sentence that says whether the model was trained with modality dropout."""
    dropout = getattr(config, "modality_dropout", 0.0)
    if dropout:
        return f"In training, each modality was dropped at random with probability {dropout:g}."
    return "Modality dropout was not used in training."


def code_sample(model_name: str, config: MultimodalConfig, processor: MultimodalProcessor) -> str:
    """The section with a code sample that runs as printed, with a placeholder value for each modality."""
    lines = []
    for name in processor.processors:
        value, comment = processor.kind(name).example(config.backbones[name])
        lines.append(f"    {name}=[{value}],  # {comment}")
    values = "\n".join(lines)
    imports = ("import numpy as np\n" if "np." in values else "") + "import torch\n"
    imports += "from PIL import Image\n" if "Image." in values else ""
    return CODE_SAMPLE.format(
        imports=imports,
        import_line=IMPORT_LINE,
        model_name=model_name,
        values=values,
        printing=PRINTING[config.problem],
    )
