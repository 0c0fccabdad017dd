"""
Model cards on the Hub: the short card where no trainer wrote one, and the text that a user adds to any card.

The card of a training run is in `pmr_hf/reporting/model_card.py`.
"""

import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import yaml_dump
from transformers import PreTrainedConfig

from .configuration import MultimodalConfig
from .targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


# The next card replaces what stands between these marks. Published cards contain them: do not change the wording.
BEGIN = "<!-- pmr_hf writes this part anew with each run, down to the end mark. Write your own above or below. -->"
END = "<!-- The end of what pmr_hf writes. -->"

LIBRARY = "pmr_hf"
TAGS = ["multimodal", "prototypical-modal-rebalance"]
IMPORT_LINE = "import pmr_hf  # or omit this line and pass trust_remote_code=True to from_pretrained"

# The card of a model that is pushed without a card written by a trainer
SHORT_CARD = """---
library_name: {library}
tags: [{tags}]
---

{begin}

# {model_name}

{what_it_does}

```python
from transformers import AutoModel

{import_line}

model = AutoModel.from_pretrained("{model_name}")
```

{end}
"""


def what_it_does(config: PreTrainedConfig, modalities: list[str], num_labels: int) -> str:
    """A sentence that names the modalities, encoders and fusion head of a model, and what it predicts."""
    if isinstance(config, MultimodalConfig):
        names = hub_names(config, modalities)
        kinds = {
            name: f"[{names[name]}](https://huggingface.co/{names[name]})"
            if name in names
            else f"`{config.backbones[name].model_type}`"
            for name in modalities
        }
        fused_by = "their class prototypes" if config.answer == "prototypes" else f"`{config.fusion}`"
        encoders = f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}, fused by {fused_by}"
    else:
        encoders = f"{', '.join(modalities)}, with a `{config.model_type}` model"
    count = f"{len(modalities)} {'modality' if len(modalities) == 1 else 'modalities'}"
    names = list(map(str, config.id2label.values())) if config.num_labels == num_labels else []
    classes = ", ".join(names[:50]) + (", ..." if len(names) > 50 else "")
    listed = f": {classes}" if classes else ""
    problem = config.problem if isinstance(config, MultimodalConfig) else SINGLE_LABEL
    if problem == REGRESSION:
        numbers = "1 number" if num_labels == 1 else f"{num_labels} numbers"
        return f"It predicts {numbers} for samples of {count}, {encoders}{listed}."
    if problem == MULTI_LABEL:
        return f"It finds which of {num_labels} labels samples of {count}, {encoders}, have{listed}."
    return f"It classifies samples of {count}, {encoders}, into {num_labels} classes{listed}."


def hub_names(config: PreTrainedConfig, modalities: list[str]) -> dict[str, str]:
    """The Hub name of each modality's encoder. Encoders from a local folder or with new weights are left out."""
    if not isinstance(config, MultimodalConfig):
        return {}
    names = {name: str(config.backbones[name].name_or_path) for name in modalities}
    return {
        name: source
        for name, source in names.items()
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not Path(source).exists()
    }


def card_on_hub(name: str, token: bool | str | None = None) -> str | None:
    """
    Download the card of a Hub repository. Returns `None` if the repository has no card.

    Raises the error of the Hub client if the card cannot be read, because a new card would then overwrite the text of
    its owner.
    """
    try:
        # Always download the card, since a cached card may lack the owner's latest text.
        return Path(hf_hub_download(name, "README.md", token=token, force_download=True)).read_text(encoding="utf-8")
    except RemoteEntryNotFoundError:
        return None


def keep_own_text(card: str, previous: str) -> str:
    """
    Merge a new card with what a user has added to the previous one.

    The merged card keeps the text above and below the marked part, and the metadata that the new card does not set. If
    the previous card has no marked part, all its text is kept, above the new one.

    Args:
        card (`str`): the new card.
        previous (`str`): the previous card.

    Returns:
        `str`: the merged card.
    """
    new, old = ModelCard(card), ModelCard(previous, ignore_metadata_errors=True)
    before, found, rest = old.text.partition(BEGIN)
    after = rest.partition(END)[2] if found else ""
    kept, ours = old.data.to_dict(), new.data.to_dict()
    merged = kept | ours | {"tags": list(dict.fromkeys([*(ours.get("tags") or []), *(kept.get("tags") or [])]))}
    parts = (part.strip("\n") for part in (before, new.text, after))
    text = "\n\n".join(part for part in parts if part.strip())
    return f"---\n{yaml_dump(merged, sort_keys=False).strip()}\n---\n\n{text}\n"


def push_card(
    name: str,
    config: MultimodalConfig,
    folder: Path | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
) -> None:
    """
    Push a card to a Hub repository.

    If a trainer has written a card to the folder, that card is pushed, with the plot and the processor from there.
    Otherwise a short card is pushed, which says what the model does.

    Args:
        name (`str`): name of the repository, `"user/model"`.
        config (`MultimodalConfig`): configuration of the model.
        folder (`Path`, *optional*): the folder that the model was loaded from.
        token (`bool | str`, *optional*): token of the Hub, as in [`~huggingface_hub.HfApi`].
        revision (`str`, *optional*): the branch to push to. Defaults to the main branch.

    Raises:
        ValueError: if one of these files is a symbolic link, or lies in a folder that is one, since a file from
            elsewhere would be pushed.
    """
    if folder is None or not (folder / "README.md").is_file():
        files = {}
        card = SHORT_CARD.format(
            library=LIBRARY,
            tags=", ".join(TAGS),
            begin=BEGIN,
            model_name=name,
            what_it_does=what_it_does(config, config.modalities, config.num_labels),
            import_line=IMPORT_LINE,
            end=END,
        )
    else:
        paths = [*folder.glob("*.png"), folder / "processor_config.json"]
        paths += [path for modality in config.modalities for path in (folder / modality).rglob("*")]
        require_no_links(folder, [folder / "README.md", *map(folder.joinpath, config.modalities), *paths])
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
        card = renamed((folder / "README.md").read_text(encoding="utf-8"), name)
    files["README.md"] = card.encode()
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    HfApi().create_commit(name, operations, commit_message="Upload card", token=token, revision=revision)


def require_no_links(folder: Path, paths: list[Path]) -> None:
    links = [str(path.relative_to(folder)) for path in paths if path.is_symlink()]
    if links:
        raise ValueError(
            f"Expected files of its own in {folder}, got the symbolic link {links[0]}; put a copy of the file there, "
            "or delete the link."
        )


def renamed(card: str, name: str) -> str:
    """
    Change the model name in the heading, code and metadata of a card. A card without a marked part is returned
    unchanged.
    """
    heading = re.search(rf"{re.escape(BEGIN)}\s+# (.+)", card)
    if heading is None:
        return card
    old = heading[1].strip()
    new = ModelCard(card.replace(f'"{old}"', f'"{name}"').replace(f"\n# {old}\n", f"\n# {name}\n"))
    if new.data.model_name is not None:
        new.data.model_name = name
    return str(new)
