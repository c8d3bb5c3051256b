"""BERT-of-Theseus for Keras: compress a fine-tuned BERT by replacing its modules in training.

Names are imported on first use. So `import bert_of_theseus` costs nothing, and
`import bert_of_theseus.bert4keras` can choose Keras 2 before any Keras is loaded.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "AntiCurriculumReplacement": "schedules",
    "BinaryRandomChoice": "layers",
    "ConstantReplacement": "schedules",
    "CosineReplacement": "schedules",
    "LinearReplacement": "schedules",
    "Masked": "wrappers",
    "ModuleChoice": "layers",
    "ModulewiseReplacement": "schedules",
    "PiecewiseReplacement": "schedules",
    "ReplacementRateScheduler": "callbacks",
    "ReplacementSchedule": "schedules",
    "get_replacement_rate": "layers",
    "set_replacement_rate": "layers",
    "bert_of_theseus": "models",
    "build_successor_backbone": "encoders",
    "build_successor_model": "models",
    "build_theseus_model": "models",
    "distil": "models",
    "initialize_successor": "encoders",
    "load_model": "saving",
    "Compressed": "recipe",
    "compress": "recipe",
    "NonFiniteLossError": "training",
    "Stage": "training",
    "fit": "training",
    "load_backbone": "checkpoints",
    "Classification": "data",
    "MultiLabel": "data",
    "Regression": "data",
    "SpanExtraction": "data",
    "Tagging": "data",
    "load_bert": "checkpoints",
    "load_pretrained": "checkpoints",
    "save_checkpoint": "checkpoints",
    "save_pretrained": "checkpoints",
    "Predictor": "deploy",
    "export_litert": "deploy",
    "export_onnx": "deploy",
    "Runtime": "deploy",
    "open_runtime": "deploy",
    "plot_schedule": "plots",
    "plot_tradeoff": "plots",
    "plot_training": "plots",
    "Encoder": "encoders",
    "StackEncoder": "encoders",
    "as_encoder": "encoders",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_EXPORTS))
