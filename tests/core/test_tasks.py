"""Tasks from end to end on small models: heads, losses, `compress`; padding counts for nothing."""

import json

import numpy as np
import pytest
from helpers import to_numpy, to_tensor

from bert_of_theseus import (
    Classification,
    MultiLabel,
    Regression,
    SpanExtraction,
    StackEncoder,
    Stage,
    Tagging,
    build_successor_model,
    build_theseus_model,
    compress,
)
from bert_of_theseus.backend import keras, reduce_sum
from bert_of_theseus.data import Entity, Example, Pair, Tokenizer
from bert_of_theseus.heads import PositionSoftmax, span_head, tagging_head
from bert_of_theseus.losses import MaskedAccuracy, MaskedCrossentropy
from bert_of_theseus.training import described, fit, fresh

WORDS = [*"abcdefgh"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
SIZE = 16
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB), encoding="utf-8")
    return Tokenizer(path)


# The loss and the metric.


def probabilities(*shape):
    scores = np.exp(np.random.default_rng(1).normal(size=shape))
    return (scores / scores.sum(-1, keepdims=True)).astype("float32")


LABELS = np.array([[-1, 2, 0, -1], [1, -1, -1, -1]])
PICKED = [(0, 1, 2), (0, 2, 0), (1, 0, 1)]


@pytest.mark.parametrize("weights, expected", [
    (None, [1, 1, 1]),
    ([1.0, 3.0], [1, 1, 3]),
    ([[7.0, 0.5, 2.0, 7.0], [1.0, 7.0, 7.0, 7.0]], [0.5, 2, 1]),
])  # fmt: skip
def test_only_labels_count(weights, expected):
    y = probabilities(2, 4, 3)
    losses = [-np.log(y[place]) for place in PICKED]
    if weights is not None:
        weights = to_tensor(np.array(weights, "float32"))
    loss = MaskedCrossentropy()(to_tensor(LABELS), to_tensor(y), sample_weight=weights)
    assert float(to_numpy(loss)) == pytest.approx(np.average(losses, weights=expected), rel=1e-5)
    nothing = MaskedCrossentropy()(to_tensor(0 * LABELS - 1), to_tensor(y))
    assert float(to_numpy(nothing)) == 0
    metric = MaskedAccuracy()
    metric.update_state(to_tensor(LABELS), to_tensor(y), sample_weight=weights)
    hits = [y[place[:2]].argmax() == place[2] for place in PICKED]
    assert float(to_numpy(metric.result())) == pytest.approx(np.mean(hits))


