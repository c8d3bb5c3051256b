"""What can be compressed: one module per host, behind one interface, `Encoder`."""

from .base import Encoder
from .convert import as_encoder, as_head
from .initialize import build_successor_backbone, initialize_successor
from .nearest import nearest_layers
from .stack import StackEncoder

__all__ = [
    "Encoder",
    "StackEncoder",
    "as_encoder",
    "as_head",
    "build_successor_backbone",
    "initialize_successor",
    "nearest_layers",
]
