"""
Try a trained model in the browser: its answer, what each modality says alone, and the nearest class prototypes.

    pip install -e ".[demo]"
    python examples/app.py --model outputs/digits-concat-pmr        # a folder or a Hub name
"""

import argparse
import math
import sys
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from typing import Any


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a trained model")
    parser.add_argument(
        "--missing",
        default="prototypes",
        choices=["fused", "prototypes"],
        help="what answers for samples that lack modalities: the fusion head, or the prototypes of the others",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines")
    parser.add_argument("--port", type=int, help="port to listen on; by default the first free one from 7860")
    return parser


if __name__ == "__main__":
    argument_parser().parse_args()  # a mistake shows before torch and gradio are imported, which takes seconds

import numpy as np

from pmr_hf import MultimodalPipeline
from pmr_hf.data.saved_examples import read_examples
from pmr_hf.model.kind_registry import Kind
from pmr_hf.model.media_values import UnreadableError, is_missing
from pmr_hf.model.tabular_processor import number_of


try:
    import gradio as gr
except ImportError:
    sys.exit('Expected gradio, found none; run `pip install -e ".[demo]"`.')


TOP = 3  # number of classes and prototypes to show for each modality
CSS = """
.pmr {display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px; font-size: 14px}
.pmr section {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 14px}
.pmr h4 {margin: 0 0 8px; font-size: 16px}
.pmr h4 span {float: right; font-weight: normal; opacity: 0.75}
.pmr h5 {margin: 12px 0 4px; font-size: 13px; font-weight: normal; opacity: 0.75}
.pmr .row {display: grid; grid-template-columns: 40% 1fr 52px; gap: 8px; align-items: center; margin: 3px 0}
.pmr .row > span:first-child {overflow-wrap: anywhere}
.pmr .row > span:last-child {text-align: right; font-variant-numeric: tabular-nums}
.pmr .bar {height: 9px; border-radius: 4px; background: #4c78a8}
.pmr .bar.against {background: #e45756}
.pmr .bar.far {background: #b8bcc4}
.image-frame img {width: 100%; height: 100%; object-fit: contain}
"""
NOTE = (
    "<b>Share</b> of the decision: how much the modality adds to the score of the answer, on average over all orders "
    "in which the modalities may join. A red bar speaks against the answer. <b>Says alone</b>: the prediction of the "
    "modality's prototype classifier. <b>Nearest prototypes</b>: the classes whose mean training samples are the "
    "closest to this sample. 1.00x is the distance to the nearest one, and 1.50x is half as far again. The longest bar "
    "is the nearest. A model that predicts numbers has no prototypes: its modalities only have shares."
)
# Pictures of at most 64 pixels, such as digits, are drawn as squares, and larger ones smoothly.
HEAD = """
<script>
document.addEventListener("load", ({target}) => {
  if (target.tagName === "IMG")
    target.style.imageRendering = Math.max(target.naturalWidth, target.naturalHeight) > 64 ? "auto" : "pixelated";
}, true);
</script>
"""
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from the network
LOOK = {"theme": THEME, "css": CSS, "head": HEAD}


def main() -> None:
    args = argument_parser().parse_args()
    pipe = MultimodalPipeline(args.model, missing=args.missing)
    page = build(pipe, title_of(args.model), read_examples(args.model, pipe.processor))
    page.launch(server_name=args.host, server_port=args.port, show_error=True, **LOOK)


def title_of(model: str) -> str:
    """The name of a folder without its path, or a Hub name as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def build(pipe: MultimodalPipeline, title: str, examples: Sequence[dict[str, Any]] = ()) -> gr.Blocks:
    """Build the page for a model, with examples as `read_examples` returns them. Launch it with `LOOK`."""
    names = pipe.model.config.modalities

    def classify(*values: Any) -> tuple[str, dict[str, float] | str, str]:
        try:
            given = {name: read(pipe, name, value) for name, value in zip(names, values, strict=True)}
            some = {name: value for name, value in given.items() if value is not None}
            if not some:
                raise ValueError(f"Give at least one of {', '.join(names)}.")
            result = pipe(**some, explain=True)
        except UnreadableError as error:
            raise gr.Error(
                f"Expected values that can be read, but {error}; correct it.", print_exception=False
            ) from error
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        heading = f"### {heading_of(pipe, result, list(some))}"
        if "values" in result:  # of a regression
            text = ", ".join(f"{each['label']}: {each['value'] + 0.0:.5g}" for each in result["values"])
            return heading, text, shares_html(result, given)
        scores = {entry["label"]: entry["score"] for entry in result["labels"]}
        return heading, scores, modalities_html(result, given)

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"## {escape(title)}\nGive what you have of {listed(names)}; any of them may be left out.")
        with gr.Row():
            with gr.Column(scale=2):
                inputs = [component_of(pipe.processor.kind(name)) for name in names]
                button = gr.Button("Classify", variant="primary")
                if examples:
                    rows = [[shown(pipe.processor.kind(name), each[name]) for name in names] for each in examples]
                    gr.Examples(rows, inputs, label="Examples of the validation data", api_visibility="private")
            with gr.Column(scale=3):
                heading = gr.Markdown("### Answer")
                answer = gr.Label(show_label=False, num_top_classes=5)
                gr.Markdown("### What each modality says")
                said = gr.HTML("Nothing yet: give a sample and press Classify.", padding=False)
                gr.HTML(f"<small>{NOTE}</small>", padding=False)
        button.click(classify, inputs, [heading, answer, said], api_name="classify")
    return page


def heading_of(pipe: MultimodalPipeline, result: dict[str, Any], given: Collection[str]) -> str:
    """Which answer the pipeline has given: that of the fusion head or of prototypes, and of which modalities."""
    config = pipe.model.config
    missing = [name for name in config.modalities if name not in given]
    lacks = f"; {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
    has_prototypes = pipe.model.prototypes is not None
    if config.answer == "prototypes" or (missing and pipe.missing == "prototypes" and has_prototypes):
        speaking = [name for name, part in result["modalities"].items() if part["labels"]]
        return f"Answer of the prototypes of {listed(speaking or ['no modality'])}{lacks}"
    return f"Answer of the fusion head from {listed(given)}{lacks}" if missing else "Answer, all modalities together"


def listed(names: Sequence[str]) -> str:
    """Names as in "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def component_of(kind: Kind) -> gr.components.Component:
    """The input field of a modality."""
    if kind.medium == "text":
        return gr.Textbox(label=kind.name, lines=2, placeholder="a text")
    if kind.medium in ("numbers", "table"):
        return gr.Dataframe(shown(kind, None), label=kind.name, headers=columns_of(kind), type="array")
    if kind.medium == "sound":
        return gr.Audio(label=kind.name, type="filepath")
    if kind.medium == "video":
        return gr.Video(label=kind.name)
    return gr.Image(label=kind.name, type="pil", image_mode=None, height=200, format="png")


def columns_of(kind: Kind) -> list[str]:
    """The names of the cells of numbers or of a table."""
    if kind.processor.columns is not None:
        return kind.processor.columns
    return [f"number {i}" for i in range(1, len(kind.processor.mean) + 1)]


def read(pipe: MultimodalPipeline, name: str, value: Any) -> Any:
    """
    Convert the content of an input field to a value for the pipeline. An empty field gives `None`, and so does a row of
    empty cells.
    """
    kind = pipe.processor.kind(name)
    if kind.medium in ("numbers", "table") and value:
        columns = columns_of(kind)
        if len(value) != 1 or len(value[0]) != len(columns):
            raise ValueError(f"Expected one row of {columns} for {name}, got {value!r:.200}; correct it.")
        value = dict(zip(columns, value[0], strict=True))
        if kind.medium == "numbers":
            value = [number_of(column, cell) for column, cell in value.items()]
    return None if kind.is_missing(value) else value


def shown(kind: Kind, value: Any) -> Any:
    """Convert a value of an example to the content of an input field. The opposite of `read`."""
    if kind.medium == "sound" and value is not None:
        return kind.processor.sampling_rate, (value.clip(-1, 1) * 32767).round().astype(np.int16)
    if kind.medium not in ("numbers", "table"):
        return value
    columns = columns_of(kind)
    if value is None:
        return [[""] * len(columns)]
    cells = [value[name] for name in columns] if kind.medium == "table" else value.tolist()
    return [["" if is_missing(cell) else cell for cell in cells]]


def modalities_html(result: dict[str, Any], given: dict[str, Any]) -> str:
    """The HTML of a box for each modality, with its share, the classes that it predicts, and the nearest prototypes."""
    boxes = []
    for name, part in result["modalities"].items():
        heading = f"<h4>{escape(name)}"
        if given[name] is None:
            boxes.append(f"<section>{heading} <span>not given</span></h4></section>")
            continue
        share = rounded(part["share"])
        rows = [f"{heading} <span>share {share:+.2f}</span></h4>", bar(min(abs(share), 1), "against" * (share < 0))]
        if not part["labels"]:
            rows.append("<h5>It has no prototypes: the model was trained without them.</h5>")
        else:
            rows.append("<h5>says alone</h5>")
            rows += [row(each["label"], each["score"], f"{each['score']:.0%}") for each in part["labels"][:TOP]]
            rows.append("<h5>nearest prototypes</h5>")
            nearest = part["distances"][0]["distance"]
            for each in part["distances"][:TOP]:
                times = relative(each["distance"], nearest)
                rows.append(row(each["label"], 1 / times, f"{times:.2f}x" if times < 100 else "> 99x", "far"))
        boxes.append(f"<section>{''.join(rows)}</section>")
    return f'<div class="pmr">{"".join(boxes)}</div>'


def shares_html(result: dict[str, Any], given: dict[str, Any]) -> str:
    """The HTML of a box for each modality of a regression, with what it adds to the value of each target."""
    parts = result["modalities"]
    longest = max(max(abs(each["share"]) for part in parts.values() for each in part["shares"]), 1e-12)
    boxes = []
    for name, part in parts.items():
        rows = [f"<h4>{escape(name)}{' <span>not given</span>' if given[name] is None else ''}</h4><h5>adds</h5>"]
        for each in part["shares"]:
            share = each["share"] + 0.0  # not -0
            rows.append(row(each["label"], abs(share) / longest, f"{share:+.4g}", "against" * (share < 0)))
        boxes.append(f"<section>{''.join(rows)}</section>")
    return f'<div class="pmr">{"".join(boxes)}</div>'


def rounded(share: float) -> float:
    """A share to two digits, and 0.0 in place of -0.0."""
    return round(share, 2) + 0.0


def relative(distance: float, nearest: float) -> float:
    """How many times as far as the nearest prototype another one is, from 1 to infinity."""
    if distance == nearest:
        return 1.0
    return distance / nearest if nearest > 0 else math.inf


def row(label: str, length: float, value: str, kind: str = "") -> str:
    """The HTML of a row with a label, a bar of `length` in [0, 1], and a value."""
    return f'<div class="row"><span>{escape(str(label))}</span>{bar(length, kind)}<span>{value}</span></div>'


def bar(length: float, kind: str = "") -> str:
    """The HTML of a bar of `length` in [0, 1]. `kind` is a CSS class: "against", "far" or empty."""
    return f'<div><div class="bar {kind}" style="width: {100 * length:.1f}%"></div></div>'


if __name__ == "__main__":
    main()
