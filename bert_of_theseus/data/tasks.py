"""Kinds of tasks: for each a head, a loss, a score and batches, for `compress` and `fit`.

    task = Tagging(corpus.labels)
    train, validation, dev = (
        task.batches(examples, tokenizer, max_length=128) for examples in corpus[:3]
    )
    result = compress(
        bert, small_bert, task.head(768), train, validation, test=dev, directory="runs/ner",
        **task.options,
    )
    entities = task.decode(task.predict(result.successor, dev), dev.encoded)

What turns outputs into answers (`decode_labels`, `decode_entities`, `decode_answer`) takes arrays,
and nothing here imports Keras before a head or a loss is asked for. The scores come from
scikit-learn, SciPy and seqeval, which are needed where a task's `options` name them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

import numpy as np

from .answers import decode_labels
from .batches import Batches
from .examples import Example
from .tokenizer import Encoded, Tokenizer

__all__ = [
    "Classification",
    "MultiLabel",
    "Regression",
    "TextTask",
]

_INSTALL = {
    "sklearn": "pip install scikit-learn",
    "scipy": "pip install scipy",
    # Its build needs setuptools-scm beside it.
    "seqeval": "pip install setuptools setuptools-scm && pip install --no-build-isolation seqeval",
}


class TextTask:
    """What the tasks share.

    Attributes:
        labels: List of strings, the names of the head's outputs.
        metric: String, what `score` computes.
    """

    _metrics: dict = {}  # noqa: RUF012  by name: the package, and its module, that computes it
    labels: list[str]

    def __init__(self, labels: Sequence[str], metric: str):
        self.labels, self.metric = list(labels), metric
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError(f"`labels` must be different names, at least one. Received: {labels}")
        if metric not in self._metrics:
            raise ValueError(
                f"`metric` must be one of {', '.join(self._metrics)}. Received: {metric!r}"
            )

    def head(self, hidden_size: int):
        """A new head on an encoder's hidden states of this size: a Keras model."""
        from ..heads import pooler_classification_head

        return pooler_classification_head(
            hidden_size, len(self.labels), activation=self._activation
        )

    @property
    def loss(self):
        """As in `compile`."""
        return self._loss

    @property
    def metrics(self) -> tuple:
        """As in `compile`: what the progress bar shows beside the loss."""
        return self._shown

    @property
    def options(self) -> dict:
        """Keyword arguments for `compress`, `fit` and `evaluate`: `loss`, `metrics`, `score`.

        Raises:
            ImportError: if a package that `score` needs is not installed.
        """
        self.check()
        return {"loss": self.loss, "metrics": self.metrics, "score": self.score}

    def get_config(self) -> dict:
        return {"labels": self.labels, "metric": self.metric}

    def encode(self, examples: list[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Token ids and labels of `examples`.

        Raises:
            ValueError: if a label is not what this task takes; names the example.
        """
        labels = [self._label(example.label, number) for number, example in enumerate(examples)]
        plain = [example._replace(label=0) for example in examples]
        encoded = tokenizer.encode(plain, max_length)
        return encoded._replace(labels=np.array(labels), examples=examples)

    def batches(
        self, examples: list[Example], tokenizer: Tokenizer, max_length: int = 128, **options
    ) -> Batches:
        """`Batches` of `examples`; `options` are theirs: `batch_size`, `shuffle`, `seed`."""
        return Batches(self.encode(examples, tokenizer, max_length), **options)

    def predict(self, model, batches: Batches) -> list[np.ndarray]:
        """What `model` makes of each of the texts, in the order of `batches.encoded`.

        Labels by token, and positions, have the length of the text's batch.
        """
        if not isinstance(batches, Batches):
            raise TypeError(
                f"The score of a {type(self).__name__} takes what its `batches` returns. "
                f"Received: {type(batches).__name__}"
            )
        rows = (row for inputs, _ in batches for row in model.predict_on_batch(inputs))
        outputs = dict(zip(batches.rows, rows))
        return [outputs[number] for number in range(len(outputs))]

    def score(self, model, batches: Batches) -> float:
        """`metric` of `model` on the texts of `batches`, better when higher."""
        return float(self.measure(self.predict(model, batches), batches.encoded)[self.metric])

    def measure(self, outputs: list[np.ndarray], encoded: Encoded) -> dict[str, float]:
        """`metric` of a model's `outputs`, and what is reported beside it, by name."""
        raise NotImplementedError

    def decode(self, outputs: list[np.ndarray], encoded: Encoded) -> list:
        """What the outputs say of each text."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises an `ImportError` if a package that `score` needs is not installed."""
        self._module()

    def _module(self):
        name = self._metrics[self.metric]
        if name is None:
            return None
        try:
            return importlib.import_module(name)
        except ImportError as error:
            package = name.partition(".")[0]
            raise ImportError(
                f"The metric {self.metric!r} needs {package}: {_INSTALL[package]}"
            ) from error

    def _bad(self, number, expected, label):
        return ValueError(f"Example {number}: the label must be {expected}. Received: {label!r}")


class Classification(TextTask):
    """One of several classes, of a text or of a pair of texts.

    An example's label is the number of its class.

    Args:
        labels: Names of the classes.
        metric: `"accuracy"`; or, as GLUE reports some tasks, `"f1"` (of the second of two
            classes) or `"matthews"`, the correlation; or `"macro_f1"`. Defaults to `"accuracy"`.
    """

    _metrics = {  # noqa: RUF012
        "accuracy": None,
        "f1": "sklearn.metrics",
        "macro_f1": "sklearn.metrics",
        "matthews": "sklearn.metrics",
    }
    _activation, _loss, _shown = "softmax", "sparse_categorical_crossentropy", ("accuracy",)

    def __init__(self, labels: Sequence[str], metric: str = "accuracy"):
        super().__init__(labels, metric)
        if metric == "f1" and len(self.labels) != 2:
            raise ValueError(
                'metric="f1" is of the second of two classes; use "macro_f1" for '
                f"{len(self.labels)} classes."
            )

    @property
    def options(self):
        options = super().options
        if self.metric == "accuracy":  # Keras computes it with the loss
            del options["score"]
        return options

    def measure(self, outputs, encoded):
        found = np.array([output.argmax() for output in outputs])
        if self.metric == "accuracy":
            return {"accuracy": (found == encoded.labels).mean()}
        module = self._module()
        if self.metric == "matthews":
            return {"matthews": module.matthews_corrcoef(encoded.labels, found)}
        average = "binary" if self.metric == "f1" else "macro"
        f1 = module.f1_score(encoded.labels, found, average=average, zero_division=0)
        return {self.metric: f1}

    def decode(self, outputs, encoded=None):
        """The name of each text's likeliest class."""
        return [self.labels[int(output.argmax())] for output in outputs]

    def _label(self, label, number):
        if not _is_whole(label) or not 0 <= label < len(self.labels):
            raise self._bad(number, f"an integer from 0 to {len(self.labels) - 1}", label)
        return int(label)


class MultiLabel(TextTask):
    """Any number of classes, none of them too, of a text or of a pair of texts.

    An example's label is a list, tuple or set of numbers of classes.

    Args:
        labels: Names of the classes.
        metric: `"micro_f1"`, over all decisions, or `"macro_f1"`, the mean over the classes.
            Defaults to `"micro_f1"`.
        threshold: Float, the probability from which on a class counts. Defaults to `0.5`.
    """

    _metrics = {  # noqa: RUF012
        "micro_f1": "sklearn.metrics",
        "macro_f1": "sklearn.metrics",
    }
    _activation, _loss, _shown = "sigmoid", "binary_crossentropy", ("binary_accuracy",)

    def __init__(self, labels: Sequence[str], metric: str = "micro_f1", threshold: float = 0.5):
        super().__init__(labels, metric)
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1). Received: {threshold!r}")
        self.threshold = threshold

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}

    def measure(self, outputs, encoded):
        found = np.array(outputs) >= self.threshold
        f1 = self._module().f1_score(
            encoded.labels > 0, found, average=self.metric.removesuffix("_f1"), zero_division=0
        )
        return {self.metric: f1}

    def decode(self, outputs, encoded=None):
        """The list of each text's classes, by name."""
        return [decode_labels(output, self.labels, self.threshold) for output in outputs]

    def _label(self, label, number):
        count = len(self.labels)
        if not isinstance(label, (list, tuple, set, frozenset)) or not all(
            _is_whole(one) and 0 <= one < count for one in label
        ):
            raise self._bad(number, f"a list of integers from 0 to {count - 1}", label)
        return np.isin(np.arange(count), list(label)).astype("float32")


