"""Prototypical Modal Rebalance (PMR) for multimodal models in the Hugging Face ecosystem."""

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from .data.collator import MultimodalCollator
from .data.infer_columns import InferredColumns, infer_columns
from .diagnosis.diagnose import diagnose
from .diagnosis.evaluate import evaluate_report
from .diagnosis.findings import Diagnosis
from .inference.export import ExportableModel
from .inference.pipeline import MultimodalPipeline
from .methods import METHODS
from .methods.acc import GradientBoostTrainer
from .methods.agm import AGMTrainer, AGMTrainingArguments
from .methods.dgl import DGLTrainer, DGLTrainingArguments
from .methods.gblend import GradientBlendingArguments, GradientBlendingTrainer
from .methods.gradient_scaling import GradientScalingTrainingArguments
from .methods.late_fusion import LateFusionTrainer, LateFusionTrainingArguments
from .methods.mla import MLATrainer, MLATrainingArguments
from .methods.mmpareto import MMParetoTrainer
from .methods.ogm import OGMTrainer, OGMTrainingArguments
from .methods.opm import OPMTrainer, OPMTrainingArguments
from .methods.pmr import PMRTrainer, PMRTrainingArguments
from .methods.reconboost import ReconBoostTrainer, ReconBoostTrainingArguments
from .methods.relearning import RelearningArguments, RelearningTrainer
from .methods.uniform import UniformTrainer
from .methods.unimodal_heads import UnimodalHeadsTrainer
from .methods.valuation import ValuationArguments, ValuationTrainer
from .model.cg_mnist_encoder import CGMNISTConfig, CGMNISTModel
from .model.configuration import MultimodalConfig
from .model.fusion import Fusion, register_fusion
from .model.media_limits import MediaLimits
from .model.modeling import MultimodalModel, MultimodalOutput
from .model.multimodal_processor import MultimodalProcessor
from .model.numeric_encoder import NumericConfig, NumericModel
from .model.numeric_processor import NumericProcessor
from .model.prototypes import Prototypes, attach_prototypes, load_prototypes
from .model.spectrogram_processor import SpectrogramFeatureExtractor
from .model.tabular_encoder import TabularConfig, TabularModel
from .model.tabular_processor import TabularProcessor
from .reporting.evaluation import EvaluationReport
from .training.arguments import MultimodalTrainingArguments, PrototypeTrainingArguments
from .training.multimodal_trainer import MultimodalTrainer
from .training.prototype_trainer import PrototypeTrainer
from .version import __version__


if TYPE_CHECKING:
    from .training.evaluate_metrics import Accuracy, MacroF1

AutoConfig.register(MultimodalConfig.model_type, MultimodalConfig)
AutoModel.register(MultimodalConfig, MultimodalModel)
AutoProcessor.register(MultimodalConfig, MultimodalProcessor)
# Models are saved with the code that loads them where pmr_hf is not installed.
MultimodalConfig.register_for_auto_class()
MultimodalModel.register_for_auto_class()
MultimodalProcessor.register_for_auto_class()

__all__ = [
    "METHODS",
    "AGMTrainer",
    "AGMTrainingArguments",
    "Accuracy",
    "CGMNISTConfig",
    "CGMNISTModel",
    "DGLTrainer",
    "DGLTrainingArguments",
    "Diagnosis",
    "EvaluationReport",
    "ExportableModel",
    "Fusion",
    "GradientBlendingArguments",
    "GradientBlendingTrainer",
    "GradientBoostTrainer",
    "GradientScalingTrainingArguments",
    "InferredColumns",
    "LateFusionTrainer",
    "LateFusionTrainingArguments",
    "MLATrainer",
    "MLATrainingArguments",
    "MMParetoTrainer",
    "MacroF1",
    "MediaLimits",
    "MultimodalCollator",
    "MultimodalConfig",
    "MultimodalModel",
    "MultimodalOutput",
    "MultimodalPipeline",
    "MultimodalProcessor",
    "MultimodalTrainer",
    "MultimodalTrainingArguments",
    "NumericConfig",
    "NumericModel",
    "NumericProcessor",
    "OGMTrainer",
    "OGMTrainingArguments",
    "OPMTrainer",
    "OPMTrainingArguments",
    "PMRTrainer",
    "PMRTrainingArguments",
    "PrototypeTrainer",
    "PrototypeTrainingArguments",
    "Prototypes",
    "ReconBoostTrainer",
    "ReconBoostTrainingArguments",
    "RelearningArguments",
    "RelearningTrainer",
    "SpectrogramFeatureExtractor",
    "TabularConfig",
    "TabularModel",
    "TabularProcessor",
    "UniformTrainer",
    "UnimodalHeadsTrainer",
    "ValuationArguments",
    "ValuationTrainer",
    "__version__",
    "attach_prototypes",
    "diagnose",
    "evaluate_report",
    "infer_columns",
    "load_prototypes",
    "register_fusion",
]


def __getattr__(name: str) -> Any:
    if name in ("Accuracy", "MacroF1"):  # `evaluate` is slow to import
        from .training import evaluate_metrics

        return getattr(evaluate_metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
