"""
AVE: 4,143 events of 28 kinds that are both seen and heard, in ten-second videos.

Tian et al. 2018, "Audio-Visual Event Localization in Unconstrained Videos"; one of the paper's data sets (PMR, CVPR
2023, section 4.1).
"""

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value


LISTS = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
URL = "https://github.com/YapengTian/AVE-ECCV18"


def read_ave(data_dir: str | Path) -> DatasetDict:
    """
    The official splits `train` (3,339 events), `validation` (402) and `test` (402), in the order of the lists.

    Columns: `audio` and `video` (both the absolute path of the mp4, whose sound track is the audio), `label` (the
    categories of Annotations.txt, sorted), `start` and `end` (seconds of the event in the video).

    A row is an event, and a line that a list repeats is one event. 45 videos hold events of several categories; 18 of
    these are in train with one event and in validation (10) or test (8) with another. The lists are kept as they are,
    so that results compare with published ones. The event of VWi2ENBuTbw, in train, ends where it starts, at 0.

    Args:
        data_dir (`str`): the unpacked AVE_Dataset, with Annotations.txt, the three lists and the folder AVE.

    Raises:
        FileNotFoundError: naming the files, folder or videos that are missing.
        ValueError: for a line that is not in the format, a category that Annotations.txt lacks, or an event in two
            splits.
    """
    folder = Path(data_dir).absolute()
    missing = [name for name in ("Annotations.txt", *LISTS.values()) if not (folder / name).is_file()]
    missing += [] if (folder / "AVE").is_dir() else ["AVE"]
    if missing:
        raise FileNotFoundError(
            f"Expected the unpacked AVE_Dataset in {folder}, but {missing} are missing there; download it from the "
            f"link in {URL}, and give the folder that holds Annotations.txt."
        )
    categories = sorted({category for category, *_ in _read_events(folder / "Annotations.txt")})
    splits = {split: _read_events(folder / name) for split, name in LISTS.items()}
    seen: dict[tuple, str] = {}
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
    lost = [
        f"{video}.mp4"
        for video in sorted({event[1] for event in seen})
        if not (folder / "AVE" / f"{video}.mp4").is_file()
    ]
    if lost:
        raise FileNotFoundError(
            f"Expected the video of every listed event in {folder / 'AVE'}, but {len(lost)} are missing there, such as "
            f"{lost[:3]}; unpack the download from the link in {URL} again."
        )
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


def _read_events(file: Path) -> list[tuple[str, str, float, float]]:
    """Category, video, start and end of each line, without repetitions."""
    events: dict[tuple[str, str, float, float], None] = {}
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
