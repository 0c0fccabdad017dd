"""The reader of CREMA-D, on a folder of tiny clips laid out as the public repository."""

from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.media_files import write_video, write_wav

from pmr_hf.data.crema_d import read_crema_d


CODES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:80295870ec2f\nsize 55566\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One wav and one flv, of half a second."""
    folder = tmp_path_factory.mktemp("clips")
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    write_wav(folder / "clip.wav", sine, 16000)
    write_video(folder / "clip.flv", np.full((5, 32, 32, 3), 90, np.uint8), 10, sine)
    return (folder / "clip.wav").read_bytes(), (folder / "clip.flv").read_bytes()


@pytest.fixture
def repository(clips, tmp_path):
    """20 actors who speak two sentences in each emotion, and the public lists: the test is sentence TIE."""
    for folder in ("AudioWAV", "VideoFlash"):
        (tmp_path / folder).mkdir()
    lists = {"train": [], "test": []}
    for speaker in range(1001, 1021):
        for sentence in ("DFA", "TIE"):
            for code in CODES:
                name = f"{speaker}_{sentence}_{code}_XX"
                (tmp_path / "AudioWAV" / f"{name}.wav").write_bytes(clips[0])
                (tmp_path / "VideoFlash" / f"{name}.flv").write_bytes(clips[1])
                lists["test" if sentence == "TIE" else "train"].append(f"{name},{code}")
    for name, lines in lists.items():
        (tmp_path / f"{name}.csv").write_bytes(
            "".join(f"{line}\r\n" for line in lines).encode()
        )  # the published files end lines like this
    return tmp_path


def names(split):
    return [Path(path).stem for path in split["audio"]]


def test_the_public_lists(repository):
    splits = read_crema_d(repository)
    assert {name: len(split) for name, split in splits.items()} == {"train": 108, "validation": 12, "test": 120}
    assert names(splits["test"]) == [line[:15] for line in (repository / "test.csv").read_text().splitlines()]
    train, validation = set(names(splits["train"])), set(names(splits["validation"]))
    assert not train & validation
    assert train | validation == {line[:15] for line in (repository / "train.csv").read_text().splitlines()}
    assert set(Counter(splits["validation"]["label"]).values()) == {2}  # stratified


def test_a_repeated_line_is_one_clip(repository):
    before = read_crema_d(repository)
    with (repository / "train.csv").open("a") as file:
        file.write("1001_DFA_ANG_XX,ANG\n")
    assert names(read_crema_d(repository)["train"]) == names(before["train"])


@pytest.mark.parametrize("split", ["public", "speaker"])
def test_each_row_has_its_label_speaker_and_files(repository, split):
    for rows in read_crema_d(repository, split).values():
        assert rows.features["label"].names == ["anger", "disgust", "fear", "happy", "neutral", "sad"]
        for row, name in zip(rows, names(rows), strict=True):
            assert row["label"] == CODES.index(name[9:12]) and row["speaker"] == name[:4]
            assert row["audio"] == str(repository / "AudioWAV" / f"{name}.wav")
            assert row["video"] == str(repository / "VideoFlash" / f"{name}.flv")
    with av.open(row["audio"]) as audio, av.open(row["video"]) as video:
        assert sum(frame.samples for frame in audio.decode(audio=0)) == 8000
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_no_speaker_is_in_two_splits(repository):
    (repository / "train.csv").unlink()  # the lists are not needed
    splits = read_crema_d(repository, "speaker", validation_size=0.25)
    speakers = {name: set(split["speaker"]) for name, split in splits.items()}
    assert {name: len(group) for name, group in speakers.items()} == {"train": 13, "validation": 5, "test": 2}
    assert len(set().union(*speakers.values())) == 20
    assert sum(len(split) for split in splits.values()) == 240


@pytest.mark.parametrize("split", ["public", "speaker"])
def test_the_same_seed_gives_the_same_splits(repository, split):
    first, again, other = (read_crema_d(repository, split, seed=seed) for seed in (1, 1, 2))
    assert all(names(first[name]) == names(again[name]) for name in first)
    assert set(names(first["validation"])) != set(names(other["validation"]))
    assert (names(first["test"]) == names(other["test"])) == (split == "public")


def test_relative_folders_give_absolute_paths(repository, monkeypatch):
    monkeypatch.chdir(repository.parent)
    row = read_crema_d(repository.name)["test"][0]
    assert row["audio"] == str(repository / "AudioWAV" / "1001_TIE_ANG_XX.wav")
    assert row["video"] == str(repository / "VideoFlash" / "1001_TIE_ANG_XX.flv")


def test_converted_videos_come_first(repository):
    (repository / "VideoMP4").mkdir()
    write_video(repository / "VideoMP4" / "1003_DFA_SAD_XX.mp4", np.zeros((3, 32, 32, 3), np.uint8), 10)
    videos = {Path(row["video"]).name for split in read_crema_d(repository).values() for row in split}
    assert "1003_DFA_SAD_XX.mp4" in videos and "1003_DFA_SAD_XX.flv" not in videos and "1003_DFA_ANG_XX.flv" in videos


def test_a_wrong_split(repository):
    with pytest.raises(ValueError, match="Expected `split` 'public' or 'speaker', got 'actor'"):
        read_crema_d(repository, "actor")


def test_missing_folders(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"\['AudioWAV', 'VideoFlash'\] are missing there; clone https://github"
    ):
        read_crema_d(tmp_path)
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\['VideoFlash'\] are missing there"):
        read_crema_d(tmp_path, "speaker")


@pytest.mark.parametrize("actors", [0, 2])
def test_too_few_actors(clips, tmp_path, actors):
    for folder in ("AudioWAV", "VideoFlash"):
        (tmp_path / folder).mkdir()
    for actor in range(1001, 1001 + actors):
        (tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav").write_bytes(clips[0])
    with pytest.raises(
        FileNotFoundError, match=r"at least 3 actors in .*AudioWAV, one for each split, got \[.*complete"
    ):
        read_crema_d(tmp_path, "speaker")


def test_missing_lists(repository):
    (repository / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.csv is missing there; download both from https://.*'speaker'"):
        read_crema_d(repository)


@pytest.mark.parametrize("line", ["1001_DFA_ANG_XX,JOY", "1001_DFA_ANG_XX,SAD", "1001_DFA_ANG_XX", "ANG,ANG"])
def test_lines_of_another_list(repository, line):
    with (repository / "train.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=f"like 1001_DFA_ANG_XX,ANG in .*train.csv, got {line}; take the list from"):
        read_crema_d(repository)


def test_lists_that_share_a_clip(repository):
    with (repository / "test.csv").open("a") as file:
        file.write("1001_DFA_ANG_XX,ANG\n")
    with pytest.raises(ValueError, match=r"share no clip, got \['1001_DFA_ANG_XX'\] in both \(1 clips\)"):
        read_crema_d(repository)


@pytest.mark.parametrize("name", ["jingle", "._1001_DFA_ANG_XX", "1001_DFA_JOY_XX"])
def test_files_of_something_else(repository, clips, name):
    (repository / "AudioWAV" / f"{name}.wav").write_bytes(clips[0])
    with pytest.raises(ValueError, match=rf"named like 1001_DFA_ANG_XX in .*AudioWAV, got \['{name}'\]; keep only"):
        read_crema_d(repository, "speaker")
    assert len(read_crema_d(repository)["test"]) == 120  # the lists do not name it


def test_missing_clips(repository):
    for code in CODES[:4]:
        (repository / "AudioWAV" / f"1007_TIE_{code}_XX.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"but 4 files are missing, such as \['1007_TIE_ANG_XX.wav', .*complete"
    ):
        read_crema_d(repository)
    (repository / "VideoFlash" / "1008_TIE_NEU_XX.flv").unlink()
    with pytest.raises(FileNotFoundError, match=r"but 1 files are missing, such as \['1008_TIE_NEU_XX.flv'\]"):
        read_crema_d(repository, "speaker")


@pytest.mark.parametrize("file", ["AudioWAV/1002_DFA_FEA_XX.wav", "VideoFlash/1002_DFA_FEA_XX.flv"])
def test_git_lfs_pointers(repository, file):
    (repository / file).write_bytes(POINTER)
    with pytest.raises(
        FileNotFoundError, match=r"1 files are only Git LFS pointers .*1002_DFA_FEA.*run `git lfs pull`"
    ):
        read_crema_d(repository)
