"""The head beside an encoder's weights: what it is, and the Keras model of it.

Two kinds of head are a family's own and known to other programs: for texts, a dense layer and an
output layer on the first token (`BertForSequenceClassification`); for tokens, an output layer at
every position (`BertForTokenClassification`). Any other is a Keras file beside the weights.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..files import check_files
from ..validation import is_number
from .base import Checkpoint, misfit
from .configs import ACTIVATIONS
from .families import CLASSIFIER, HEAD_CLASSES, POOLER, SEQUENCE, TOKEN, Family

HEAD_FILE = "head.keras"
KERAS = "keras"  # the kind of a head in HEAD_FILE

# The names in Google's `run_classifier.py`, whose kernel is transposed: (num_classes, hidden_size).
GOOGLE_CLASSIFIER = ("output_weights", "output_bias")

# Activations that a head may end in, with the `problem_type` of `transformers`.
PROBLEMS = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
    "linear": "regression",
}


class HeadFacts(NamedTuple):
    """What a folder says of its head.

    Attributes:
        kind: `"sequence"`, `"token"`, `"keras"` for any other head, in head.keras, or `None` if
            there is no head.
        labels: The class names in the order of the outputs, or `None` if they have none.
        activation: `"softmax"`, `"sigmoid"` for independent labels, or `"linear"`, a number or
            logits. `None` without a head.
        num_outputs: Number of outputs of a text or a token. `None` if it is not known.
        dropout_rate: Of the dropout before the output.
        input_dropout_rate: Of the dropout before the dense layer of a text's head.
        pooler_activation: Of that dense layer, by bert4keras' name. `None` without it.
    """

    kind: str | None
    labels: list[str] | None = None
    activation: str | None = None
    num_outputs: int | None = None
    dropout_rate: float = 0.0
    input_dropout_rate: float = 0.0
    pooler_activation: str | None = None


def read_task(checkpoint: Checkpoint) -> HeadFacts:
    """What a checkpoint's head is, from its config and its table of contents.

    The tensors that are there decide, whatever class `architectures` names.

    Args:
        checkpoint: From `find_checkpoint`.

    Returns:
        `HeadFacts`.

    Raises:
        ValueError: if the tensors do not fit the config, are neither an encoder's nor a head's, or
            the head is of another task; if labels or `problem_type` do not fit the head.
    """
    checkpoint.check()
    raw, path = checkpoint.raw_config, checkpoint.config_file
    labels = read_labels(raw.get("id2label"), path)
    check_files(checkpoint.directory, [HEAD_FILE])
    if (checkpoint.directory / HEAD_FILE).is_file():
        _refuse_unknown(checkpoint, None)
        number = len(raw["id2label"]) if raw.get("id2label") else None
        return HeadFacts(KERAS, labels, stored_activation(raw, number, path), number)
    names = _output_names(checkpoint)
    _refuse_unknown(checkpoint, names)
    kind = _kind(checkpoint, names, labels)
    if kind is None:
        return HeadFacts(None, labels)
    number = _num_outputs(checkpoint, kind, names)
    key = "num_labels" if raw.get("id2label") is None else "id2label"
    count = len(raw[key]) if key == "id2label" else raw.get(key)
    if count not in (None, number):
        raise ValueError(f"{str(path)!r} has {count} labels in {key}, and the head {number}.")
    family = checkpoint.family
    rate = _rate(raw, family.dropout.get(kind), checkpoint.config["hidden_dropout_prob"], path)
    facts = HeadFacts(kind, labels, stored_activation(raw, number, path, kind), number, rate)
    if kind == TOKEN:
        return facts
    input_rate = rate if family.output == "classifier.out_proj" else 0.0
    activation = family.pooler_activation
    if family.model_type == "deberta-v2":
        input_rate = _rate(raw, "pooler_dropout", 0.0, path)
        spelling = raw.get("pooler_hidden_act")
        spelling = "gelu" if spelling is None else spelling
        activation = ACTIVATIONS.get(spelling) if isinstance(spelling, str) else None
        if activation not in pooler_activations(family):
            raise ValueError(
                f"{str(path)!r}: pooler_hidden_act must be one of gelu, relu, silu, tanh, not "
                f"{spelling!r}."
            )
    return facts._replace(input_dropout_rate=input_rate, pooler_activation=activation)


def pooler_activations(family: Family) -> tuple[str, ...]:
    """The activations that the dense layer of a text's head may have, by bert4keras' names."""
    if family.model_type == "deberta-v2":  # its config names one
        return ("gelu", "relu", "swish", "tanh")
    return (family.pooler_activation,)


def _output_names(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """The names of the output layer's tensors, if there is one."""
    known = set(checkpoint.names)
    return next((names for names in (CLASSIFIER, GOOGLE_CLASSIFIER) if known & set(names)), None)


