"""Compresses one loaded model, to any depth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..backend import keras
from ..checkpoints import load_pretrained
from ..compressed import Compressed
from ..data import Batches
from ..encoders import as_encoder
from ..recipe import compress
from ..training import Stage
from .inputs import Inputs


class Trained(NamedTuple):
    """A successor of some depth: its encoder, as its host has it, and what `compress` returned."""

    num_hidden_layers: int
    encoder: object
    result: Compressed


class Trainer:
    """The predecessor, and the batches to train its successors on.

    Args:
        inputs: `Inputs`.
        stages: As `default_stages` returns them.
        batch_size, seed, verbose: As in `compress`.
    """

    def __init__(self, inputs: Inputs, stages: dict, batch_size: int, seed: int, verbose):
        self.inputs, self.seed, self.verbose = inputs, seed, verbose
        self.batch_size = batch_size
        self.stages = {f"{name}_stage": Stage(**options) for name, options in stages.items()}
        self.predecessor, self.classifier = self._load(None, "Predecessor-")
        self.batches = {
            name: self.make_batches(encoded, shuffle=name == "train")
            for name, encoded in inputs.texts.items()
        }

    def make_batches(self, encoded, shuffle: bool = False) -> Batches:
        """Batches as the predecessor's host takes them."""
        inputs = as_encoder(self.predecessor).input_structure
        return Batches(
            encoded,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            pad_token_id=self.inputs.tokenizer.pad_token_id,
            input_names=list(inputs) if isinstance(inputs, dict) else None,
        )

    def new_successor(self, num_hidden_layers: int):
        """The host's encoder, with the weights of the predecessor's first layers."""
        return self._load(num_hidden_layers, "Successor-")[0]

    def train(self, num_hidden_layers: int, directory: Path) -> Trained:
        """Compresses to this depth, or reads the result if that is done."""
        keras.utils.set_random_seed(self.seed)
        successor = self.new_successor(num_hidden_layers)
        result = compress(
            self.predecessor,
            successor,
            self.classifier,
            self.batches["train"],
            self.batches["validation"],
            test=self.batches.get("test"),
            directory=directory,
            predecessor_stage=None,
            seed=self.seed,
            verbose=self.verbose,
            **self.stages,
            **self.inputs.task.options,
        )
        return Trained(num_hidden_layers, successor, result)

    def _load(self, num_hidden_layers, prefix):
        encoder, classifier, _ = load_pretrained(
            self.inputs.checkpoint.directory, num_hidden_layers=num_hidden_layers, prefix=prefix
        )
        return encoder, classifier
