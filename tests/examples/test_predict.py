"""`examples/predict.py`, run as a user runs it: a table in, JSON lines out, also after an interrupted run."""

import json
import sys

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset
from helpers.scripts import load_example, run_example

from pmr_hf import (
    MultimodalModel,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    TabularProcessor,
)


def predict(*arguments):
    return run_example("predict.py", *arguments)


@pytest.fixture(scope="module")
def job(make_model, processor, digits, tmp_path_factory):
    """The folder of a table of ten rows, and the arguments. One row names a broken picture, and one is empty."""
    folder = tmp_path_factory.mktemp("predict")
    make_model().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rows = [{"picture": f"{i}.png", "title": row["caption"]} for i, row in enumerate(digits.select(range(10)))]
    for i, row in enumerate(digits.select(range(10))):
        row["picture"].save(folder / f"{i}.png")
    (folder / "4.png").write_text("no picture")
    rows[2]["title"], rows[3]["picture"], rows[7] = None, None, {"picture": None, "title": ""}
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    arguments = ["--model", folder / "model", "--input", folder / "rows.csv", "--batch_size", 4, "--top_k", 4]
    arguments += ["--missing", "fused"]  # the model has no prototypes
    return folder, [*arguments, "--columns", "image=picture", "text=title"]


def test_a_line_for_each_row(job, digits):
    folder, arguments = job
    output = folder / "new" / "predictions.jsonl"
    run = predict(*arguments, "--output", output)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 11))
    assert run.stdout.splitlines() == [
        f"read 10 rows of {folder / 'rows.csv'}; predicted 8; 2 could not be predicted, see their `error`",
        f"saved to {output}",
    ]
    assert "4.png' is not an image that can be read" in lines[4]["error"]
    assert "give at least one value" in lines[7]["error"]
    pipe = MultimodalPipeline(folder / "model", missing="fused")
    values = [{"image": row["picture"], "text": row["caption"]} for row in digits.select(range(10))]
    values[2].pop("text"), values[3].pop("image")
    for i in (0, 2, 3, 9):
        expected = {entry["label"]: entry["score"] for entry in pipe(**values[i])}
        assert {entry["label"]: entry["score"] for entry in lines[i]["labels"]} == pytest.approx(expected, abs=1e-6)

    # Stopped in the middle of a line
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b'"row": 6') + 30])
    run = predict(*arguments, "--output", output)
    assert run.returncode == 0 and "; predicted 4, after 5 of an earlier run; 1 could not be" in run.stdout
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["row"] for line in again] == list(range(1, 11))
    assert output.read_bytes().splitlines()[:5] == whole.splitlines()[:5]  # these lines were not written again

    # Other options are refused: a file holds the answers of one set of options
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    run = predict(*arguments, "--explain", "--output", output)
    assert run.returncode == 1 and "but it was begun with {" in run.stderr
    assert len(output.read_bytes().splitlines()) == 5


def test_columns_are_kept(tmp_path):
    table = {"x": [0.0, 1.0], "id": ["post 0", "post 1"], "score": [1.5, None]}
    table["when"] = [pd.Timestamp(2026, 1, 1), pd.Timestamp(2026, 1, 2)]
    rows = Dataset.from_dict({**table, "kind": [1, 0]})
    rows.cast_column("kind", ClassLabel(names=["cat", "dog"])).to_parquet(tmp_path / "rows.parquet")
    model = MultimodalModel.from_backbones({"a": NumericConfig(num_features=1)}, num_labels=2)
    model.save_pretrained(tmp_path / "model")
    MultimodalProcessor({"a": NumericProcessor.fit([[0.0], [1.0]])}).save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--input", tmp_path / "rows.parquet", "--columns", "a=x"]
    run = predict(*arguments, "--output", tmp_path / "a.jsonl", "--keep", "score", "id", "when", "kind")
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["row", "score", "id", "when", "kind", "labels"]] * 2
    assert [line["kind"] for line in lines] == ["dog", "cat"]
    assert [line["id"] for line in lines] == ["post 0", "post 1"] and [line["score"] for line in lines] == [1.5, None]
    assert lines[1]["when"] == "2026-01-02 00:00:00"
    for column, sentence in [
        ("labels", "expected --keep of other columns than"),
        ("no", "expected the columns ['no']"),
    ]:
        run = predict(*arguments, "--output", tmp_path / "b.jsonl", "--keep", column)
        assert run.returncode == 2 and sentence in run.stderr and not (tmp_path / "b.jsonl").exists()


