"""Raw values in, classes out: the pipeline against the model itself."""

import functools
import http.server
import io
import statistics
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers.digits import take_prototypes
from PIL import Image as PILImage

from pmr_hf import (
    MediaLimits,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    TabularProcessor,
)
from pmr_hf.model.media import UnreadableError


@pytest.fixture(scope="module")
def model(make_model, processor, digits):
    """A model with prototypes, and with random weights in its head and its absent vectors."""
    model = make_model().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for vector in model.absent.values():
            vector.normal_()
        for parameter in model.fusion.parameters():
            parameter.normal_()
    take_prototypes(model, processor, digits)
    return model


@pytest.fixture(scope="module")
def pipe(model, processor):
    return MultimodalPipeline(model, processor, batch_size=8)


def scores_of(result):
    return {entry["label"]: entry["score"] for entry in result}


def test_one_sample_and_lists_and_columns_have_the_models_scores(pipe, model, processor, digits):
    rows = digits[:20]
    with torch.no_grad():
        expected = model(**processor(image=rows["picture"], text=rows["caption"])).logits.softmax(1)
    results = pipe(image=digits.select(range(20))["picture"], text=digits.select(range(20))["caption"])
    assert len(results) == 20  # in three batches
    for i, result in enumerate(results):
        assert [entry["score"] for entry in result] == sorted((entry["score"] for entry in result), reverse=True)
        for k in range(4):
            assert scores_of(result)[f"LABEL_{k}"] == pytest.approx(expected[i, k].item(), abs=1e-6)
        one = pipe(image=rows["picture"][i], text=rows["caption"][i])
        assert scores_of(one) == pytest.approx(scores_of(result), abs=1e-6)
    assert len(pipe(top_k=2, text="the digit one")) == 2


def test_a_picture_from_anywhere_is_the_same(pipe, digits, tmp_path):
    picture = digits[3]["picture"]
    picture.save(tmp_path / "digit.png")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = io.BytesIO()
    picture.save(data, "png")
    url = f"http://127.0.0.1:{server.server_port}/digit.png"
    with pytest.raises(UnreadableError, match=r"is an address, and addresses are not opened; .* `allow_urls=True`"):
        pipe(image=url)
    limits = MediaLimits(allow_urls=True, hosts=("127.0.0.1",))
    pipe = MultimodalPipeline(pipe.model, pipe.processor, limits=limits)
    values = [picture, str(tmp_path / "digit.png"), tmp_path / "digit.png", data.getvalue(), np.asarray(picture), url]
    found = [scores_of(pipe(image=value)) for value in values]
    assert all(scores == found[0] for scores in found)
    with pytest.raises(UnreadableError, match=r"cannot download .*/none\.png' \(Client error '404"):
        pipe(image=url.replace("digit", "none"))
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("missing", ["fused", "prototypes"])
def test_any_subset_of_modalities(model, processor, digits, missing):
    pipe = MultimodalPipeline(model, processor, missing=missing)
    picture, caption = digits[0]["picture"], digits[0]["caption"]
    with torch.no_grad():
        output = model(**processor(image=[picture]))
        alone = model.prototypes(output.embeddings)["image"].softmax(1)
    expected = (output.logits.softmax(1) if missing == "fused" else alone)[0]
    for result in (pipe(image=picture), pipe(image=picture, text=None), pipe(image=[picture], text=[""])[0]):
        for k in range(4):
            assert scores_of(result)[f"LABEL_{k}"] == pytest.approx(expected[k].item(), abs=1e-6)
    for one in pipe(image=[picture, picture], text=None):
        assert scores_of(one) == pytest.approx(scores_of(pipe(image=picture)), abs=1e-6)
    mixed = pipe(image=[picture, None, picture], text=[None, caption, caption])
    assert scores_of(mixed[0]) == pytest.approx(scores_of(pipe(image=picture)), abs=1e-6)
    assert scores_of(mixed[1]) == pytest.approx(scores_of(pipe(text=caption)), abs=1e-6)
    whole = MultimodalPipeline(model, processor)(image=picture, text=caption)
    assert scores_of(mixed[2]) == pytest.approx(scores_of(whole), abs=1e-6)


