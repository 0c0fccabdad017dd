"""The demo in a real browser: what a person enters and sees."""

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

    def open_page(pipe):
        pages.append(app.build(pipe, "my model"))
        options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
        return pages[-1].launch(theme=app.THEME, css=app.CSS, **options)[1]

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


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
        assert box.startswith(name) and f"share {part['share']:+.2f}" in box
        assert f"{part['labels'][0]['label']}\n" in box and f"{part['labels'][0]['score']:.0%}" in box
        assert f"{part['distances'][0]['distance']:.2f}" in box
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
    # with nothing
    page.get_by_label("text").fill(" ")
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("Give at least one of image, text.").wait_for()
    page.close()


def test_numbers_and_a_model_without_prototypes(app, make_model):
    backbones = {name: NumericConfig(num_features=2, hidden_size=4, dropout=0.0) for name in ("a", "b")}
    processor = MultimodalProcessor({name: NumericProcessor([0.0, 0.0], [1.0, 1.0]) for name in backbones})
    pipe = MultimodalPipeline(make_model(backbones=backbones), processor, missing="fused")
    (classify,) = [each.fn for each in app.build(pipe, "numbers").fns.values()]
    scores, html = classify("1, 2.5", "0, 1")
    assert scores == {entry["label"]: entry["score"] for entry in pipe(a=[1, 2.5], b=[0, 1])}
    assert html.count("It has no prototypes") == 2
    assert html.count("not given") == 0 and classify("1, 2", "")[1].count("not given") == 1
    with pytest.raises(gr.Error, match=r"Expected numbers with commas between them for a, got 'one'"):
        classify("one", "0, 1")


def test_a_row_of_a_table(app, make_model):
    table = TabularProcessor({"age": (2.0, 1.0)}, {"city": ["a", "b"]})
    pipe = MultimodalPipeline(
        make_model(backbones={"stats": table}), MultimodalProcessor({"stats": table}), missing="fused"
    )
    field = app.component_of(pipe, "stats")
    assert isinstance(field, gr.Dataframe) and field.headers == ["age", "city"]
    (classify,) = [each.fn for each in app.build(pipe, "table").fns.values()]
    scores, _ = classify([["3", "b"]])
    assert scores == {entry["label"]: entry["score"] for entry in pipe(stats={"city": "b", "age": 3})}
    with pytest.raises(gr.Error, match=r"Give at least one of stats"):
        classify([["", ""]])
    with pytest.raises(gr.Error, match=r"Expected one row of \['age', 'city'\] for stats, got \[\['3'\]\]"):
        classify([["3"]])


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
    kinds = [type(app.component_of(pipe, name)) for name in backbones]
    assert kinds == [gr.Audio, gr.Video, gr.Image]
    (classify,) = [each.fn for each in app.build(pipe, "sound").fns.values()]
    files = str(tmp_path / "a.wav"), str(tmp_path / "a.mp4")
    scores, _ = classify(*files, None)
    assert scores == {entry["label"]: entry["score"] for entry in pipe(sound=files[0], clip=files[1])}


def test_a_regression_shows_its_value_and_what_each_modality_adds(app):
    backbones = {name: NumericConfig(num_features=2, hidden_sizes=[4]) for name in ("left", "right")}
    model = MultimodalModel.from_backbones(
        backbones, num_labels=1, problem_type="regression", id2label={0: "<price>"}, label2id={"<price>": 0}
    )
    model.fit_targets(torch.tensor([1000.0, 3000]))
    processors = {name: NumericProcessor(mean=[0, 0], std=[1, 1]) for name in backbones}
    pipe = MultimodalPipeline(model, MultimodalProcessor(processors))
    (classify,) = [each.fn for each in app.build(pipe, "my model").fns.values() if each.api_name == "classify"]
    text, html = classify("1, 2", "")
    result = pipe(left=[1.0, 2.0], explain=True)
    assert text == f"<price>: {result['values'][0]['value']:.5g}"
    added = result["modalities"]["left"]["shares"][0]["share"]
    assert f"{added:+.4g}" in html and "&lt;price&gt;" in html and "right <span>not given" in html