@pytest.mark.slow
def test_a_missing_column_is_named(job):
    folder, arguments = job
    run = predict(*arguments[:-1], "text=caption", "--output", folder / "none.jsonl")
    assert run.returncode == 2 and "expected the columns ['caption'] in" in run.stderr
    assert not (folder / "none.jsonl").exists()
    run = predict(*arguments[:-1], "caption=title", "--output", folder / "none.jsonl")
    assert run.returncode == 2 and "of the modalities ['image', 'text'], got ['caption']" in run.stderr


def test_the_order_of_columns_does_not_count_and_other_columns_are_refused(tmp_path, monkeypatch, capsys):
    script = load_example("predict")
    rows = [{"age": 1, "city": "a", "price": 5.0}, {"age": 3, "city": "1", "price": 9.0}]
    table = TabularProcessor.fit(rows, ["age"], ["city"])
    numbers = NumericProcessor.fit([[1.0, 5.0], [3.0, 9.0]], columns=["age", "price"])
    backbones = {"stats": table, "costs": NumericConfig(num_features=2)}
    MultimodalModel.from_backbones(backbones, num_labels=3).save_pretrained(tmp_path / "model")
    MultimodalProcessor({"stats": table, "costs": numbers}).save_pretrained(tmp_path / "model")
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["--model", tmp_path / "model", "--input", tmp_path / "rows.csv", "--top_k", 3, "--columns"]
    for name, columns in [("a", ["stats=age,city", "costs=age,price"]), ("b", ["costs=price,age", "stats=city,age"])]:
        command = ["predict.py", *arguments, *columns, "--output", tmp_path / f"{name}.jsonl"]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        script.main()
    found = (tmp_path / "a.jsonl").read_text()
    assert found == (tmp_path / "b.jsonl").read_text()
    pipe = MultimodalPipeline(tmp_path / "model")
    for line, row in zip(found.splitlines(), rows, strict=True):
        expected = pipe(stats=row, costs=[row["age"], row["price"]])
        assert json.loads(line)["labels"][0]["score"] == pytest.approx(expected[0]["score"], abs=1e-6)
    assert "leaves out" not in capsys.readouterr().out
    command = ["predict.py", *arguments, "stats=age,city", "--missing", "fused", "--output", tmp_path / "d.jsonl"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    script.main()
    assert "--columns leaves out costs, so these answers are without\n" in capsys.readouterr().out
    command = ["predict.py", *arguments, "stats=age,price", "--output", tmp_path / "c.jsonl"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2 and "Expected the columns ['age', 'city'] of 'stats'" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl").exists()


def test_a_table_of_one_column_of_numbers(tmp_path, monkeypatch, capsys):
    script = load_example("predict")
    model = MultimodalModel.from_backbones({"a": NumericConfig(num_features=1)}, num_labels=2)
    model.save_pretrained(tmp_path / "model")
    MultimodalProcessor({"a": NumericProcessor([0.0], [1.0])}).save_pretrained(tmp_path / "model")
    (tmp_path / "rows.csv").write_text("x\n1\n 2.5 \n")
    command = ["predict.py", "--model", tmp_path / "model", "--input", tmp_path / "rows.csv", "--columns", "a=x"]
    command = [str(part) for part in [*command, "--output", tmp_path / "new.jsonl"]]
    monkeypatch.setattr(sys, "argv", [*command, "--top_k", "0"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2 and "expected --top_k of at least 1, got 0" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    lines = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    expected = MultimodalPipeline(tmp_path / "model")(a=[[1.0], [2.5]], top_k=1)
    assert [line["labels"][0]["label"] for line in lines] == [best[0]["label"] for best in expected]
    assert [line["labels"][0]["score"] for line in lines] == pytest.approx([best[0]["score"] for best in expected])
