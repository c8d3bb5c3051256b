"""The predecessor's answers: computed once, kept on disk, and learned in place of labels."""

import numpy as np
import pytest
from damage import full_disk, interrupted_move

from bert_of_theseus import Stage, compress
from bert_of_theseus.backend import keras, ops, reduce_sum
from bert_of_theseus.data import (
    NO_LABEL,
    Batches,
    Classification,
    Entity,
    Example,
    MultiLabel,
    Pair,
    Regression,
    SpanExtraction,
    StoredBatches,
    Tagging,
    TokenClassification,
    Tokenizer,
)
from bert_of_theseus.encoders import StackEncoder
from bert_of_theseus.files import check_room, read_checksums, replace_listed_file
from bert_of_theseus.pretrained.answers import (
    SoftBatches,
    Texts,
    answered,
    predecessor_answers,
    soft_options,
    unlabelled,
)
from bert_of_theseus.training import BatchAccess
from bert_of_theseus.training import answers as module

WORDS = [*"abcdefgh"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
SIZE = 8
TASKS = {
    "classes": (Classification(["no", "yes", "perhaps"], "macro_f1"), [2, 0]),
    "several labels": (MultiLabel(["a", "b", "c"]), [[0, 2], []]),
    "numbers": (Regression(), [0.5, -1.0]),
    "tags": (Tagging(["x"]), [[Entity(0, 1, "x")], []]),
    "words": (TokenClassification(["NOUN", "VERB", "O"]), [[1, 0, 2], [0]]),
}
PER_TOKEN = ("tags", "words")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB), encoding="utf-8")
    return Tokenizer(path)


@pytest.fixture
def texts(tokenizer):
    """`Batches` of as many texts as requested, of 1 to 9 words, for a task."""

    def make(name, count=40, seed=0, **options):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 10, count)
        examples = [Example(" ".join(rng.choice(WORDS, length)), None) for length in lengths]
        task = TASKS[name][0]
        encoded = task.encode(unlabelled(task, examples), tokenizer, 16)
        return Batches(encoded, 4, **{"multiple": 1, **options})

    return make


@keras.saving.register_keras_serializable("core_tests")
class WithTheWholeText(keras.layers.Layer):
    """Adds to each token the sum of all that are not padding, so that `[CLS]` sees the text."""

    def call(self, inputs):
        x, ids = inputs
        mask = ops.cast(ids > 0, x.dtype)[:, :, None]
        return x + reduce_sum(x * mask, 1)[:, None] / 4.0

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def block(activation):
    x = keras.Input((None, SIZE))
    y = keras.layers.Dense(SIZE, activation=activation)(x)
    return keras.Model(x, keras.layers.Add()([x, y]))


def encoder(depth, activation="tanh"):
    ids = [keras.Input((None,), dtype="int32") for _ in range(2)]
    parts = [keras.layers.Embedding(n, SIZE)(x) for n, x in zip((len(VOCAB), 2), ids)]
    embedding = keras.Model(ids, WithTheWholeText()([keras.layers.Add()(parts), ids[0]]))
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    return StackEncoder(
        [block(activation) for _ in range(depth)], inputs=inputs, embedding=embedding
    )


def parts(name, depth=2, seed=0):
    """An encoder and its head, with weights that tell texts apart."""
    keras.utils.set_random_seed(seed)
    made, head = encoder(depth), TASKS[name][0].head(SIZE)
    model = made.model(head, "predecessor")
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return made, head, model


class Counted:
    """A model that counts its calls, and fails after some of them."""

    def __init__(self, model, calls=None):
        self.model, self.calls, self.left = model, 0, calls

    def __getattr__(self, name):
        return getattr(self.model, name)

    def predict_on_batch(self, inputs):
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return self.model.predict_on_batch(inputs)