class Regression(TextTask):
    """A number, of a text or of a pair of texts: their similarity, say.

    An example's label is a number. The head is linear, and the loss the squared error.

    Args:
        metric: `"pearson"` or `"spearman"`, the correlation. Defaults to `"pearson"`.
    """

    _metrics = {"pearson": "scipy.stats", "spearman": "scipy.stats"}  # noqa: RUF012
    _activation, _loss, _shown = "linear", "mean_squared_error", ("mean_absolute_error",)

    def __init__(self, metric: str = "pearson"):
        super().__init__(["value"], metric)

    def get_config(self):
        return {"metric": self.metric}

    def measure(self, outputs, encoded):
        stats = self._module()
        found, wanted = np.array(self.decode(outputs)), encoded.labels[:, 0]
        if len(set(found)) < 2 or len(set(wanted)) < 2:  # which correlate with nothing
            return {self.metric: 0.0}
        correlation = stats.pearsonr if self.metric == "pearson" else stats.spearmanr
        return {self.metric: correlation(found, wanted)[0]}

    def decode(self, outputs, encoded=None):
        """The number of each text."""
        return [float(output[0]) for output in outputs]

    def _label(self, label, number):
        is_number = isinstance(label, (int, float, np.number)) and not isinstance(label, bool)
        if not is_number or not math.isfinite(label):
            raise self._bad(number, "a finite number", label)
        return np.array([label], dtype="float32")


def _is_whole(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
