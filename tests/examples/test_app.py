"""The demo in a real browser: what a person enters and sees."""

import re

import gradio as gr
import numpy as np
import pytest
import torch
from helpers.browser import chromium
from helpers.digits import take_prototypes
from helpers.media_files import write_video, write_wav
from helpers.scripts import load_example
from PIL import Image
from transformers import ViTImageProcessor

from pmr_hf import (
    CGMNISTConfig,
    MultimodalModel,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    SpectrogramFeatureExtractor,
    TabularProcessor,
)
from pmr_hf.data.saved_examples import read_examples, save_examples


@pytest.fixture(scope="module")
def app():
    return load_example("app")


@pytest.fixture(scope="module")
def pipe(make_model, processor, digits):
    model = make_model(id2label={0: "zero", 1: "<one>", 2: "two", 3: "three"}).eval()
    take_prototypes(model, processor, digits)
    return MultimodalPipeline(model, processor)


@pytest.fixture
def opened(app):
    """A function that serves the page of a pipeline on localhost and returns its address."""
    pages = []

    def open_page(pipe, examples=()):
        pages.append(app.build(pipe, "my model", examples))
        options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
        return pages[-1].launch(**app.LOOK, **options)[1]

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def share_of(part):
    return f"share {part['share']:+.2f}".replace("-0.00", "+0.00")


def wait_until_drawn(page, rendering):
    """Wait until the picture is there, drawn in pixels or smoothly."""
    style = "getComputedStyle(document.querySelector('.image-frame img')).imageRendering"
    page.wait_for_function(f"document.querySelector('.image-frame img')?.complete && {style} == '{rendering}'")


def classifier(page):
    """The function behind the button."""
    (found,) = [each.fn for each in page.fns.values() if each.api_name == "classify"]
    return found


