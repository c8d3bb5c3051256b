"""Data: files in, batches of token ids out."""

import collections
import json
import random
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from bert_of_theseus.data import (
    Batches,
    Encoded,
    Example,
    Tokenizer,
    load_iflytek,
    load_sst2,
    load_stdlib_docstrings,
    read_json_lines,
    split_off,
)
from bert_of_theseus.data.docstrings import _name_pattern

LABELS = [{"label": str(i), "label_des": name} for i, name in enumerate(["打车", "地图", "其他"])]


def write_lines(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("\n".join(lines).encode())


def row(text, label="0"):
    return {"label": label, "label_des": "?", "sentence": text}


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "labels.json", LABELS)
    rows = [row(f"text {i}", str(i % 3)) for i in range(60)]
    write_lines(tmp_path / "train.json", rows)
    write_lines(tmp_path / "dev.json", [row(f"dev text {i}", "2") for i in range(9)])
    return tmp_path


def test_lines_end_at_newlines_only(tmp_path):
    texts = ["one\u2028two", "three\u0085four", "five\x0csix", "seven\u2029", "eight\r"]
    path = tmp_path / "rows"
    # As CLUE writes them: these characters unescaped.
    content = "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_bytes(content.encode())
    assert [row["t"] for row in read_json_lines(path, ("t",))] == texts
    assert len(content.splitlines()) > len(texts)


def test_blank_lines_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "rows").write_bytes(b'\xef\xbb\xbf{"t": 1}\r\n\r\n{"t": 2}')
    rows = read_json_lines(tmp_path / "rows", ("t",))
    assert [(row["t"], row["line"]) for row in rows] == [(1, 1), (2, 3)]


@pytest.mark.parametrize(
    "content, problem",
    [
        (b'{"t": 1}\n{"t": }\n', r"rows, line 2: not JSON"),
        (b'{"t": 1}\n[1]\n', r"rows, line 2: must be a JSON object. Received: list"),
        (b'{"t": 1}\n\n{"s": 1}\n', r"rows, line 3: lacks 't'"),
        (b"", r"rows is empty"),
        (b"\n \n", r"rows is empty"),
        (b'{"t": "\xff"}', r"rows must be UTF-8"),
    ],
)
def test_bad_rows_are_named(tmp_path, content, problem):
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_json_lines(tmp_path / "rows", ("t",))


def test_iflytek(folder):
    task = load_iflytek(folder, validation_fraction=0.2, seed=1)
    assert task.labels == ["打车", "地图", "其他"]
    assert [len(part) for part in task[:3]] == [48, 12, 9]
    texts = {example.text for example in task.train + task.validation}
    assert texts == {f"text {i}" for i in range(60)}
    assert all(int(e.text.split()[1]) % 3 == e.label for e in task.train + task.validation)
    assert task.majority_share == 1
    assert load_iflytek(folder, validation_fraction=0.2, seed=1) == task
    assert load_iflytek(folder, validation_fraction=0.2, seed=2).validation != task.validation


def test_iflytek_limit(folder):
    task = load_iflytek(folder, limit=20, seed=1)
    assert [len(part) for part in task[:3]] == [18, 2, 9]


def test_numbers_as_labels(folder):
    write_lines(
        folder / "labels.json", [{**label, "label": int(label["label"])} for label in LABELS]
    )
    assert len(load_iflytek(folder).dev) == 9


