"""
CREMA-D: 7,442 clips of 91 actors who speak twelve sentences in six emotions, seen and heard.

Cao et al. 2014, "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset"; one of the paper's data sets (PMR, CVPR
2023, section 4.1).
"""

import re
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.model_selection import train_test_split

from .labels import stratified_cut


# The emotion codes of the file names, in the order of the labels.
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
CLIPS_URL = "https://github.com/CheyneyComputerScience/CREMA-D"
LISTS_URL = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/CREMAD"


def read_crema_d(
    data_dir: str | Path, split: str = "public", validation_size: float = 0.1, seed: int = 0
) -> DatasetDict:
    """
    The splits `train`, `validation` and `test` of CREMA-D, the same for the same seed.

    Columns: `audio` and `video` (absolute paths of the wav and of the flv, or of the mp4 in a folder VideoMP4 if you
    have converted it), `label` (anger, disgust, fear, happy, neutral, sad) and `speaker` (the actor's number, such as
    "1001"). The emotion is the one that was acted.

    Args:
        data_dir (`str`): the cloned repository, with the folders AudioWAV and VideoFlash (or VideoMP4).
        split (`str`, *optional*, defaults to `"public"`): `"public"` is that of the public implementations (6,698 and
            744 clips), whose lists train.csv and test.csv belong in `data_dir`; each actor is in training and in test.
            Validation is cut from train, with the same share of each emotion. `"speaker"` takes every clip of AudioWAV,
            and no actor is in two splits: a tenth of the actors, drawn at random, are the test, so that it says how
            well new people are understood.
        validation_size (`float`, *optional*, defaults to `0.1`): share, for `"public"` of the clips in train.csv, for
            `"speaker"` of the actors that are not in the test.
        seed (`int`, *optional*, defaults to `0`): seed of what is drawn.

    Raises:
        FileNotFoundError: naming the folders, lists or clips that are missing, or are but Git LFS pointers.
        ValueError: for another `split`, or lists that are not of this data or share clips.
    """
    if split not in ("public", "speaker"):
        raise ValueError(f"Expected `split` 'public' or 'speaker', got {split!r}; only 'speaker' keeps actors apart.")
    folder = Path(data_dir).absolute()
    needed = ["AudioWAV", "VideoMP4" if (folder / "VideoMP4").is_dir() else "VideoFlash"]
    missing = [name for name in needed if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"Expected the CREMA-D repository in {folder}, but {missing} are missing there; clone {CLIPS_URL} with "
            "git-lfs installed, and give its folder."
        )
    if split == "public":
        lists = {name: _read_list(folder / f"{name}.csv") for name in ("train", "test")}
        shared = sorted(set(lists["train"]) & set(lists["test"]))
        if shared:
            raise ValueError(
                f"Expected train.csv and test.csv to share no clip, got {shared[:3]} in both ({len(shared)} clips); "
                f"take both lists from {LISTS_URL}."
            )
        train, validation = (
            [lists["train"][i] for i in rows]
            for rows in stratified_cut([_code(name) for name in lists["train"]], validation_size, seed)
        )
        splits = {"train": train, "validation": validation, "test": lists["test"]}
    else:
        names = sorted(file.stem for file in (folder / "AudioWAV").glob("*.wav"))
        unknown = [name for name in names if _code(name) not in EMOTIONS]
        if unknown:
            raise ValueError(
                f"Expected wav files named like 1001_DFA_ANG_XX in {folder / 'AudioWAV'}, got {unknown[:3]}; keep only "
                "the clips of CREMA-D there."
            )
        actors = sorted({name[:4] for name in names})
        if len(actors) < 3:
            raise FileNotFoundError(
                f"Expected clips of at least 3 actors in {folder / 'AudioWAV'}, one for each split, got {actors}; "
                f"complete the clone of {CLIPS_URL}."
            )
        rest, test = train_test_split(actors, test_size=0.1, random_state=seed)
        train, validation = train_test_split(rest, test_size=validation_size, random_state=seed)
        groups = {"train": train, "validation": validation, "test": test}
        splits = {key: [name for name in names if name[:4] in group] for key, group in groups.items()}
    files = {name: _files(folder, name) for names in splits.values() for name in names}
    _check_files([file for pair in files.values() for file in pair])
    features = Features(
        {
            "audio": Value("string"),
            "video": Value("string"),
            "label": ClassLabel(names=list(EMOTIONS.values())),
            "speaker": Value("string"),
        }
    )
    return DatasetDict(
        {
            key: Dataset.from_dict(
                {
                    "audio": [str(files[name][0]) for name in names],
                    "video": [str(files[name][1]) for name in names],
                    "label": [EMOTIONS[_code(name)] for name in names],
                    "speaker": [name[:4] for name in names],
                },
                features=features,
            )
            for key, names in splits.items()
        }
    )


def _code(name: str) -> str:
    """The emotion of a clip such as 1001_DFA_ANG_XX, empty for other names."""
    parts = re.fullmatch(r"\d{4}_[A-Z]{3}_([A-Z]{3})_[A-Z]{2}", name)
    return parts[1] if parts else ""


def _read_list(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected the public lists train.csv and test.csv in {file.parent}, but {file.name} is missing there; "
            f"download both from {LISTS_URL}, or use split='speaker', which needs none."
        )
    rows = [line.split(",") for line in file.read_text(encoding="utf-8-sig").split()]
    for row in rows:
        if len(row) != 2 or row[1] not in EMOTIONS or row[1] != _code(row[0]):
            raise ValueError(
                f"Expected lines like 1001_DFA_ANG_XX,ANG in {file}, got {','.join(row)}; take the list from "
                f"{LISTS_URL}."
            )
    return list(dict.fromkeys(name for name, _ in rows))


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    mp4 = folder / "VideoMP4" / f"{name}.mp4"
    return folder / "AudioWAV" / f"{name}.wav", mp4 if mp4.is_file() else folder / "VideoFlash" / f"{name}.flv"


def _check_files(files: list[Path]) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected a wav and a video file of every clip, but {len(missing)} files are missing, such as "
            f"{missing[:3]}; complete the clone of {CLIPS_URL}."
        )
    pointers = [
        file.name
        for file in files
        if file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs")
    ]
    if pointers:
        raise FileNotFoundError(
            f"Expected sound and video, but {len(pointers)} files are only Git LFS pointers to it, such as "
            f"{pointers[:3]}; run `git lfs pull` in the clone."
        )
