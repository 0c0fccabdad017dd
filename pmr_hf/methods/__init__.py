"""
The training methods, one file each. A file has the name that `--method` takes; `METHODS` lists all methods.

Several methods share `gradient_scaling.py`, `unimodal_heads.py` and `method_checks.py`; `separability.py` measures for
`relearning.py`.
"""

from ..training.prototype_trainer import PrototypeTrainer
from .acc import GradientBoostTrainer
from .agm import AGMTrainer
from .dgl import DGLTrainer
from .gblend import GradientBlendingTrainer
from .late_fusion import LateFusionTrainer
from .mla import MLATrainer
from .mmpareto import MMParetoTrainer
from .ogm import OGMTrainer
from .opm import OPMTrainer
from .pmr import PMRTrainer
from .reconboost import ReconBoostTrainer
from .relearning import RelearningTrainer
from .uniform import UniformTrainer
from .valuation import ValuationTrainer


METHODS: dict[str, type[PrototypeTrainer]] = {
    "joint": PrototypeTrainer,  # plain training, monitored with prototypes
    "pmr": PMRTrainer,
    "acc": GradientBoostTrainer,
    "agm": AGMTrainer,
    "ogm": OGMTrainer,  # OGM-GE with --ogm_noise True
    "opm": OPMTrainer,
    "dgl": DGLTrainer,
    "valuation": ValuationTrainer,
    "reconboost": ReconBoostTrainer,
    "uniform": UniformTrainer,
    "gblend": GradientBlendingTrainer,
    "mmpareto": MMParetoTrainer,
    "mla": MLATrainer,
    "relearning": RelearningTrainer,
    "late_fusion": LateFusionTrainer,
}
