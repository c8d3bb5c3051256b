"""The laws of the method for each of KerasHub's families."""

import keras
import keras_hub
import numpy as np
import pytest
from hub_helpers import FAMILIES, LENGTH, TEXTS, Host, outputs, quantize

from bert_of_theseus import (
    build_successor_backbone,
    build_successor_model,
    build_theseus_model,
    initialize_successor,
    set_replacement_rate,
)
from bert_of_theseus.backend import BACKEND
from bert_of_theseus.encoders import as_encoder, as_head


def families(*elsewhere):
    """All on PyTorch, which compiles nothing; on the other backends those that say most."""
    names = list(FAMILIES) if BACKEND == "torch" else elsewhere
    return pytest.mark.parametrize("family", names)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.slow_unless("torch", "tensorflow")
@families("DebertaV3")
def test_each_module_is_its_layers_and_sees_the_padding(family):
    host = Host(family)
    successor = build_successor_backbone(host.predecessor, 1, layers="last")
    whole = as_encoder(host.predecessor).model(as_head(host.head, as_encoder(host.predecessor)), "")
    expected = {0.0: outputs(whole, host.x)}
    for execution in ("lazy", "dense"):
        theseus = build_theseus_model(host.predecessor, successor, host.head, execution=execution)
        small = build_successor_model(theseus)
        expected[1.0] = outputs(small, host.x)
        assert np.abs(expected[0.0] - expected[1.0]).max() > 0.01
        for rate in (0.0, 1.0):
            set_replacement_rate(theseus, rate)
            found = outputs(theseus, host.x, training=True)
            np.testing.assert_allclose(found, expected[rate], atol=1e-5)
            if "padding_mask" not in host.x or execution == "dense":
                continue
            for row, length in enumerate(host.x["padding_mask"].sum(1)):
                alone = {name: part[row : row + 1, :length] for name, part in host.x.items()}
                padded = found[row : row + 1]
                # The lengths differ, and each is another program: one of them is enough.
                if length == 4:
                    np.testing.assert_allclose(
                        outputs(theseus, alone, training=True), padded, atol=1e-5
                    )
        np.testing.assert_allclose(outputs(theseus, host.x), expected[1.0], atol=1e-6)


