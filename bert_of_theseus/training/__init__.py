"""One stage of training, resumable after any interruption."""

from .feed import BatchAccess, Rounds, as_sequence
from .fit import (
    WEIGHTS,
    NonFiniteLossError,
    Stage,
    StageResult,
    WarmupDecay,
    described,
    evaluate,
    evaluator,
    fit,
    fresh,
    lower_is_better,
    plain,
    predict,
    uncompiled,
)

__all__ = [
    "WEIGHTS",
    "BatchAccess",
    "NonFiniteLossError",
    "Rounds",
    "Stage",
    "StageResult",
    "WarmupDecay",
    "as_sequence",
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