@pytest.mark.parametrize("name", ["train.json", "dev.json", "labels.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_iflytek(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a folder"):
        load_iflytek(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name, rows, problem",
    [
        ("train.json", [row("a"), row("b", "7")], r"train\.json, line 2: unknown label '7'"),
        ("dev.json", [row("a", None)], r"dev\.json, line 1: unknown label None"),
        ("dev.json", [row(5)], r"dev\.json, line 1: 'sentence' must be a string"),
        ("dev.json", ['{"label": 0, "sentence": "a \\ud83d"}'], r"line 1: 'sentence' is not valid"),
        ("dev.json", [{"label": "0"}], r"dev\.json, line 1: lacks 'sentence'"),
        ("dev.json", [], r"dev\.json is empty"),
        ("train.json", [row("a"), "{"], r"train\.json, line 2: not JSON"),
        ("train.json", [row("a")], r"must be enough to split"),
        ("labels.json", [LABELS[0], LABELS[0]], r"labels\.json, line 2: label '0' again"),
        ("labels.json", [LABELS[0], LABELS[1], LABELS[0]], r"labels\.json, line 3: label '0'"),
    ],
)
def test_bad_iflytek_files_are_named(folder, name, rows, problem):
    write_lines(folder / name, rows)
    with pytest.raises(ValueError, match=problem):
        load_iflytek(folder)


def write_sst2(path, rows, header="sentence\tlabel"):
    path.write_bytes("".join(f"{line}\n" for line in [header, *rows]).encode())


@pytest.fixture
def sst2(tmp_path):
    rows = []
    for i in range(40):  # A sentence, two phrases of its own, and one that all have.
        sentence = f'film {i} is\u2028a "work no {i} of art'
        rows += [f"{sentence} \t{i % 2}", f"film {i} \t1", f"no {i} of \t0", "of art \t1"]
    write_sst2(tmp_path / "train.tsv", rows)
    write_sst2(tmp_path / "dev.tsv", ["a good one \t1\r", "", 'not "so" good \t0'])
    return tmp_path


def test_sst2(sst2):
    task = load_sst2(sst2, validation_fraction=0.2, seed=1)
    assert task.labels == ["negative", "positive"]
    assert task.dev == [Example("a good one", 1), Example('not "so" good', 0)]
    assert [len(part) for part in task[:2]] == [4 * 32 + 8, 8]
    assert load_sst2(sst2, validation_fraction=0.2, seed=1) == task
    assert load_sst2(sst2, validation_fraction=0.2, seed=2).validation != task.validation
    assert [len(part) for part in load_sst2(sst2, limit=3)[:3]] == [3, 3, 2]


def test_sst2_validates_on_sentences_of_which_it_trains_no_phrase(sst2):
    task = load_sst2(sst2, validation_fraction=0.2)
    trained = {example.text for example in task.train}
    for text, label in task.validation:
        number = int(text.split()[1])
        assert text == f'film {number} is\u2028a "work no {number} of art'
        assert label == number % 2
        assert not {text, f"film {number}", f"no {number} of"} & trained
    assert "of art" in trained  # Sentences that are trained on have it too.


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv"])
def test_missing_sst2_file(sst2, name):
    (sst2 / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_sst2(sst2)
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a folder"):
        load_sst2(sst2 / "nowhere")


@pytest.mark.parametrize(
    "rows, header, problem",
    [
        (["fine\t1", "bad\t2"], "sentence\tlabel", "line 3: must be a sentence, a tab"),
        (["fine\t1", "", "bad"], "sentence\tlabel", "line 4: must be a sentence, a tab"),
        (["bad\tbad\t1"], "sentence\tlabel", "line 2: must be a sentence, a tab"),
        ([" \t1"], "sentence\tlabel", "line 2: must be a sentence, a tab"),
        (["fine\t1"], "index\tsentence", "line 1: the header must be"),
        ([], "sentence\tlabel", "is empty"),
        ([], "", "line 1: the header must be"),
    ],
)
@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv"])
def test_bad_sst2_files_are_named(sst2, name, rows, header, problem):
    write_sst2(sst2 / name, rows, header)
    with pytest.raises(ValueError, match=f"{name}.*{problem}"):
        load_sst2(sst2)


def test_split_is_stratified():
    sizes = {0: 1000, 1: 100, 2: 50, 3: 7, 4: 1}
    examples = [Example(f"{c} {i}", c) for c, size in sizes.items() for i in range(size)]
    random.Random(0).shuffle(examples)
    rest, part = split_off(examples, 0.1, seed=3)
    assert sorted(rest + part) == sorted(examples)
    counts = collections.Counter(example.label for example in part)
    assert abs(counts[0] - 100) <= 1
    assert abs(counts[1] - 10) <= 1
    assert abs(counts[2] - 5) <= 1
    assert counts[3] <= 1
    assert counts[4] == 0  # Its only text stays where it can be learnt.
    # The order is kept.
    assert rest == [example for example in examples if example in set(rest)]


def test_split_keeps_equal_texts_together():
    # The same text with other spacing, case, or label.
    examples = [
        Example(form, label)
        for i in range(50)
        for form, label in ((f"App {i}", 0), (f" app  {i}\n", 0), (f"APP {i}", i % 3))
    ]
    for seed in range(20):
        rest, part = split_off(examples, 0.3, seed)
        assert len(part) == 45
        numbers = [{example.text.split()[1] for example in side} for side in (rest, part)]
        assert not numbers[0] & numbers[1]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_split_refuses_a_fraction(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be a number in \(0, 1\)"):
        split_off([Example("a", 0), Example("b", 0)], fraction, 0)


@pytest.mark.parametrize(
    "package, text, masked",
    [
        ("email", "Parse an e-mail Email.Message.", "Parse an e-mail [MASK]."),
        ("email", "See email.message.Message, _email_helper", "See [MASK], [MASK]"),
        ("smtplib", "SMTPException of smtplib, SMTP", "[MASK] of [MASK], [MASK]"),
        ("idlelib", "The IDLE shell idles", "The [MASK] shell [MASK]"),
        ("xml", "An XMLParser, xml.sax, XML; not xmlrpc", "An [MASK], [MASK], [MASK]; not xmlrpc"),
        ("ast", "last cast of an ast.AST", "last cast of an [MASK]"),
        ("lib2to3", "refactor with 2to3 or lib2to3", "refactor with [MASK] or [MASK]"),
    ],
)  # fmt: skip
def test_names_are_masked(package, text, masked):
    assert _name_pattern(package).sub("[MASK]", text) == masked


def test_docstrings_of_the_standard_library():
    seen = []
    task = load_stdlib_docstrings(seed=5, progress=lambda files: seen.extend(files) or files)
    root = sysconfig.get_paths()["stdlib"]
    assert all(str(path).startswith(root) for path in seen)
    assert len(seen) > 300
    assert len(task.labels) == 30
    assert len(task.train) + len(task.validation) + len(task.dev) > 4000
    # Disjoint, also across classes, and up to case and spacing.
    texts = [" ".join(e.text.split()).casefold() for part in task[:3] for e in part]
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= 20
    # Every class is in every set, the largest first, and none is so large that guessing pays.
    for part in task[:3]:
        assert {e.label for e in part} == set(range(30))
    sizes = collections.Counter(e.label for part in task[:3] for e in part)
    assert [sizes[i] for i in range(30)] == sorted(sizes.values(), reverse=True)
    assert task.majority_share < 0.2
    # No text names its package.
    for part in task[:3]:
        for example in part:
            name = task.labels[example.label]
            if len(name) > 3:
                assert name.casefold() not in example.text.casefold()
    assert not {"test", "site-packages", "turtledemo"} & set(task.labels)


@pytest.fixture
def library(tmp_path):
    """A few packages of the standard library."""
    for name in ("asyncio", "email", "http", "importlib", "json", "logging"):
        shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / name, tmp_path / name)
    return {"directory": tmp_path, "num_classes": 4, "limit": 40}


def test_docstrings_are_the_same_again(library):
    first, again, other = (load_stdlib_docstrings(seed=seed, **library) for seed in (5, 5, 6))
    assert first == again != other


def test_docstrings_limit_and_classes(library):
    task = load_stdlib_docstrings(**library)
    assert len(task.labels) == 4
    assert len(task.train) + len(task.validation) == 40
    assert len(task.dev) == 40


def test_texts_of_two_packages_are_dropped_and_broken_files_skipped(tmp_path):
    words = "abcdefghijklmnopqrstuvwxyz"
    for name in ("first", "second"):
        own = "\n".join(
            f'def f{i}(): "Own text {words[i]} of the {name[::-1]} one."' for i in range(12)
        )
        shared = 'def g(): """A text that\n  both of them have."""'
        (tmp_path / f"{name}.py").write_text(f"{own}\n{shared}\n{shared}\n")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "more.py").write_text('"""A docstring in a folder of tests."""')
    task = load_stdlib_docstrings(num_classes=2, directory=tmp_path)
    texts = [e.text for part in task[:3] for e in part]
    assert len(texts) == 24
    assert all(text.startswith("Own text") for text in texts)


def test_library_without_sources(tmp_path):
    with pytest.raises(
        ValueError, match=r"source files of Python's standard library.*Received: 0 files"
    ):
        load_stdlib_docstrings(directory=tmp_path)


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "open", "##ing", "打", "车", "Open"]


