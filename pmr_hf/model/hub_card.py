"""Cards on the Hub: the part that pmr_hf writes, a user's own text beside it, and what a model is."""

import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import yaml_dump
from transformers import PreTrainedConfig

from .configuration import MultimodalConfig


# What the model's next card replaces; a user's own text stands above or below.
BEGIN = "<!-- pmr_hf writes this part anew with each run, down to the end mark. Write your own above or below. -->"
END = "<!-- The end of what pmr_hf writes. -->"
LIBRARY = "pmr_hf"
TAGS = ["multimodal", "prototypical-modal-rebalance"]

# Of a model that is pushed without a trainer, and did not come from the folder of one
SHORT = """---
library_name: {library}
tags: [{tags}]
---

{begin}

# {name}

{what}

```python
from transformers import AutoModel

import pmr_hf  # where it is not installed, leave this out and load with trust_remote_code=True

model = AutoModel.from_pretrained("{name}")
```

{end}
"""


def what_it_does(config: PreTrainedConfig, modalities: list[str], num_labels: int) -> str:
    """A paragraph on what a model classifies, by which encoders, and into which classes."""
    if isinstance(config, MultimodalConfig):
        names = hub_names(config, modalities)
        kinds = {
            name: f"[{names[name]}](https://huggingface.co/{names[name]})"
            if name in names
            else f"`{config.backbones[name].model_type}`"
            for name in modalities
        }
        encoders = f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}, fused by `{config.fusion}`"
    else:
        encoders = f"{', '.join(modalities)}, by a `{config.model_type}` model"
    classes = ", ".join(map(str, config.id2label.values())) if config.num_labels == num_labels else ""
    into = f"{num_labels} classes{f': {classes}' if classes else ''}"
    return f"It classifies samples of {len(modalities)} modalities, {encoders}, into {into}."


def hub_names(config: PreTrainedConfig, modalities: list[str]) -> dict[str, str]:
    """The Hub names of a model's encoders, by modality, for those that came from there and not from a folder."""
    if not isinstance(config, MultimodalConfig):
        return {}
    names = {name: str(config.backbones[name].name_or_path) for name in modalities}
    return {
        name: source
        for name, source in names.items()
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not Path(source).exists()
    }


def card_on_hub(name: str, token: bool | str | None = None) -> str | None:
    """The card that a Hub repository has, or `None`; raises if the Hub does not answer, or a card might be lost."""
    try:
        # A card in the cache may be older than what its owner has written since.
        return Path(hf_hub_download(name, "README.md", token=token, force_download=True)).read_text(encoding="utf-8")
    except RemoteEntryNotFoundError:
        return None


def keep_own_text(card: str, previous: str) -> str:
    """
    A new card with what a user has added to the previous one: the text above and below the part that is written anew,
    and metadata that the new card does not have. A card without the marks of that part is kept whole, above it.
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
    Push the card, plot and processor that a trainer has left in a folder, or a short card if there are none, to a Hub
    repository of that name.
    """
    if folder is None or not (folder / "README.md").is_file():
        tags, what = ", ".join(TAGS), what_it_does(config, config.modalities, config.num_labels)
        card, files = SHORT.format(library=LIBRARY, tags=tags, begin=BEGIN, name=name, what=what, end=END), {}
    else:
        paths = [*folder.glob("*.png"), folder / "processor_config.json"]
        paths += [path for modality in config.modalities for path in (folder / modality).rglob("*")]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
        card = renamed((folder / "README.md").read_text(encoding="utf-8"), name)
    files["README.md"] = card.encode()
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    HfApi().create_commit(name, operations, commit_message="Upload card", token=token, revision=revision)


def renamed(card: str, name: str) -> str:
    """A card whose part by pmr_hf calls the model by another name, in its heading and its code."""
    heading = re.search(rf"{re.escape(BEGIN)}\s+# (.+)", card)
    if heading is None:
        return card
    old = heading[1].strip()
    new = ModelCard(card.replace(f'"{old}"', f'"{name}"').replace(f"\n# {old}\n", f"\n# {name}\n"))
    if new.data.model_name is not None:
        new.data.model_name = name
    return str(new)
