"""`--train` with a folder that `datasets` has saved: which texts are for what, and what is read."""

import numpy as np
import pytest
from docs_blocks import write_bert

from bert_of_theseus.data import Regression, StoredBatches
from bert_of_theseus.order import Permutation
from bert_of_theseus.pretrained.batches import make_batches
from bert_of_theseus.pretrained.inputs import read_inputs
from bert_of_theseus.pretrained.saved import Part, is_saved_dataset, read_sets

LABELS = ["bad", "good"]
TEXTS = ["a joy", "two hours", "my life", "to watch"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "model"
    write_bert(folder, labels=LABELS)
    return folder


def dataset(count=200, names=("good", "bad"), **columns):
    datasets = pytest.importorskip("datasets")
    columns = columns or {
        "text": [TEXTS[number % 4] for number in range(count)],
        "label": [number % 2 for number in range(count)],
    }
    made = datasets.Dataset.from_dict(columns)
    return made.cast_column("label", datasets.ClassLabel(names=list(names))) if names else made


def test_a_part_is_read_by_position():
    rows = [f"row {number}" for number in range(10)]
    order = Permutation(10, 3)
    parts = [Part(rows, order, 0, 7), Part(rows, order, 7, 10)]
    found = [part[position] for part in parts for position in range(len(part))]
    assert found == [rows[number] for number in order[:]]
    assert parts[0].__getitems__([3, 1]) == [found[3], found[1]]
    for position in (-1, 7):
        with pytest.raises(IndexError):
            parts[0][position]


def test_texts_to_train_on_stay_where_they_are(model, tmp_path):
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    assert is_saved_dataset(tmp_path / "saved")
    assert not is_saved_dataset(model)
    inputs = read_inputs(model, tmp_path / "saved", seed=3)
    # A tenth for the test, and of the rest a tenth for validation.
    assert [inputs.count(name) for name in ("train", "validation", "test")] == [162, 18, 20]
    assert "train" not in inputs.texts
    assert "train: 162 texts, which are read as they are needed" in inputs.describe()
    batches, options = make_batches(inputs, batch_size=8, seed=3)
    assert options == inputs.task.options
    assert sum(len(labels) for _, labels in batches["train"]) == 162
    # "a joy" is number 0, the dataset's "good", and the model's second class.
    joy = inputs.task.stored_batches([{"text": "a joy", "label": "good"}], inputs.tokenizer)[0]
    for (ids, _), labels in batches["train"]:
        for row, label in zip(ids, labels):
            is_joy = row[:4].tolist() == joy[0][0][0, :4].tolist()
            assert label == 1 or not is_joy


def test_the_same_texts_have_the_same_checksums(model, tmp_path):
    dataset().save_to_disk(tmp_path / "one")
    dataset().save_to_disk(tmp_path / "same", num_shards=4)
    dataset(204).save_to_disk(tmp_path / "other")
    one, same, other = (
        read_inputs(model, tmp_path / name).checksums() for name in ("one", "same", "other")
    )
    assert one == same
    assert one["set of train texts"] != other["set of train texts"]
    assert one != read_inputs(model, tmp_path / "one", seed=1).checksums()


def test_splits_and_files_are_used(model, tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = {"train": dataset(100), "valid": dataset(12), "unsupervised": dataset(8)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (tmp_path / "test.csv").write_text("text,label\na joy,good\ntwo hours,bad\n")
    inputs = read_inputs(model, tmp_path / "saved", test=tmp_path / "test.csv", limit=50)
    assert [inputs.count(name) for name in ("train", "validation", "test")] == [50, 12, 2]
    assert inputs.texts["test"].labels.tolist() == [1, 0]
    again = read_sets(tmp_path / "saved", seed=7)
    assert [len(again[name]) for name in ("train", "validation", "test")] == [90, 12, 10]
    positions = [again[name].order[again[name].start : again[name].stop] for name in again]
    train, test = (positions[list(again).index(name)] for name in ("train", "test"))
    assert sorted([*train, *test]) == list(range(100))


def test_what_cannot_be_used_is_refused(model, tmp_path):
    datasets = pytest.importorskip("datasets")

    def refused(saved, match, kind=ValueError, **options):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        saved.save_to_disk(path)
        with pytest.raises(kind, match=match):
            read_inputs(model, path, **options)

    refused(dataset(names=("fine", "poor")), "The task has bad, good; the column has fine, poor")
    refused(dataset(names=None, text=["a"] * 3, other=[1] * 3), "no column is known to hold labels")
    refused(dataset(names=None, text=["a"] * 3), "a column with labels")
    refused(dataset(names=None, text=["a"] * 3, label=[5] * 3), "from 0 to 1. Received: 5")
    refused(dataset(1), "few rows to split")
    refused(dataset(), "`unlabeled` must be left out", unlabeled=tmp_path / "more.txt")
    refused(datasets.DatasetDict({"unsupervised": dataset()}), "rows to train on. It has unsup")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="broken is no saved dataset that can be read"):
        read_inputs(model, tmp_path / "broken")


def test_an_unusable_row_is_named_by_its_place_in_the_dataset(model, tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset().save_to_disk(tmp_path / "saved")
    first = {name: part.name(0) for name, part in read_sets(tmp_path / "saved").items()}
    texts, labels = dataset()["text"], dataset()["label"]
    for name, row in first.items():
        number = int(row.removeprefix("Row "))
        changed = [*texts[:number], "", *texts[number + 1 :]]
        wrong = dataset(names=("good", "bad"), text=changed, label=labels)
        wrong.save_to_disk(tmp_path / name)
        with pytest.raises(ValueError, match=f"{row}: column 'text' is empty"):
            read_inputs(model, tmp_path / name).checksums()
    datasets.DatasetDict(train=dataset(), valid=wrong).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=f"Row {number} of 'valid': column 'text' is empty"):
        read_inputs(model, tmp_path / "splits")
    # What the task itself refuses too, and what is too long.
    saved = read_inputs(model, tmp_path / "saved").saved._replace(task=Regression())
    numbers = [{"text": "a joy", "label": np.nan if i == 7 else 1.0} for i in range(20)]
    with pytest.raises(ValueError, match=r"^Row 7: the label must be"):
        saved.encoded(Part(numbers, Permutation(20, 0), 0, 20))
    ids = [{"token_ids": [1] * (1 + (i == 7)), "label": 0} for i in range(20)]
    with pytest.raises(ValueError, match=r"^Row 7 must have .* at most 1"):
        list(StoredBatches(Part(ids, Permutation(20, 0), 0, 20), max_length=1))


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        read_inputs(model, tmp_path)


def test_batches_of_the_model_are_those_of_the_rows(model, tmp_path):
    dataset().save_to_disk(tmp_path / "saved")
    inputs = read_inputs(model, tmp_path / "saved")
    batches = make_batches(inputs, batch_size=8, seed=3)[0]["train"]
    rows = [inputs.saved.rows[position] for position in range(len(inputs.saved.rows))]
    in_memory = inputs.saved._replace(rows=rows).batches(batch_size=8, seed=3)
    # Rows of a list do not name their numbers.
    for ((ids, _), labels), ((others, _), numbers) in zip(batches, in_memory, strict=True):
        np.testing.assert_array_equal(ids, others)
        np.testing.assert_array_equal(labels, 1 - numbers)
