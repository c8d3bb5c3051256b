"""The plan of a Theseus model raises before anything changes."""

import numpy as np
import pytest

from bert_of_theseus import build_theseus_model
from bert_of_theseus.backend import keras, to_numpy
from bert_of_theseus.encoders import StackEncoder


def stack(*widths, final=None):
    dense = keras.layers.Dense
    inputs = keras.Input((5, 3))
    return StackEncoder([dense(width) for width in widths], inputs, embedding=dense(4), final=final)


@pytest.mark.parametrize("successor, options, text", [
    (lambda: stack(4, 2), {}, r"'module_1' needs two outputs of one shape.*\(None, 5, 2\)"),
    (lambda: stack(4, 4, final=keras.layers.Dense(4)), {}, "successor's last layers"),
    (lambda: stack(4, 4), {"replacement_rate": 2}, r"must be a number in \[0, 1\]"),
    (lambda: stack(4, 4), {"seed": -1}, "`seed` must be an integer of at least 0, or None"),
])  # fmt: skip
@pytest.mark.parametrize("execution", ["lazy", "dense"])
def test_a_call_that_raises_copies_nothing(execution, successor, options, text):
    predecessor, successor = stack(4, 4, 4, 4), successor()
    embeddings = [encoder._embedding.kernel for encoder in (predecessor, successor)]
    before = [to_numpy(kernel) for kernel in embeddings]
    assert (before[0] != before[1]).any()
    head = keras.layers.Dense(1)
    with pytest.raises(ValueError, match=text):
        build_theseus_model(predecessor, successor, head, execution=execution, **options)
    for value, kernel in zip(before, embeddings):
        np.testing.assert_array_equal(value, to_numpy(kernel))


def test_a_call_that_succeeds_copies_the_embeddings():
    predecessor, successor = stack(4, 4, 4, 4), stack(4, 4)
    build_theseus_model(predecessor, successor, keras.layers.Dense(1))
    kernels = [to_numpy(encoder._embedding.kernel) for encoder in (predecessor, successor)]
    np.testing.assert_array_equal(*kernels)
