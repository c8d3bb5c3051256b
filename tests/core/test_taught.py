"""A distilled stage: the teacher answers once, and its answers stand in for it."""

import functools
import shutil

import numpy as np
import pytest
from damage import interrupted_move
from helpers import assert_same, values
from stages import texts

from bert_of_theseus import Stage, build_successor_model, build_theseus_model
from bert_of_theseus.backend import keras
from bert_of_theseus.data import Batches, Encoded, StoredBatches, encode_token_ids
from bert_of_theseus.data.losses import MaskedCrossentropy
from bert_of_theseus.heads import classification_head, tagging_head
from bert_of_theseus.models import distil
from bert_of_theseus.training import fit
from bert_of_theseus.training.feed import _Arrays

RNG = np.random.default_rng(1)
TEXTS = texts()
TAGS = Encoded(TEXTS.token_ids, [ids % 2 for ids in TEXTS.token_ids])
IDS = RNG.integers(1, 9, (40, 6)).astype("int32")
LABELS = RNG.integers(0, 2, 40).astype("int32")
WEIGHTS = RNG.uniform(0.5, 2, 40).astype("float32")


TAGGER = functools.partial(tagging_head, dropout_rate=0.0)


class Blind:
    """The same batches, of data that do not tell which examples are in them."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]

    def set_epoch(self, epoch):
        self.data.set_epoch(epoch)


class Given(Blind):
    """The same batches, with attributes of their own in place of those of the data."""

    def __init__(self, data, **attributes):
        super().__init__(data)
        vars(self).update(attributes)

    def __getattr__(self, name):
        return getattr(self.data, name)


def batches(encoded=TEXTS, cls=Batches, **options):
    return cls(encoded, 16, input_names=["token_ids"], **options)


def classifier(seed, head=classification_head, dropout=0.0, mask=True):
    keras.utils.set_random_seed(seed)
    inputs = {"token_ids": keras.Input((None,), dtype="int32", name="token_ids")}
    hidden = keras.layers.Embedding(9, 8, "normal", mask_zero=mask)(inputs["token_ids"])
    hidden = keras.layers.Dropout(dropout)(hidden) if dropout else hidden
    model = keras.Model(inputs, head(8, 2)(hidden))
    for weight in model.weights:
        weight.assign(np.random.default_rng(seed).normal(0, 0.5, weight.shape))
    return model


def theseus(seed):
    """A Theseus model, and the successor in it."""
    keras.utils.set_random_seed(seed)
    encoders = [
        [
            keras.Input((None,), dtype="int32", name="token_ids"),
            keras.layers.Embedding(9, 8),
            *(keras.layers.Dense(8) for _ in range(depth)),
        ]
        for depth in (2, 1)
    ]
    model = build_theseus_model(*encoders, classification_head(8, 2), seed=seed)
    return model, build_successor_model(model)


class Seen(keras.callbacks.Callback):
    """Keeps the losses of the steps and the trained model; ends the run after so many batches."""

    def __init__(self, batches=None):
        super().__init__()
        self.losses, self.batches = [], batches

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        if len(self.losses) == self.batches:
            raise KeyboardInterrupt


def train(data, directory, teacher=2, seen=None, head=classification_head, **options):
    """Trains a distilled model: what the callback saw, the student's weights, the teacher."""
    seen = seen or Seen()
    mask = options.pop("mask", True)
    student = kept = classifier(1, head, mask=mask)
    if options.pop("theseus", False):
        student, kept = theseus(1)
    teacher = classifier(teacher, head, dropout=0.5, mask=mask)
    fit(
        distil(student, teacher, weight=2.0),
        data,
        directory=directory,
        kept=kept,
        callbacks=[seen],
        batch_size=16,
        **{"stage": Stage(2, 0.01), "verbose": 0, **options},
    )
    return seen, values(kept.weights), teacher


