"""The method: the Theseus model that trains a successor, and the successor that is kept."""

from ..encoders.initialize import build_successor_backbone, initialize_successor
from .successor import build_successor_model
from .teacher import distil
from .theseus import TheseusModel, bert_of_theseus, build_theseus_model
from .warm_start import build_warm_start_model

__all__ = [
    "TheseusModel",
    "bert_of_theseus",
    "build_successor_backbone",
    "build_successor_model",
    "build_theseus_model",
    "build_warm_start_model",
    "distil",
    "initialize_successor",
]