def test_padding_adds_nothing_to_loss_and_metric():
    """With a mask that travels, and without one; in `fit` and in `evaluate`."""
    found = []
    for mask_zero, length in ((True, 4), (True, 9), (False, 9)):
        keras.utils.set_random_seed(0)
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 8, mask_zero=mask_zero)(ids)
        model = keras.Model(ids, tagging_head(8, 3, dropout_rate=0.0)(x))
        model.compile(keras.optimizers.SGD(0.5), MaskedCrossentropy(), metrics=[MaskedAccuracy()])
        padding = [(0, 0), (0, length - 4)]
        x = np.pad(np.array([[2, 3, 4, 2], [2, 5, 2, 0]]), padding)
        y = np.pad(np.array([[-1, 2, 0, -1], [-1, 1, -1, -1]]), padding, constant_values=-1)
        losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
        found.append([*losses, *model.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(found, found[:1] * 3, rtol=1e-5)
    assert found[0][0] > found[0][1] > found[0][2] > 0


def test_positions_that_the_mask_leaves_out():
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 8, mask_zero=True)(ids)
    model = keras.Model(ids, span_head(8)(x))
    short, long = np.array([[2, 3, 4]]), np.array([[2, 3, 4, 0, 0]])
    one, other = (to_numpy(model(to_tensor(x))) for x in (short, long))
    assert one.shape == (1, 2, 3)
    np.testing.assert_allclose(other, np.pad(one, [(0, 0), (0, 0), (0, 2)]), atol=1e-6)
    np.testing.assert_allclose(one.sum(-1), 1, atol=1e-6)


def test_files(tmp_path):
    head = span_head(8)
    model = keras.Sequential([keras.Input((None, 8)), head])
    model.compile("sgd", MaskedCrossentropy(), metrics=[MaskedAccuracy()])
    model.save(tmp_path / "head.keras")
    copy = keras.models.load_model(tmp_path / "head.keras")
    assert isinstance(copy.loss, MaskedCrossentropy)
    x = to_tensor(RNG.normal(size=(2, 5, 8)).astype("float32"))
    np.testing.assert_allclose(to_numpy(copy(x)), to_numpy(head(x)), atol=1e-6)
    assert isinstance(fresh(MaskedAccuracy()), MaskedAccuracy)
    assert PositionSoftmax().compute_output_shape((None, 7, 2)) == (None, 2, 7)


def test_two_scores_are_told_apart():
    one, other = (described(Classification("ab", metric).score) for metric in ("f1", "matthews"))
    assert one != other
    assert one == described(Classification("ab", "f1").score)


# Every task, from texts to a successor.


def words(length):
    return " ".join(RNG.choice(WORDS, length))


def classified():
    text = words(3)
    return Example(text, int("a" in text))


def paired():
    first, second = words(3), words(3)
    return Pair(first, second, int("a" in first or "b" in second))


def labelled():
    text = words(3)
    return Example(text, [i for i, word in enumerate(WORDS[:3]) if word in text])


def numbered():
    text = words(4)
    return Example(text, text.count("a") - text.count("b"))


def tagged():
    text = words(RNG.integers(2, 6))
    return Example(text, [Entity(i, i + 1, w) for i, w in enumerate(text) if w in "ab"])


def read():
    text = RNG.choice(WORDS[1:], 5)
    place = RNG.integers(0, 5)
    text[place] = "a"
    return Pair("b", " ".join(text), (2 * place, 2 * place + 1))


TASKS = {
    "texts": (Classification(["no", "yes"], "f1"), classified),
    "pairs": (Classification(["no", "yes"], "matthews"), paired),
    "multi-label": (MultiLabel(WORDS[:3]), labelled),
    "regression": (Regression(), numbered),
    "tagging": (Tagging(["a", "b"]), tagged),
    "spans": (SpanExtraction(), read),
}


@keras.saving.register_keras_serializable("core_tests")
class SumOfAll(keras.layers.Layer):
    """Adds the sum of all positions to each: so that `[CLS]` sees the text."""

    def call(self, x):
        return x + reduce_sum(x, 1)[:, None] / 8.0

    def compute_output_shape(self, input_shape):
        return input_shape


def block():
    x = keras.Input((None, SIZE))
    y = keras.layers.Dense(SIZE, activation="tanh")(SumOfAll()(x))
    return keras.Model(x, keras.layers.Add()([x, y]))


def encoder(depth):
    ids = [keras.Input((None,), dtype="int32") for _ in range(2)]
    parts = [keras.layers.Embedding(n, SIZE)(x) for n, x in zip((len(VOCAB), 2), ids)]
    embedding = keras.Model(ids, keras.layers.Add()(parts))
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    return StackEncoder([block() for _ in range(depth)], inputs=inputs, embedding=embedding)


def batches(name, tokenizer):
    task, example = TASKS[name]
    examples = [example() for _ in range(192)]
    return task, *(
        task.batches(part, tokenizer, 16, batch_size=16, multiple=16)
        for part in (examples[:128], examples[128:])
    )


@pytest.mark.parametrize("name", TASKS)
def test_fit(name, tokenizer, tmp_path):
    task, train, validation = batches(name, tokenizer)
    keras.utils.set_random_seed(0)
    model = build_successor_model(encoder(1), task.head(SIZE))
    result = fit(
        model, train, validation, Stage(4, 0.03), directory=tmp_path, verbose=0, **task.options
    )
    assert min(result.history["loss"]) < result.history["loss"][0]
    shown = [key for key in result.history if key.startswith("val_")]
    assert len(shown) == 3 and result.monitor == "val_score"  # beside the loss and a metric
    outputs = task.predict(model, validation)
    score = task.measure(outputs, validation.encoded)[task.metric]
    assert result.score == pytest.approx(float(score), abs=1e-6)
    assert len(task.decode(outputs, validation.encoded)) == 64


@pytest.mark.parametrize("name, execution", [("tagging", "lazy"), ("spans", "dense")])
def test_compress(name, execution, tokenizer, tmp_path):
    task, train, validation = batches(name, tokenizer)
    keras.utils.set_random_seed(0)
    result = compress(
        encoder(2),
        encoder(1),
        task.head(SIZE),
        train,
        validation,
        directory=tmp_path,
        predecessor_stage=Stage(3, 0.03),
        theseus_stage=Stage(3, 0.03),
        successor_stage=None,
        execution=execution,
        latency=False,
        verbose=0,
        **task.options,
    )
    assert [stage.monitor for stage in result.stages] == ["val_score"] * 2
    measured = task.score(result.successor, validation)
    assert result.rows[-1]["score"] == result.stages[1].score == pytest.approx(measured)
    if name == "tagging":  # which so few steps teach
        assert measured > 0.5
    assert json.loads((tmp_path / "theseus" / "stage.json").read_text())["settings"]["score"] == [
        type(task).__name__,
        task.get_config(),
    ]


def test_theseus_at_inference_is_the_successor(tokenizer):
    for name, (task, example) in TASKS.items():
        data = task.batches([example() for _ in range(8)], tokenizer, 16, batch_size=8)
        head = task.head(SIZE)
        hosts = encoder(2), encoder(1)
        inputs = [to_tensor(x) for x in data[0][0]]
        theseus = build_theseus_model(*hosts, head)
        one, other = (to_numpy(m(inputs)) for m in (theseus, build_successor_model(theseus)))
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
