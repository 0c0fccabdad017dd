"""
Try a trained model in the browser: its answer, what each modality says alone, and the nearest class prototypes.

    pip install -e ".[demo]"
    python examples/app.py --model outputs/digits-concat-pmr        # a folder or a Hub name
"""

import argparse
from html import escape
from typing import Any

import gradio as gr

from pmr_hf import MultimodalPipeline


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
.image-frame img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated}
"""
NOTE = (
    "<b>Share</b> of the decision: how much the modality adds to the score of the answer, on average over all orders "
    "in which the modalities may join. A red bar speaks against the answer. <b>Says alone</b>: the prediction of the "
    "modality's prototype classifier. <b>Nearest prototypes</b>: how far this sample is from the mean training sample "
    "of each class. A model that predicts numbers has no prototypes: its modalities only have shares."
)
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from the network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a trained model")
    parser.add_argument(
        "--missing", default="prototypes", choices=["fused", "prototypes"], help="see MultimodalPipeline"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines")
    parser.add_argument("--port", type=int, help="port to listen on; by default the first free one from 7860")
    args = parser.parse_args()
    pipe = MultimodalPipeline(args.model, missing=args.missing)
    build(pipe, args.model).launch(server_name=args.host, server_port=args.port, theme=THEME, css=CSS, show_error=True)


def build(pipe: MultimodalPipeline, title: str) -> gr.Blocks:
    """Build the page for a model. Launch it with `THEME` and `CSS`."""
    names = pipe.model.config.modalities

    def classify(*values: Any) -> tuple[dict[str, float] | str, str]:
        try:
            given = {name: read(pipe, name, value) for name, value in zip(names, values, strict=True)}
            some = {name: value for name, value in given.items() if value is not None}
            if not some:
                raise ValueError(f"Give at least one of {', '.join(names)}.")
            result = pipe(**some, explain=True)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if "values" in result:  # of a regression
            text = ", ".join(f"{each['label']}: {each['value']:.5g}" for each in result["values"])
            return text, shares_html(result, given)
        return {entry["label"]: entry["score"] for entry in result["labels"]}, modalities_html(result, given)

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"## {escape(title)}\nGive what you have of {', '.join(names)}; any of them may be left out.")
        with gr.Row():
            with gr.Column(scale=2):
                inputs = [component_of(pipe, name) for name in names]
                button = gr.Button("Classify", variant="primary")
            with gr.Column(scale=3):
                answer = gr.Label(label="Answer, all modalities together", num_top_classes=5)
                gr.Markdown("### What each modality says")
                said = gr.HTML("Nothing yet: give a sample and press Classify.", padding=False)
                gr.HTML(f"<small>{NOTE}</small>", padding=False)
        button.click(classify, inputs, [answer, said], api_name="classify")
    return page


def component_of(pipe: MultimodalPipeline, name: str) -> gr.components.Component:
    """The input field of a modality."""
    medium = pipe.processor.kind(name).medium
    if medium == "text":
        return gr.Textbox(label=name, lines=2, placeholder="a text")
    if medium == "numbers":
        count = len(pipe.processor.processors[name].mean)
        return gr.Textbox(label=name, placeholder=f"{count} numbers, with commas between them")
    if medium == "table":
        columns = pipe.processor.processors[name].columns
        return gr.Dataframe(label=name, headers=columns, column_count=len(columns), row_count=1, type="array")
    if medium == "sound":
        return gr.Audio(label=name, type="filepath")
    if medium == "video":
        return gr.Video(label=name)
    return gr.Image(label=name, type="pil", image_mode=None, height=200)


def read(pipe: MultimodalPipeline, name: str, value: Any) -> Any:
    """Convert the content of an input field to a value for the pipeline. An empty field gives `None`."""
    if isinstance(value, str) and not value.strip():
        return None
    medium = pipe.processor.kind(name).medium
    if medium == "table" and value is not None:
        return read_row(pipe, name, value)
    if medium == "numbers" and value is not None:
        try:
            return [float(part) for part in value.split(",")]
        except ValueError as error:
            raise ValueError(
                f"Expected numbers with commas between them for {name}, got {value!r}; correct it."
            ) from error
    return value


def read_row(pipe: MultimodalPipeline, name: str, cells: list[list[Any]]) -> dict[str, Any] | None:
    """Convert the one row of an input field to a dict of its columns. A row without any value gives `None`."""
    columns = pipe.processor.processors[name].columns
    if len(cells) != 1 or len(cells[0]) != len(columns):
        raise ValueError(f"Expected one row of {columns} for {name}, got {cells!r:.200}; correct it.")
    value = dict(zip(columns, cells[0], strict=True))
    return None if pipe.processor.kind(name).is_missing(value) else value


def modalities_html(result: dict[str, Any], given: dict[str, Any]) -> str:
    """The HTML of a box for each modality, with its share, the classes that it predicts, and the nearest prototypes."""
    boxes = []
    for name, part in result["modalities"].items():
        heading = f"<h4>{escape(name)}"
        if given[name] is None:
            boxes.append(f"<section>{heading} <span>not given</span></h4></section>")
            continue
        share = part["share"]
        rows = [f"{heading} <span>share {share:+.2f}</span></h4>", bar(min(abs(share), 1), "against" * (share < 0))]
        if not part["labels"]:
            rows.append("<h5>It has no prototypes: the model was trained without them.</h5>")
        else:
            rows.append("<h5>says alone</h5>")
            rows += [row(each["label"], each["score"], f"{each['score']:.0%}") for each in part["labels"][:TOP]]
            rows.append("<h5>nearest prototypes</h5>")
            near = part["distances"][:TOP]
            longest = max(each["distance"] for each in near)
            rows += [row(each["label"], each["distance"] / longest, f"{each['distance']:.2f}", "far") for each in near]
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
            share = each["share"]
            rows.append(row(each["label"], abs(share) / longest, f"{share:+.4g}", "against" * (share < 0)))
        boxes.append(f"<section>{''.join(rows)}</section>")
    return f'<div class="pmr">{"".join(boxes)}</div>'


def row(label: str, length: float, value: str, kind: str = "") -> str:
    """The HTML of a row with a label, a bar of `length` in [0, 1], and a value."""
    return f'<div class="row"><span>{escape(str(label))}</span>{bar(length, kind)}<span>{value}</span></div>'


def bar(length: float, kind: str = "") -> str:
    """The HTML of a bar of `length` in [0, 1]. `kind` is a CSS class: "against", "far" or empty."""
    return f'<div><div class="bar {kind}" style="width: {100 * length:.1f}%"></div></div>'


if __name__ == "__main__":
    main()