def test_a_person_gives_a_sample_and_sees_who_said_what(app, pipe, opened, browser, digits, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors, strangers = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    address = opened(pipe)
    page.on("request", lambda request: strangers.append(request.url) if not request.url.startswith(address) else None)
    page.goto(address)
    digits[5]["picture"].save(tmp_path / "digit.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "digit.png")
    page.locator(".image-frame img").wait_for()
    page.get_by_label("text").fill("the digit two")
    page.get_by_role("button", name="Classify").click()
    page.locator(".pmr section").first.wait_for()
    boxes = page.locator(".pmr section").all_inner_texts()
    expected = pipe(image=digits[5]["picture"], text="the digit two", explain=True)
    for box, (name, part) in zip(boxes, expected["modalities"].items(), strict=True):
        assert box.startswith(name) and share_of(part) in box
        assert f"{part['labels'][0]['label']}\n" in box and f"{part['labels'][0]['score']:.0%}" in box
        nearest, second = (each["distance"] for each in part["distances"][:2])
        assert "1.00x" in box and f"{second / nearest:.2f}x" in box
    bars = [bar.bounding_box()["width"] for bar in page.locator(".pmr section").first.locator(".bar.far").all()]
    assert bars == sorted(bars, reverse=True) and bars[0] > bars[-1]
    page.get_by_role("heading", name="Answer, all modalities together").wait_for()
    wait_until_drawn(page, "pixelated")
    assert (
        expected["labels"][0]["label"] in page.locator("[data-testid=label-output-value], .output-class").inner_text()
    )
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    shown = Image.open(tmp_path / "page.png").convert("RGB")
    assert shown.width == 1280 and len(shown.getcolors(maxcolors=2**20)) > 100
    # no box is wider than the page
    assert all(
        box["x"] + box["width"] <= 1280 for box in (each.bounding_box() for each in page.locator(".pmr section").all())
    )
    assert not errors
    assert not [url for url in strangers if url.startswith("http")]

    # without the picture
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("not given").wait_for()
    page.get_by_role("heading", name="Answer of the prototypes of text; image is missing").wait_for()
    # a picture of more than 64 pixels
    Image.new("RGB", (65, 8)).save(tmp_path / "large.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    page.wait_for_function("document.querySelector('.image-frame img')?.naturalWidth == 65")
    wait_until_drawn(page, "auto")
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    # with nothing
    page.get_by_label("text").fill(" ")
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("Give at least one of image, text.").wait_for()
    page.close()


@pytest.mark.parametrize("answer", ["head", "prototypes"])
@pytest.mark.parametrize("missing", ["fused", "prototypes"])
@pytest.mark.parametrize("lacks", [False, True])
def test_the_heading_says_which_answer_is_shown(app, pipe, digits, monkeypatch, answer, missing, lacks):
    model = pipe.model
    monkeypatch.setattr(model.config, "answer", "head")
    values = {"text": "the digit two"} if lacks else {"image": digits[5]["picture"], "text": "the digit two"}
    with torch.no_grad():
        output = model(**pipe.processor(**{name: [value] for name, value in values.items()}))
        of_prototypes = model.prototypes.answer(output.embeddings, output.present).exp()[0].tolist()
        of_text = model.prototypes(output.embeddings)["text"].softmax(1)[0].tolist()
    of_head = output.logits.softmax(1)[0].tolist()
    assert max(abs(a - b) for a, b in zip(of_prototypes, of_text, strict=True)) > 1e-3
    expected = {
        ("head", "fused", True): ("Answer of the fusion head from text; image is missing", of_head),
        ("head", "prototypes", True): ("Answer of the prototypes of text; image is missing", of_text),
        ("prototypes", "fused", True): ("Answer of the prototypes of text; image is missing", of_prototypes),
        ("prototypes", "prototypes", True): ("Answer of the prototypes of text; image is missing", of_prototypes),
        ("head", "fused", False): ("Answer, all modalities together", of_head),
        ("head", "prototypes", False): ("Answer, all modalities together", of_head),
        ("prototypes", "fused", False): ("Answer of the prototypes of image and text", of_prototypes),
        ("prototypes", "prototypes", False): ("Answer of the prototypes of image and text", of_prototypes),
    }[answer, missing, lacks]
    monkeypatch.setattr(model.config, "answer", answer)
    classify = classifier(app.build(MultimodalPipeline(model, pipe.processor, missing=missing), "my model"))
    heading, scores, _ = classify(values.get("image"), values["text"])
    assert heading == f"### {expected[0]}"
    assert [scores[model.config.id2label[k]] for k in range(4)] == pytest.approx(expected[1], abs=1e-6)


def test_the_heading_of_a_modality_without_prototypes(app, make_model, processor):
    model = make_model(answer="prototypes").eval()
    classify = classifier(app.build(MultimodalPipeline(model, processor, missing="fused"), "my model"))
    heading, scores, _ = classify(None, "the digit two")
    assert heading == "### Answer of the prototypes of no modality; image is missing"
    assert list(scores.values()) == pytest.approx([0.25] * 4)


def test_numbers_and_a_model_without_prototypes(app, make_model):
    backbones = {name: NumericConfig(num_features=2, hidden_size=4, dropout=0.0) for name in ("a", "b")}
    processors = {"a": NumericProcessor([0.0, 5.0], [1.0, 1.0]), "b": NumericProcessor([0, 0], [1, 1], ["age", "size"])}
    pipe = MultimodalPipeline(make_model(backbones=backbones), MultimodalProcessor(processors), missing="fused")
    fields = [app.component_of(pipe.processor.kind(name)) for name in "ab"]
    assert [field.headers for field in fields] == [["number 1", "number 2"], ["age", "size"]]
    classify = classifier(app.build(pipe, "numbers"))
    expected = lambda **given: {entry["label"]: entry["score"] for entry in pipe(**given)}  # noqa: E731
    heading, scores, html = classify([["1", "2.5"]], [["0", 1]])
    assert heading == "### Answer, all modalities together" and scores == expected(a=[1, 2.5], b=[0, 1])
    assert html.count("It has no prototypes") == 2 and html.count("not given") == 0
    # an empty cell is a missing number, for which the processor takes the training mean
    assert classify([["1", ""]], [["0", "1"]])[1] == expected(a=[1, 5.0], b=[0, 1])
    heading, scores, html = classify([["1", "2"]], [["", None]])
    assert heading == "### Answer of the fusion head from a; b is missing" and html.count("not given") == 1
    assert scores == expected(a=[1, 2])
    for cell, column in (("one", "age"), ("1,5", "age"), ("inf", "age")):
        with pytest.raises(gr.Error, match=f"Expected values that can be read, but '{cell}' in column '{column}' is"):
            classify([["1", "2"]], [[cell, "1"]])
    with pytest.raises(gr.Error, match=r"Expected one row of \['number 1', 'number 2'\] for a, got \[\['1'\]\]"):
        classify([["1"]], [["0", "1"]])


def test_a_row_of_a_table(app, make_model):
    table = TabularProcessor({"age": (2.0, 1.0)}, {"city": ["a", "b"]})
    pipe = MultimodalPipeline(
        make_model(backbones={"stats": table}), MultimodalProcessor({"stats": table}), missing="fused"
    )
    field = app.component_of(pipe.processor.kind("stats"))
    assert isinstance(field, gr.Dataframe) and field.headers == ["age", "city"]
    classify = classifier(app.build(pipe, "table"))
    for cells, row in (
        (["3", "b"], {"city": "b", "age": 3}),
        (["", "b"], {"city": "b", "age": None}),
        (["3", ""], {"age": 3, "city": None}),
    ):
        assert classify([cells])[1] == {entry["label"]: entry["score"] for entry in pipe(stats=row)}
    with pytest.raises(gr.Error, match=r"Give at least one of stats"):
        classify([["", ""]])
    with pytest.raises(gr.Error, match=r"Expected values that can be read, but 'old' in column 'age' is not a number"):
        classify([["old", "a"]])
    with pytest.raises(gr.Error, match=r"Expected one row of \['age', 'city'\] for stats, got \[\['3'\]\]"):
        classify([["3"]])


def test_a_person_fills_some_cells(app, make_model, opened, browser):
    table = TabularProcessor({"age": (2.0, 1.0), "size": (0.0, 1.0)})
    pipe = MultimodalPipeline(make_model(backbones={"stats": table}), MultimodalProcessor({"stats": table}))
    page = browser.new_page()
    page.goto(opened(pipe))
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("Give at least one of stats.").wait_for()
    cell = page.get_by_role("gridcell").nth(1)
    cell.dblclick()
    cell.get_by_role("textbox").fill("3")
    page.keyboard.press("Enter")
    cell.get_by_text("3", exact=True).wait_for()  # the cell has left its editor
    page.get_by_role("button", name="Classify").click()
    page.get_by_role("heading", name="Answer, all modalities together").wait_for()
    best = pipe(stats={"age": None, "size": 3})[0]["label"]
    assert best in page.locator("[data-testid=label-output-value], .output-class").inner_text()
    page.close()


def said(share, *distances):
    """What a pipeline says of one modality."""
    near = [{"label": f"class {i}", "distance": distance} for i, distance in enumerate(distances)]
    part = {"labels": [{"label": "class 0", "score": 1.0}], "distances": near, "share": share}
    return {"modalities": {"image": part}}


def test_distances_are_relative_to_the_nearest(app):
    html = app.modalities_html(said(0.5, 2.0, 3.0, 500.0), {"image": "given"})
    found = re.findall(r'class="bar far" style="width: ([\d.]+)%"></div></div><span>([^<]*)<', html)
    assert found == [("100.0", "1.00x"), ("66.7", "1.50x"), ("0.4", "> 99x")]
    html = app.modalities_html(said(0.5, 0.0, 0.0, 1.0), {"image": "given"})
    found = re.findall(r'class="bar far" style="width: ([\d.]+)%"></div></div><span>([^<]*)<', html)
    assert found == [("100.0", "1.00x"), ("100.0", "1.00x"), ("0.0", "> 99x")]


def test_no_share_is_minus_zero(app):
    for share, words in ((-0.004, "share +0.00"), (-0.0, "share +0.00"), (-0.006, "share -0.01")):
        html = app.modalities_html(said(share, 1.0), {"image": "given"})
        assert words in html and ("against" in html) == (share < -0.005)
    result = {"modalities": {"image": {"shares": [{"label": "price", "share": -0.0}]}}}
    html = app.shares_html(result, {"image": "given"})
    assert "<span>+0</span>" in html and "against" not in html


@pytest.mark.parametrize("given", ["run", "run/", ".", "me/my-model"])
def test_the_title_is_a_name(app, given, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run" if given == "." else tmp_path)
    assert app.title_of(given) == ("me/my-model" if given == "me/my-model" else "run")
    assert app.title_of(str(tmp_path / "run")) == "run"


def test_a_person_takes_an_example(app, pipe, digits, opened, browser, collator, tmp_path):
    save_examples(tmp_path, digits.select([5, 9]), collator)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(opened(pipe, read_examples(tmp_path, pipe.processor)))
    page.get_by_text("Examples of the validation data").wait_for()
    page.get_by_text(digits[9]["caption"], exact=True).click()
    wait_until_drawn(page, "pixelated")
    assert page.get_by_label("text").input_value() == digits[9]["caption"]
    page.get_by_role("button", name="Classify").click()
    page.locator(".pmr section").first.wait_for()
    expected = pipe(image=digits[9]["picture"], text=digits[9]["caption"], explain=True)
    boxes = page.locator(".pmr section").all_inner_texts()
    for box, part in zip(boxes, expected["modalities"].values(), strict=True):
        assert share_of(part) in box and f"{part['labels'][0]['score']:.0%}" in box
    page.close()


def test_an_example_of_every_kind_fills_its_field(app, media, tmp_path):
    """What the field hands back is the value that was saved."""
    dataset, collator = media
    save_examples(tmp_path, dataset.select([4]), collator)
    (example,) = read_examples(tmp_path, collator.processor)
    shown = {name: app.shown(collator.processor.kind(name), value) for name, value in example.items()}
    assert shown["text"] is None and shown["vitals"] == [[4.0, ""]] and shown["video"] is None
    rate, samples = shown["speech"]
    assert rate == 16000 and samples.dtype == np.int16
    np.testing.assert_allclose(samples / 32767, example["speech"], atol=1e-4)
    assert np.array_equal(np.asarray(shown["image"]), np.asarray(Image.open(tmp_path / "4.png")))


def test_sound_and_video_by_their_files(app, make_model, tmp_path):
    write_wav(tmp_path / "a.wav", np.sin(np.arange(8000) / 9), 8000)
    write_video(tmp_path / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8), 5)
    processor = MultimodalProcessor(
        {
            "sound": SpectrogramFeatureExtractor(seconds=1),
            "clip": ViTImageProcessor(size={"height": 8, "width": 8}),
            "photo": ViTImageProcessor(size={"height": 8, "width": 8}),
        },
        num_frames={"clip": 2},
    )
    backbones = {"sound": CGMNISTConfig(num_channels=1), "clip": CGMNISTConfig(), "photo": CGMNISTConfig()}
    pipe = MultimodalPipeline(make_model(backbones=backbones), processor, missing="fused")
    kinds = [type(app.component_of(processor.kind(name))) for name in backbones]
    assert kinds == [gr.Audio, gr.Video, gr.Image]
    classify = classifier(app.build(pipe, "sound"))
    files = str(tmp_path / "a.wav"), str(tmp_path / "a.mp4")
    _, scores, _ = classify(*files, None)
    assert scores == {entry["label"]: entry["score"] for entry in pipe(sound=files[0], clip=files[1])}


def test_a_regression_shows_its_value_and_what_each_modality_adds(app):
    backbones = {name: NumericConfig(num_features=2, hidden_sizes=[4]) for name in ("left", "right")}
    model = MultimodalModel.from_backbones(
        backbones, num_labels=1, problem_type="regression", id2label={0: "<price>"}, label2id={"<price>": 0}
    )
    model.fit_targets(torch.tensor([1000.0, 3000]))
    processors = {name: NumericProcessor(mean=[0, 0], std=[1, 1]) for name in backbones}
    pipe = MultimodalPipeline(model, MultimodalProcessor(processors))
    heading, text, html = classifier(app.build(pipe, "my model"))([["1", "2"]], [["", ""]])
    assert heading == "### Answer of the fusion head from left; right is missing"
    result = pipe(left=[1.0, 2.0], explain=True)
    assert text == f"<price>: {result['values'][0]['value']:.5g}"
    added = result["modalities"]["left"]["shares"][0]["share"]
    assert f"{added:+.4g}" in html and "&lt;price&gt;" in html and "right <span>not given" in html
