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

from .data import NO_LABEL, Batches, Encoded, Entity, Example, Tokenizer

__all__ = [
    "Classification",
    "MultiLabel",
    "Regression",
    "SpanExtraction",
    "Tagging",
    "decode_answer",
    "decode_entities",
    "decode_labels",
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
        from .heads import pooler_classification_head

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


class Tagging(TextTask):
    """Named entities: a tag for every token, in the BIO scheme.

    An example's label is a list of `data.Entity`, characters of the text from `start` up to and
    without `end`. White space at their ends is no part of them. An entity comes back whole or not
    at all: one that begins or ends within a token, reaches the place where a text is cut, or
    overlaps one before has no tags, its tokens no label, and `Encoded.dropped` counts it. In the
    score it counts as missed.

    The score is seqeval's over all types and texts, by characters: an entity is right if its
    start, its end and its type are.

    Args:
        types: Names of the types of entities. `labels` are the tags: `O`, and `B-` and `I-` with
            each type.
        metric: `"f1"`, `"precision"` or `"recall"`. Defaults to `"f1"`.

    Example:

    >>> Tagging(["person", "place"]).labels
    ['O', 'B-person', 'I-person', 'B-place', 'I-place']
    """

    _metrics = {  # noqa: RUF012
        "f1": "seqeval.metrics",
        "precision": "seqeval.metrics",
        "recall": "seqeval.metrics",
    }

    def __init__(self, types: Sequence[str], metric: str = "f1"):
        self.types = list(types)
        super().__init__(["O", *(f"{tag}-{type}" for type in types for tag in "BI")], metric)

    def get_config(self):
        return {"types": self.types, "metric": self.metric}

    def head(self, hidden_size):
        from .heads import tagging_head

        return tagging_head(hidden_size, len(self.labels))

    @property
    def loss(self):
        return _masked_loss()

    @property
    def metrics(self):
        return _masked_metrics()

    def encode(self, examples, tokenizer, max_length):
        given = [self._entities(example, number) for number, example in enumerate(examples)]
        encoded = tokenizer.encode_with_offsets(examples, max_length)
        labels, kept = [], 0
        for entities, offsets, cut in zip(given, encoded.offsets, encoded.cut):
            tags = np.where(offsets[:, 0] < offsets[:, 1], 0, NO_LABEL).astype("int32")
            for entity in _apart(entities):
                touched, whole = _tokens(entity, offsets, cut)
                if whole:
                    number = 1 + 2 * self.types.index(entity.type)
                    tags[touched] = number + 1
                    tags[touched[0]] = number
                    kept += 1
                else:
                    tags[touched] = NO_LABEL
            labels.append(tags)
        dropped = sum(map(len, given)) - kept
        return encoded._replace(labels=labels, dropped=dropped)

    def measure(self, outputs, encoded):
        module = self._module()
        wanted = [
            _tags(_apart(self._entities(example, number)), len(example.text))
            for number, example in enumerate(encoded.examples)
        ]
        found = [
            _tags(entities, len(example.text))
            for entities, example in zip(self.decode(outputs, encoded), encoded.examples)
        ]
        names = dict.fromkeys((self.metric, "precision", "recall", "f1"))
        return {
            name: getattr(module, f"{name}_score")(wanted, found, zero_division=0) for name in names
        }

    def decode(self, outputs, encoded):
        """The list of each text's `Entity`."""
        return [
            decode_entities(output, offsets, self.labels, cut)
            for output, offsets, cut in zip(outputs, encoded.offsets, encoded.cut)
        ]

    def _entities(self, example, number):
        text, entities = example.text, []
        for entity in example.label:
            start, end, type = entity
            if type not in self.types or not 0 <= start < end <= len(text):
                raise self._bad(
                    number,
                    f"entities within 0 to {len(text)} of the types {', '.join(self.types)}",
                    entity,
                )
            entities.append(Entity(*_trimmed(text, start, end), type))
        return entities


class SpanExtraction(TextTask):
    """The part of a text that answers a question.

    Of a `data.Pair` the `text` is the question, the `second_text` what is read, and the label the
    characters of the answer in that, `(start, end)`, or `None` where there is none. Too long a
    `second_text` is cut; an answer that is not whole then has no label, `Encoded.dropped` counts
    it, and in the score it is missed.

    Args:
        metric: `"f1"`, the mean over the texts of how far answers overlap, by their characters
            without white space, or `"exact_match"`. Defaults to `"f1"`.
        max_answer_length: Integer, in tokens. Defaults to `30`.
    """

    _metrics = {"f1": None, "exact_match": None}  # noqa: RUF012

    def __init__(self, metric: str = "f1", max_answer_length: int = 30):
        super().__init__(["start", "end"], metric)
        if max_answer_length < 1:
            raise ValueError(
                f"`max_answer_length` must be at least 1. Received: {max_answer_length!r}"
            )
        self.max_answer_length = max_answer_length

    def get_config(self):
        return {"metric": self.metric, "max_answer_length": self.max_answer_length}

    def head(self, hidden_size):
        from .heads import span_head

        return span_head(hidden_size)

    @property
    def loss(self):
        return _masked_loss()

    @property
    def metrics(self):
        return _masked_metrics()

    def encode(self, examples, tokenizer, max_length):
        answers = [self._answer(example, number) for number, example in enumerate(examples)]
        encoded = tokenizer.encode_with_offsets(examples, max_length)
        # No answer is at [CLS], as in BERT.
        labels, dropped = np.zeros((len(examples), 2), dtype="int32"), 0
        for row, (answer, offsets, cut) in enumerate(zip(answers, encoded.offsets, encoded.cut)):
            if answer is None:
                continue
            touched, whole = _tokens(Entity(*answer, ""), offsets, cut)
            labels[row] = touched[[0, -1]] if whole else NO_LABEL
            dropped += not whole
        return encoded._replace(labels=labels, dropped=dropped)

    def measure(self, outputs, encoded):
        exact, overlap = [], []
        decoded = self.decode(outputs, encoded)
        for number, (example, found) in enumerate(zip(encoded.examples, decoded)):
            wanted = self._answer(example, number)
            exact.append(found == wanted)
            a, b = (_characters(example.second_text, span) for span in (wanted, found))
            overlap.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
        return {"f1": np.mean(overlap), "exact_match": np.mean(exact)}

    def decode(self, outputs, encoded):
        """Each answer's characters `(start, end)` in the second text, or `None`."""
        return [
            decode_answer(output, offsets, cut, self.max_answer_length)
            for output, offsets, cut in zip(outputs, encoded.offsets, encoded.cut)
        ]

    def _answer(self, example, number):
        if example.second_text is None:
            raise ValueError(
                f"Example {number}: a `Pair` is needed, of a question and what is read."
            )
        if example.label is None:
            return None
        start, end = example.label
        length = len(example.second_text)
        if not 0 <= start < end <= length:
            raise self._bad(number, f"(start, end) within 0 to {length}, or None", example.label)
        return _trimmed(example.second_text, start, end)


def decode_labels(probabilities, labels: Sequence[str], threshold: float = 0.5) -> list[str]:
    """The names of the classes whose probability reaches `threshold`."""
    return [label for label, p in zip(labels, probabilities) if p >= threshold]


def decode_entities(
    probabilities, offsets: np.ndarray, labels: Sequence[str], cut: bool = False
) -> list[Entity]:
    """The entities that the likeliest tags of a text's tokens spell.

    A tag `I-` that does not go on with an entity of its type begins one, as in the evaluation of
    CoNLL.

    Args:
        probabilities: Array of shape `(at least sequence_length, num_tags)`.
        offsets: Array of shape `(sequence_length, 2)`, as in `data.Encoded`.
        labels: Names of the tags, `O`, `B-...`, `I-...`.
        cut: Boolean, whether the text goes on after these tokens. What reaches the last of them
            may be half an entity, and is left out. Defaults to `False`.

    Returns:
        List of `Entity`, in order, none of which overlap.
    """
    own = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    tags = [labels[i] for i in np.asarray(probabilities)[own].argmax(-1)] if len(own) else []
    spans = []  # [type, first, last], of `own`
    before = "O"
    for index, tag in enumerate(tags):
        type = tag[2:]
        if tag != "O":
            if tag[0] == "I" and before[2:] == type:
                spans[-1][2] = index
            else:
                spans.append([type, index, index])
        before = tag
    if cut:
        spans = [span for span in spans if span[2] < len(own) - 1]
    found = []
    for type, first, last in spans:
        part = offsets[own[first : last + 1]]
        found.append(Entity(int(part[:, 0].min()), int(part[:, 1].max()), type))
    return _apart(found)


def decode_answer(
    probabilities, offsets: np.ndarray, cut: bool = False, max_answer_length: int = 30
) -> tuple[int, int] | None:
    """The likeliest answer, from the probabilities of its start and of its end.

    Args:
        probabilities: Array of shape `(2, at least sequence_length)`.
        offsets, cut: As in `decode_entities`.
        max_answer_length: Integer, in tokens. Defaults to `30`.

    Returns:
        Its characters, `(start, end)`; `None` if no answer, at `[CLS]`, is likelier.
    """
    start, end = np.asarray(probabilities, dtype="float64")[:, : len(offsets)]
    own = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    own = own[:-1] if cut else own
    pairs = np.triu(np.outer(start[own], end[own]))
    pairs -= np.triu(pairs, max_answer_length)
    if not pairs.size or pairs.max() <= start[0] * end[0]:
        return None
    first, last = own[list(np.unravel_index(pairs.argmax(), pairs.shape))]
    part = offsets[first : last + 1]
    return int(part[:, 0].min()), int(part[:, 1].max())


def _masked_loss():
    from .losses import MaskedCrossentropy

    return MaskedCrossentropy()


def _masked_metrics():
    from .losses import MaskedAccuracy

    return (MaskedAccuracy(),)


def _is_whole(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _trimmed(text, start, end):
    """The span without the white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _tokens(entity, offsets, cut):
    """The tokens that hold a part of `entity`, and whether they are it, no less and no more."""
    touched = np.flatnonzero((offsets[:, 0] < entity.end) & (offsets[:, 1] > entity.start))
    if not len(touched):
        return touched, False
    part = offsets[touched]
    fits = part[:, 0].min() == entity.start and part[:, 1].max() == entity.end
    # Whether an entity goes on after the last token of a cut text is not to be seen there.
    last = np.flatnonzero(offsets[:, 0] < offsets[:, 1])[-1]
    return touched, bool(fits and not (cut and touched[-1] == last))


def _apart(entities):
    """`entities` in order, without those that overlap one before; of two with one start the
    longer one comes first."""
    kept, end = [], 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end, entity.type)):
        if end <= entity.start < entity.end:
            kept.append(entity)
            end = entity.end
    return kept


def _tags(entities, length):
    tags = ["O"] * length
    for start, end, type in entities:
        tags[start:end] = [f"B-{type}", *[f"I-{type}"] * (end - start - 1)]
    return tags


def _characters(text, span):
    return set() if span is None else {i for i in range(*span) if not text[i].isspace()}
