"""The run of joint training that `--compare_with joint` adds to a run of a method."""

from .split_command import flat, known_to, name_of, options_of


# Set for each run apart
OWN = (
    "method",
    "recipe",
    "compare_with",
    "output_dir",
    "run_name",
    "resume_from_checkpoint",
    "push_to_hub",
    "no_push_to_hub",
)


def joint_arguments(arguments: list[str], output_dir: str, resume: bool) -> list[str]:
    """
    The command line of the joint run. It keeps every option that joint training has, but for those in `OWN`.

    Args:
        arguments (`list[str]`): the command line of the method, without the script's name.
        output_dir (`str`): the folder of the method. Joint training writes beside it, to `<output_dir>-joint`.
        resume (`bool`): resume from the newest checkpoint in that folder, if there is one.
    """
    kept = [option for option in known_to("joint", options_of(arguments)) if name_of(option) not in OWN]
    joint = ["--method", "joint", "--output_dir", f"{output_dir.rstrip('/')}-joint"]
    return [*flat(kept), *joint, *(["--resume_from_checkpoint", "True"] if resume else [])]
