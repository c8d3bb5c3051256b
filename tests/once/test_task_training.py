"""Every task on a small model, from texts to a successor."""

import json

import numpy as np
import pytest
from helpers import eager

from bert_of_theseus import Stage, build_successor_model, build_theseus_model, compress
from bert_of_theseus.backend import keras, reduce_sum
from bert_of_theseus.data import (
    Classification,
    Entity,
    Example,
    MultiLabel,
    Pair,
    Regression,
    SpanExtraction,
    Tagging,
    Tokenizer,
)
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.training import check_labels, described, fit

WORDS = [*"abcdefgh"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
SIZE = 16
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB), encoding="utf-8")
    return Tokenizer(path)


def test_two_scores_are_told_apart():
    one, other = (described(Classification("ab", metric).score) for metric in ("f1", "matthews"))
    assert one != other
    assert one == described(Classification("ab", "f1").score)


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
        warm_start_stage=None,
        initialize="first",
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


def test_labels_in_another_order_than_the_heads(tokenizer, tmp_path):
    task, train, validation = batches("texts", tokenizer)
    head = task.head(SIZE)
    arguments = {"directory": tmp_path, "verbose": 0, "latency": False, **task.options}
    for names in (("yes", "no"), ("no", "yes", "maybe")):
        head.label_names = names  # as load_pretrained sets them
        with pytest.raises(ValueError, match=rf"`train` must have .*{', '.join(names)}.*: no, yes"):
            compress(encoder(2), encoder(1), head, train, validation, **arguments)
    assert not list(tmp_path.iterdir())
    # Names that say nothing, and numbers, fit.
    for names, data in ((("no", "yes"), train), (("LABEL_0", "LABEL_1"), train)):
        head.label_names = names
        check_labels(head, data, "train")
    check_labels(head, batches("regression", tokenizer)[1], "train")


def test_theseus_at_inference_is_the_successor(tokenizer):
    for name, (task, example) in TASKS.items():
        data = task.batches([example() for _ in range(8)], tokenizer, 16, batch_size=8)
        head = task.head(SIZE)
        hosts = encoder(2), encoder(1)
        inputs = list(data[0][0])
        theseus = build_theseus_model(*hosts, head)
        one, other = (eager(m, inputs) for m in (theseus, build_successor_model(theseus)))
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