@pytest.mark.parametrize("name", TASKS)
def test_an_answer_is_the_models_output(name, texts, tmp_path):
    model, batches = parts(name)[2], texts(name)
    before = batches.rows.tolist()
    answers = predecessor_answers(model, batches, tmp_path, verbose=0)
    assert batches.rows.tolist() == before
    assert len(answers) == 40 and answers.values.dtype == "float32"
    assert answers.values.std(0).max() > 0.1
    for row, ids in enumerate(batches.encoded.token_ids):
        alone = model.predict_on_batch([ids[None], np.zeros_like(ids)[None]])[0]
        assert answers[row].shape == alone.shape
        np.testing.assert_allclose(answers[row], alone, atol=1e-6)
    # By the next process.
    counted = Counted(model, calls=0)
    again = predecessor_answers(counted, texts(name, seed=0), tmp_path, verbose=0)
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.values, answers.values)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("answers.json", "answers.npy", "checksums.json")
    }
    with pytest.raises(IndexError):
        answers[40]


@pytest.mark.parametrize("name", ["classes", "tags"])
def test_a_killed_run_goes_on(name, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCHES_PER_PIECE", 2)
    model, batches = parts(name)[2], texts(name)
    whole = predecessor_answers(model, batches, tmp_path / "whole", verbose=0)
    killed = Counted(model, calls=5)
    with pytest.raises(KeyboardInterrupt):
        predecessor_answers(killed, batches, tmp_path / "killed", verbose=0)
    assert not (tmp_path / "killed" / "answers.npy").exists()
    # Not with what another model has answered.
    with pytest.raises(ValueError, match=r"killed holds the answers of another model .*weights"):
        predecessor_answers(parts(name, seed=1)[2], batches, tmp_path / "killed", verbose=0)
    resumed = Counted(model)
    answers = predecessor_answers(resumed, batches, tmp_path / "killed", verbose=0)
    assert resumed.calls == 10 - 4  # two pieces of two batches were kept
    np.testing.assert_array_equal(answers.values, whole.values)
    assert not (tmp_path / "killed" / "pieces").exists()


@pytest.mark.parametrize("name", ["classes", "tags"])
def test_a_killed_run_goes_on_with_batches_in_another_order(name, texts, tmp_path, monkeypatch):
    """Which have the same answers, by the numbers of the texts."""
    monkeypatch.setattr(module, "_BATCHES_PER_PIECE", 2)
    model = parts(name)[2]
    expected = predecessor_answers(model, texts(name), tmp_path / "whole", verbose=0)

    def answers(model, seed):
        batches = texts(name)
        batches.seed = seed
        access = BatchAccess(batches, 4)
        lengths = batches.lengths if name in PER_TOKEN else None
        return module.compute_answers(model, access, tmp_path, {}, lengths, verbose=0)

    with pytest.raises(KeyboardInterrupt):
        answers(Counted(model, calls=5), seed=1)
    other = Counted(model)
    np.testing.assert_allclose(answers(other, seed=2).values, expected.values, atol=1e-6)
    assert other.calls == 10 and not (tmp_path / "pieces").exists()


def test_a_damaged_piece_is_made_again(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCHES_PER_PIECE", 2)
    model, batches = parts("classes")[2], texts("classes")
    whole = predecessor_answers(model, batches, tmp_path / "whole", verbose=0)
    with pytest.raises(KeyboardInterrupt):
        predecessor_answers(Counted(model, calls=7), batches, tmp_path / "killed", verbose=0)
    first, second, _ = sorted((tmp_path / "killed").rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:-30])
    content = second.read_bytes()
    place = content.rindex(np.load(second)["values"].tobytes())
    second.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    again = Counted(model)
    answers = predecessor_answers(again, batches, tmp_path / "killed", verbose=0)
    np.testing.assert_array_equal(answers.values, whole.values)
    assert again.calls == 10 - 2


def test_no_damaged_piece_is_taken_for_whole(tmp_path):
    """Nor one whose header says less than there is. The headers are at both ends of the file."""
    path, rows = tmp_path / "0.npz", np.arange(4)
    values = np.random.default_rng(0).normal(size=(4, 4000)).astype("float32")
    np.savez(path, rows=rows, values=values)
    content, read = path.read_bytes(), 0
    places = [*range(600), *range(len(content) - 200, len(content))]
    for place in places:
        flipped = bytes([content[place] ^ 5])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        found = module._read(path)
        if found is not None:
            read += 1
            np.testing.assert_array_equal(found[0], rows)
            np.testing.assert_array_equal(found[1], values)
    assert 0 < read < 0.5 * len(places)


def test_each_row_is_read_once(tmp_path):
    """Of data that are read by position, when they are answered."""

    class Rows(list):
        def __getitem__(self, position):
            read.append(position)
            return super().__getitem__(position)

    rng, read, count = np.random.default_rng(0), [], 200
    ids = [rng.integers(1, len(VOCAB), length) for length in rng.integers(1, 10, count)]
    rows = Rows({"token_ids": row, "label": 0} for row in ids)
    model = parts("classes")[2]
    access = BatchAccess(StoredBatches(rows, batch_size=4), 4)
    answers = module.compute_answers(model, access, tmp_path, {}, verbose=0)
    assert sorted(read) == [*range(count)]
    for row in range(0, count, 20):
        alone = model.predict_on_batch([ids[row][None], np.zeros_like(ids[row])[None]])[0]
        np.testing.assert_allclose(answers[row], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["classes", "tags"])
def test_room_is_asked_for_before_all_is_answered(name, texts, tmp_path, monkeypatch):
    """For the pieces, and for the file that is made of them."""
    monkeypatch.setattr(module, "_BATCHES_PER_PIECE", 2)
    batches, model = texts(name), parts(name)[2]
    with interrupted_move(suffix="answers.npy"):
        predecessor_answers(model, batches, tmp_path / "all", verbose=0)
    used = sum(path.stat().st_size for path in (tmp_path / "all").rglob("*.np[yz]"))
    folder, counted = tmp_path / "full", Counted(model)
    said = rf"The teacher's answers need about .* MB in {folder}.*, which cannot be written"
    with full_disk(used), pytest.raises(OSError, match=said):
        predecessor_answers(counted, batches, folder, verbose=0)
    assert counted.calls == 1 and not [*folder.rglob("*.np*")]
    with full_disk(used + 5 * 1000):
        predecessor_answers(counted, batches, folder, verbose=0)
    assert counted.calls == 11


def test_answers_make_no_room_for_weights(tmp_path):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "answers.npy").write_bytes(bytes(9000))
    (tmp_path / "answers" / "0.npz").write_bytes(bytes(9000))
    (tmp_path / "model.weights.h5").write_bytes(bytes(1000))
    with full_disk(4000):
        check_room(tmp_path, 5000)
        with pytest.raises(OSError, match="Checkpoints and weights need about"):
            check_room(tmp_path, 5001)


