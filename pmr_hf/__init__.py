"""Prototypical Modal Rebalance (PMR) for multimodal models of the Hugging Face world."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .agm import AGMTrainer, AGMTrainingArguments
from .cg_mnist import CGMNISTConfig, CGMNISTModel
from .collator import MultimodalCollator
from .configuration import MultimodalConfig
from .export import ExportableModel
from .fusion import Fusion, register_fusion
from .gradient_blending import GradientBlendingArguments, GradientBlendingTrainer
from .gradient_boost import GradientBoostTrainer
from .metrics import Accuracy, MacroF1
from .mmpareto import MMParetoTrainer
from .modeling import MultimodalModel, MultimodalOutput
from .numeric import NumericConfig, NumericModel
from .numeric_processor import NumericProcessor
from .ogm import OGMTrainer, OGMTrainingArguments
from .pipeline import MultimodalPipeline
from .pmr_trainer import PMRTrainer
from .processing import MultimodalProcessor
from .prototype_trainer import PrototypeTrainer
from .prototypes import Prototypes, attach_prototypes, load_prototypes
from .spectrogram import SpectrogramFeatureExtractor
from .trainer import MultimodalTrainer
from .training_args import MultimodalTrainingArguments, PMRTrainingArguments, PrototypeTrainingArguments
from .unimodal_heads import UnimodalHeadsTrainer
from .version import __version__


AutoConfig.register(MultimodalConfig.model_type, MultimodalConfig)
AutoModel.register(MultimodalConfig, MultimodalModel)
AutoProcessor.register(MultimodalConfig, MultimodalProcessor)
# Models are saved with the code that loads them where pmr_hf is not installed.
MultimodalConfig.register_for_auto_class()
MultimodalModel.register_for_auto_class()
MultimodalProcessor.register_for_auto_class()

__all__ = [
    "AGMTrainer",
    "AGMTrainingArguments",
    "Accuracy",
    "CGMNISTConfig",
    "CGMNISTModel",
    "ExportableModel",
    "Fusion",
    "GradientBlendingArguments",
    "GradientBlendingTrainer",
    "GradientBoostTrainer",
    "MMParetoTrainer",
    "MacroF1",
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
    "PMRTrainer",
    "PMRTrainingArguments",
    "PrototypeTrainer",
    "PrototypeTrainingArguments",
    "Prototypes",
    "SpectrogramFeatureExtractor",
    "UnimodalHeadsTrainer",
    "__version__",
    "attach_prototypes",
    "load_prototypes",
    "register_fusion",
]