def test_the_product_of_the_present_classifiers(make_model, digits):
    """Two of three modalities are present: p is proportional to the product of their probabilities."""
    backbones = {name: NumericConfig(num_features=2, hidden_size=4, dropout=0.0) for name in ("a", "b", "c")}
    model = make_model(backbones=backbones).eval()
    processor = MultimodalProcessor({name: NumericProcessor([0.0, 0.0], [1.0, 1.0]) for name in backbones})
    pipe, values = MultimodalPipeline(model, processor), torch.randn(8, 2)
    assert len(pipe(a=[1.0, 2.0], b=[0.0, 1.0], c=[1.0, 1.0])) == 4
    with pytest.raises(ValueError, match=r"got none of \['a', 'b', 'c'\]; train with PMRTrainer"):
        pipe(a=[1.0, 2.0])
    with torch.no_grad():
        embeddings = model(**{name: {"values": values} for name in backbones}).embeddings
    model.prototypes.momentum_update(model.prototypes.class_sums(embeddings, torch.arange(8) % 4), 0.0)
    p, q = (model.prototypes(embeddings)[name][0].softmax(0).tolist() for name in ("a", "c"))
    total = sum(x * y for x, y in zip(p, q, strict=True))
    found = scores_of(pipe(a=values[0].tolist(), c=values[0].numpy()))
    for k in range(4):
        assert found[f"LABEL_{k}"] == pytest.approx(p[k] * q[k] / total, abs=1e-5)


def test_explain_gives_labels_distances_and_shares(model, processor, digits):
    pipe, row = MultimodalPipeline(model, processor, missing="fused"), digits[1]
    result = pipe(image=row["picture"], text=row["caption"], explain=True)
    assert result["labels"] == pipe(image=row["picture"], text=row["caption"])
    best = result["labels"][0]["label"]
    with torch.no_grad():
        output = model(**processor(image=[row["picture"]], text=[row["caption"]]))
        logits = model.prototypes(output.embeddings)["text"].softmax(1)[0]
        none = model.fusion({name: vector[None] for name, vector in model.absent.items()}).softmax(1)[0]
    assert scores_of(result["modalities"]["text"]["labels"])["LABEL_2"] == pytest.approx(logits[2].item(), abs=1e-6)
    near = result["modalities"]["image"]["distances"]
    apart = torch.linalg.vector_norm(output.embeddings["image"] - model.prototypes.mean("image"), dim=1).tolist()
    assert [entry["distance"] for entry in near] == pytest.approx(sorted(apart), abs=1e-5)
    assert near[0]["label"] == f"LABEL_{apart.index(min(apart))}"
    # With two modalities: half of what one adds alone plus half of what it adds to the other.
    both, empty = result["labels"][0]["score"], none[int(best[-1])].item()
    image, text = (scores_of(pipe(**{name: row[column]}))[best] for name, column in SOURCES)
    shares = {name: part["share"] for name, part in result["modalities"].items()}
    assert shares["image"] == pytest.approx((image - empty + both - text) / 2, abs=1e-6)
    assert shares["text"] == pytest.approx((text - empty + both - image) / 2, abs=1e-6)
    alone = pipe(text=row["caption"], explain=True)["modalities"]
    assert alone["image"] == {"labels": [], "distances": [], "share": 0.0} and alone["text"]["labels"]
    alone = MultimodalPipeline(model, processor)(text=row["caption"], explain=True)  # with four classes
    assert alone["modalities"]["text"]["share"] == pytest.approx(alone["labels"][0]["score"] - 1 / 4, abs=1e-6)


SOURCES = (("image", "picture"), ("text", "caption"))


def test_a_stream_is_read_a_batch_at_a_time(pipe):
    read = []

    def rows():
        for i in range(100):
            read.append(i)
            yield {"text": "the digit one"}

    results = pipe.stream(rows())
    for i in range(20):
        next(results)
        assert len(read) == (i // 8 + 1) * 8


@pytest.mark.slow
def test_a_long_stream_takes_no_more_memory_than_a_short_one(make_model):
    """1,000 rows of 160 kB each would take 160 MB if they were kept."""
    width = 20_000
    backbones = {"a": NumericConfig(num_features=width, hidden_size=2, dropout=0.0)}
    processor = MultimodalProcessor({"a": NumericProcessor([0.0] * width, [1.0] * width)})
    pipe = MultimodalPipeline(make_model(backbones=backbones), processor, batch_size=8)
    memory = []
    for i, _ in enumerate(pipe.stream({"a": np.full(width, float(i))} for i in range(1_200))):
        if i in (199, 1_199):
            memory.append(psutil.Process().memory_info().rss)
    assert memory[1] - memory[0] < 50e6


def test_batches_are_five_times_as_fast(model, processor, digits):
    rows = digits[:64]
    pipe = MultimodalPipeline(model, processor, batch_size=64)
    ratios = []
    for _ in range(5):
        start = time.perf_counter()
        single = [pipe(image=image, text=text) for image, text in zip(rows["picture"], rows["caption"], strict=True)]
        middle = time.perf_counter()
        batched = pipe(image=rows["picture"], text=rows["caption"])
        ratios.append((middle - start) / (time.perf_counter() - middle))
    assert statistics.median(ratios) >= 5, ratios
    for one, other in zip(single, batched, strict=True):
        assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-6)


