"""Batches of rows that are read by position: the same as of a list, wherever one begins."""

import functools
import sys

import numpy as np
import pytest
from docs_blocks import run_block

from bert_of_theseus.data import (
    Classification,
    Encoded,
    Example,
    MultiLabel,
    Pair,
    Regression,
    StoredBatches,
    Tagging,
    TokenClassification,
    Tokenizer,
    encode_token_ids,
)

COUNT = 500
WORDS = ["good", "bad", "film", "plot", "actors"]


class Rows:
    """Rows that are made up when they are read, and remember which were."""

    def __init__(self, count=COUNT):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        self.read.append(position)
        rng = np.random.default_rng(position)
        ids = rng.integers(3, 9, size=rng.integers(1, 20)).tolist()
        return {"token_ids": [1 + position % 2, *ids], "label": position % 2}


class RowsInBulk(Rows):
    """As `datasets.Dataset` reads them."""

    def __getitems__(self, positions):
        return [self[position] for position in positions]


def test_lengths_are_rounded_to_at_most_the_longest():
    widths = {ids.shape[1] for (ids, _), _ in StoredBatches(Rows(), batch_size=8, max_length=20)}
    assert widths == {8, 16, 20}


def same(one, other):
    (ids, segments), labels = one
    (other_ids, other_segments), other_labels = other
    np.testing.assert_array_equal(ids, other_ids)
    np.testing.assert_array_equal(segments, other_segments)
    np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_those_of_the_rows_in_memory(shuffle):
    in_memory = [Rows()[position] for position in range(COUNT)]
    options = {"batch_size": 8, "shuffle": shuffle, "seed": 3, "max_length": 20}
    expected = StoredBatches(in_memory, **options)
    for rows in (Rows(), RowsInBulk()):
        stored = StoredBatches(rows, **options)
        for epoch in (0, 2):
            expected.set_epoch(epoch), stored.set_epoch(epoch)
            for one, other in zip(expected, stored, strict=True):
                same(one, other)


def test_an_epoch_has_each_row_once_and_an_order_of_its_own():
    batches = StoredBatches(Rows(), batch_size=8)
    orders = []
    for epoch in range(2):
        assert batches.epoch == epoch
        positions = [batches.rows_of(index) for index in range(len(batches))]
        assert sorted(map(len, positions)) == [4, *[8] * 62]
        orders.append(np.concatenate(positions).tolist())
        assert sorted(orders[-1]) == list(range(COUNT))
        batches.on_epoch_end()
    assert orders[0] != orders[1]
    batches.set_epoch(0)
    assert np.concatenate([batches.rows_of(i) for i in range(len(batches))]).tolist() == orders[0]
    plain = StoredBatches(Rows(), batch_size=8, shuffle=False)
    assert sorted(plain.rows_of(0).tolist() + plain.rows_of(1).tolist()) != list(range(16))
    assert sorted(np.concatenate([plain.rows_of(i) for i in range(20)])) == list(range(160))


def test_a_batch_holds_its_rows_with_little_padding():
    rows = Rows()
    batches = StoredBatches(rows, batch_size=8, multiple=1)
    padding = total = 0
    for index, ((ids, segments), labels) in enumerate(batches):
        assert (ids[:, -1] > 0).any()
        for position, row, label in zip(batches.rows_of(index), ids, labels):
            wanted = rows[position]
            length = len(wanted["token_ids"])
            assert row.tolist() == wanted["token_ids"] + [0] * (len(row) - length)
            assert label == wanted["label"]
        assert not segments.any()
        padding, total = padding + (ids == 0).sum(), total + ids.size
    assert padding < 0.1 * total  # half of it, were they not sorted


