"""What a KerasHub host is, what it is not, and how it goes through the builders."""

import re
import warnings

import keras
import keras_hub
import numpy as np
import pytest
from hub_helpers import TEXTS, WORDS, Host, make_backbone, outputs, quantize, save_tiny_bert

from bert_of_theseus import (
    Stage,
    build_successor_backbone,
    build_successor_model,
    build_theseus_model,
    compress,
)
from bert_of_theseus.backend import BACKEND
from bert_of_theseus.encoders import as_encoder
from bert_of_theseus.heads import pooler_classification_head


def test_a_backbone_and_a_head_of_ones_own():
    host = Host("Bert", num_layers=3)
    successor = build_successor_backbone(host.backbone, 1)
    head = pooler_classification_head(8, 3)
    # The same of the text classifier, whose own head is left alone then.
    for predecessor in (host.backbone, host.task):
        theseus = build_theseus_model(predecessor, successor, head)
        small = build_successor_model(theseus)
        assert tuple(small.outputs[0].shape) == (None, 3)
        np.testing.assert_allclose(outputs(theseus, host.x), outputs(small, host.x), atol=1e-6)
    assert [x.name for x in theseus.inputs] == ["padding_mask", "segment_ids", "token_ids"]


def test_nothing_of_the_users_is_changed():
    host = Host("Bert")
    before = [(layer, layer.trainable) for layer in host.task._flatten_layers()]
    optimizer = host.task.optimizer
    theseus = build_theseus_model(host.task, build_successor_backbone(host.task, 1))
    assert all(layer.trainable == flag for layer, flag in before)
    assert host.task.optimizer is optimizer
    small = build_successor_model(theseus)
    # A head of its own, that starts as the predecessor's.
    own, theirs = ([layer for layer in t.layers if layer.weights][-1] for t in (small, host.task))
    assert own is not theirs
    assert all(map(np.array_equal, own.get_weights(), theirs.get_weights()))
    assert small.backbone is not host.backbone
    # The successor by itself, with the head of the text classifier.
    again = build_successor_model(small.backbone, host.task)
    assert type(again) is type(small)
    np.testing.assert_allclose(outputs(again, host.x), outputs(small, host.x), atol=1e-6)
    assert build_successor_model(host.task) is host.task


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("family", ["Albert", "Bert", "FNet", "Roberta"])
def test_two_classifiers_of_one_successor(family):
    """Some backbones hold the pooler: making the second one leaves what the first has learnt."""
    host = Host(family)
    theseus = build_theseus_model(host.task, build_successor_backbone(host.task, 1))
    first = build_successor_model(theseus)
    assert build_successor_model(theseus).backbone is first.backbone
    for weight in first.weights:
        if "embedding" not in weight.path and "layer" not in weight.path:
            weight.assign(weight + 0.1)
    learnt, expected = outputs(first, host.x), outputs(theseus, host.x)
    assert np.abs(learnt - expected).max() > 0.01
    second = build_successor_model(theseus)
    np.testing.assert_array_equal(outputs(first, host.x), learnt)
    np.testing.assert_allclose(outputs(second, host.x), expected, atol=1e-6)


def test_the_head_keeps_its_dropout():
    host = Host("Bert", task_dropout=0.5)
    theseus = build_theseus_model(host.task, build_successor_backbone(host.task, 1), None, 1.0)
    small = build_successor_model(theseus)
    assert small.dropout == 0.5
    for model in (theseus, small):
        still, moving = ([outputs(model, host.x, training) for _ in "ab"] for training in (0, 1))
        np.testing.assert_array_equal(*still)
        assert (moving[0] != moving[1]).any()


def test_a_head_that_was_never_trained_is_named(tmp_path):
    """As KerasHub gives it to a fine-tuned Hugging Face model, whose head it does not read."""
    save_tiny_bert(tmp_path, 2)
    predecessor = keras_hub.models.TextClassifier.from_preset(str(tmp_path), num_classes=2)
    successor = build_successor_backbone(predecessor, 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)  # `pytest.warns` would pass on all others
        build_theseus_model(predecessor, successor)
    (message,) = [str(warning.message) for warning in said]
    assert re.search("head was never trained.*load_pretrained", message)
    predecessor.output_dense.bias.assign([0.1, -0.1])  # as any training step does
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_theseus_model(predecessor, successor)


def test_a_frozen_predecessor_has_a_successor_that_trains():
    host = Host("Bert")
    host.task.backbone.trainable = False
    successor = build_successor_backbone(host.task, 1)
    assert successor.trainable
    assert build_theseus_model(host.task, successor).trainable_weights


@pytest.mark.parametrize("execution", ["lazy", "dense"])
def test_embeddings_replaced(execution):
    host = Host("Bert")
    successor = build_successor_backbone(host.task, 1)
    successor.token_embedding.embeddings.assign(successor.token_embedding.embeddings + 0.5)
    options = {"embeddings": "replace", "execution": execution}
    theseus = build_theseus_model(host.task, successor, **options)
    small = build_successor_model(theseus)
    np.testing.assert_allclose(outputs(theseus, host.x), outputs(small, host.x), atol=1e-6)
    theirs = build_theseus_model(host.task, successor, replacement_rate=0.0, **options)
    found = outputs(theirs, host.x, training=True)
    np.testing.assert_allclose(found, outputs(host.task, host.x), atol=1e-5)


