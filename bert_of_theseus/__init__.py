"""BERT-of-Theseus for Keras: compress a fine-tuned BERT by replacing its modules in training.

Names are imported on first use. So `import bert_of_theseus` costs nothing, and
`import bert_of_theseus.bert4keras` can choose Keras 2 before any Keras is loaded. What is not
here is imported from its module: `bert_of_theseus.checkpoints`, `bert_of_theseus.deploy`, ...
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .callbacks import ReplacementRateScheduler
    from .deploy import Predictor, export_litert, export_onnx
    from .encoders import as_encoder, build_successor_backbone, initialize_successor
    from .layers import BinaryRandomChoice, ModuleChoice, get_replacement_rate, set_replacement_rate
    from .models import bert_of_theseus, build_successor_model, build_theseus_model
    from .pretrained import compress_pretrained
    from .recipe import compress
    from .saving import load_model
    from .schedules import (
        AntiCurriculumReplacement,
        ConstantReplacement,
        CosineReplacement,
        LinearReplacement,
        ModulewiseReplacement,
        PiecewiseReplacement,
    )
    from .training import Stage

__all__ = [
    "AntiCurriculumReplacement",
    "BinaryRandomChoice",
    "ConstantReplacement",
    "CosineReplacement",
    "LinearReplacement",
    "ModuleChoice",
    "ModulewiseReplacement",
    "PiecewiseReplacement",
    "Predictor",
    "ReplacementRateScheduler",
    "Stage",
    "__version__",
    "as_encoder",
    "bert_of_theseus",
    "build_successor_backbone",
    "build_successor_model",
    "build_theseus_model",
    "compress",
    "compress_pretrained",
    "export_litert",
    "export_onnx",
    "get_replacement_rate",
    "initialize_successor",
    "load_model",
    "set_replacement_rate",
]

if not TYPE_CHECKING:
    # The module of each name; that of a schedule is `schedules`.
    _MODULES = {
        "BinaryRandomChoice": "layers",
        "ModuleChoice": "layers",
        "Predictor": "deploy",
        "ReplacementRateScheduler": "callbacks",
        "Stage": "training",
        "as_encoder": "encoders",
        "bert_of_theseus": "models",
        "build_successor_backbone": "encoders",
        "build_successor_model": "models",
        "build_theseus_model": "models",
        "compress": "recipe",
        "compress_pretrained": "pretrained",
        "export_litert": "deploy",
        "export_onnx": "deploy",
        "get_replacement_rate": "layers",
        "initialize_successor": "encoders",
        "load_model": "saving",
        "set_replacement_rate": "layers",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'schedules')}")
        value = globals()[name] = getattr(module, name)
        return value

    def __dir__():
        return sorted(set(globals()) | set(__all__))
