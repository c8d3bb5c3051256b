"""What the layers, the callback and the terms refuse, and in which words."""

import numpy as np
import pytest
from helpers import to_tensor
from tiny import CLASSES, HIDDEN, VOCAB, rate_model

from bert_of_theseus import (
    BinaryRandomChoice,
    LinearReplacement,
    ModuleChoice,
    ReplacementRateScheduler,
    build_successor_model,
    build_theseus_model,
    set_replacement_rate,
)
from bert_of_theseus.backend import keras
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.models import distil
from bert_of_theseus.models.chain import ChainedRandomChoice
from bert_of_theseus.wrappers import Masked

BRANCHES = [np.zeros((2, 3), "float32"), np.ones((2, 3), "float32")]


# `BinaryRandomChoice`.


@pytest.mark.parametrize("shapes, expected", [
    ([(2, 3), (2, 3)], (2, 3)),
    ([(None, 3), (2, 3)], (2, 3)),
    ([(None, None, 4), (None, 5, None)], (None, 5, 4)),
    ([(), ()], ()),
])  # fmt: skip
def test_output_shape(shapes, expected):
    assert tuple(BinaryRandomChoice().compute_output_shape(shapes)) == expected


@pytest.mark.parametrize("inputs, text", [
    ([(3,)], r"list of two tensors.*Received: 1 of them"),
    ([(3,), (3,), (3,)], r"list of two tensors.*Received: 3 of them"),
    ((3,), "list of two tensors, .predecessor_output, successor_output."),
    ([(3,), (4,)], r"one shape.*predecessor \(None, 3\), successor \(None, 4\)"),
    ([(3,), (3, 1)], r"one shape.*predecessor \(None, 3\), successor \(None, 3, 1\)"),
    ([(1,), (3,)], r"one shape"),  # no broadcasting
])  # fmt: skip
def test_bad_inputs(inputs, text):
    symbolic = [keras.Input(s) for s in inputs] if isinstance(inputs, list) else keras.Input(inputs)
    with pytest.raises(ValueError, match=text):
        BinaryRandomChoice(name="gate")(symbolic)


def test_bad_shapes_in_a_later_call():
    choice = BinaryRandomChoice()
    choice([to_tensor(b) for b in BRANCHES])
    with pytest.raises(ValueError, match="one shape"):
        choice([to_tensor(BRANCHES[0]), to_tensor(BRANCHES[1][:1])], training=True)


@pytest.mark.parametrize("argument, value, error, text", [
    ("replacement_rate", -0.1, ValueError, r"in \[0, 1\].*Received: -0.1"),
    ("replacement_rate", 1.5, ValueError, r"in \[0, 1\].*Received: 1.5"),
    ("replacement_rate", float("nan"), ValueError, r"in \[0, 1\].*Received: nan"),
    ("replacement_rate", "0.5", TypeError, r"number in \[0, 1\].*'0.5' \(of type str\)"),
    ("replacement_rate", True, TypeError, r"number in \[0, 1\].*True \(of type bool\)"),
    ("replacement_rate", None, TypeError, r"number in \[0, 1\].*None"),
    ("seed", 1.5, TypeError, "`seed` must be an integer or None. Received: 1.5"),
    ("seed", "1", TypeError, "`seed` must be an integer or None. Received: '1'"),
    ("seed", True, TypeError, "`seed` must be an integer or None. Received: True"),
])  # fmt: skip
def test_bad_arguments(argument, value, error, text):
    with pytest.raises(error, match=text):
        BinaryRandomChoice(**{argument: value})


# Gates.


def parts():
    predecessor, successor = (
        [keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(number))] for number in (4, 2)
    )
    return predecessor, successor, keras.layers.Dense(2)


@pytest.mark.parametrize("options, text", [
    ({"gate": "coin"}, r"`gate` must be one of .*'bernoulli', 'uniform', 'blend'.*'coin'"),
    ({"sampling": "token"}, r"`sampling` must be one of .*'batch', 'replica', 'example'.*'token'"),
])  # fmt: skip
def test_bad_gates(options, text):
    with pytest.raises(ValueError, match=text):
        BinaryRandomChoice(**options)


@pytest.mark.parametrize("options, text", [
    ({"gate": "coin"}, "`gate` must be one of"),
    ({"gate": "uniform"}, r'execution="lazy" runs one.*gate=\'uniform\'.*Use execution="dense"'),
    ({"sampling": "example"}, r"execution=\"lazy\".*sampling='example'.*Use execution=\"dense\""),
    ({"gate": "blend", "execution": "dense", "at_least_one": True}, "`at_least_one`.*'blend'"),
    ({"sampling": "example", "execution": "dense", "at_least_one": True}, "`at_least_one`"),
])  # fmt: skip
def test_bad_gates_of_the_builder(options, text):
    with pytest.raises(ValueError, match=text):
        build_theseus_model(*parts(), **options)


# `ModuleChoice`.


def dense(name):
    return keras.layers.Dense(3, activation="tanh", name=name)


def test_modules_of_different_shapes():
    with pytest.raises(
        ValueError, match=r"one\s+shape.*predecessor \(None, 3\), successor \(None, 4\)"
    ):
        ModuleChoice(dense("p"), keras.layers.Dense(4))(keras.Input((3,)))


