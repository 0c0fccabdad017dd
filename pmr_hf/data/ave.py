"""
AVE: 4,143 events of 28 categories in ten-second videos. Each event is both seen and heard.

One of the paper's datasets (PMR, CVPR 2023, section 4.1). Source: Tian et al. 2018, "Audio-Visual Event Localization
in Unconstrained Videos".
"""

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value


LISTS = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
URL = "https://github.com/YapengTian/AVE-ECCV18"

Event = tuple[str, str, float, float]  # category, video, start and end in seconds


def read_ave(data_dir: str | Path) -> DatasetDict:
    """
    Read the official splits `train` (3,339 events), `validation` (402) and `test` (402), in the order of their lists.

    Columns: `audio` and `video` (both the absolute path of the mp4 file, whose sound track is the audio), `label` (the
    sorted categories of Annotations.txt), `start` and `end` (of the event in the video, in seconds).

    Each row is an event. A line that is repeated in a list gives one event. 45 videos have events of several
    categories, and 18 of them have one event in train and another in validation (10) or test (8). The lists are used
    unchanged, so that results are comparable with published ones. The event of VWi2ENBuTbw in train starts and ends at
    0.

    Args:
        data_dir (`str`): folder of the unpacked AVE_Dataset, with Annotations.txt, the three lists and the folder AVE.

    Raises:
        FileNotFoundError: if files, the folder or videos are missing; the message names them.
        ValueError: for a line in another format, a category that Annotations.txt lacks, or an event in two splits.
    """
    folder = Path(data_dir).absolute()
    _check_folder(folder)
    categories = sorted({category for category, *_ in _read_events(folder / "Annotations.txt")})
    splits = {split: _read_events(folder / name) for split, name in LISTS.items()}
    _check_events(splits, categories)
    _check_videos(folder / "AVE", splits)
    features = Features(
        {
            "audio": Value("string"),
            "video": Value("string"),
            "label": ClassLabel(names=categories),
            "start": Value("float32"),
            "end": Value("float32"),
        }
    )
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "audio": [str(folder / "AVE" / f"{video}.mp4") for _, video, _, _ in events],
                    "video": [str(folder / "AVE" / f"{video}.mp4") for _, video, _, _ in events],
                    "label": [category for category, _, _, _ in events],
                    "start": [start for _, _, start, _ in events],
                    "end": [end for _, _, _, end in events],
                },
                features=features,
            )
            for split, events in splits.items()
        }
    )


# ---- Checks ----


def _check_folder(folder: Path) -> None:
    missing = [name for name in ("Annotations.txt", *LISTS.values()) if not (folder / name).is_file()]
    missing += [] if (folder / "AVE").is_dir() else ["AVE"]
    if missing:
        raise FileNotFoundError(
            f"Expected the unpacked AVE_Dataset in {folder}, but {missing} are missing there; download it from the "
            f"link in {URL}, and give the folder that holds Annotations.txt."
        )


def _check_events(splits: dict[str, list[Event]], categories: list[str]) -> None:
    """Check that every event has a known category and is in one split only."""
    seen: dict[Event, str] = {}
    for split, events in splits.items():
        for event in events:
            if event[0] not in categories:
                raise ValueError(
                    f"Expected the categories of Annotations.txt in {LISTS[split]}, got {event[0]!r}; take all lists "
                    "from one download."
                )
            if seen.setdefault(event, split) != split:
                raise ValueError(
                    f"Expected each event in one split, got {event} in {LISTS[seen[event]]} and {LISTS[split]}; take "
                    f"the lists from the link in {URL}."
                )


def _check_videos(folder: Path, splits: dict[str, list[Event]]) -> None:
    videos = sorted({event[1] for events in splits.values() for event in events})
    lost = [f"{video}.mp4" for video in videos if not (folder / f"{video}.mp4").is_file()]
    if lost:
        raise FileNotFoundError(
            f"Expected the video of every listed event in {folder}, but {len(lost)} are missing there, such as "
            f"{lost[:3]}; unpack the download from the link in {URL} again."
        )


# ---- Reading ----


def _read_events(file: Path) -> list[Event]:
    """The event of each line, without repetitions."""
    events: dict[Event, None] = {}
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.strip() == HEADER:
            continue
        try:
            category, video, _, start, end = line.split("&")
            events[category, video, float(start), float(end)] = None
        except ValueError:
            raise ValueError(
                f"Expected lines like {HEADER} in {file}, with times in seconds, got {line!r}; take the file from the "
                f"link in {URL}."
            ) from None
    return list(events)
