"""
Print a Markdown table of the test accuracies of runs of `examples/run_pmr.py`: mean and deviation over the seeds.

    python benchmarks/compare_runs.py outputs/clip_art-joint-* outputs/clip_art-pmr-*

Folders whose names differ only after the last hyphen, in the seed, share a row.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for folder in parser.parse_args().folders:
        file = folder / "all_results.json"
        if not file.is_file():
            raise FileNotFoundError(f"Expected the results of a finished run in {folder}, found no all_results.json.")
        groups[folder.name.rpartition("-")[0]].append(json.loads(file.read_text(encoding="utf-8")))
    keys = [key for key in next(iter(groups.values()))[0] if key.startswith("test_") and key.endswith("accuracy")]
    print("| run | seeds | " + " | ".join(key.removeprefix("test_").replace("_", " ") for key in keys) + " |")
    print("|---" * (len(keys) + 2) + "|")
    for name, results in groups.items():
        cells = []
        for key in keys:
            values = [result[key] for result in results]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {name} | {len(results)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
