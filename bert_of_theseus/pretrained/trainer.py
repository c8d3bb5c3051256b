"""Compresses one loaded model, to any depth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..backend import keras
from ..checkpoints import load_pretrained
from ..compressed import Compressed
from ..data import Batches
from ..distribution import has_workers
from ..encoders import as_encoder
from ..recipe import compress
from ..training import Stage
from .answers import predecessor_answers
from .batches import make_batches
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

    Attributes:
        predecessor, classifier: The model's encoder, as its host has it, and its head.
        predecessor_model: Both, a Keras model.
        batches: Dict of `Batches` by `"train"`, `"validation"` and, where there is one, `"test"`.
        options: Keyword arguments for `compress` that go with them.

    Raises:
        ValueError: if several processes share the training.
    """

    def __init__(self, inputs: Inputs, stages: dict, batch_size: int, seed: int, verbose):
        if has_workers():
            raise ValueError(
                "A folder must be compressed by one process. Received: a training that several "
                "share. `compress` can be called by them."
            )
        self.inputs, self.seed, self.verbose = inputs, seed, verbose
        self.batch_size = batch_size
        self.stages = {f"{name}_stage": Stage(**options) for name, options in stages.items()}
        self.predecessor, self.classifier = self._load(None, "Predecessor-")
        encoder = as_encoder(self.predecessor)
        self.predecessor_model = encoder.model(self.classifier, name="predecessor")
        names = encoder.input_structure
        self._batch_options = {
            "batch_size": batch_size,
            "seed": seed,
            "pad_token_id": inputs.tokenizer.pad_token_id,
            "input_names": list(names) if isinstance(names, dict) else None,
        }
        self.batches, self.options = make_batches(inputs, **self._batch_options)

    def compute_answers(self, directory: Path) -> None:
        """Has the predecessor answer the texts without labels, or reads what it has answered."""

        def answer(name, encoded):
            batches = Batches(encoded, shuffle=False, **self._batch_options)
            path = directory / name
            return predecessor_answers(self.predecessor_model, batches, path, verbose=self.verbose)

        self.batches, self.options = make_batches(self.inputs, answer, **self._batch_options)

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
            batch_size=self.batch_size,
            verbose=self.verbose,
            print_report=False,
            **self.stages,
            **self.options,
        )
        return Trained(num_hidden_layers, successor, result)

    def _load(self, num_hidden_layers, prefix):
        encoder, classifier, _ = load_pretrained(
            self.inputs.checkpoint.directory, num_hidden_layers=num_hidden_layers, prefix=prefix
        )
        return encoder, classifier