def test_the_middle_is_read_without_what_is_before():
    whole, rows = StoredBatches(Rows(), batch_size=4), Rows()
    whole.set_epoch(2)
    resumed = StoredBatches(rows, batch_size=4)
    resumed.set_epoch(2)
    first = len(whole) // 2 + 5
    for index in range(first, len(whole)):
        same(whole[index], resumed[index])
    # Pools of 20 batches, each once.
    positions = [whole.rows_of(index) for index in range(first // 20 * 20, len(whole))]
    assert sorted(rows.read) == sorted(np.concatenate(positions).tolist())


def test_many_rows_take_no_memory():
    import tracemalloc

    def peak(count):
        tracemalloc.start()
        try:
            batches = StoredBatches(Rows(count), batch_size=32)
            batches.set_epoch(1)
            batches[len(batches) // 2]
            assert batches.fingerprint.startswith(f"{count} rows")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2000)  # what is imported on first use
    assert peak(10**8) < 1.1 * peak(10**4)


def test_a_fingerprint_tells_rows_apart():
    def fingerprint(change=lambda rows: None, **options):
        rows = [Rows()[position] for position in range(COUNT)]
        change(rows)
        return StoredBatches(rows, **options).fingerprint

    first = fingerprint()
    assert first == fingerprint(seed=7, batch_size=4) == StoredBatches(RowsInBulk()).fingerprint
    assert first != fingerprint(lambda rows: rows.pop())
    assert first != fingerprint(lambda rows: rows[0].update(label=1))
    assert first != fingerprint(lambda rows: rows[-1]["token_ids"].append(3))


def test_arrays_of_columns_are_rows(tmp_path):
    ids = np.random.default_rng(0).integers(1, 9, size=(50, 6))
    mask = np.arange(6) < np.random.default_rng(1).integers(1, 7, size=(50, 1))
    np.save(tmp_path / "ids.npy", ids * mask)
    stored = np.load(tmp_path / "ids.npy", mmap_mode="r")
    columns = {"input_ids": stored, "attention_mask": mask, "labels": np.arange(50) % 3}
    batches = StoredBatches(columns, batch_size=8, multiple=1)
    for index, ((got, _), labels) in enumerate(batches):
        positions = batches.rows_of(index)
        width = mask[positions].sum(1).max()
        np.testing.assert_array_equal(got, (ids * mask)[positions, :width])
        np.testing.assert_array_equal(labels, positions % 3)


def test_labels_may_be_numbers_lists_or_one_for_each_token():
    ids = [[1, 2, 3], [4, 5]]
    soft = [{"token_ids": i, "label": [0.5, 0.25]} for i in ids]
    assert encode_token_ids(soft).labels.shape == (2, 2)
    tags = [{"token_ids": i, "labels": i, "token_type_ids": [0] * len(i)} for i in ids]
    encode = functools.partial(encode_token_ids, per_token=True)
    (_, segments), labels = StoredBatches(tags, encode, batch_size=2, shuffle=False)[0]
    assert labels.tolist() == [[4, 5, -1, *[-1] * 5], [1, 2, 3, *[-1] * 5]]
    assert segments.shape == labels.shape


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 0}, "there must be token_ids or input_ids. Received: label"),
        ({"token_ids": [1]}, "there must be label or labels"),
        ({"token_ids": [1], "input_ids": [1], "label": 0}, "one of token_ids and input_ids"),
        ({"token_ids": [], "label": 0}, "token_ids must be a list of whole numbers"),
        ({"token_ids": [1.5], "label": 0}, "token_ids must be a list of whole numbers"),
        ({"token_ids": "a text", "label": 0}, "token_ids must be a list of whole numbers"),
        ({"token_ids": [2**32 + 1], "label": 0}, "token_ids must be from 0 to 2147483647"),
        ({"token_ids": [-1], "label": 0}, "token_ids must be from 0 to"),
        ({"token_ids": [1], "label": None}, "a label must be numbers. Received: None"),
        ({"token_ids": [1], "label": "good"}, "a label must be numbers. Received: 'good'"),
        ({"token_ids": [1, 2], "label": 0, "attention_mask": [0, 1]}, "ones, and then zeros"),
        ({"token_ids": [1], "label": 0, "attention_mask": [1, 1]}, "as many as there are tokens"),
        ({"token_ids": [1] * 3, "label": 0, "attention_mask": [1, 1]}, "tokens, 3. Received: 2"),
        ({"token_ids": [1] * 3, "label": 0, "segment_ids": [1]}, "tokens, 3. Received: 1"),
        ({"token_ids": [1] * 21, "label": 0}, "at most 20. Received: 21"),
        ((1, 2), "a row must be a dict with token ids and a label. Received: tuple"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message):
    rows = [Rows()[position] for position in range(300)]
    if "segment_ids" in row:
        rows = [{**other, "segment_ids": other["token_ids"]} for other in rows]
    rows[217] = row
    batches = StoredBatches(rows, batch_size=8, max_length=20)
    with pytest.raises((ValueError, TypeError), match="Row 217") as caught:
        list(batches)
    assert message in str(caught.value)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("part", ["segment_ids", "label"])