def test_from_a_folder(model, processor, pipe, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = scores_of(MultimodalPipeline(tmp_path)(text="the digit two"))
    assert found == pytest.approx(scores_of(pipe(text="the digit two")), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            r"Expected values by the names of the modalities, \['image', 'text'\], got none; call it like pipe\(image=",
        ),
        ({"image": None}, "give at least one value"),
        ({"sound": "a.wav"}, r"names of the modalities, \['image', 'text'\], got \['sound'\]"),
        ({"sound": None, "text": "a"}, r"names of the modalities, \['image', 'text'\], got \['sound'\]"),
        ({"text": "a", "top_k": 0}, "Expected `top_k` of at least 1, or None for all classes, got 0"),
        ({"text": "a", "top_k": "3"}, "Expected `top_k` of at least 1, or None for all classes, got '3'"),
        ({"image": ["a.png"], "text": "a"}, "Expected one value of each modality, or a list of each"),
        ({"image": [None, None], "text": ["a"]}, r"got {'image': 2, 'text': 1}"),
        ({"image": "none.png"}, "cannot open file 'none.png'"),
        ({"image": PILImage.new("L", (8, 8)), "text": 3 + 4j}, "is not a text"),
    ],
)
def test_values_that_the_pipeline_refuses(pipe, values, message):
    with pytest.raises(ValueError, match=message):
        pipe(**values)
    with pytest.raises(ValueError, match="Expected the model's processor, got none"):
        MultimodalPipeline(pipe.model)
    with pytest.raises(ValueError, match="Expected `batch_size` of at least 1, got 0"):
        MultimodalPipeline(pipe.model, pipe.processor, batch_size=0)


def test_numbers_of_any_kind_and_lists_of_missing_ones(make_model):
    model = make_model(backbones={name: NumericConfig(num_features=2, hidden_size=4) for name in ("a", "b")})
    processor = MultimodalProcessor({name: NumericProcessor([0.0, 0.0], [1.0, 1.0]) for name in ("a", "b")})
    pipe = MultimodalPipeline(model, processor, missing="fused")
    one = scores_of(pipe(a=[1.0, 2.0]))
    assert scores_of(pipe(a=list(np.array([1.0, 2.0], np.float32)))) == pytest.approx(one)
    assert scores_of(pipe(a=[[1.0, 2.0], [0.0, 0.0]], b=[None, None])[0]) == pytest.approx(one)


def test_rows_of_a_table_as_dicts_and_as_a_frame(make_model):
    rows = [{"city": "a", "age": 1}, {"city": "b", "age": 4}, {"city": None, "age": 2.5}]
    table = TabularProcessor.fit(rows, ["age"], ["city"])
    pipe = MultimodalPipeline(
        make_model(backbones={"stats": table}), MultimodalProcessor({"stats": table}), missing="fused"
    )
    several = [scores_of(result) for result in pipe(stats=rows)]
    assert len(several) == 3 and several[0] != several[1]
    assert scores_of(pipe(stats={"age": "1.0", "city": " a"})) == pytest.approx(several[0])
    frame = pd.DataFrame(rows, index=[7, 8, 9])[["age", "city"]]
    for found, expected in zip(pipe(stats=frame), several, strict=True):
        assert scores_of(found) == pytest.approx(expected)
    with pytest.raises(UnreadableError, match=r"lacks the columns \['age'\]"):
        pipe(stats={"city": "a"})
    with pytest.raises(ValueError, match=r"Expected a sample with some of the modalities \['stats'\]"):
        pipe(stats={"city": "", "age": None})


def test_a_stream_of_a_frame(pipe, digits):
    rows = [{"image": row["picture"], "text": row["caption"]} for row in digits.select(range(3))]
    assert list(pipe.stream(pd.DataFrame(rows))) == list(pipe.stream(rows))