def _refuse_unknown(checkpoint: Checkpoint, output) -> None:
    known = {*checkpoint.left_out, *(output or ())}
    unknown = [n for n in checkpoint.names if not n.startswith("bert/") and n not in known]
    if unknown:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} holds tensors that are neither "
            f"of its encoder nor of a head that is known: "
            f"{', '.join(map(checkpoint.stored_name, unknown))}."
        )


def _kind(checkpoint: Checkpoint, output, labels) -> str | None:
    """The kind of the head that the tensors make, or `None`."""
    family, path = checkpoint.family, checkpoint.config_file
    said = checkpoint.raw_config.get("architectures")
    said = said[0] if isinstance(said, list) and said else said
    said = said if isinstance(said, str) else ""
    kind = next((kind for kind, end in HEAD_CLASSES.items() if said.endswith(end)), None)
    if not output:
        if kind:
            _require(checkpoint, kind, CLASSIFIER)
        return None
    if said.endswith("ForMultipleChoice"):
        raise ValueError(f"{str(path)!r} describes a {said}, whose head is not supported.")
    stored = checkpoint.stored_name(CLASSIFIER[0])
    if family.output != "classifier" and CLASSIFIER[0] in checkpoint.names:
        found = SEQUENCE if stored == f"{family.output}.weight" else TOKEN
        if kind not in (None, found):
            raise ValueError(
                f"{str(path)!r} describes a {said}, and the file holds the head of a "
                f"{family.architecture(found)}: {stored}."
            )
        return found
    found = SEQUENCE if POOLER[0] in checkpoint.names else TOKEN
    # A BERT for tokens may hold a pooler that it does not use.
    if kind is None and not family.pooler and found == SEQUENCE and _look_like_tags(labels):
        raise ValueError(
            f"{str(path)!r} does not say whether its head is of texts or of tokens: architectures "
            f"must be [{family.architecture(SEQUENCE)!r}] or [{family.architecture(TOKEN)!r}], not "
            f"{checkpoint.raw_config.get('architectures')!r}."
        )
    return kind or found


def _look_like_tags(labels) -> bool:
    return any(label.startswith(("B-", "I-")) for label in labels or ())


def _require(checkpoint: Checkpoint, kind: str, output) -> tuple[str, ...]:
    """The names of a head's tensors, which must all be there."""
    wanted = (POOLER if kind == SEQUENCE else ()) + tuple(output)
    missing = [checkpoint.stored_name(name) for name in wanted if name not in checkpoint.names]
    if missing:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} lacks the head's "
            f"{', '.join(missing)}."
        )
    return wanted


def _num_outputs(checkpoint: Checkpoint, kind: str, output) -> int:
    """The number of outputs, after checking that the head fits the encoder."""
    _require(checkpoint, kind, output)
    shape = checkpoint.shape(output[1])
    number, hidden = (*shape, 1)[0], checkpoint.config["hidden_size"]
    kernel = (number, hidden) if output == GOOGLE_CLASSIFIER else (hidden, number)
    problems = [  # those of the pooler are known from `checkpoint.check`
        f"{checkpoint.stored_name(name)}: {problem}"
        for name, shape in zip(output, (kernel, (number,)))
        for problem in [misfit(checkpoint, name, shape)]
        if problem
    ]
    if problems or number < 1:
        raise ValueError(
            f"The {checkpoint.format} {str(checkpoint.directory)!r} does not fit a "
            f"{checkpoint.family.architecture(kind)}: {'; '.join(problems) or 'no outputs'}."
        )
    return number


def load_head(checkpoint: Checkpoint) -> tuple:
    """The classifier and the labels beside an encoder's weights.

    The classifier's `label_names` are the labels, so that `compress` can compare those of the data.

    Returns:
        `(classifier, labels)`, each `None` where there is none.
    """
    facts = read_task(checkpoint)
    if facts.kind is None:
        return None, facts.labels
    load = _load_file if facts.kind == KERAS else _load_own
    classifier = load(checkpoint, facts)
    if facts.labels:
        classifier.label_names = tuple(facts.labels)
    return classifier, facts.labels