@pytest.fixture
def vocab(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return tmp_path / "vocab.txt"


def test_tokenizer(vocab):
    tokenizer = Tokenizer(vocab)
    assert tokenizer.vocab_size == len(VOCAB)
    encoded = tokenizer.encode(
        [Example("Café OPENING 打车", 1), Example("zzz [MASK]", 0), Example("", 2)], max_length=6
    )
    assert [ids.tolist() for ids in encoded.token_ids] == [[2, 5, 6, 7, 8, 3], [2, 1, 4, 3], [2, 3]]
    assert encoded.labels.tolist() == [1, 0, 2]


def test_tokenizer_takes_the_case_from_the_config(vocab):
    (vocab.parent / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer(vocab).encode([Example("Open open", 0)], 9).token_ids[0].tolist() == [
        2,
        10,
        6,
        3,
    ]
    assert Tokenizer(vocab, lowercase=True).lowercase
    (vocab.parent / "tokenizer_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json' is not JSON"):
        Tokenizer(vocab)


@pytest.mark.parametrize(
    "tokens, problem",
    [(VOCAB[1:], r"lacks \[PAD\]"), (VOCAB[:3], r"lacks \[SEP\]"), (VOCAB[::-1], "token 10")],
)
def test_tokenizer_refuses_a_vocabulary(vocab, tokens, problem):
    vocab.write_text("\n".join(tokens), encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        Tokenizer(vocab)
    with pytest.raises(FileNotFoundError, match="nothing"):
        Tokenizer(vocab.parent / "nothing")


@pytest.fixture
def encoded():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 61, size=205)
    return Encoded([np.arange(1, n + 1, dtype="int32") for n in lengths], np.arange(205))


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_hold_every_text_once(encoded, shuffle):
    batches = Batches(encoded, 16, shuffle=shuffle)
    assert len(batches) == len(list(batches)) == 13
    for _ in range(2):
        seen = {}
        for (token_ids, segment_ids), labels in batches:
            assert token_ids.shape == segment_ids.shape
            assert not segment_ids.any()
            for ids, label in zip(token_ids, labels, strict=True):
                text = encoded.token_ids[label]
                assert ids[: len(text)].tolist() == text.tolist()
                assert not ids[len(text) :].any()
                seen[label] = True
        assert len(seen) == 205
        batches.on_epoch_end()


def test_batches_are_of_like_length(encoded):
    batches = Batches(encoded, 16, multiple=8)
    lengths = {inputs[0].shape[1] for inputs, _ in batches}
    assert lengths <= {8, 16, 24, 32, 40, 48, 56, 60}
    padded = sum(inputs[0].size for inputs, _ in batches)
    tokens = sum(map(len, encoded.token_ids))
    # In the order of the file a batch of 16 is as long as the longest of them.
    unsorted = sum(16 * max(map(len, encoded.token_ids[i : i + 16])) for i in range(0, 205, 16))
    assert padded < 1.25 * tokens < 0.75 * unsorted


def test_batches_differ_by_epoch_and_seed(encoded):
    def order(batches):
        return [labels.tolist() for _, labels in batches]

    batches = Batches(encoded, 16, seed=1)
    first = order(batches)
    assert np.concatenate(first).tolist() == batches.labels.tolist()
    assert first == order(batches) == order(Batches(encoded, 16, seed=1))
    assert first != order(Batches(encoded, 16, seed=2))
    batches.on_epoch_end()
    assert sorted(map(sorted, first)) != sorted(map(sorted, order(batches)))


def test_jumping_to_an_epoch_equals_walking_there(encoded):
    def order(batches):
        return [labels.tolist() for _, labels in batches]

    walked, orders = Batches(encoded, 16, seed=1), []
    for epoch in range(4):
        assert walked.epoch == epoch
        orders.append(order(walked))
        walked.on_epoch_end()
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    jumped = Batches(encoded, 16, seed=1)
    for epoch in (3, 0, 2, 1):
        jumped.set_epoch(epoch)
        assert order(jumped) == orders[epoch]
    jumped.on_epoch_end()
    assert (jumped.epoch, order(jumped)) == (2, orders[2])
    with pytest.raises(ValueError, match=r"`epoch` must be .* at least 0\. Received: -1"):
        jumped.set_epoch(-1)


def test_batches_without_shuffling_stay(encoded):
    batches = Batches(encoded, 16, shuffle=False)
    before = batches.labels.tolist()
    batches.on_epoch_end()
    assert batches.labels.tolist() == before
    sizes = [len(encoded.token_ids[label]) for label in before]
    assert sizes == sorted(sizes)


def test_batches_refuse(encoded):
    with pytest.raises(ValueError, match="empty"):
        Batches(Encoded([], np.array([])), 16)
    with pytest.raises(ValueError, match=r"`batch_size` must be .* at least 1\. Received: 0"):
        Batches(encoded, 0)
    with pytest.raises(IndexError):
        Batches(encoded, 16)[13]