@pytest.mark.slow_unless("torch", "tensorflow")
@families("Bert")
def test_from_training_to_a_quantized_preset(family, tmp_path):
    host = Host(family, dropout=0.1)
    successor = build_successor_backbone(host.predecessor, 1)
    theseus = build_theseus_model(host.predecessor, successor, host.head, 1.0)
    before, start = host.backbone.get_weights(), successor.get_weights()
    head = (host.task or host.head).get_weights()
    theseus.compile(keras.optimizers.SGD(0.1), LOSS)
    theseus.fit(host.x, host.y, batch_size=2, verbose=0)
    # All of the predecessor and its head are as they were, and of the successor the modules move.
    assert all(map(np.array_equal, before, host.backbone.get_weights()))
    assert all(map(np.array_equal, head, (host.task or host.head).get_weights()))
    pairs = zip(successor.weights, start, successor.get_weights())
    moved = [weight.path for weight, a, b in pairs if (a != b).any()]
    trained = {id(w) for w in theseus.trainable_weights}
    assert len(trained) == sum(id(w) in trained for w in successor.weights)
    assert 0 < len(moved) <= len(trained)
    assert len(moved) >= len(trained) - 2  # softmax is deaf to what all keys have in common

    small = build_successor_model(theseus)
    np.testing.assert_allclose(outputs(theseus, host.x), outputs(small, host.x), atol=1e-6)
    if host.task is None:
        successor.save_to_preset(str(tmp_path))
        loaded = type(successor).from_preset(str(tmp_path))
        assert all(map(np.array_equal, loaded.get_weights(), successor.get_weights()))
        return
    assert type(small) is type(host.task)
    assert small.preprocessor is host.task.preprocessor
    assert small.count_params() <= host.task.count_params()
    small.save_to_preset(str(tmp_path))
    loaded = type(small).from_preset(str(tmp_path))
    tokens, again = small.preprocessor(TEXTS), loaded.preprocessor(TEXTS)
    said = outputs(small, tokens)
    np.testing.assert_allclose(outputs(theseus, tokens), said, atol=1e-5)
    np.testing.assert_allclose(outputs(loaded, again), said, atol=1e-6)
    quantize(loaded)
    near = outputs(loaded, tokens)
    assert 0 < np.abs(near - said).max() < 0.1 * np.abs(said).max() + 0.02


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("family", ["Albert", "Bert", "DebertaV3"])
def test_a_successor_in_one_line(family):
    host = Host(family, num_layers=3)
    successor = build_successor_backbone(host.predecessor, 2, layers=[2, 0])
    encoders = [as_encoder(host.predecessor), as_encoder(successor)]
    assert [encoder.num_hidden_layers for encoder in encoders] == [3, 2]
    for own, theirs in ((0, 2), (1, 0)):
        parts = [encoder.module([i], "part") for encoder, i in zip(encoders, (theirs, own))]
        assert all(map(np.array_equal, *(part.get_weights() for part in parts)))
    # Embeddings and pooler too, and no weight is shared.
    for part in ("embedding_model", "end_model"):
        ends = [getattr(encoder, part)("end") for encoder in encoders]
        if ends[0] is not None:
            assert all(map(np.array_equal, *(end.get_weights() for end in ends)))
    assert not {id(w) for w in successor.weights} & {id(w) for w in host.backbone.weights}
    # Of all layers it is the predecessor.
    twin = build_successor_backbone(host.backbone, 3)
    np.testing.assert_allclose(
        outputs(as_encoder(twin).model(keras.layers.Identity(), "twin"), host.x),
        outputs(as_encoder(host.backbone).model(keras.layers.Identity(), "own"), host.x),
        atol=1e-6,
    )


@pytest.mark.slow_unless("torch")
def test_albert_groups():
    host = Host("Albert", num_layers=4, num_groups=2, num_inner_repetitions=2)
    assert as_encoder(host.task).num_hidden_layers == 8
    successor = build_successor_backbone(host.task, 4)
    theseus = build_theseus_model(host.task, successor, replacement_rate=0.0)
    found = outputs(theseus, host.x, training=True)
    np.testing.assert_allclose(found, outputs(host.task, host.x), atol=1e-5)
    with pytest.raises(ValueError, match=r"not made of 3 layers.*2 layers go together"):
        build_successor_backbone(host.task, 3)


@pytest.mark.slow_unless("torch")
def test_other_backbones_of_the_same_make():
    """The end of GPT-2 is a norm, which is frozen with its embeddings; its mask is causal."""
    keras.utils.set_random_seed(0)
    sizes = {"vocabulary_size": 9, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    sizes.update(max_sequence_length=LENGTH, dropout=0.0)
    backbone = keras_hub.models.GPT2Backbone(num_layers=2, **sizes)
    successor = build_successor_backbone(backbone, 1)
    head = keras.Sequential([keras.layers.Dense(3)])
    theseus = build_theseus_model(backbone, successor, head, 0.0)
    x = {"token_ids": np.arange(8).reshape(2, 4), "padding_mask": np.ones((2, 4), "int32")}
    found = outputs(theseus, x, training=True)
    np.testing.assert_allclose(found, outputs(head, backbone(x)), atol=1e-5)
    x["token_ids"][:, -1] = 0
    np.testing.assert_allclose(outputs(theseus, x, True)[:, :-1], found[:, :-1], atol=1e-5)


def test_initialize_fills_a_backbone_from_its_config():
    host = Host("Bert", num_layers=3)
    config = {**host.backbone.get_config(), "num_layers": 1}
    successor = type(host.backbone).from_config(config)
    assert initialize_successor(host.task, successor) == [0]
    twin = build_successor_backbone(host.task, 1)
    assert all(map(np.array_equal, successor.get_weights(), twin.get_weights()))
