"""
Find out whether a modality of your data stops learning in joint training, before you try a method against it.

    python examples/diagnose.py                                                   # digits of scikit-learn
    python examples/diagnose.py --train_file posts.csv --label_column topic       # your own data

The script trains each modality alone and all jointly, a quarter as long as `run_pmr.py` does by default, and compares
what the encoders learn, on validation. Where the data have no validation split, it takes out 30 percent of the training
rows. It prints a table with a verdict, and writes `report.html` and `diagnosis.json` to the output folder. The test
split is not read. The script takes the arguments of `run_pmr.py`, but for those of a method and of a search.
"""

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path


if __name__ == "__main__":
    # Before torch is imported, which takes seconds: a mistake shows, and tqdm finds which bars to hide.
    package = find_spec("pmr_hf")
    if package is None:
        sys.exit("Expected the package pmr_hf, found none; install it first, by `pip install -e .` in its folder.")
    early = Path(package.submodule_search_locations[0]) / "command_line" / "early_check.py"
    run_path(str(early))["begin"](sys.argv[1:], Path(__file__))

from transformers import set_seed

from pmr_hf import diagnose
from pmr_hf.command_line.build import build_model
from pmr_hf.command_line.console import hide_still_bars, set_verbosity
from pmr_hf.command_line.infer_modalities import inferred_columns
from pmr_hf.command_line.output_folder import default_folder
from pmr_hf.command_line.parse_arguments import (
    gives,
    gives_length,
    leave_out_modalities,
    lower_pretrained_rates,
    parse_arguments,
)
from pmr_hf.command_line.prepare import prepare
from pmr_hf.command_line.run_script import run_script
from pmr_hf.command_line.split_command import name_of, options_of


SHARE = 4  # the default length of training is divided by this number
# 800 rows leave 240 for validation. Two standard errors of a difference are then five points, if the two models differ
# on 15 percent of them.
VALIDATION_SIZE = "0.3"


def main() -> None:
    arguments = sys.argv[1:]
    decided = {"method", "recipe", "compare_with", "search"} & {name_of(option) for option in options_of(arguments)}
    if decided:
        sys.exit(f"Expected no --{' --'.join(sorted(decided))} here, since training is joint; leave it out.")
    size = [] if gives(arguments, "validation_size") else ["--validation_size", VALIDATION_SIZE]
    script_args, training_args = parse_arguments([*arguments, "--method", "joint", *size])
    set_verbosity(script_args.verbose)
    inferred = inferred_columns(script_args)
    if inferred is not None:
        print(f"{inferred.without(script_args.columns)}\n", flush=True)
        script_args.complete(inferred)
    leave_out_modalities(script_args, training_args)
    lower_pretrained_rates(script_args, training_args)
    set_seed(training_args.seed)
    dataset, backbones, _, collator, classes, _ = prepare(script_args, training_args)
    if not gives_length(arguments):
        full = training_args.num_train_epochs
        training_args.num_train_epochs = math.ceil(full / SHARE)
        print(f"Each training has {training_args.num_train_epochs} epochs, a quarter of the {full:g} of run_pmr.py.")
    if not script_args.verbose:
        hide_still_bars(training_args)
    diagnosis = diagnose(
        build_model(script_args, backbones, classes),
        dataset["train"],
        dataset["validation"],
        collator,
        training_args,
    )
    print(f"\n{script_args.data_name}, {script_args.fusion}\n{diagnosis}")
    given = gives(arguments, "output_dir")
    folder = training_args.output_dir if given else default_folder(script_args, training_args.seed, "diagnosis")
    before = " in place of an earlier diagnosis" if (Path(folder) / "diagnosis.json").exists() else ""
    print(f"\nwritten to {diagnosis.save(folder)}{before}")


if __name__ == "__main__":
    run_script(main, "Stopped. The same command begins again.")