def test_what_else_is_in_the_folder_stays(tmp_path):
    """With its line in the checksums."""
    for name in ("mine", "answers.npy"):
        replace_listed_file(tmp_path / name, lambda path: path.write_bytes(b"1"))
    (tmp_path / "answers.json").write_text("{}")
    module.remove_answers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "checksums.json"}
    assert [*read_checksums(tmp_path)] == ["mine"]
    # Of what cannot be read nothing is left to keep.
    (tmp_path / "checksums.json").write_text("{")
    module.remove_answers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_answers_of_another_model_or_to_other_texts_are_refused(texts, tmp_path):
    model, batches = parts("classes")[2], texts("classes")
    predecessor_answers(model, batches, tmp_path, verbose=0)
    relu = encoder(2, "relu").model(TASKS["classes"][0].head(SIZE), "predecessor")
    relu.set_weights(model.get_weights())
    for other, asked, what in (
        (relu, batches, r"\(other layers\)"),
        (parts("classes", seed=1)[2], batches, r"\(other weights\)"),
        (model, texts("classes", seed=1), r"\(other texts\)"),
        (model, texts("classes", count=39), r"\(other texts\)"),
    ):
        with pytest.raises(ValueError, match=what):
            predecessor_answers(other, asked, tmp_path, verbose=0)
    path = tmp_path / "answers.npy"
    content = path.read_bytes()
    for damaged in (content[:-4], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"answers\.npy"):
            predecessor_answers(model, batches, tmp_path, verbose=0)


