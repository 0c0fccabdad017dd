"""The methods that PMR is compared with, their options in tests of all of them, and data of three modalities."""

import torch

from helpers.digits import NUM_LABELS
from pmr_hf import (
    AGMTrainer,
    DGLTrainer,
    GradientBlendingTrainer,
    GradientBoostTrainer,
    LateFusionTrainer,
    MLATrainer,
    MMParetoTrainer,
    OGMTrainer,
    OPMTrainer,
    ReconBoostTrainer,
    RelearningTrainer,
    UniformTrainer,
    ValuationTrainer,
)


WITH_HEADS = {GradientBlendingTrainer, MMParetoTrainer, UniformTrainer}
BLEND_WEIGHTS = {"blend_weights": {"image": 0.2, "text": 0.5, "fused": 0.3}}
GRADIENT = {"modulation": "gradient"}
CASES = {
    "acc": (GradientBoostTrainer, GRADIENT),
    "ogm": (OGMTrainer, GRADIENT),
    "ogm_ge": (OGMTrainer, GRADIENT | {"ogm_noise": True}),
    "ogm_ge_update": (OGMTrainer, {"modulation": "update", "ogm_noise": True}),
    "opm": (OPMTrainer, {"opm_base": 0.7}),
    "dgl": (DGLTrainer, {}),
    "valuation": (ValuationTrainer, {}),
    # of 8 steps, 6 are the turn of one modality, so that a run resumes after step 5 in a turn
    "reconboost": (ReconBoostTrainer, {"reconboost_epochs": 0.75, "reconboost_rectify_epochs": 0.25}),
    "uniform": (UniformTrainer, {}),
    "mmpareto": (MMParetoTrainer, {}),
    "mla": (MLATrainer, {}),
    "relearning": (RelearningTrainer, {"relearning_fraction": 0.25}),
    "gblend": (GradientBlendingTrainer, BLEND_WEIGHTS),
    "agm": (AGMTrainer, GRADIENT),
    "agm_update": (AGMTrainer, {"modulation": "update"}),
    "late_fusion": (LateFusionTrainer, {"late_fusion_weights": "validation"}),
}
METHOD_IDS, METHOD_CASES = list(CASES), list(CASES.values())


def parts_of(cls):
    """The arguments of `from_backbones` that a method needs."""
    heads = {MLATrainer: {"fusion": "shared", "embedding_dim": 8}, LateFusionTrainer: {"fusion": "late"}}
    return heads.get(cls, {"unimodal_heads": cls in WITH_HEADS})


def rows_of_three(count):
    """Rows with the modalities `a`, `b` and `c`, each of which tells more of the class than the one before it."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(count):
        label = i % NUM_LABELS
        signs = torch.tensor([label % 2, label // 2, 1.0]) * 2 - 1
        noise = {name: torch.randn(3, generator=generator) for name in ("a", "b", "c")}
        rows.append({name: k * signs + noise[name] for k, name in enumerate(noise)} | {"label": label})
    return rows


def collate_three(rows):
    """The batch of rows of three modalities; a row lacks a modality whose value is `None`."""
    batch = {"labels": torch.tensor([row["label"] for row in rows])}
    for name in ("a", "b", "c"):
        values = [row[name] for row in rows]
        batch[name] = {
            "values": torch.stack([torch.zeros(3) if value is None else value for value in values]),
            "present": torch.tensor([value is not None for value in values]),
        }
    return batch


def batch_of_three(seed):
    """Eight samples with the modalities `a`, `b` and `c`; only three of them have `b`."""
    generator = torch.Generator().manual_seed(seed)
    batch = {name: {"values": torch.randn(8, 3, generator=generator)} for name in ("a", "b", "c")}
    batch["b"]["present"] = torch.arange(8) < 3
    return batch | {"labels": torch.arange(8) % NUM_LABELS}