def test_a_row_that_differs_from_the_others_is_named(part, there):
    """Where the others have segment ids or not, and labels of another shape."""
    with_it = {"token_ids": [1, 2], "segment_ids": [0, 1], "label": [0, 1]}
    without = {"token_ids": [1, 2], "label": 0}
    if part == "label":
        message = r"labels must be of one shape.* Received: shape \(\d?,?\), and shape"
        del with_it["segment_ids"]
    else:
        message = "all rows must have segment ids, or none. Received: (no )?segment ids, and"
        with_it["label"] = 0
    rows = [without if there else with_it] * 300
    rows[217] = with_it if there else without
    with pytest.raises(ValueError, match=f"^Example 217: {message}.* in 299 of 300 rows"):
        encode_token_ids(rows)
    with pytest.raises(ValueError, match=f"^Row 217: {message}"):
        list(StoredBatches(rows, batch_size=8))


def test_the_row_that_an_own_function_names_is_named():
    def encode(rows):
        if len(rows) > 1:
            raise TypeError(
                f"Example {[row['number'] for row in rows].index(217)}: not with others"
            )
        return encode_token_ids(rows)

    rows = [{**Rows()[position], "number": position} for position in range(300)]
    with pytest.raises(TypeError, match=r"^Row 217: not with others"):
        StoredBatches(rows, encode, batch_size=300)[0]


@pytest.mark.parametrize(
    ("labels", "mask", "message"),
    [
        ([1, 2], [1, 1, 1], "tokens, 3. Received: 2"),
        ([1] * 20, [1, 1, 1], "tokens, 3. Received: 20"),
        ([1], [1, 1, 0], r"tokens, 2 \(or 3 with padding\). Received: 1"),
        (1, [1, 1, 1], "Received: a single one"),
    ],
)
def test_a_row_with_other_than_a_label_for_each_token_is_named(labels, mask, message):
    rows = [{"token_ids": [1, 2, 3], "label": [1, 2, 3], "attention_mask": [1, 1, 1]}] * 30
    rows[7] = {**rows[0], "label": labels, "attention_mask": mask}
    encode = functools.partial(encode_token_ids, per_token=True)
    with pytest.raises(ValueError, match=f"^Row 7: labels must be as many as .*{message}"):
        StoredBatches(rows, encode, batch_size=4)[0]


def test_labels_per_token_may_be_padded_or_not():
    row = {"token_ids": [1, 2, 0, 0], "attention_mask": [1, 1, 0, 0]}
    rows = [{**row, "label": label} for label in ([3, 4], [3, 4, -100, -100])]
    encoded = encode_token_ids(rows, per_token=True)
    assert [label.tolist() for label in encoded.labels] == [[3, 4], [3, 4]]


@pytest.mark.parametrize("part", ["segment_ids", "labels"])
def test_what_an_own_function_gives_must_be_as_long_as_the_tokens(part):
    def encode(rows):
        ids = [np.array(row["token_ids"]) for row in rows]
        parts = {"token_ids": ids, "labels": np.zeros(len(rows)), part: [i[:5] for i in ids]}
        return Encoded(**parts)

    rows = [{"token_ids": [1] * (6 if position == 7 else 3)} for position in range(30)]
    with pytest.raises(ValueError, match=r"^Row 7 must have as many .* tokens, 6. Received: 5"):
        StoredBatches(rows, encode, batch_size=4)[0]


