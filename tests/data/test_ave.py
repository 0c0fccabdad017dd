"""The reader of AVE, on a folder of tiny videos laid out as the official download."""

from pathlib import Path

import av
import pytest
from helpers.media_files import AVE_LINES as LINES
from helpers.media_files import write_ave

from pmr_hf.data.ave import HEADER, read_ave


@pytest.fixture
def download(tmp_path):
    return write_ave(tmp_path)


def test_rows_are_the_lines_of_the_official_lists(download):
    splits = read_ave(download)
    assert list(splits) == ["train", "validation", "test"]
    for rows, lines in zip(splits.values(), LINES.values(), strict=True):
        for row, line in zip(rows, lines, strict=True):
            category, video, _, start, end = line.split("&")
            assert row["audio"] == row["video"] == str(download / "AVE" / f"{video}.mp4")
            assert rows.features["label"].int2str(row["label"]) == category
            assert (row["start"], row["end"]) == (float(start), float(end))
    with av.open(row["video"]) as file:
        assert len(file.streams.video) == len(file.streams.audio) == 1


def test_labels_are_the_sorted_categories_in_every_split(download):
    for rows in read_ave(download).values():
        assert rows.features["label"].names == [
            "Church bell",
            "Female speech, woman speaking",
            "Fixed-wing aircraft, airplane",
            "Frying (food)",
            "Male speech, man speaking",
        ]
    assert read_ave(download)["test"]["label"][:] == [2, 0]


def test_a_repeated_line_is_one_event(download):
    with (download / "trainSet.txt").open("a") as file:
        file.write(LINES["trainSet.txt"][0] + "\n\n")
    assert len(read_ave(download)["train"]) == 4


def test_annotations_without_their_header(download):
    file = download / "Annotations.txt"
    file.write_text(file.read_text().removeprefix(HEADER + "\n"))  # as in the copy in the repository
    assert len(read_ave(download)["train"].features["label"].names) == 5


def test_relative_folders_give_absolute_paths(download, monkeypatch):
    monkeypatch.chdir(download.parent)
    assert Path(read_ave(download.name)["test"][0]["video"]) == download / "AVE" / "8zL4trFJ1LY.mp4"


def test_missing_files(tmp_path, download):
    (download / "valSet.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"but \['valSet.txt'\] are missing there; download it from .*AVE-ECCV18"
    ):
        read_ave(download)
    with pytest.raises(FileNotFoundError, match=r"\['Annotations.txt', 'trainSet.txt', .*'AVE'\] are missing there"):
        read_ave(tmp_path / "AVE")


def test_missing_videos(download):
    for video in ("-mlWcker_3o", "-ccciEuH9FE"):
        (download / "AVE" / f"{video}.mp4").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"but 2 are missing there, such as \['-ccciEuH9FE.mp4', '-mlWcker_3o.mp4"
    ):
        read_ave(download)


@pytest.mark.parametrize("line", ["Bark,3jS8tWfLJxI,good,7,9", "Bark&3jS8tWfLJxI&good&7", "Bark&3jS8tWfLJxI&good&7&x"])
def test_lines_in_another_format(download, line):
    with (download / "testSet.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=f"Expected lines like {HEADER} in .*testSet.txt, .*got '{line}'; take"):
        read_ave(download)


def test_a_category_that_is_not_annotated(download):
    with (download / "valSet.txt").open("a") as file:
        file.write("Bark&3jS8tWfLJxI&good&7&9\n")
    with pytest.raises(ValueError, match=r"Expected the categories of Annotations.txt in valSet.txt, got 'Bark'"):
        read_ave(download)


def test_an_event_in_two_splits(download):
    with (download / "testSet.txt").open("a") as file:
        file.write(LINES["trainSet.txt"][0])
    with pytest.raises(
        ValueError, match=r"each event in one split, got \('Church bell', .* in trainSet.txt and testSet.txt"
    ):
        read_ave(download)
