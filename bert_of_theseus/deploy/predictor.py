"""From texts to labels, with a saved model in any of its forms.

Keras and TensorFlow are imported only for forms that run on them.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..checkpoints.base import missing_file
from ..checkpoints.configs import read_config
from ..checkpoints.families import SEQUENCE, TOKEN
from ..data import Tokenizer
from ..data.tokenizer import check_tokenizer
from ..files import check_files
from ..validation import integer
from .arrival import arrived, remember
from .base import activated
from .forms import KINDS, find_forms, open_forms, quickest

_CONFIGS = ("config.json", "bert_config.json")


class Predictor:
    """Predicts labels and probabilities of texts, with any form of a saved model.

    Texts are sorted by length, run in batches and returned in their own order. A prediction
    depends neither on the other texts nor on the batch size, up to rounding (in int8 also on the
    range of the batch).

    Several threads may share a predictor. One that was loaded from a folder can be pickled: it is
    loaded from the same path where it arrives. All its copies in one process are one, so that each
    process of a cluster has one model.

    Args:
        runtime: Function of `token_ids`, `segment_ids` and `attention_mask`, int32 arrays of shape
            `(batch_size, sequence_length)`, that returns the model's outputs. Where it has an
            attribute `returns_logits` that is true, `activation` is applied to them; with an
            attribute `num_workers`, so many threads call it at once.
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
        num_workers: Number of batches that run at once.
        num_cut: Number of texts so far that were longer than `max_length`.
    """

    _POOL = 32  # number of batches that are sorted together
    _MULTIPLE = 8  # batches are padded to a multiple of this length, so that shapes repeat
    _source: tuple | None = None  # what tells it from others, and the arguments of `load`

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
        self._lock = threading.Lock()
        self._runtime = runtime
        self.num_workers = getattr(runtime, "num_workers", 1)
        # Run an empty text, so that what does not work fails now.
        outputs = self._outputs(tokenizer.encode_batch([""], max_length), ["an empty text"])[0]
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
        num_workers: int = 1,
    ) -> Predictor:
        """Loads a folder that `save_pretrained`, `save_checkpoint` or `transformers` wrote.

        The files must match the folder's checksums.json, if it has one that lists them.

        Args:
            directory: A folder with config.json (or bert_config.json), the tokenizer's files, and
                the model in one form or several: the checkpoint itself, onnx/model.onnx,
                model.tflite, and their quantized versions. The ONNX files may be Optimum's.
            kind: The form to run: `"onnx"` (onnx/model.onnx, or model.onnx), `"int8.onnx"`
                (onnx/model_quantized.onnx, or model.int8.onnx), `"tflite"`, `"float16.tflite"`,
                `"int8.tflite"` (model.<kind>), or `"keras"`, the checkpoint in the Keras in use.
                Defaults to onnx or tflite, to keras if neither is there with its packages.
                If both are, each labels some short texts, and the quicker one runs; tflite is left
                out if it takes shorter texts, or would load TensorFlow, which takes longer than it
                could save. Quantized
                files, which change the results a little, run only on request or if nothing else
                exists.
            max_length: Texts are truncated to this number of tokens. Defaults to the model's limit.
            batch_size: Number of texts in a batch.
            num_threads: For the runtime. Defaults to the runtime's own choice.
            num_workers: Number of batches that run at once, in ONNX, and share `num_threads`. Many
                texts take the least time with as many workers as threads, a few texts with one.
                Defaults to `1`.

        Returns:
            A `Predictor`.

        Raises:
            FileNotFoundError: if the folder or one of the files is missing; says what is there.
            ImportError: if a package that this form needs is not installed.
            TypeError: if an argument has the wrong type.
            ValueError: if a file cannot be read or does not match its checksum, the files do not
                fit together or are of different models, the model has no head that labels texts or
                tokens, its outputs are not finite, or an argument is out of range.
        """
        directory = Path(directory)
        if kind not in (None, *KINDS):
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}.")
        path, config, raw = _read_config(directory)
        tokenizer = Tokenizer.from_folder(directory)
        check_tokenizer(tokenizer, config, stacklevel=2)
        forms = open_forms(find_forms(directory, kind), path, raw, num_threads, num_workers)
        limits = [_limit(runtime, config) for _, _, runtime in forms]
        if max_length is None:
            max_length = limits[0]
        if max_length > limits[0]:
            raise ValueError(
                f"`max_length` must be at most {limits[0]}, the limit of the model in "
                f"{str(directory)!r}. Received: {max_length}."
            )
        forms = [form for form, limit in zip(forms, limits) if limit >= limits[0]]
        predictor = quickest(
            [cls._of_form(*form, tokenizer, config, path, max_length, batch_size) for form in forms]
        )
        arguments = predictor.kind, max_length, batch_size, num_threads, num_workers
        predictor._source = (secrets.token_hex(8), (directory.absolute(), *arguments))
        remember(predictor, predictor._source[0])
        return predictor

    @classmethod
    def _of_form(cls, kind, facts, runtime, tokenizer, config, path, max_length, batch_size):
        """With one of the forms in the folder of the config at `path`."""
        known, wanted = runtime.vocab_size, config["vocab_size"]
        if known is not None and known != wanted:
            raise ValueError(
                f"{str(runtime.path)!r} knows {known} tokens, and vocab_size in {str(path)!r} is "
                f"{wanted}: they are of different models."
            )
        try:
            predictor = cls(
                runtime,
                tokenizer,
                facts.labels,
                activation=facts.activation,
                max_length=max_length,
                batch_size=batch_size,
                kind=kind,
            )
            kinds = (SEQUENCE, TOKEN)
            if facts.kind in kinds and facts.kind != kinds[predictor.tags_tokens]:
                raise ValueError(
                    f"{path.name} describes a head of {facts.kind} labels, and "
                    f"{runtime.path.name} has one of {kinds[predictor.tags_tokens]} labels"
                )
        except ValueError as error:
            raise ValueError(f"{str(path.parent)!r} cannot be used: {error}") from error
        return predictor

    def __reduce__(self):
        if self._source is None:
            raise TypeError("A Predictor can be pickled if `Predictor.load` made it of a folder.")
        return arrived, (type(self), *self._source)

    def predict(self, texts):
        """Predicts the labels of texts.

        Args:
            texts: A list of texts, or a single text. A text is a string, or a tuple of two strings
                for a model of pairs. (A tuple of two strings is always one pair.)

        Returns:
            A list with a dict for each text, in order; for a single text, the dict. Its items:

            - `label`, `probability`, and `probabilities` of all labels, the most probable first;
            - for independent labels: `labels`, those with at least 0.5, and `probabilities`;
            - for regression: `value`;
            - for a tagger: `tokens`, a list of dicts with `text`, `start` and `end` (its
              characters are `text[start:end]`), `label` and `probability`.

        Raises:
            TypeError: if an item is not a text; names its position.
            ValueError: if the output for a text is not finite, or the model does not tell the texts
                of a pair apart; names its position.

        Warns:
            UserWarning: if a text is longer than `max_length` and is truncated. Once per predictor.
        """
        if isinstance(texts, str) or _is_pair(texts):
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
            TypeError, ValueError: as `predict` does.

        Warns:
            UserWarning: as `predict` does.
        """
        if isinstance(texts, str) or _is_pair(texts):
            what = "a single text" if isinstance(texts, str) else "a single pair of texts"
            raise TypeError(f"`texts` must be an iterable of texts. Received: {what}.")
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
        with self._lock:
            warn = num_cut and not self.num_cut
            self.num_cut += num_cut
        if warn:
            warnings.warn(
                f"A text is longer than {self.max_length} tokens and is cut. There is no warning "
                "for later ones.",
                stacklevel=stacklevel,
            )
        results: list = [None] * len(texts)
        # The longest first, so that no thread is left with a long batch at the end.
        order = sorted(range(len(texts)), key=lambda number: -len(encodings[number]))
        size = self.batch_size
        batches = [order[first : first + size] for first in range(0, len(order), size)]

        def run(rows):
            return self._outputs(
                [encodings[row] for row in rows], [f"text number {start + row}" for row in rows]
            )

        for rows, batch in zip(batches, self.map_batches(run, batches)):
            for row, outputs in zip(rows, batch):
                results[row] = self._result(texts[row], encodings[row], outputs)
        return results

    def map_batches(self, function, batches: list) -> Iterator:
        """`function` of each batch, in order; of `num_workers` at once."""
        num_workers = min(self.num_workers, len(batches))
        if num_workers == 1:
            yield from map(function, batches)
            return
        with ThreadPoolExecutor(num_workers) as pool:
            calls = [pool.submit(function, batch) for batch in batches]
            try:
                for call in calls:
                    yield call.result()
            finally:
                for call in calls:
                    call.cancel()

    def _outputs(self, encodings: list, names: list[str]) -> np.ndarray:
        """The outputs for the texts of a batch; `names` is what errors call them."""
        longest = max(map(len, encodings))
        length = min(-(-longest // self._MULTIPLE) * self._MULTIPLE, self.max_length)
        token_ids = np.full((len(encodings), length), self.tokenizer.pad_token_id, "int32")
        segment_ids, mask = np.zeros_like(token_ids), np.zeros_like(token_ids)
        has_segments = self.tokenizer.num_segments > 1
        has_segments = has_segments and getattr(self._runtime, "takes_segments", True)
        for row, encoding in enumerate(encodings):
            token_ids[row, : len(encoding)] = encoding.ids
            mask[row, : len(encoding)] = 1
            if has_segments:
                segment_ids[row, : len(encoding)] = encoding.type_ids
        outputs = np.asarray(self._runtime(token_ids, segment_ids, mask))
        if getattr(self._runtime, "returns_logits", False):
            outputs = activated(outputs, self.activation)
        if self.activation == "linear" and outputs.shape[-1] > 1:
            outputs = activated(outputs, "softmax")
        for row, name in enumerate(names):
            shown = outputs[row, mask[row] == 1] if outputs.ndim == 3 else outputs[row]
            if not np.isfinite(shown).all():
                raise ValueError(f"The model's output for {name} is NaN or infinite.")
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
        tokens = []
        # Each look at one of its lists makes the list anew.
        places = zip(encoding.offsets, encoding.special_tokens_mask)
        for row, ((start, end), is_special) in enumerate(places):
            if is_special:
                continue
            part = text[start:end]
            start += len(part) - len(part.lstrip())  # some tokens include the space before them
            tokens.append(
                {
                    "text": part.strip(),
                    "start": start,
                    "end": start + len(part.strip()),
                    "label": self.labels[best[row]],
                    "probability": float(outputs[row, best[row]]),
                }
            )
        return tokens


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


def _is_pair(texts) -> bool:
    """Whether it is one pair of texts, not several texts."""
    is_tuple = isinstance(texts, tuple) and len(texts) == 2
    return is_tuple and all(isinstance(text, str) for text in texts)


def _limit(runtime, config: dict) -> int:
    """Number of tokens of the longest text that a form of the model takes."""
    limit = config["max_position_embeddings"]
    return min(limit, runtime.max_length or limit)


def _read_config(directory: Path) -> tuple[Path, dict, dict]:
    """The path of the model's config, the canonical config, and the file's content."""
    path = next((directory / n for n in _CONFIGS if (directory / n).is_file()), None)
    if path is None:
        raise missing_file(directory, " or ".join(_CONFIGS))
    check_files(directory, [path.name])
    return path, *read_config(path)
