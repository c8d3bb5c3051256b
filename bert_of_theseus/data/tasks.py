"""Tasks on texts: each knows its head, loss, metrics and score, and makes batches for `compress`.

Nothing here imports Keras before a head or a loss is requested. Some scores come from scikit-learn,
SciPy or seqeval; a missing one raises an error when `TextTask.options` is read.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ..statistics import Score, macro_f1, matthews, mean_f1, pearson, ratio, spearman
from ..validation import is_integer, is_number, number, one_of
from .batches import Batches, Encoded
from .decoding import decode_labels
from .examples import NO_LABEL, Example
from .rows import RowReader
from .stored import StoredBatches, count_rows, read_rows
from .tokenizer import Tokenizer

_INSTALL = {
    "sklearn": "pip install scikit-learn",
    "scipy": "pip install scipy",
    # seqeval can only be built with setuptools-scm installed beside it.
    "seqeval": "pip install setuptools setuptools-scm && pip install --no-build-isolation seqeval",
}


class TextTask:
    """Base class of the tasks.

    Attributes:
        labels: List of strings, the names of the head's outputs.
        metric: String, what `score` computes.
        loss: The loss, as in `compile`.
        metrics: Tuple, the metrics for the progress bar, as in `compile`.

    Example:

    >>> corpus = load_cluener("cluener")
    >>> task = Tagging(corpus.labels)
    >>> train, validation, dev = (
    ...     task.batches(examples, tokenizer, max_length=128) for examples in corpus[:3]
    ... )
    >>> result = compress(
    ...     bert, small_bert, task.head(768), train, validation, test=dev, directory="runs/ner",
    ...     **task.options,
    ... )
    >>> entities = task.decode(task.predict(result.successor, dev), dev.encoded)
    """

    _metrics: ClassVar[dict[str, str | None]] = {}  # name -> module that computes it
    _activation: ClassVar[str]
    _kind: ClassVar[str | None] = None  # as in `load_texts`, of tasks that have such rows
    loss: str
    metrics: tuple
    labels: list[str]

    def __init__(self, labels: Sequence[str], metric: str):
        self.labels, self.metric = list(labels), metric
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError(f"`labels` must be different names, at least one. Received: {labels}")
        one_of("metric", metric, list(self._metrics))

    def head(self, hidden_size: int):
        """Returns a new head, a Keras model on hidden states of this size."""
        from ..heads import pooler_classification_head

        return pooler_classification_head(
            hidden_size, len(self.labels), activation=self._activation
        )

    @property
    def options(self) -> dict:
        """Keyword arguments for `compress`, `fit` and `evaluate`: `loss`, `metrics`, `score`.

        Raises:
            ImportError: if a package that `score` needs is missing.
        """
        self.check()
        return {"loss": self.loss, "metrics": self.metrics, "score": self.score}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes that labels count; empty if labels are no classes."""
        return tuple(self.labels)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"labels": self.labels, "metric": self.metric}

    def encode(self, examples: list[Example], tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Returns the token ids and labels of `examples`.

        If no example has a label, all being `None`, the labels are `NO_LABEL` or NaN: values that
        no loss takes for a label.

        Raises:
            ValueError: if a label is invalid for this task.
        """
        if all(example.label is None for example in examples):
            labels = [self._no_label] * len(examples)
        else:
            labels = [self._label(e.label, number) for number, e in enumerate(examples)]
        plain = [example._replace(label=0) for example in examples]
        encoded = tokenizer.encode(plain, max_length)
        return encoded._replace(labels=np.array(labels), examples=examples)

    def batches(
        self, examples: list[Example], tokenizer: Tokenizer, max_length: int = 128, **options
    ) -> Batches:
        """Returns `Batches` of `examples`; `options` go to `Batches`.

        Their `label_names` are compared with those of a head from `load_pretrained`.
        """
        options = {"pad_token_id": tokenizer.pad_token_id, **options}
        batches = Batches(self.encode(examples, tokenizer, max_length), **options)
        batches.label_names = self.label_names
        return batches

    def row_reader(self, rows, text_columns=None, label_column=None) -> RowReader:
        """Returns the function that makes examples of `rows`. Arguments as in `stored_batches`."""
        count_rows(rows)
        features = getattr(rows, "features", None)
        return RowReader(
            read_rows(rows, [0])[0],
            self._kind,
            self.labels,
            text_columns,
            label_column,
            features if isinstance(features, Mapping) else None,
        )

    def stored_batches(
        self,
        rows,
        tokenizer: Tokenizer,
        max_length: int = 128,
        *,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        **options,
    ) -> StoredBatches:
        """Returns `StoredBatches` of texts that are read and tokenized when a batch needs them.

        Args:
            rows: As in `StoredBatches`: rows are dicts, as those of a `datasets.Dataset`, or
                `Example`s. In dicts, labels are numbers from 0, or names. Where a dataset names the
                numbers itself, these names count.
            tokenizer: `Tokenizer`.
            max_length: Integer. Texts are truncated to so many tokens. Defaults to `128`.
            text_columns: Names of the columns with the text, one or two. Defaults to `None`: usual
                names are looked for, in the first row.
            label_column: Name of the column with the label. Defaults to `None`, as for the texts.
            **options: Of `StoredBatches`.

        Raises:
            TypeError, ValueError: as `StoredBatches`; or if it is not clear which columns are
                meant, or a dataset names other classes than the task has.
        """
        read = self.row_reader(rows, text_columns, label_column)

        def encode(some):
            return self.encode(read(some), tokenizer, max_length)

        options = {"pad_token_id": tokenizer.pad_token_id, "max_length": max_length, **options}
        batches = StoredBatches(rows, encode, **options)
        batches.label_names = self.label_names
        return batches

    def predict(self, model, batches: Batches) -> list[np.ndarray]:
        """Returns the outputs for each text, in the order of `batches.encoded`.

        Outputs per token are as long as the text's batch was.
        """
        self.check_batches(batches)
        rows = (
            row
            for inputs, labels in batches
            for row in _one_each(model.predict_on_batch(inputs), len(labels))
        )
        outputs = dict(zip(batches.rows, rows))
        return [outputs[number] for number in range(len(outputs))]

    def check_batches(self, batches, name: str = "batches") -> None:
        """Raises a `TypeError`, in which they have this `name`, unless they can be scored."""
        if not isinstance(batches, Batches):
            raise TypeError(
                f"`{name}` must be a `Batches`, as {type(self).__name__}.batches returns. "
                f"Received: {type(batches).__name__}"
            )

    def score(self, model, batches: Batches) -> float:
        """Returns `metric` of `model` on `batches`, a `statistics.Score`; higher is better."""
        outputs, encoded = self.predict(model, batches), batches.encoded
        score = float(self.measure(outputs, encoded)[self.metric])
        parts = self._by_example(outputs, encoded)
        return score if parts is None else Score(*parts, score)

    def measure(self, outputs: list[np.ndarray], encoded: Encoded) -> dict[str, float]:
        """Returns `metric` of a model's `outputs`, and related figures, by name."""
        raise NotImplementedError

    def decode(self, outputs: list[np.ndarray], encoded: Encoded) -> list:
        """Returns the prediction for each text."""
        raise NotImplementedError

    def _by_example(self, outputs, encoded):
        """`rows` and `function` of the `Score`; `None` if the score is not known by example."""
        return None

    @property
    def _no_label(self):
        """In place of a text's label where there is none."""
        return np.full(len(self.labels), np.nan, dtype="float32")

    def check(self) -> None:
        """Raises an `ImportError` if a package that `score` needs is missing."""
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

    def _invalid(self, number, expected, label):
        return ValueError(f"Example {number}: the label must be {expected}. Received: {label!r}")


def _one_each(outputs, count):
    """The outputs for a batch of so many texts.

    Of a model on several replicas of `tf.distribute`, Keras 3 gives the whole batch to each.
    """
    if len(outputs) == count:
        return outputs
    outputs = np.asarray(outputs)
    copies = outputs.reshape(-1, count, *outputs.shape[1:]) if len(outputs) % count == 0 else None
    if copies is None or not np.allclose(copies, copies[:1], equal_nan=True):
        raise ValueError(
            "`model` must give one output to each text of a batch. Received: "
            f"{len(outputs)} outputs to {count} texts"
        )
    return copies[0]


class Classification(TextTask):
    """One class per text or pair of texts.

    An example's label is the index of its class.

    Args:
        labels: List of strings, the names of the classes.
        metric: `"accuracy"`, `"macro_f1"`, or as GLUE reports some tasks: `"f1"` (of the second of
            two classes) or `"matthews"` (correlation). Defaults to `"accuracy"`.
    """

    _metrics: ClassVar = {
        "accuracy": None,
        **dict.fromkeys(("f1", "macro_f1", "matthews"), "sklearn.metrics"),
    }
    _activation, loss, metrics = "softmax", "sparse_categorical_crossentropy", ("accuracy",)
    _kind = "classification"

    def __init__(self, labels: Sequence[str], metric: str = "accuracy"):
        super().__init__(labels, metric)
        if metric == "f1" and len(self.labels) != 2:
            raise ValueError(
                'With `metric="f1"`, `labels` must be two classes; otherwise use "macro_f1". '
                f"Received: {len(self.labels)} classes"
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

    def _by_example(self, outputs, encoded):
        found = np.array([output.argmax() for output in outputs])
        wanted = np.asarray(encoded.labels)
        if self.metric in ("macro_f1", "matthews"):
            function = macro_f1 if self.metric == "macro_f1" else matthews
            return np.stack([wanted, found], axis=1), function
        if self.metric == "f1":
            return np.stack([2 * wanted * found, wanted + found], axis=1), ratio
        return np.stack([wanted == found, np.ones(len(found))], axis=1), ratio

    def decode(self, outputs, encoded=None):
        """Returns the name of each text's most likely class."""
        return [self.labels[int(output.argmax())] for output in outputs]

    @property
    def _no_label(self):
        return NO_LABEL

    def _label(self, label, number):
        if not is_integer(label) or not 0 <= label < len(self.labels):
            raise self._invalid(number, f"an integer from 0 to {len(self.labels) - 1}", label)
        return int(label)


class MultiLabel(TextTask):
    """Any number of classes per text or pair of texts, including none.

    An example's label is a list, tuple or set of class indices.

    Args:
        labels: List of strings, the names of the classes.
        metric: `"micro_f1"`, over all decisions, or `"macro_f1"`, the mean over the classes.
            Defaults to `"micro_f1"`.
        threshold: Float, smallest probability of a predicted class. Defaults to `0.5`.
    """

    _metrics: ClassVar = {"micro_f1": None, "macro_f1": "sklearn.metrics"}
    _activation, loss, metrics = "sigmoid", "binary_crossentropy", ("binary_accuracy",)
    _kind = "multi-label"

    def __init__(self, labels: Sequence[str], metric: str = "micro_f1", threshold: float = 0.5):
        super().__init__(labels, metric)
        self.threshold = number("threshold", threshold, "(0, 1)")

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}

    def measure(self, outputs, encoded):
        found, wanted = np.array(outputs) >= self.threshold, encoded.labels > 0
        if self.metric == "micro_f1":
            return {"micro_f1": 2 * (found & wanted).sum() / max(found.sum() + wanted.sum(), 1)}
        f1 = self._module().f1_score(wanted, found, average="macro", zero_division=0)
        return {"macro_f1": f1}

    def _by_example(self, outputs, encoded):
        found, wanted = np.array(outputs) >= self.threshold, encoded.labels > 0
        if self.metric == "macro_f1":
            return np.concatenate([wanted, found], axis=1), mean_f1
        sums = 2 * (found & wanted).sum(1), found.sum(1) + wanted.sum(1)
        return np.stack(sums, axis=1), ratio

    def decode(self, outputs, encoded=None):
        """Returns the list of each text's classes, by name."""
        return [decode_labels(output, self.labels, self.threshold) for output in outputs]

    def _label(self, label, number):
        count = len(self.labels)
        if not isinstance(label, (list, tuple, set, frozenset)) or not all(
            is_integer(one) and 0 <= one < count for one in label
        ):
            raise self._invalid(number, f"a list of integers from 0 to {count - 1}", label)
        return np.isin(np.arange(count), list(label)).astype("float32")


class Regression(TextTask):
    """A number per text or pair of texts, such as their similarity.

    An example's label is a number. The head is linear, and the loss is the squared error.

    Args:
        metric: `"pearson"` or `"spearman"`, the correlation. Defaults to `"pearson"`.
    """

    _metrics: ClassVar = {"pearson": None, "spearman": "scipy.stats"}
    _activation, loss, metrics = "linear", "mean_squared_error", ("mean_absolute_error",)

    label_names = ()
    _kind = "regression"

    def __init__(self, metric: str = "pearson"):
        super().__init__(["value"], metric)

    def get_config(self):
        return {"metric": self.metric}

    def measure(self, outputs, encoded):
        stats = self._module()
        found, wanted = np.array(self.decode(outputs)), encoded.labels[:, 0].astype("float64")
        if len(set(found)) < 2 or len(set(wanted)) < 2:  # the correlation is undefined
            return {self.metric: 0.0}
        if self.metric == "pearson":
            return {"pearson": np.corrcoef(found, wanted)[0, 1]}
        return {"spearman": stats.spearmanr(found, wanted)[0]}

    def _by_example(self, outputs, encoded):
        rows = np.stack([self.decode(outputs), encoded.labels[:, 0]], axis=1)
        return rows, pearson if self.metric == "pearson" else spearman

    def decode(self, outputs, encoded=None):
        """Returns the number for each text."""
        return [float(output[0]) for output in outputs]

    def _label(self, label, number):
        if not is_number(label) or not math.isfinite(label):
            raise self._invalid(number, "a finite number", label)
        return np.array([label], dtype="float32")