def test_what_cannot_be_an_answer(texts, tmp_path):
    model, batches = parts("classes")[2], texts("classes")
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ArithmeticError, match="NaN"):
        predecessor_answers(model, batches, tmp_path / "1", verbose=0)
    assert not (tmp_path / "1" / "answers.npy").exists()
    spans = encoder(1).model(SpanExtraction().head(SIZE), "spans")
    with pytest.raises(ValueError, match=r"an output per token. Received: .*\(4, 2, "):
        predecessor_answers(spans, batches, tmp_path / "2", verbose=0)


def test_a_progress_line(texts, tmp_path, capsys):
    predecessor_answers(parts("classes")[2], texts("classes"), tmp_path)
    assert capsys.readouterr().out == "The predecessor answers 40 examples\n"


@pytest.mark.parametrize("name", TASKS)
def test_the_targets(name, texts, tokenizer, tmp_path):
    """Labels where there are labels, answers where there are none, and what is between."""
    task, labels = TASKS[name]
    model, batches = parts(name)[2], texts(name)
    examples = [Example("a b", labels[0]), Example("c", labels[1])]
    labelled = task.encode(examples, tokenizer, 16)
    own = predecessor_answers(model, Batches(labelled, 4), tmp_path / "1", verbose=0)
    answers = predecessor_answers(model, batches, tmp_path / "2", verbose=0)
    soft = SoftBatches(
        task,
        [Texts(labelled), Texts(labelled, own, share=0.25), Texts(batches.encoded, answers)],
        batch_size=8,
        multiple=4,
    )
    assert len(soft.encoded.token_ids) == 44 and len(soft) == 6
    wanted = {
        "classes": [[0, 0, 1], [1, 0, 0]],
        "several labels": [[1, 0, 1], [0, 0, 0]],
        "numbers": [[0.5], [-1]],
        "tags": [[[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]],
        "words": [[[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]],
    }[name]
    for row in (0, 1):
        np.testing.assert_array_equal(soft.target(row), wanted[row])
        answer = own[row]
        if name in PER_TOKEN:  # special tokens have no label
            answer[[0, -1]] = 0
        between = 0.25 * answer + 0.75 * np.array(wanted[row])
        np.testing.assert_allclose(soft.target(2 + row), between, rtol=1e-6)
    seen = []
    for (token_ids, segment_ids), targets in soft:
        assert token_ids.shape == segment_ids.shape and targets.dtype == "float32"
        rows = soft.rows[len(seen) :][: len(targets)]
        seen += rows.tolist()
        for row, ids, target in zip(rows, token_ids, targets):
            length = len(soft.encoded.token_ids[row])
            assert (ids[:length] == soft.encoded.token_ids[row]).all()
            if name in PER_TOKEN:
                assert not target[length:].any() and len(target) == len(ids)
                assert not target[[0, length - 1]].any() and target[1 : length - 1].any(1).all()
                target = target[:length]
            np.testing.assert_array_equal(target, soft.target(row))
            if row >= 4 and name not in PER_TOKEN:
                np.testing.assert_array_equal(target, answers[row - 4])
    assert sorted(seen) == [*range(44)]


def test_pairs_among_single_texts(tokenizer):
    task = TASKS["classes"][0]
    texts = [
        Texts(task.encode([Example("a", 0)], tokenizer, 16)),
        Texts(task.encode([Pair("b", "c d", 1)], tokenizer, 16)),
    ]
    (inputs, targets), *none = SoftBatches(task, texts, 4, shuffle=False)
    assert not none and targets.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert inputs[1].tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1]]