def test_columns_that_are_no_arrays_are_refused():
    columns = {"token_ids": [[1, 2], [3]], "label": [0, 1]}
    splits = {"train": Rows(), "test": Rows()}  # a `datasets.DatasetDict` is such a dict
    single = {"token_ids": np.ones((3, 2), int), "label": np.array(3)}
    for rows, kind in [(columns, "list"), (splits, "Rows"), (single, "ndarray")]:
        with pytest.raises(TypeError, match=f"`DatasetDict`, give one split.*dict with {kind}"):
            StoredBatches(rows)
    frame = pytest.importorskip("pandas").DataFrame({"token_ids": [1, 2], "label": [0, 1]})
    for rows in (frame, dict(frame)):
        with pytest.raises(TypeError, match=r"Received: .*(DataFrame|Series)"):
            StoredBatches(rows)


def test_each_thread_gets_the_batch_that_it_asks_for():
    batches = StoredBatches(Rows(), batch_size=4)
    expected = batches.rows_of(0).tolist()
    others = []

    def between_two_lines(frame, event, argument):
        """What another thread may do at this moment."""
        if event == "line":
            others.append(batches.rows_of(len(batches) - 1))
        return between_two_lines

    def in_the_module(frame, event, argument):
        return between_two_lines if frame.f_code.co_filename.endswith("stored.py") else None

    before = sys.gettrace()
    sys.settrace(in_the_module)
    try:
        found = batches.rows_of(0).tolist()
    finally:
        sys.settrace(before)
    assert others and found == expected


def test_rows_that_cannot_be_used_are_refused():
    with pytest.raises(TypeError, match=r"`grain\.DataLoader`.*Received: generator"):
        StoredBatches(row for row in ())
    with pytest.raises(TypeError, match="Received: set"):
        StoredBatches({1, 2})
    with pytest.raises(ValueError, match=r"at least one.*\[0\]"):
        StoredBatches([])
    with pytest.raises(ValueError, match=r"one length.*\[2, 3\]"):
        StoredBatches({"token_ids": np.ones((2, 3)), "label": np.ones(3)})
    for option in ("batch_size", "multiple", "max_length"):
        with pytest.raises(ValueError, match=f"`{option}` must be"):
            StoredBatches(Rows(), **{option: 0})
    for ids, labels in [(1, 500), (500, 1), (500, 501)]:
        encoded = Encoded([np.ones(1)] * ids, np.ones(labels))
        with pytest.raises(ValueError, match=r"entry for each row\. Received: (1|501) for 500"):
            StoredBatches(Rows(), lambda rows, encoded=encoded: encoded)[0]
    with pytest.raises(IndexError):
        StoredBatches(Rows())[16]


# Texts.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]), encoding="utf-8")
    return Tokenizer(path, lowercase=True)


def texts(count=200):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 30))) for _ in range(count)]


def test_texts_are_those_that_are_encoded_at_once(tokenizer):
    task, found = Classification(["bad", "good"]), {}
    examples = [Example(text, number % 2) for number, text in enumerate(texts())]
    expected = task.encode(examples, tokenizer, 16)
    names = [{"sentence": e.text, "label": task.labels[e.label]} for e in examples]
    numbers = [{"sentence": e.text, "label": e.label} for e in examples]
    for rows in (examples, names, numbers):
        batches = task.stored_batches(rows, tokenizer, 16, batch_size=8, seed=1)
        assert batches.label_names == ("bad", "good")
        for index, ((ids, _), labels) in enumerate(batches):
            for position, row, label in zip(batches.rows_of(index), ids, labels):
                wanted = expected.token_ids[position]
                assert row[: len(wanted)].tolist() == wanted.tolist()
                assert label == expected.labels[position]
                assert not row[len(wanted) :].any()
                found[position] = True
    assert len(found) == len(examples)


