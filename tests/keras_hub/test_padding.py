"""KerasHub's hidden states have no Keras mask: what padding is says the input `padding_mask`."""

import numpy as np
import pytest
from hub_helpers import Host

from bert_of_theseus import build_successor_backbone, build_theseus_model
from bert_of_theseus.backend import keras, to_numpy
from bert_of_theseus.encoders import as_encoder
from bert_of_theseus.encoders.initialize import split_into_modules
from bert_of_theseus.encoders.nearest import _distances
from bert_of_theseus.models import build_warm_start_model


def inputs(width):
    """Texts of 3 and 5 tokens, padded to `width`."""
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids = np.random.default_rng(0).integers(1, 9, (2, 5)) * mask
    parts = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": mask}
    return {name: np.pad(x, [(0, 0), (0, width - 5)]).astype("int32") for name, x in parts.items()}


@pytest.mark.parametrize("kind", ["warm start", "theseus"])
def test_padding_adds_nothing_to_the_loss_on_hidden_states(kind):
    predecessor = Host("Bert").task
    successor = build_successor_backbone(predecessor, 1, "last")
    if kind == "warm start":
        model = build_warm_start_model(predecessor, successor, noise=0.0)
    else:
        options = {"execution": "dense", "predecessor_dropout": False}
        model = build_theseus_model(predecessor, successor, hidden_loss_weight=1.0, **options)
    model.compile(keras.optimizers.SGD(0.0))
    short, long = (model.fit(inputs(width), verbose=0).history["loss"][0] for width in (5, 7))
    assert short > 0 and long == pytest.approx(short, rel=1e-4)


def test_nor_to_how_far_layers_are_from_modules():
    encoder = as_encoder(Host("Bert").task)
    model = _distances(encoder, split_into_modules(encoder.num_hidden_layers, 1))
    short, long = (np.array([to_numpy(x) for x in model(inputs(width))]) for width in (5, 7))
    assert short.max() > 0
    np.testing.assert_allclose(short, long, rtol=1e-4, atol=1e-7)
