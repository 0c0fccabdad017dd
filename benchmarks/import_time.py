"""
CPU time of `import pmr_hf` over that of the classes of transformers that every script imports (aim: at most 1.1).

    python benchmarks/import_time.py --rounds 15

Both run in turn in new processes. The ratio is the median over the rounds, with quartiles.
"""

import argparse
import resource
import statistics
import subprocess
import sys


PLAIN = "from transformers import AutoModel, AutoProcessor, Trainer"
OURS = "import pmr_hf; pmr_hf.PMRTrainer, pmr_hf.MultimodalModel, pmr_hf.MultimodalProcessor"


def cpu_seconds(code: str) -> float:
    """The CPU time of a new process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    cpu_seconds(PLAIN), cpu_seconds(OURS)  # reads the files from the disk
    pairs = [(cpu_seconds(OURS), cpu_seconds(PLAIN)) for _ in range(args.rounds)]
    low, middle, high = statistics.quantiles([ours / plain for ours, plain in pairs], n=4)
    plain = statistics.median(plain for _, plain in pairs)
    print(f"import pmr_hf / import transformers: {middle:.3f} ({low:.3f} .. {high:.3f}); transformers: {plain:.2f} s")


if __name__ == "__main__":
    main()