def test_pairs_lists_numbers_and_tags_are_read(tokenizer):
    pair = {"premise": "good film", "hypothesis": "bad", "label": 1}
    batches = Classification(["a", "b"]).stored_batches([pair, pair], tokenizer, 12)
    assert batches[0][0][1].any()  # the second segment
    assert Classification(["a", "b"]).stored_batches([Pair("a", "b", 0)], tokenizer, 12)[0]
    several = MultiLabel(["a", "b"])
    rows = [{"text": "good", "labels": ["a"]}, {"text": "bad film", "labels": []}]
    batches = several.stored_batches(rows, tokenizer, 12, shuffle=False)
    assert batches[0][1].tolist() == [[1, 0], [0, 0]]
    rows = [{"text": "good", "score": 0.5}]
    assert Regression().stored_batches(rows, tokenizer, 12)[0][1].tolist() == [[0.5]]
    rows = [{"tokens": ["good", "film"], "ner_tags": ["O", "B-x"]}]
    tags = TokenClassification(["O", "B-x", "I-x"]).stored_batches(rows, tokenizer, 12)
    assert tags[0][1][0, :4].tolist() == [-1, 0, 1, -1]


class Feature:
    """As `datasets.ClassLabel`."""

    def __init__(self, names):
        self.names = names


class Dataset(list):
    """Rows with the `features` of a `datasets.Dataset`."""

    def __init__(self, rows, names):
        super().__init__(rows)
        self.features = {"text": object(), "label": Feature(names)}


def test_numbers_are_those_of_the_datasets_own_names(tokenizer):
    rows = [{"text": "good", "label": 0}, {"text": "bad film", "label": 1}]
    task = Classification(["neg", "pos"])

    def labels(names, task=task):
        batches = task.stored_batches(Dataset(rows, names), tokenizer, 12, shuffle=False)
        return batches[0][1].tolist()

    assert labels(["neg", "pos"]) == [0, 1]
    assert labels(["pos", "neg"]) == [1, 0]
    assert labels(["bad", "good"], Classification(["LABEL_0", "LABEL_1"])) == [0, 1]
    with pytest.raises(ValueError, match=r"The task has neg, pos; the column has bad, good"):
        labels(["bad", "good"])


def test_a_text_that_cannot_be_used_is_named(tokenizer):
    task = Classification(["neg", "pos"])
    good = {"text": "good", "label": 0}
    for bad, message in [
        ({"text": "", "label": 0}, "Row 30: column 'text' is empty"),
        ({"text": None, "label": 0}, "Row 30: column 'text' must be a string"),
        ({"text": "good", "label": None}, "Row 30: column 'label' must hold a label"),
        ({"text": "good", "label": "fine"}, "Row 30: label 'fine' must be one of the task's: neg"),
        ({"text": "good", "label": 2}, "Row 30: a label must be from 0 to 1. Received: 2"),
        (None, "Row 30: a row must be a dict. Received: NoneType"),
    ]:
        rows = [good] * 30 + [bad] + [good] * 30
        with pytest.raises((ValueError, TypeError)) as caught:
            list(task.stored_batches(rows, tokenizer, 12, batch_size=4))
        assert message in str(caught.value)
    examples = [Example("good", 0)] * 5 + [Example("bad", None)]
    with pytest.raises(ValueError, match="Row 5: there must be a label"):
        list(task.stored_batches(examples, tokenizer, 12))
    for rows, message in [
        ([{"text": "a", "title": "b", "label": 0}], "several may hold the texts"),
        ([{"text": "a"}], "a column with labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            task.stored_batches(rows, tokenizer, 12)
    with pytest.raises(TypeError, match="`Example`s alone"):
        Tagging(["x"]).stored_batches([good], tokenizer, 12)
    with pytest.raises(TypeError, match="Received: str"):
        task.stored_batches(["good"], tokenizer, 12)


def test_as_documented(tmp_path, monkeypatch):
    (tmp_path / "bert-base").mkdir()
    vocabulary = "[PAD] [UNK] [CLS] [SEP] a joy two hours".replace(" ", "\n")
    (tmp_path / "bert-base" / "vocab.txt").write_text(vocabulary)
    monkeypatch.chdir(tmp_path)
    scope = {}
    run_block("stored", scope)
    found = {tuple(ids[:4]): label for ids, label in zip(scope["token_ids"], scope["labels"])}
    assert found == {(2, 4, 5, 3): 1, (2, 6, 7, 3): 0}
