"""The README's block with Keras layers runs as it stands."""

import numpy as np
import pytest
from helpers import eager
from readme_blocks import READMES, readme_block

from bert_of_theseus.backend import KERAS_2


@pytest.mark.skipif(KERAS_2, reason="the block imports Keras 3")
@pytest.mark.parametrize("name", READMES)
def test_keras_layers(name):
    scope = {}
    exec(readme_block("successor = [block(64) for _ in range(2)]", name), scope)
    theseus, small = scope["theseus"], scope["small"]
    x = np.random.default_rng(0).normal(size=(4, 5, 32)).astype("float32")
    np.testing.assert_array_equal(eager(theseus, x), eager(small, x))
    assert len(theseus.trainable_weights) == len(small.trainable_weights) - 2  # the head
