"""From texts to labels, with a saved model in any of its forms.

Keras and TensorFlow are imported only for forms that run on them.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..checkpoints.base import missing_file
from ..checkpoints.heads import read_labels, stored_activation
from ..checkpoints.load import KINDS as CHECKPOINTS
from ..checkpoints.load import check_vocab
from ..data import Tokenizer
from ..files import check_files, read_json
from ..validation import integer, is_integer
from .runtimes import open_runtime

# Each is the file model.<kind>, except for "keras", the checkpoint. In order of preference: the
# fastest first, but quantized files last, as they change the results.
KINDS = ("onnx", "tflite", "keras", "float16.tflite", "int8.onnx", "int8.tflite")

_CONFIGS = ("config.json", "bert_config.json")


class Predictor:
    """Predicts labels and probabilities of texts, with any form of a saved model.

    Texts are sorted by length, run in batches and returned in their own order. A prediction
    depends neither on the other texts nor on the batch size, up to rounding (in int8 also on the
    range of the batch).

    Args:
        runtime: Function of `token_ids` and `segment_ids`, int32 arrays of shape
            `(batch_size, sequence_length)` padded with 0, that returns the model's outputs.
        tokenizer: A `data.Tokenizer`.
        labels: The class names.
        activation: The activation of the outputs: `"softmax"`, `"sigmoid"` (independent labels) or
            `"linear"` (a number, or the logits of several classes).
        max_length: Longer texts are truncated to this number of tokens.
        batch_size: Number of texts in a batch.
        kind: One of `KINDS`, for `repr`.

    Attributes:
        labels: The class names.
        max_length: The limit in tokens.
        kind: The form of the model that runs.
        num_cut: Number of texts so far that were longer than `max_length`.
    """

    _POOL = 32  # number of batches that are sorted together
    _MULTIPLE = 8  # batches are padded to a multiple of this length, so that shapes repeat

    def __init__(
        self,
        runtime,
        tokenizer: Tokenizer,
        labels: list[str] | None,
        *,
        activation: str = "softmax",
        max_length: int = 512,
        batch_size: int = 32,
        kind: str = "keras",
    ):
        self.tokenizer = tokenizer
        self.activation = activation
        self.max_length = integer("max_length", max_length, minimum=3)
        self.batch_size = integer("batch_size", batch_size, minimum=1)
        self.kind = kind
        self.num_cut = 0
        self._runtime = runtime
        # Run an empty text, so that what does not work fails now.
        outputs = self._outputs(tokenizer.encode_batch([""], max_length))[0]
        self.tags_tokens = outputs.ndim == 2
        width = outputs.shape[-1]
        self.labels = labels or [f"LABEL_{number}" for number in range(width)]
        if len(self.labels) != width:
            raise ValueError(
                f"the model has {width} outputs, and there are {len(self.labels)} labels"
            )
        if len(set(self.labels)) < width:
            raise ValueError(f"its labels must be distinct. Received: {self.labels}")
        total = float(outputs.reshape(-1, width)[0].sum())
        if activation == "softmax" and abs(total - 1) > 0.05:  # int8 is not exact
            raise ValueError(
                f"its probabilities add up to {total:.3g}, not to 1; classifier_activation in its "
                "config must name the activation of its outputs"
            )

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        kind: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        num_threads: int | None = None,
    ) -> Predictor:
        """Loads a folder that `save_pretrained` or `save_checkpoint` wrote, with its exports.

        The files must match the folder's checksums.json, if it has one that lists them.

        Args:
            directory: A folder with config.json (or bert_config.json), vocab.txt,
                tokenizer_config.json, and the model in one form or several: the checkpoint
                itself, model.onnx, model.tflite, and their quantized versions.
            kind: The form to run: `"onnx"`, `"int8.onnx"`, `"tflite"`, `"float16.tflite"`,
                `"int8.tflite"` (the file model.<kind>), or `"keras"` (the checkpoint). Defaults to
                the first of onnx, tflite and keras that is there and whose packages are installed.
                Quantized files, which change the results a little, run only on request or if
                nothing else exists.
            max_length: Texts are truncated to this number of tokens. Defaults to the model's limit.
            batch_size: Number of texts in a batch.
            num_threads: For the runtime. Defaults to the runtime's own choice.

        Returns:
            A `Predictor`.

        Raises:
            FileNotFoundError: if the folder or one of the files is missing; says what is there.
            ImportError: if a package that this form needs is not installed.
            TypeError: if an argument has the wrong type.
            ValueError: if a file cannot be read or does not match its checksum, the files do not
                fit together, or an argument is out of range.
        """
        directory = Path(directory)
        if kind not in (None, *KINDS):
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}.")
        path, config = _read_config(directory)
        vocab = directory / "vocab.txt"
        if not vocab.is_file():
            raise missing_file(directory, "vocab.txt")
        check_vocab(vocab, config, stacklevel=2)
        tokenizer = Tokenizer(vocab)
        kind, runtime = _open(directory, kind, num_threads)
        known, wanted = runtime.vocab_size, config["vocab_size"]
        if known is not None and known != wanted:
            raise ValueError(
                f"{str(runtime.path)!r} knows {known} tokens, and vocab_size in {str(path)!r} is "
                f"{wanted}: they are of different models."
            )
        limit = config["max_position_embeddings"]
        limit = min(limit, runtime.max_length or limit)
        if max_length is not None and max_length > limit:
            raise ValueError(
                f"`max_length` must be at most {limit}, the limit of the model in "
                f"{str(directory)!r}. Received: {max_length}."
            )
        try:
            return cls(
                runtime,
                tokenizer,
                read_labels(config.get("id2label"), path),
                activation=stored_activation(config, len(config.get("id2label") or (0, 1)), path),
                max_length=limit if max_length is None else max_length,
                batch_size=batch_size,
                kind=kind,
            )
        except ValueError as error:
            raise ValueError(f"{str(directory)!r} cannot be used: {error}") from error

    def predict(self, texts):
        """Predicts the labels of texts.

        Args:
            texts: A list of texts, or a single text. A text is a string, or a tuple of two strings
                for a model of pairs.

        Returns:
            A list with a dict for each text, in order; for a single text, the dict. Its items:

            - `label`, `probability`, and `probabilities` of all labels, the most probable first;
            - for independent labels: `labels`, those with at least 0.5, and `probabilities`;
            - for regression: `value`;
            - for a tagger: `tokens`, a list of dicts with `text`, `start` and `end` (its
              characters are `text[start:end]`), `label` and `probability`.

        Raises:
            TypeError: if an item is not a text; names its position.

        Warns:
            UserWarning: if a text is longer than `max_length` and is truncated. Once per predictor.
        """
        if isinstance(texts, str):
            return self._predict([texts], 0, stacklevel=3)[0]
        texts, results = list(texts), []
        for start in range(0, len(texts), self._window):
            window = texts[start : start + self._window]
            results += self._predict(window, start, stacklevel=3)
        return results

    __call__ = predict

    def stream(self, texts: Iterable) -> Iterator[dict]:
        """Predicts the labels of texts from an iterator, in constant memory.

        Args:
            texts: Any iterable of texts. It is read up to 32 batches ahead, to sort texts by
                length.

        Yields:
            What `predict` returns for each text, in order.

        Raises:
            TypeError: if an item is not a text; names its position.

        Warns:
            UserWarning: as `predict` does.
        """
        if isinstance(texts, str):
            raise TypeError("`texts` must be an iterable of texts. Received: a single text.")
        texts = iter(texts)
        for start in itertools.count(0, self._window):
            window = list(itertools.islice(texts, self._window))
            if not window:
                return
            yield from self._predict(window, start, stacklevel=3)

    def __repr__(self) -> str:
        return (
            f"Predictor(kind={self.kind!r}, {len(self.labels)} labels, "
            f"max_length={self.max_length}, batch_size={self.batch_size})"
        )

    @property
    def _window(self) -> int:
        return self._POOL * self.batch_size

    def _predict(self, texts: list, start: int, stacklevel: int) -> list[dict]:
        """Results for the texts of one window, the first of which is number `start`."""
        texts = [_checked(text, start + number) for number, text in enumerate(texts)]
        encodings = self.tokenizer.encode_batch(texts, self.max_length)
        num_cut = sum(bool(encoding.overflowing) for encoding in encodings)
        if num_cut and not self.num_cut:
            warnings.warn(
                f"A text is longer than {self.max_length} tokens and is cut. There is no warning "
                "for later ones.",
                stacklevel=stacklevel,
            )
        self.num_cut += num_cut
        results: list = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(encodings[number].ids))
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            batch = [encodings[row] for row in rows]
            for row, encoding, outputs in zip(rows, batch, self._outputs(batch)):
                results[row] = self._result(texts[row], encoding, outputs)
        return results

    def _outputs(self, encodings: list) -> np.ndarray:
        longest = max(len(encoding.ids) for encoding in encodings)
        length = min(-(-longest // self._MULTIPLE) * self._MULTIPLE, self.max_length)
        token_ids = np.zeros((len(encodings), length), "int32")
        segment_ids = np.zeros_like(token_ids)
        for row, encoding in enumerate(encodings):
            token_ids[row, : len(encoding.ids)] = encoding.ids
            segment_ids[row, : len(encoding.ids)] = encoding.type_ids
        outputs = np.asarray(self._runtime(token_ids, segment_ids))
        if self.activation == "linear" and outputs.shape[-1] > 1:
            outputs = np.exp(outputs - outputs.max(-1, keepdims=True))
            outputs /= outputs.sum(-1, keepdims=True)
        return outputs

    def _result(self, text, encoding, outputs) -> dict:
        if self.tags_tokens:
            return {"tokens": self._tokens(text, encoding, outputs)}
        if self.activation == "linear" and len(self.labels) == 1:
            return {"value": float(outputs[0])}
        order = np.argsort(-outputs, kind="stable")
        probabilities = {self.labels[number]: float(outputs[number]) for number in order}
        if self.activation == "sigmoid":
            labels = [label for label, p in probabilities.items() if p >= 0.5]
            return {"labels": labels, "probabilities": probabilities}
        label, probability = next(iter(probabilities.items()))
        return {"label": label, "probability": probability, "probabilities": probabilities}

    def _tokens(self, text, encoding, outputs) -> list[dict]:
        if not isinstance(text, str):
            raise TypeError("The model tags tokens, of single texts. Received: a pair of texts.")
        best = outputs.argmax(-1)
        return [
            {
                "text": text[start:end],
                "start": start,
                "end": end,
                "label": self.labels[best[row]],
                "probability": float(outputs[row, best[row]]),
            }
            for row, ((start, end), special) in enumerate(
                zip(encoding.offsets, encoding.special_tokens_mask)
            )
            if not special
        ]


def _checked(text, number: int):
    """`text` as the tokenizer takes it: a string, or a tuple of two."""
    parts = [text] if isinstance(text, str) else text
    is_valid = isinstance(parts, (list, tuple)) and (isinstance(text, str) or len(parts) == 2)
    if not is_valid or not all(isinstance(part, str) for part in parts):
        raise TypeError(
            "`texts` must hold strings, or tuples of two strings. Received as number "
            f"{number}: {text!r:.80}."
        )
    try:
        "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"Text number {number} is not valid Unicode: {error}.") from error
    return text if isinstance(text, str) else tuple(parts)


def _read_config(directory: Path) -> tuple[Path, dict]:
    """The model's config, and its path."""
    path = next((directory / n for n in _CONFIGS if (directory / n).is_file()), None)
    if path is None:
        raise missing_file(directory, " or ".join(_CONFIGS))
    check_files(directory, [path.name])
    config = read_json(path)
    config.setdefault("max_position_embeddings", 512)
    for name in ("vocab_size", "max_position_embeddings"):
        if not is_integer(config.get(name)):
            raise ValueError(f"{str(path)!r}: {name} must be an integer, not {config.get(name)!r}.")
    if "id2label" not in config and (config.get("architectures") or [None])[0] == "BertModel":
        raise ValueError(
            f"{str(path)!r} names no labels (id2label): it is an encoder without a head. Save it "
            "with its classifier."
        )
    return path, config


def _open(directory: Path, kind: str | None, num_threads: int | None):
    """The form that is asked for, or the first that is there and can be run."""
    paths = {k: directory / f"model.{k}" for k in KINDS if k != "keras"}
    there = {k: path for k, path in paths.items() if path.is_file()}
    if any(c.find_tensors(directory) for c in CHECKPOINTS):
        there["keras"] = directory
    if kind is not None and kind not in there:
        looked_for = "a checkpoint for Keras" if kind == "keras" else paths[kind].name
        raise missing_file(directory, looked_for)
    if not there:
        raise missing_file(directory, f"a checkpoint, {', '.join(p.name for p in paths.values())}")
    errors = []
    for k in [kind] if kind else [k for k in KINDS if k in there]:
        try:
            return k, open_runtime(there[k], num_threads)
        except ImportError as error:
            errors.append(error)
    raise ImportError(" ".join(map(str, errors))) from errors[0]