@pytest.mark.parametrize("layers", [[], None, "dense", [lambda x: x]])
def test_what_is_no_layer(layers):
    with pytest.raises(TypeError, match="`successor_layers` must be a layer, a model, or a non-em"):
        ModuleChoice(dense("p"), layers)


@pytest.mark.parametrize(
    "rate, error", [(-0.1, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_bad_rates(rate, error):
    with pytest.raises(error, match=r"\[0, 1\]"):
        ModuleChoice(dense("p"), dense("s"), replacement_rate=rate)


# `Masked`.


def test_masked_keeps_the_length():
    with pytest.raises(ValueError, match=r"keeps the length.*\(None, 2, 4\) of \(None, 4, 4\)"):
        Masked(keras.layers.MaxPooling1D())(keras.Input((4, HIDDEN)))
    with pytest.raises(TypeError, match="`layer` must be a layer"):
        Masked(lambda x: x)


# The schedule's callback.


def test_rates_refused_in_fit():
    model = rate_model()
    x = np.ones((4, 3), "float32")
    with pytest.raises(TypeError, match="function of the step"):
        ReplacementRateScheduler(0.5)
    with pytest.raises(ValueError, match="no BinaryRandomChoice or ModuleChoice"):
        rate_model(choices=0).fit(
            x, x, verbose=0, callbacks=[ReplacementRateScheduler(LinearReplacement(0.5, steps=3))]
        )
    with pytest.raises(ValueError, match="2 choices, and 3 rates"):
        set_replacement_rate(model, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.fit(x, x, verbose=0, callbacks=[ReplacementRateScheduler(lambda step: 1.5)])
    x = keras.Input((3,))
    pair = [ChainedRandomChoice(modules_left=left)([x, x]) for left in (2, 1)]
    counting = keras.Model(x, pair)
    set_replacement_rate(counting, 0.1)
    with pytest.raises(ValueError, match=r"`at_least_one` .*a rate per module.*\[0.1, 0.2\]"):
        set_replacement_rate(counting, [0.1, 0.2])


# Distillation.


class Host:
    """A predecessor with a head, and a successor; `teacher` is the former."""

    def __init__(self):
        self.predecessor, self.successor = (
            StackEncoder(
                [keras.layers.Dense(HIDDEN) for _ in range(number)],
                inputs=keras.Input((5,), dtype="int32"),
                embedding=keras.layers.Embedding(VOCAB, HIDDEN),
            )
            for number in (4, 2)
        )
        x = inputs = keras.Input((5, HIDDEN))
        x = keras.layers.GlobalAveragePooling1D()(x)
        self.head = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x))
        self.teacher = keras.Model(self.predecessor.inputs, self.head(self.predecessor.output))

    def theseus(self, **kwargs):
        return build_theseus_model(self.predecessor, self.successor, self.head, **kwargs)


def test_the_hidden_term_needs_both_outputs():
    host = Host()
    with pytest.raises(ValueError, match=r'`hidden_loss_weight` \(0.5\).*Use execution="dense"'):
        host.theseus(hidden_loss_weight=0.5)
    with pytest.raises(ValueError, match=r"`hidden_loss_weight`.*at least 0. Received: -1"):
        host.theseus(hidden_loss_weight=-1)


@pytest.mark.parametrize("options, error, text", [
    ({"temperature": 0}, ValueError, "`temperature` must be a finite number above 0. Received: 0"),
    ({"temperature": "2"}, TypeError, "`temperature` must be a number. Received: '2'"),
    ({"weight": -0.5}, ValueError, "`weight` must be a finite number of at least 0.*-0.5"),
    ({"weight": float("nan")}, ValueError, "`weight` must be a finite number"),
    ({"weight": True}, TypeError, "`weight` must be a number. Received: True"),
])  # fmt: skip
def test_bad_terms(options, error, text):
    host = Host()
    with pytest.raises(error, match=text):
        distil(host.theseus(), host.teacher, **options)


def test_bad_teachers():
    host = Host()
    with pytest.raises(TypeError, match="`model` must be a functional or built sequential"):
        distil(host.successor, host.teacher)
    with pytest.raises(TypeError, match="`layer` must be a layer"):
        distil(host.theseus(), host.predecessor)
    with pytest.raises(ValueError, match="teacher takes 2 inputs, the student 1"):
        pair = [keras.Input((CLASSES,)), keras.Input((CLASSES,))]
        distil(host.theseus(), keras.Model(pair, keras.layers.Add()(pair)))
    with pytest.raises(ValueError, match=r"one shape.*\(None, 3\) of the model.*\(None, 5, 4\)"):
        distil(host.theseus(), keras.Model(host.predecessor.inputs, host.predecessor.output))
    with pytest.raises(ValueError, match="two classes or more"):
        x = keras.Input((5,))
        score = keras.Model(x, keras.layers.Dense(1)(x))
        distil(score, score)
    with pytest.raises(ValueError, match=r"student trains weights that its teacher uses.*clone"):
        distil(build_successor_model(host.successor, host.head), host.teacher)
