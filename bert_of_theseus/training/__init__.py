"""One stage of training, resumable after any interruption."""

from .checkpoint import WEIGHTS, run_lock
from .checks import Limits, check_labels
from .examples import read_once
from .feed import BatchAccess
from .fit import NonFiniteLossError, fit
from .identity import described, plain
from .notes import stage_notes
from .scoring import (
    check_scored,
    evaluate,
    evaluator,
    fresh,
    lower_is_better,
    predict,
    uncompiled,
)
from .stage import Stage, StageResult, WarmupDecay

__all__ = [
    "WEIGHTS",
    "BatchAccess",
    "Limits",
    "NonFiniteLossError",
    "Stage",
    "StageResult",
    "WarmupDecay",
    "check_labels",
    "check_scored",
    "described",
    "evaluate",
    "evaluator",
    "fit",
    "fresh",
    "lower_is_better",
    "plain",
    "predict",
    "read_once",
    "run_lock",
    "stage_notes",
    "uncompiled",
]