def files(folder):
    """When each was written, and what it holds."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def runs_in_the_steps(seen, teacher):
    return bool({id(w) for w in teacher.weights} & {id(w) for w in seen.model.weights})


@pytest.mark.parametrize("kind", [
    "texts", "tags",
    pytest.param("arrays", marks=pytest.mark.slow_unless("torch")),
    pytest.param("weights", marks=pytest.mark.slow_unless("torch")),
    pytest.param("classes", marks=pytest.mark.slow_unless("torch")),
])  # fmt: skip
def test_the_answers_stand_in_for_the_teacher(kind, tmp_path):
    """In shuffled batches of several lengths, epoch by epoch: losses and weights are the same."""
    options = {"class_weight": {1: 3.0}} if kind == "classes" else {}
    if kind == "tags":
        options = {"head": TAGGER, "loss": MaskedCrossentropy(), "metrics": ()}
    if kind in ("texts", "tags"):
        encoded = TAGS if kind == "tags" else TEXTS
        data, blind = (batches(encoded, multiple=4) for _ in range(2))
    else:
        data = ({"token_ids": IDS}, LABELS, WEIGHTS)[: 2 + (kind == "weights")]
        blind = _Arrays(*data, batch_size=16, seed=0)
    one, weights, teacher = train(data, tmp_path / "one", **options)
    two, expected, other = train(Blind(blind), tmp_path / "two", **options)
    assert not runs_in_the_steps(one, teacher) and runs_in_the_steps(two, other)
    assert (tmp_path / "one" / "answers" / "answers.npy").exists()
    assert not (tmp_path / "two" / "answers").exists()
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-4)
    assert one.losses[0] > 0.05 + one.losses[-1]
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_killed_stage_reads_its_answers_again(tmp_path):
    _, weights, _ = train(batches(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(batches(), tmp_path / "killed", seen=Seen(10))
    before = files(tmp_path / "killed" / "answers")
    seen, resumed, teacher = train(batches(), tmp_path / "killed")
    assert len(seen.losses) == 8 and not runs_in_the_steps(seen, teacher)
    assert files(tmp_path / "killed" / "answers") == before
    assert_same(weights, resumed)


@pytest.mark.slow_unless("torch")
def test_a_call_that_is_refused_leaves_the_answers(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(batches(), tmp_path, seen=Seen(10))
    before = files(tmp_path)
    for options in ({"teacher": 3}, {"stage": Stage(3, 0.01)}, {"data": batches(TEXTS, seed=1)}):
        with pytest.raises(ValueError, match="holds a training with other settings"):
            train(**{"data": batches(), "directory": tmp_path, **options})
        assert files(tmp_path) == before


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize(
    ("stage", "theseus"),
    [(Stage(2, 0.01), False), (Stage(9, 0.01, patience=1), False), (Stage(2, 0.01), True)],
)
def test_a_stage_with_nothing_left_to_train_needs_no_answers(stage, theseus, tmp_path):
    """Whether its rounds are done or it has stopped early, and was killed before it had ended."""

    def run():
        options = {"metrics": (), "stage": stage, "theseus": theseus, "validation": data}
        # Each evaluation but the first is worse.
        options["score"] = lambda model, data: -len(seen.losses)
        return train(data, tmp_path, seen=seen, **options)[1]

    data, steps = ((IDS, LABELS), 3) if theseus else (batches(), 8)
    seen = Seen()
    with interrupted_move(suffix="model.weights.h5"):
        run()
    assert len(seen.losses) == 2 * steps
    shutil.rmtree(tmp_path / "answers")
    seen = Seen()
    weights = run()
    assert not seen.losses and not (tmp_path / "answers").exists()
    assert (tmp_path / "stage.json").exists()
    assert_same(weights, run())


@pytest.mark.slow_unless("torch")
def test_other_answers_are_made_again(tmp_path, capsys):
    """Those of another teacher, to other examples or to the same in another order, or damaged."""
    shared, path = tmp_path / "answers", tmp_path / "answers" / "answers.npy"
    order = RNG.permutation(40)
    data = {
        "first": ({"token_ids": IDS}, LABELS),
        "order": ({"token_ids": IDS[order]}, LABELS[order]),
        "texts": ({"token_ids": IDS[::2]}, LABELS[::2]),
    }

    def run(name, data, **options):
        blind = Blind(_Arrays(*data, batch_size=16, seed=0))
        other = train(blind, tmp_path / name / "blind", **options)[0]
        seen, _, teacher = train(data, tmp_path / name / "run", answers=shared, **options)
        assert not runs_in_the_steps(seen, teacher)
        np.testing.assert_allclose(seen.losses, other.losses, rtol=1e-4)
        return path.read_bytes()

    contents = [run(name, part) for name, part in data.items()]
    contents.append(run("teacher", data["texts"], teacher=3))
    assert len(set(contents)) == 4
    for name, damaged in {
        "cut": contents[-1][:-4],
        "flipped": contents[-1][:-1] + bytes([contents[-1][-1] ^ 1]),
    }.items():
        path.write_bytes(damaged)
        assert run(name, data["texts"], teacher=3) == contents[-1]
    (shared / "answers.json").unlink()
    assert run("no key", data["texts"], teacher=3) == contents[-1]
    capsys.readouterr()
    (shared / "answers.json").write_text("{")
    train(data["texts"], tmp_path / "said", teacher=3, answers=shared, verbose=2)
    said = capsys.readouterr().out
    assert f"The answers in {shared} are another teacher's, to other examples, or damaged" in said
    assert "The teacher answers 20 examples\n" in said


@pytest.mark.slow_unless("torch")
def test_where_the_teacher_runs_in_each_step(tmp_path, capsys):
    class Partly(Batches):
        """Leaves some texts out of each epoch."""

        def __len__(self):
            return super().__len__() - 1

    def spans(hidden_size, count):
        x = inputs = keras.Input((None, hidden_size))
        x = keras.layers.Permute((2, 1))(keras.layers.Dense(count)(x))
        return keras.Model(inputs, keras.layers.Softmax()(x))

    none = {"loss": lambda y, outputs: 0.0 * outputs[..., 0, 0], "metrics": ()}
    rows = [{"token_ids": ids, "label": label} for ids, label in zip(TAGS.token_ids, TAGS.labels)]
    encode = functools.partial(encode_token_ids, per_token=True)
    tags = {"head": TAGGER, "loss": MaskedCrossentropy(), "metrics": ()}
    for name, data, options, reason in (
        ("list", [*batches()], {}, "the data do not tell which examples are in a batch"),
        ("partly", batches(cls=Partly), {}, "the data do not tell which examples are in a batch"),
        (
            "short",
            batches(),
            {"stage": Stage(None, 0.01, steps=7)},
            "shorter than an epoch",
        ),
        (
            "spans",
            batches(),
            {"head": spans, "mask": False, **none},
            "its outputs, (None, 2, None), are of many shapes",
        ),
        (
            "tags",
            StoredBatches(rows, encode, 16, input_names=["token_ids"]),
            tags,
            "its outputs are per token, and the data have no `lengths`",
        ),
    ):
        capsys.readouterr()
        seen, _, teacher = train(data, tmp_path / name, verbose=2, **options)
        assert runs_in_the_steps(seen, teacher)
        assert not (tmp_path / name / "answers").exists()
        said = [line for line in capsys.readouterr().out.splitlines() if "teacher" in line]
        assert len(said) == 1 and said[0].startswith("The teacher runs in each step: ")
        assert reason in said[0]


@pytest.mark.slow_unless("torch")
@pytest.mark.parametrize("numbers", ["gap", "twice", "negative", "fewer", "later", "lengths"])
def test_numbers_that_are_not_those_of_the_examples_are_refused(numbers, tmp_path, capsys):
    """Of data with a fingerprint too, which are not read before."""

    class Told(Batches):
        fingerprint = "release 7"

        def rows_of(self, index):
            rows = super().rows_of(index)
            return {
                "gap": rows + (rows == 7) * 1000,
                "twice": rows + (rows == 7),
                "negative": rows - (rows == 7) * 8,
                "fewer": rows[1:],
                "later": rows + self.epoch * 60,
                "lengths": rows,
            }[numbers]

    options, data = {}, batches(cls=Told)
    if numbers == "fewer":
        data = Given(data, count=None)
    if numbers == "lengths":
        options = {"head": TAGGER, "loss": MaskedCrossentropy(), "metrics": ()}
        data = batches(TAGS, cls=Told)
        data = Given(data, lengths=np.append(data.lengths, 5))
    with pytest.raises(ValueError, match="`rows_of` must return"):
        train(data, tmp_path, verbose=2, **options)
    count = "all" if numbers == "fewer" else 120
    assert f"The teacher answers {count} examples\n" in capsys.readouterr().out
    assert (tmp_path / "answers" / "answers.npy").exists() == (numbers == "later")


@pytest.mark.slow_unless("torch")
def test_padding_of_texts_does_not_count(tmp_path):
    """Of outputs per token without a Keras mask too, of which only the batches know it."""
    losses = [
        train(
            batches(TAGS, multiple=multiple),
            tmp_path / str(multiple),
            head=TAGGER,
            mask=False,
            loss=lambda y, outputs: 0.0 * outputs[..., 0],
            metrics=(),
        )[0].losses
        for multiple in (1, 32)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow_unless("torch")
def test_texts_without_labels_are_taught(tmp_path):
    """With sample weight 0 a label means nothing, and the teacher's answer still does."""
    weights = np.where(np.arange(40) < 20, 0.0, 1.0).astype("float32")
    losses = []
    for name, labels, teacher in (
        ("one", LABELS, 2),
        ("other labels", np.where(weights > 0, LABELS, 1 - LABELS), 2),
        ("other teacher", LABELS, 3),
    ):
        data = {"token_ids": IDS}, labels.astype("int32"), weights
        losses.append(train(data, tmp_path / name, teacher=teacher)[0].losses)
    assert losses[0] == losses[1]
    assert abs(losses[0][0] - losses[2][0]) > 1e-3
