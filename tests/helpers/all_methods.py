"""The methods that PMR is compared with, and the options that a test of all of them gives to each."""

from pmr_hf import (
    AGMTrainer,
    GradientBlendingTrainer,
    GradientBoostTrainer,
    MMParetoTrainer,
    OGMTrainer,
)


HEADS = {GradientBlendingTrainer, MMParetoTrainer}
GIVEN = {"blend_weights": {"image": 0.2, "text": 0.5, "fused": 0.3}}
ALL = [(GradientBoostTrainer, {}), (OGMTrainer, {}), (OGMTrainer, {"ogm_noise": True}), (MMParetoTrainer, {})]
ALL += [(GradientBlendingTrainer, GIVEN), (AGMTrainer, {})]
IDS = ["acc", "ogm", "ogm_ge", "mmpareto", "gblend", "agm"]