def test_what_cannot_be_learned(texts, tmp_path):
    batches = texts("classes")
    answers = predecessor_answers(parts("classes")[2], batches, tmp_path, verbose=0)
    task = TASKS["classes"][0]
    with pytest.raises(ValueError, match="40 answers to 39 texts"):
        SoftBatches(task, [Texts(texts("classes", count=39).encoded, answers)])
    with pytest.raises(ValueError, match=r"2 outputs, .*answers of 3"):
        SoftBatches(Classification("ab"), [Texts(batches.encoded, answers)])
    with pytest.raises(ValueError, match=r"`share` must be a number in \[0, 1\]. Received: 2"):
        SoftBatches(task, [Texts(batches.encoded, answers, 2)])
    with pytest.raises(TypeError, match="spans"):
        SoftBatches(SpanExtraction(), [Texts(batches.encoded, answers)])


@pytest.mark.parametrize("name", TASKS)
def test_the_predecessor_agrees_with_itself(name, texts, tmp_path):
    task, (_, _, model), batches = TASKS[name][0], parts(name), texts(name)
    answers = predecessor_answers(model, batches, tmp_path, verbose=0)
    encoded = answered(task, batches.encoded, answers)
    found = Batches(encoded, 8)
    assert task.score(model, found) == pytest.approx(1)
    assert task.score(model, SoftBatches(task, [Texts(encoded)], 8)) == pytest.approx(1)
    other = task.score(parts(name, seed=1)[2], found)
    assert other < 0.9
    if name in PER_TOKEN:
        assert all((label == NO_LABEL).sum() == 2 for label in encoded.labels)


@pytest.mark.parametrize(
    "name",
    ["classes", "tags", *(pytest.param(n, marks=pytest.mark.slow) for n in TASKS if n[0] in "snw")],
)
def test_a_successor_learns_from_answers_alone(name, texts, tmp_path):
    """And a killed training of them ends as one that was never interrupted."""
    task = TASKS[name][0]
    predecessor, head, model = parts(name)
    train, validation = texts(name, 160), texts(name, 40, seed=1)
    sets = []
    for part, batches in (("train", train), ("validation", validation)):
        answers = predecessor_answers(model, batches, tmp_path / part, verbose=0)
        sets.append([Texts(batches.encoded, answers)])
    sets[1] = [Texts(answered(task, validation.encoded, answers))]
    kept = predecessor, head

    def run(directory, **options):
        keras.utils.set_random_seed(1)
        train, validation = (SoftBatches(task, part, 16, multiple=16) for part in sets)
        return compress(
            kept[0],
            encoder(1),
            kept[1],
            train,
            validation,
            directory=tmp_path / directory,
            predecessor_stage=None,
            warm_start_stage=None,
            initialize="first",
            schedule=1.0,  # so that the loss is the successor's alone
            theseus_stage=Stage(4, 0.02),
            successor_stage=Stage(2, 0.02) if name == "classes" else None,
            latency=False,
            verbose=0,
            **soft_options(task),
            **options,
        )

    result = run("whole")
    assert result.rows[0]["score"] == pytest.approx(1)
    losses = result.stages[0].history["loss"]
    assert losses[-1] < losses[0]
    successor = result.rows[-1]
    assert successor["kept"] == pytest.approx(successor["score"])
    answers = task.score(result.successor, Batches(sets[1][0].encoded, 40))
    assert successor["score"] == pytest.approx(answers, abs=1e-6)
    if name != "classes":
        return

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("killed", callbacks={"theseus": [Kill()]})
    resumed = run("killed")
    for one, other in zip(result.successor.get_weights(), resumed.successor.get_weights()):
        np.testing.assert_array_equal(one, other)
