"""The predictor over ONNX Runtime: no Keras, and no TensorFlow in the process."""

import copy
import gc
import json
import math
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import tiny_onnx
from threads import count_wrong, exit_status
from tiny_onnx import LABELS, MAX_LENGTH, VOCAB

from bert_of_theseus import Predictor
from bert_of_theseus.checkpoints.heads import HeadFacts
from bert_of_theseus.deploy import open_runtime
from bert_of_theseus.deploy import predictor as predictor_module
from bert_of_theseus.deploy.arrival import arrived
from bert_of_theseus.deploy.forms import quickest
from bert_of_theseus.deploy.padding import by_length

IDS = {token: number for number, token in enumerate(VOCAB)}


def texts(count, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz天"])
    return [" ".join(rng.choice(letters, n)) for n in rng.integers(1, longest + 1, count)]


def scores(*parts, width=3):
    """What the model in tiny_onnx makes of a text, or of a pair of texts."""
    of_tokens, of_segments = tiny_onnx.tables(width)
    ids, segments = [IDS["[CLS]"]], [0]
    for segment, part in enumerate(parts):
        words = [*part.replace(" ", ""), "[SEP]"]
        ids += [IDS[word] for word in words]
        segments += [segment] * len(words)
    return of_tokens[ids] + of_segments[segments]


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def values(result):
    return [result["probabilities"][label] for label in LABELS]


def assert_alike(found, expected):
    """The same labels, and the same probabilities up to the last digits."""
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    np.testing.assert_allclose([*map(values, found)], [*map(values, expected)], atol=1e-6)


def _predict(predictor, some):
    """In another process: by its own copy, or by the one that was there at the fork."""
    return (predictor or SHARED[0]).predict(some)


SHARED = []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def predictor(folder):
    SHARED[:] = [Predictor.load(folder)]
    return SHARED[0]


def test_labels_and_probabilities(predictor):
    found = predictor(texts(100))
    for text, row in zip(texts(100), found, strict=True):
        expected = softmax(scores(text).sum(0))
        np.testing.assert_allclose(values(row), expected, atol=1e-6)
        assert row["label"] == LABELS[expected.argmax()]
        assert row["probability"] == max(values(row)) == next(iter(row["probabilities"].values()))
    assert len({row["label"] for row in found}) == 3  # or this would say little
    json.dumps(found)  # plain Python


def test_order_and_batches_change_nothing(folder, predictor):
    some = texts(90, seed=1)
    expected = predictor.predict(some)
    for batch_size in (1, 2, 7, 64, 1000):
        other = Predictor.load(folder, batch_size=batch_size)
        assert_alike(other.predict(some), expected)
        assert_alike(list(other.stream(iter(some))), expected)
        assert_alike(other.predict(some[::-1])[::-1], expected)
    assert_alike([predictor.predict(text) for text in some], expected)
    assert_alike(predictor(text for text in some), expected)
    assert predictor.predict([]) == [] == list(predictor.stream([]))


@pytest.mark.parametrize("tags", [False, True])
def test_groups_of_like_lengths_change_nothing(tags, tmp_path):
    """A batch whose padding is worth a division runs in groups, unseen from outside."""
    folder = tiny_onnx.write(tmp_path / "model", tags=tags)
    predictor = Predictor.load(folder, batch_size=50)
    some = [*texts(120, seed=3, longest=4), *texts(10, seed=4, longest=28)]
    some = [some[place] for place in np.random.default_rng(0).permutation(len(some))]
    mask = np.arange(32) < np.sort([len(text.split()) + 2 for text in some])[-50:, None]
    assert len(by_length(mask)) > 1
    found = predictor.predict(some)
    for text, row in zip(some, found, strict=True):
        rows = row["tokens"] if tags else [row]
        expected = scores(text)[1:-1] if tags else scores(text).sum(0)[None]
        for token, probabilities in zip(rows, softmax(expected), strict=True):
            assert token["label"] == LABELS[probabilities.argmax()]
            assert abs(token["probability"] - probabilities.max()) < 1e-6
    assert predictor.predict(some[:1]) == [predictor.predict(some[0])]


def test_batches_hold_texts_of_like_length(folder, predictor):
    shapes = []

    def runtime(token_ids, segment_ids, attention_mask):
        shapes.append(token_ids.shape)
        np.testing.assert_array_equal(attention_mask, token_ids != 0)
        return predictor._runtime(token_ids, segment_ids)

    spy = Predictor(runtime, predictor.tokenizer, LABELS, max_length=MAX_LENGTH, batch_size=10)
    some = texts(300, seed=2)
    spy.predict(some)
    padded = sum(rows * length for rows, length in shapes)
    assert padded < 300 * 18  # tokens; 300 * 24 in batches as they come
    assert len({length for _, length in shapes}) <= 3


def test_pairs(predictor):
    pairs = list(zip(texts(20, seed=3, longest=10), texts(20, seed=4, longest=10)))
    for pair, row in zip(pairs, predictor.predict(pairs)):
        np.testing.assert_allclose(values(row), softmax(scores(*pair).sum(0)), atol=1e-6)
    assert_alike(predictor.predict([list(pair) for pair in pairs]), predictor.predict(pairs))
    # A tuple of two is one pair, a list of two is two texts.
    assert_alike([predictor.predict(pairs[0])], predictor.predict(pairs[:1]))
    assert_alike(predictor.predict(list(pairs[0])), [predictor.predict(t) for t in pairs[0]])
    with pytest.raises(TypeError, match="Received: a single pair of texts"):
        next(predictor.stream(pairs[0]))
    # The other way round is another pair: the segments count.
    turned = predictor.predict([pair[::-1] for pair in pairs])
    assert any(abs(np.subtract(values(a), values(b))).max() > 1e-3
               for a, b in zip(turned, predictor.predict(pairs)))  # fmt: skip


def test_long_texts_are_cut_and_that_is_said_once(folder):
    predictor = Predictor.load(folder, max_length=8)
    with pytest.warns(UserWarning, match="longer than 8 tokens and is cut") as caught:
        found = predictor.predict(["a b c d e f g h i j", "a", "b " * 50])
    assert caught[0].filename == __file__
    expected = softmax(scores("a b c d e f").sum(0))
    np.testing.assert_allclose(values(found[0]), expected, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(predictor.stream(["c " * 9]))
    assert predictor.num_cut == 3
    fresh = Predictor.load(folder, max_length=8)
    with pytest.warns(UserWarning, match="is cut") as caught:
        list(fresh.stream(["b " * 50]))
    assert caught[0].filename == __file__


def test_a_stream_reads_no_further_ahead_than_it_must(folder):
    predictor, taken = Predictor.load(folder, batch_size=2), 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield "a b"

    stream = predictor.stream(endless())
    for given in range(1, 200):
        next(stream)
        assert taken < given + 64


@pytest.mark.slow
def test_a_stream_keeps_nothing(folder):
    stream = Predictor.load(folder, batch_size=2).stream("a b" for _ in iter(int, 1))
    for _ in range(1000):
        next(stream)
    tracemalloc.start()
    for _ in range(3000):
        next(stream)
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(3000):
        next(stream)
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert grown < 50_000  # bytes; the texts alone would take more


def test_independent_labels(tmp_path):
    folder = tiny_onnx.write(tmp_path / "a", classifier_activation="sigmoid")
    for text, row in zip(texts(50), Predictor.load(folder).predict(texts(50))):
        expected = 1 / (1 + np.exp(-scores(text).sum(0)))
        np.testing.assert_allclose(values(row), expected, atol=1e-6)
        assert set(row["labels"]) == {name for name, p in zip(LABELS, expected) if p >= 0.5}


def test_logits_and_numbers(tmp_path):
    folder = tiny_onnx.write(tmp_path / "a", classifier_activation="linear")
    row = Predictor.load(folder).predict("a b")
    np.testing.assert_allclose(values(row), softmax(scores("a b").sum(0)), atol=1e-6)
    folder = tiny_onnx.write(tmp_path / "b", labels=["LABEL_0"], classifier_activation="linear")
    row = Predictor.load(folder).predict("a b")
    assert row.keys() == {"value"}
    assert abs(row["value"] - scores("a b", width=1).sum()) < 1e-5


def test_tokens(tmp_path):
    predictor = Predictor.load(tiny_onnx.write(tmp_path / "a", tags=True))
    text = "É a天 xs"  # no such words as É, and x with its ending
    (row,) = predictor.predict([text])
    spans = [(token["start"], token["end"]) for token in row["tokens"]]
    assert spans == [(0, 1), (2, 3), (3, 4), (5, 6), (6, 7)]
    assert [token["text"] for token in row["tokens"]] == ["É", "a", "天", "x", "s"]
    of_tokens, of_segments = tiny_onnx.tables()
    for token, word in zip(row["tokens"], ["e", "a", "天", "x", "##s"]):
        expected = softmax(of_tokens[IDS[word]] + of_segments[0])
        assert token["label"] == LABELS[expected.argmax()]
        assert abs(token["probability"] - expected.max()) < 1e-6
    with pytest.raises(TypeError, match=r"tags tokens.*Received: a pair"):
        predictor.predict([("a", "b")])


@pytest.mark.parametrize("texts, what", [
    (["a", None], "number 1: None"),
    ([1.5], r"number 0: 1\.5"),
    ([b"a"], "number 0: b'a'"),
    ([("a", "b", "c")], "number 0: "),
    ([("a", 1)], "number 0: "),
    (["a"] * 2000 + [float("nan")], "number 2000: nan"),
    (["a", "\ud800"], "number 1 is not valid Unicode"),
])  # fmt: skip
def test_what_is_no_text(predictor, texts, what):
    for predict in (predictor.predict, lambda texts: list(predictor.stream(texts))):
        with pytest.raises(TypeError, match=what):
            predict(texts)
    with pytest.raises(TypeError, match="Received: a single text"):
        next(predictor.stream("abc"))


def test_any_character_is_text(predictor):
    odd = ["", " ", "\u2028", "\x00", "a\u2028b", "🙂" * 5, "é́", "\ufeff", "[PAD] [MASK]"]
    assert len(predictor.predict(odd)) == len(odd)
    np.testing.assert_allclose(
        values(predictor.predict("a\u2028b")), softmax(scores("ab").sum(0)), atol=1e-6
    )


def test_outputs_that_are_not_finite(predictor):
    """NaN is no score, and no JSON either."""
    broken = [IDS["q"]]

    def runtime(token_ids, segment_ids, attention_mask):
        outputs = predictor._runtime(token_ids, segment_ids, attention_mask)
        outputs[(token_ids == broken[0]).any(1), 1] = np.nan
        return outputs

    holed = Predictor(runtime, predictor.tokenizer, LABELS, max_length=32, batch_size=4)
    assert_alike(holed.predict(["a", "b"]), predictor.predict(["a", "b"]))
    for predict in (holed.predict, lambda some: list(holed.stream(some))):
        with pytest.raises(ValueError, match="output for text number 161 is NaN or infinite"):
            predict(["a b"] * 161 + ["a q"] + ["a"] * 7)
    broken[0] = IDS["[SEP]"]
    with pytest.raises(ValueError, match="output for an empty text is NaN"):
        Predictor(runtime, predictor.tokenizer, LABELS)


# Where it runs.


@pytest.mark.parametrize("num_workers", [2, 3, 9])
def test_workers_change_nothing(num_workers, folder):
    some = texts(300, seed=4)
    expected = Predictor.load(folder, batch_size=4).predict(some)
    predictor = Predictor.load(folder, batch_size=4, num_threads=3, num_workers=num_workers)
    assert predictor.num_workers == min(num_workers, 3)
    for copied in (predictor, pickle.loads(pickle.dumps(predictor))):
        assert copied.num_workers == predictor.num_workers
        assert_alike(copied.predict(some), expected)
        assert_alike(list(copied.stream(iter(some))), expected)
        assert_alike([copied.predict(some[0])], expected[:1])


class Workers:
    """A runtime that two threads call at once, or neither of them returns."""

    num_workers = 2

    def __init__(self, runtime):
        self.runtime, self.num_calls, self.has_failed = runtime, 0, False
        self.both = threading.Barrier(2, timeout=60)

    def __call__(self, token_ids, segment_ids, attention_mask):
        self.num_calls += 1
        if self.has_failed:
            time.sleep(0.05)  # in which the others can be called off
        elif self.num_calls > 1:  # after the empty text that it is tried with
            self.both.wait()
        if (token_ids == IDS["q"]).any():
            self.has_failed = True
            raise RuntimeError("no q")
        return self.runtime(token_ids, segment_ids, attention_mask)


def test_as_many_batches_at_once_as_there_are_workers(predictor):
    runtime, some = Workers(predictor._runtime), texts(24, seed=5)
    some = [text.replace("q", "a") for text in some]
    pair = Predictor(runtime, predictor.tokenizer, LABELS, max_length=MAX_LENGTH, batch_size=4)
    assert_alike(pair.predict(some), predictor.predict(some))
    assert runtime.num_calls == 7
    with pytest.raises(RuntimeError, match="no q"):  # of the longest text, so of the first batch
        pair.predict(["q " * 20] + ["a"] * 4000)
    assert runtime.num_calls < 7 + 16


@pytest.mark.parametrize("calls", [60, pytest.param(250, marks=pytest.mark.slow)])
def test_threads_share_a_predictor(calls, folder):
    some = texts(200, seed=9)
    predictor = Predictor.load(folder, batch_size=4, num_threads=2)
    expected = {text: values(row) for text, row in zip(some, predictor.predict(some))}
    assert count_wrong(predictor, some, expected, calls) == (0, 8 * calls)


@pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork:DeprecationWarning")
def test_in_other_processes(folder, predictor):
    """Forked, and pickled to one that is fresh."""
    some = texts(20, seed=9)
    expected = predictor.predict(some)
    for context in ("fork", "spawn"):
        with multiprocessing.get_context(context).Pool(2) as pool:
            again = predictor if context == "spawn" else None
            answers = [pool.apply_async(_predict, (again, some)) for _ in range(4)]
            for answer in answers:
                assert_alike(answer.get(timeout=60), expected)
    assert copy.deepcopy(predictor).max_length == predictor.max_length
    with pytest.raises(TypeError, match=r"pickled if `Predictor\.load` made it"):
        pickle.dumps(Predictor(predictor._runtime, predictor.tokenizer, LABELS, max_length=9))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_that_was_forked_while_a_model_was_loading_can_load_one(folder, monkeypatch):
    """Threads of the parent hold locks that nobody gives back in the child."""
    begun, may_end = threading.Event(), threading.Event()

    class Loading(Predictor):
        @classmethod
        def load(cls, *arguments):
            begun.set()
            may_end.wait(60)
            return Predictor.load(*arguments)

    thread = threading.Thread(target=arrived, args=(Loading, "key", (folder,)))
    thread.start()
    assert begun.wait(60)
    status = exit_status(lambda: Predictor.load(folder).predict(["a"]), seconds=20)
    may_end.set()
    thread.join()
    assert status == 0


def test_copies_in_a_process_are_one(tmp_path, monkeypatch):
    """A cluster sends one with each task: a process must not load the model each time."""
    tiny_onnx.write(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    first = Predictor.load("model", batch_size=5, num_threads=1)
    sent, sent_again = pickle.dumps(first), pickle.dumps(Predictor.load("model"))
    monkeypatch.chdir("/")  # as a process elsewhere
    # Also to the process that it comes from: Dask unpickles there what it sends.
    assert pickle.loads(sent) is first
    expected = first.predict(["a b"])
    del first
    copy = pickle.loads(sent)
    assert copy is pickle.loads(sent) is pickle.loads(pickle.dumps(copy))
    assert copy.batch_size == 5 and copy.predict(["a b"]) == expected
    # Of what was loaded anew, the files may be new.
    assert pickle.loads(sent_again) is not copy
    # Between tasks nothing refers to it, and it stays.
    number = id(copy)
    del copy
    gc.collect()
    assert id(pickle.loads(sent)) == number


class Answers:
    """A runtime that gives each text the same answer, and takes its time."""

    def __init__(self, probability, seconds=0.0):
        self.probability, self.seconds = probability, seconds

    def __call__(self, token_ids, segment_ids, mask):
        time.sleep(self.seconds)
        return np.tile(np.float32([self.probability, 1 - self.probability]), (len(token_ids), 1))


def test_of_forms_with_equal_answers_the_quickest_runs(folder):
    tokenizer = Predictor.load(folder).tokenizer

    def form(kind, *arguments):
        return Predictor(Answers(*arguments), tokenizer, ["a", "b"], max_length=16, kind=kind)

    slow, quick = form("onnx", 0.25, 0.05), form("tflite", 0.251)
    assert quickest([slow, quick]) is quickest([quick, slow]) is quick
    assert quickest([slow]) is slow
    with pytest.raises(ValueError, match="'onnx' and 'tflite' must be of one model"):
        quickest([slow, form("tflite", 0.75)])
    other = form("tflite", 0.25)
    other._runtime = lambda token_ids, *_: np.full((len(token_ids), 3), 1 / 3, "float32")
    with pytest.raises(ValueError, match="'onnx' and 'tflite' must be of one model"):
        quickest([slow, other])
    # The first one works, whatever another does.
    broken = form("tflite", 0.25)
    broken._runtime.probability = math.nan
    with pytest.warns(UserWarning, match="The form 'tflite' is left out: .*NaN"):
        assert quickest([slow, broken]) is slow


@pytest.mark.parametrize("limits, kinds", [((16, 32), ["onnx", "tflite"]), ((32, 16), ["onnx"])])
def test_texts_are_cut_alike_whichever_form_runs(limits, kinds, folder, monkeypatch):
    """The first form's limit counts, so a form with a lower one takes no part."""
    facts = HeadFacts(None, LABELS, "softmax", len(LABELS))
    runtime = open_runtime(folder / "model.onnx")
    forms = []
    for kind, limit in zip(("onnx", "tflite"), limits):
        form = copy.copy(runtime)
        form._limits = form._limits._replace(max_length=limit)
        forms.append((kind, facts, form))
    monkeypatch.setattr(predictor_module, "open_forms", lambda *_: forms)
    seen = []
    monkeypatch.setattr(predictor_module, "quickest", lambda found: seen.append(found) or found[-1])
    assert Predictor.load(folder).max_length == limits[0]
    assert [predictor.kind for predictor in seen[0]] == kinds


# Loading.


def test_which_kind_is_picked(tmp_path):
    folder = tiny_onnx.write(tmp_path / "a", kinds=["onnx", "int8.onnx"])
    assert Predictor.load(folder).kind == "onnx"
    assert Predictor.load(folder, kind="int8.onnx").kind == "int8.onnx"
    # Hugging Face's names come first.
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.onnx", folder / "onnx")
    (folder / "model.onnx").write_bytes(b"not a model")
    assert Predictor.load(folder).kind == "onnx"
    (folder / "onnx/model.onnx").unlink()
    (folder / "model.onnx").unlink()
    assert Predictor.load(folder).kind == "int8.onnx"
    (folder / "model.int8.onnx").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"a checkpoint, onnx/model\.onnx, model\.onnx.*Found: config\.json"
    ):
        Predictor.load(folder)
    assert "kind='int8.onnx', 3 labels, max_length=32" in repr(
        Predictor.load(tiny_onnx.write(tmp_path / "b", kinds=["int8.onnx"]))
    )


def test_labels_that_have_no_names(tmp_path):
    folder = tiny_onnx.write(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["id2label"]
    (folder / "config.json").write_text(json.dumps(config))
    assert Predictor.load(folder).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


REFUSED = {
    "no folder": (None, {}, FileNotFoundError, "it is missing"),
    "no config": ("config.json", {}, FileNotFoundError, r"config\.json.*Found: model\.onnx"),
    "no vocab": ("vocab.txt", {}, FileNotFoundError, r"vocab\.txt.*It holds: config\.json"),
    "no model": ("model.onnx", {}, FileNotFoundError, r"a checkpoint, onnx/model\.onnx"),
    "an unknown kind": ("", {"kind": "h5"}, ValueError, "one of onnx, tflite.*Received: 'h5'"),
    "a missing kind": ("", {"kind": "tflite"}, FileNotFoundError, r"model\.tflite\. Found: "),
    "no checkpoint": ("", {"kind": "keras"}, FileNotFoundError, "a checkpoint for Keras"),
    "too long": ("", {"max_length": 33}, ValueError, "at most 32.*Received: 33"),
    "too short": ("", {"max_length": 2}, ValueError, "at least 3. Received: 2"),
    "no length": ("", {"max_length": 0}, ValueError, "at least 3. Received: 0"),
    "no batch": ("", {"batch_size": 0}, ValueError, "`batch_size`.*Received: 0"),
    "no worker": ("", {"num_workers": 0}, ValueError, "`num_workers`.*Received: 0"),
    "half a batch": ("", {"batch_size": 1.5}, TypeError, "`batch_size`.*Received: 1.5"),
    "no threads": ("", {"num_threads": 0}, ValueError, "num_threads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded(case, tmp_path):
    gone, options, error, message = REFUSED[case]
    folder = tmp_path / "a"
    if gone is not None:
        tiny_onnx.write(folder)
    if gone:
        (folder / gone).unlink()
    with pytest.raises(error, match=message) as caught:
        Predictor.load(folder, **options)
    if not options:
        assert str(folder) in str(caught.value)


CONFIGS = {
    "another model's": ({"vocab_size": 40}, r"model\.onnx' knows 33 tokens.*vocab_size.* is 40"),
    "labels twice": ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "must have distinct labels"),
    "no head": ({"architectures": ["BertModel"]}, "with a head.*Received: BertModel"),
    "another task": ({"architectures": ["BertForMaskedLM"]}, "Received: BertForMaskedLM"),
    "of tokens": ({"architectures": ["BertForTokenClassification"]}, "a head of token labels"),
    "another family": ({"model_type": "gpt2"}, "of type 'gpt2'; supported: 'bert', 'roberta'"),
    "too few labels": ({"id2label": {"0": "a", "1": "b"}}, "3 outputs, and there are 2 labels"),
    "numbers": ({"id2label": ["a", "b", "c"]}, "to strings in id2label"),
    "no such output": ({"classifier_activation": "tanh"}, "not 'tanh'"),
    "too few rows": ({"vocab_size": 30}, "33 tokens.*30 embeddings"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_do_not_fit(case, tmp_path):
    changes, message = CONFIGS[case]
    folder = tiny_onnx.write(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as caught:
        Predictor.load(folder)
    assert str(folder) in str(caught.value)
    # What the model puts out is not what the config says.
    folder = tiny_onnx.write(tmp_path / "b", classifier_activation="linear")
    text = (folder / "config.json").read_text(encoding="utf-8").replace("linear", "softmax")
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="add up to"):
        Predictor.load(folder)


def run(code, *arguments):
    kept = {k: v for k, v in os.environ.items() if k not in ("TF_KERAS", "KERAS_BACKEND")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=kept
    )


def test_onnx_needs_no_tensorflow(folder):
    done = run(
        "import sys; from bert_of_theseus import Predictor\n"
        "print(Predictor.load(sys.argv[1]).predict('a')['label'])\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'torch', 'jax', 'bert4keras'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in LABELS


def test_a_package_that_is_not_installed(folder):
    done = run(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from bert_of_theseus import Predictor\n"
        "Predictor.load(sys.argv[1])",
        folder,
    )
    assert done.returncode == 1
    assert "ImportError: onnxruntime is needed" in done.stderr
    assert "pip install onnxruntime" in done.stderr
