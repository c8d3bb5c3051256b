"""One stage of training, resumable after any interruption."""

from .checkpoint import WEIGHTS, described, plain
from .fit import NonFiniteLossError, fit
from .scoring import evaluate, evaluator, fresh, lower_is_better, predict, uncompiled
from .stage import Stage, StageResult, WarmupDecay

__all__ = [
    "WEIGHTS",
    "NonFiniteLossError",
    "Stage",
    "StageResult",
    "WarmupDecay",
    "described",
    "evaluate",
    "evaluator",
    "fit",
    "fresh",
    "lower_is_better",
    "plain",
    "predict",
    "uncompiled",
]