@pytest.mark.slow_unless("torch")  # whose steps are not compiled
@pytest.mark.filterwarnings("error::UserWarning")
def test_compress_texts(tmp_path, capfd):
    """The whole recipe on what a preprocessor makes of texts, and once more from its folder.

    Of which nothing is said on stderr.
    """
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(16)]
    labels = np.arange(16) % 2

    def run():
        host = Host("Bert")
        task = host.task
        return host, compress(
            task,
            build_successor_backbone(task, 1),
            train=task.preprocessor(texts, labels),
            validation=task.preprocessor(texts[:8], labels[:8].tolist()),
            directory=tmp_path,
            predecessor_stage=Stage(epochs=1, learning_rate=0.01),
            warm_start_stage=Stage(epochs=1, learning_rate=0.01),
            theseus_stage=Stage(epochs=1, learning_rate=0.01),
            successor_stage=Stage(epochs=1, learning_rate=0.01),
            batch_size=8,
            latency=False,
            verbose=0,
        )

    host, result = run()
    assert result.predecessor is host.task
    assert type(result.successor) is type(host.task)
    assert [row["layers"] for row in result.rows] == [2, 1, 1, 1]
    said = result.successor.predict(texts[:8], verbose=0)
    assert (said.argmax(-1) == labels[:8]).mean() == pytest.approx(result.rows[-1]["score"])
    # KerasHub's own loss, by default: of logits.
    assert result.settings["loss"][1]["from_logits"]
    _, again = run()
    np.testing.assert_array_equal(again.successor.predict(texts[:8], verbose=0), said)
    assert [x.seconds for x in again.stages] == [x.seconds for x in result.stages]
    if BACKEND != "tensorflow":  # which counts what other tests have traced, and may say so
        assert capfd.readouterr().err == ""


@pytest.mark.slow_unless("torch")
def test_compress_a_stream_of_batches(tmp_path):
    tf = pytest.importorskip("tensorflow")
    task = Host("DistilBert").task
    batches = tf.data.Dataset.from_tensor_slices((TEXTS * 4, [1, 0] * 4)).batch(4)
    result = compress(
        task,
        build_successor_backbone(task, 1),
        train=batches.map(task.preprocessor),
        directory=tmp_path,
        predecessor_stage=None,
        warm_start_stage=Stage(epochs=1),
        theseus_stage=Stage(epochs=1),
        successor_stage=None,
        schedule=1.0,
        latency=False,
        verbose=0,
    )
    assert [stage.history["step"] for stage in result.stages] == [[2], [2]]


@pytest.mark.parametrize("family", ["Bert", "XLMRoberta"])
def test_one_input_order_for_all(family):
    encoder = as_encoder(make_backbone(family))
    assert [x.name for x in encoder.inputs] == sorted(encoder.backbone.input)


def test_what_is_refused():
    host = Host("Bert")
    with pytest.raises(ValueError, match=r"BertMaskedLM is not supported.*Pass its backbone"):
        as_encoder(keras_hub.models.BertMaskedLM(host.backbone))
    sizes = {"vocabulary_size": 9, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    bart = keras_hub.models.BartBackbone(intermediate_dim=8, **sizes)
    with pytest.raises(ValueError, match=r"BartBackbone is not supported.*BertBackbone"):
        as_encoder(bart)
    with pytest.raises(TypeError, match=r"`classifier` must be a model or layer.*Received: None"):
        build_theseus_model(host.backbone, build_successor_backbone(host.backbone, 1))
    for number, error in ((3, "from 1 to 2"), (0, "from 1 to 2")):
        with pytest.raises(ValueError, match=error):
            build_successor_backbone(host.task, number)
    with pytest.raises(TypeError, match="must be an integer"):
        build_successor_backbone(host.task, 1.5)
    with pytest.raises(TypeError, match="StackEncoder gets fewer layers is not known"):
        build_successor_backbone([keras.Input((3,)), keras.layers.Dense(3)], 1)


def test_pairs_that_do_not_go_together():
    bert, deberta = Host("Bert"), Host("DebertaV3")
    with pytest.raises(ValueError, match=r"must take the same inputs.*segment_ids"):
        build_theseus_model(bert.task, make_backbone("DistilBert", 1))
    with pytest.raises(ValueError, match="must take the same beside the hidden states"):
        build_theseus_model(deberta.task, make_backbone("DistilBert", 1))
    with pytest.raises(ValueError, match=r'replace.*take more.*Use embeddings="predecessor"'):
        successor = build_successor_backbone(deberta.task, 1)
        build_theseus_model(deberta.task, successor, embeddings="replace")


def test_a_quantized_predecessor():
    host = Host("Bert")
    quantize(host.backbone)
    with pytest.raises(ValueError, match=r"BertBackbone is quantized.*quantize the successor"):
        as_encoder(host.task)


def test_files(tmp_path):
    host = Host("Bert")
    theseus = build_theseus_model(host.task, build_successor_backbone(host.task, 1))
    theseus.save(tmp_path / "theseus.keras")
    loaded = keras.models.load_model(tmp_path / "theseus.keras")
    np.testing.assert_allclose(outputs(loaded, host.x), outputs(theseus, host.x), atol=1e-6)
    assert len(loaded.trainable_weights) == len(theseus.trainable_weights)
