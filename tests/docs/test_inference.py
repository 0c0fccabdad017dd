"""The code of docs/inference.md about reports and calibration runs as printed."""

import re
from pathlib import Path

import pytest

from pmr_hf import PrototypeTrainer


PAGE = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("title", ["A report of a trained model", "Calibrated probabilities"])
def test_the_code_runs(title, make_trainer, digits, collator, processor, tmp_path, monkeypatch):
    trainer = make_trainer(cls=PrototypeTrainer)
    trainer.train()
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {
        "trainer": trainer,
        "dataset": digits,
        "collator": collator,
        "model": trainer.model,
        "processor": processor,
    }
    exec(code, names)
    if "report" in names:
        assert (tmp_path / "report" / "report.html").is_file() and "confusion.png" in (
            tmp_path / "out" / "README.md"
        ).read_text()
    else:
        assert (
            f'"calibration_temperature": {names["temperature"]}'
            in (tmp_path / "calibrated" / "config.json").read_text()
        )
