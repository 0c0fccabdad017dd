"""
CREMA-D: 7,442 clips with sound and video, in which 91 actors speak twelve sentences with six emotions.

One of the paper's datasets (PMR, CVPR 2023, section 4.1). Source: Cao et al. 2014, "CREMA-D: Crowd-sourced Emotional
Multimodal Actors Dataset".
"""

import re
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .labels import stratified_cut


# Emotions by their code in the file names, in the order of the labels
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
CLIPS_URL = "https://github.com/CheyneyComputerScience/CREMA-D"
LISTS_URL = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/CREMAD"


def read_crema_d(
    data_dir: str | Path, split: str = "public", validation_size: float = 0.1, seed: int = 0
) -> DatasetDict:
    """
    Read the splits `train`, `validation` and `test` of CREMA-D. The same seed gives the same splits.

    Columns: `audio` (absolute path of the wav file), `video` (absolute path of the flv file, or of an mp4 file if you
    have converted it to a folder VideoMP4), `label` (the acted emotion: anger, disgust, fear, happy, neutral or sad)
    and `speaker` (the actor's number, such as "1001").

    Args:
        data_dir (`str`): the cloned repository, with the folders AudioWAV and VideoFlash (or VideoMP4).
        split (`str`, *optional*, defaults to `"public"`): how to split the clips.

            * `"public"` uses the split of the public implementations (6,698 training and 744 test clips). Put their
              lists train.csv and test.csv into `data_dir`. Training and test share the same actors. Validation clips
              are taken out of the training clips, with the same share of each emotion.
            * `"speaker"` uses every clip in AudioWAV, and puts each actor into one split only. The test split is a
              random tenth of the actors, so it measures the accuracy on new people.
        validation_size (`float`, *optional*, defaults to `0.1`): size of the validation split, in (0, 1): for
            `"public"`, the share of the clips in train.csv; for `"speaker"`, the share of the actors outside the test.
        seed (`int`, *optional*, defaults to `0`): seed of the validation split and of the draw of actors.

    Raises:
        FileNotFoundError: if folders, lists or clips are missing or are only Git LFS pointers; the message names them.
        ValueError: for another `split`, for lists that share clips, or for lists or files that are not from CREMA-D.
    """
    if split not in ("public", "speaker"):
        raise ValueError(f"Expected `split` 'public' or 'speaker', got {split!r}; only 'speaker' keeps actors apart.")
    folder = Path(data_dir).absolute()
    _check_folders(folder)
    cut = _public_split if split == "public" else _speaker_split
    splits = cut(folder, validation_size, seed)
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


# ---- The clips of each split, by name ----


def _public_split(folder: Path, validation_size: float, seed: int) -> dict[str, list[str]]:
    lists = {name: _read_list(folder / f"{name}.csv") for name in ("train", "test")}
    shared = sorted(set(lists["train"]) & set(lists["test"]))
    if shared:
        raise ValueError(
            f"Expected train.csv and test.csv to share no clip, got {shared[:3]} in both ({len(shared)} clips); take "
            f"both lists from {LISTS_URL}."
        )
    emotions = [_code(name) for name in lists["train"]]
    train, validation = stratified_cut(emotions, validation_size, seed)
    return {
        "train": [lists["train"][i] for i in train],
        "validation": [lists["train"][i] for i in validation],
        "test": lists["test"],
    }


def _speaker_split(folder: Path, validation_size: float, seed: int) -> dict[str, list[str]]:
    names = sorted(file.stem for file in (folder / "AudioWAV").glob("*.wav"))
    unknown = [name for name in names if _code(name) not in EMOTIONS]
    if unknown:
        raise ValueError(
            f"Expected wav files named like 1001_DFA_ANG_XX in {folder / 'AudioWAV'}, got {unknown[:3]}; keep only the "
            "clips of CREMA-D there."
        )
    actors = sorted({name[:4] for name in names})
    if len(actors) < 3:
        raise FileNotFoundError(
            f"Expected clips of at least 3 actors in {folder / 'AudioWAV'}, one for each split, got {actors}; complete "
            f"the clone of {CLIPS_URL}."
        )
    from sklearn.model_selection import train_test_split  # slow to import

    rest, test = train_test_split(actors, test_size=0.1, random_state=seed)
    train, validation = train_test_split(rest, test_size=validation_size, random_state=seed)
    groups = {"train": train, "validation": validation, "test": test}
    return {key: [name for name in names if name[:4] in group] for key, group in groups.items()}


def _code(name: str) -> str:
    """The code of the emotion in the name of a clip, such as 1001_DFA_ANG_XX; empty for other names."""
    parts = re.fullmatch(r"\d{4}_[A-Z]{3}_([A-Z]{3})_[A-Z]{2}", name)
    return parts[1] if parts else ""


def _read_list(file: Path) -> list[str]:
    """The clips of a public list, each once."""
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


# ---- Files ----


def _check_folders(folder: Path) -> None:
    needed = ["AudioWAV", "VideoMP4" if (folder / "VideoMP4").is_dir() else "VideoFlash"]
    missing = [name for name in needed if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"Expected the CREMA-D repository in {folder}, but {missing} are missing there; clone {CLIPS_URL} with "
            "git-lfs installed, and give its folder."
        )


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """The sound file and the video file of a clip."""
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
            f"Expected sound and video files, but {len(pointers)} files are only Git LFS pointers to them, such as "
            f"{pointers[:3]}; run `git lfs pull` in the clone."
        )
