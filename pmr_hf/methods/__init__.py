"""The training methods, one file each. A file has the name that `--method` takes; `METHODS` lists all methods."""

from ..training.prototype_trainer import PrototypeTrainer
from .acc import GradientBoostTrainer
from .agm import AGMTrainer
from .dgl import DGLTrainer
from .gblend import GradientBlendingTrainer
from .mmpareto import MMParetoTrainer
from .ogm import OGMTrainer
from .opm import OPMTrainer
from .pmr import PMRTrainer
from .reconboost import ReconBoostTrainer
from .uniform import UniformTrainer


METHODS: dict[str, type[PrototypeTrainer]] = {
    "joint": PrototypeTrainer,  # plain training, monitored with prototypes
    "pmr": PMRTrainer,
    "acc": GradientBoostTrainer,
    "agm": AGMTrainer,
    "ogm": OGMTrainer,  # OGM-GE with --ogm_noise True
    "opm": OPMTrainer,
    "dgl": DGLTrainer,
    "reconboost": ReconBoostTrainer,
    "uniform": UniformTrainer,
    "gblend": GradientBlendingTrainer,
    "mmpareto": MMParetoTrainer,
}
