"""What is checked of all splits before the first training."""

import pytest
from datasets import Dataset, DatasetDict

from pmr_hf import MultimodalCollator, MultimodalProcessor, NumericProcessor, TabularProcessor
from pmr_hf.command_line.prepare import check_cells
from pmr_hf.data.columns import ROW
from pmr_hf.model.media_values import UnreadableError


GOOD, BAD = ["1.5", "2"], ["1.5", "N/A"]


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("kind", ["numbers", "table"])
@pytest.mark.parametrize("on_error", ["raise", "missing"])
def test_a_cell_that_cannot_be_read_stops_before_training(split, kind, on_error):
    splits = DatasetDict()
    for name in ("train", "validation", "test"):
        cells = BAD if name == split else GOOD
        rows = [f"{name}.csv, row {i}" for i in (1, 2)]
        splits[name] = Dataset.from_dict({"x": cells, "unread": [{"a": 1}] * 2, "label": [0, 1], ROW: rows})
    processor = NumericProcessor.fit([[1.5], [2.0]]) if kind == "numbers" else TabularProcessor({"x": (1.75, 0.25)}, {})
    columns = {"facts": "x" if kind == "numbers" else ["x"]}
    collator = MultimodalCollator(MultimodalProcessor({"facts": processor}), columns, on_error=on_error)
    if on_error == "missing":
        check_cells(collator, splits)
        return
    with pytest.raises(UnreadableError, match=rf"'facts' in {split}\.csv, row 2, column .*'N/A'"):
        check_cells(collator, splits)
    check_cells(collator, DatasetDict({name: rows for name, rows in splits.items() if name != split}))