def _load_file(checkpoint: Checkpoint, facts: HeadFacts):
    """A head of any kind, from its own file."""
    from ..saving import load_model

    path = checkpoint.directory / HEAD_FILE
    classifier = load_model(path)
    found = _num_classes(classifier, checkpoint.config["hidden_size"], path)
    if facts.num_outputs not in (None, found):
        raise ValueError(
            f"{str(checkpoint.config_file)!r} names {facts.num_outputs} labels, and the head has "
            f"{found}."
        )
    return classifier


def _load_own(checkpoint: Checkpoint, facts: HeadFacts):
    """A head that is the family's own, from the checkpoint's tensors."""
    from ..heads import pooler_classification_head, tagging_head

    output = _output_names(checkpoint)
    wanted = _require(checkpoint, facts.kind, output)
    values = list(checkpoint.tensors(wanted).values())
    if output == GOOGLE_CLASSIFIER:
        values[-2] = values[-2].T
    options = {"activation": facts.activation, "dropout_rate": facts.dropout_rate}
    sizes = checkpoint.config["hidden_size"], facts.num_outputs
    if facts.kind == TOKEN:
        classifier = tagging_head(*sizes, **options)
    else:
        classifier = pooler_classification_head(
            *sizes,
            **options,
            pooler_activation=facts.pooler_activation,
            input_dropout_rate=facts.input_dropout_rate,
        )
    classifier.set_weights(values)
    return classifier


def _num_classes(classifier, hidden_size: int, path: Path) -> int:
    """The width of a head's output, after checking that the head fits the encoder."""
    inputs, outputs = classifier.input_shape, classifier.output_shape
    fits = isinstance(inputs, tuple) and len(inputs) in (2, 3) and inputs[-1] == hidden_size
    if not fits or not isinstance(outputs, tuple) or len(outputs) not in (2, len(inputs)):
        raise ValueError(
            f"{str(path)!r} must be a head on hidden states of size {hidden_size}. Received: a "
            f"model from {inputs} to {outputs}."
        )
    return outputs[-1]


def read_labels(names, path: Path) -> list[str] | None:
    """The class names in a config's `id2label`; `None` for the defaults `LABEL_0`, `LABEL_1`."""
    if names is None:
        return None
    keys = [str(number) for number in range(len(names))] if isinstance(names, dict) else None
    if keys is None or set(names) != set(keys) or not all(isinstance(names[k], str) for k in keys):
        raise ValueError(f"{str(path)!r} must map 0, 1, ... to strings in id2label.")
    labels = [names[key] for key in keys]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"{str(path)!r} must have distinct labels in id2label: {twice[0]!r}.")
    return None if labels == [f"LABEL_{key}" for key in keys] else labels


def stored_activation(
    config: dict, num_classes: int | None, path: Path, kind: str = SEQUENCE
) -> str:
    """The activation of a head's output: `classifier_activation`, or its `problem_type`'s."""
    problem = config.get("problem_type")
    if problem not in (None, *PROBLEMS.values()):
        raise ValueError(
            f"{str(path)!r}: problem_type must be one of {', '.join(PROBLEMS.values())}, not "
            f"{problem!r}."
        )
    default = "linear" if num_classes == 1 and kind == SEQUENCE else "softmax"
    if kind == SEQUENCE and problem in (PROBLEMS["sigmoid"], PROBLEMS["linear"]):
        default = "sigmoid" if problem == PROBLEMS["sigmoid"] else "linear"
        if default == "linear" and (num_classes or 1) > 1:
            raise ValueError(
                f"{str(path)!r}: problem_type 'regression' must have one label, not {num_classes}."
            )
    activation = config.get("classifier_activation", default)
    if activation not in list(PROBLEMS):
        raise ValueError(
            f"{str(path)!r}: classifier_activation must be one of {', '.join(PROBLEMS)}, not "
            f"{activation!r}."
        )
    return activation


def _rate(raw: dict, key: str | None, default: float, path: Path) -> float:
    """A dropout's rate from a config."""
    rate = default if key is None or raw.get(key) is None else raw[key]
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{str(path)!r}: {key} must be in [0, 1), not {rate!r}.")
    return rate
