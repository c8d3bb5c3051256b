"""Hugging Face's datasets, grain's and PyTorch's, from which `StoredBatches` reads."""

import numpy as np
import pytest

from bert_of_theseus.data import Classification, StoredBatches, Tokenizer

WORDS = ["good", "bad", "film", "plot", "actors"]


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]), encoding="utf-8")
    return Tokenizer(path, lowercase=True)


def rows(count=300):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(count)]
    return [{"text": text, "label": number % 2} for number, text in enumerate(texts)]


def assert_same_batches(one, other):
    for ((ids, _), labels), ((other_ids, _), other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(labels, other_labels)
    assert one.fingerprint == other.fingerprint


def test_a_saved_dataset_has_the_batches_of_its_rows(tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    dataset = datasets.Dataset.from_list(rows(), features=features)
    dataset.save_to_disk(tmp_path / "saved", num_shards=3)
    stored = datasets.load_from_disk(tmp_path / "saved")
    task = Classification(["neg", "pos"])
    options = {"max_length": 10, "batch_size": 4, "seed": 1}
    in_memory = task.stored_batches(rows(), tokenizer, **options)
    assert_same_batches(in_memory, task.stored_batches(stored, tokenizer, **options))
    # The dataset's own names count.
    other = Classification(["pos", "neg"]).stored_batches(stored, tokenizer, **options)
    for (_, labels), (_, others) in zip(in_memory, other, strict=True):
        np.testing.assert_array_equal(labels, 1 - others)


def test_a_tokenized_dataset_in_any_format(tokenizer):
    datasets = pytest.importorskip("datasets")
    task = Classification(["neg", "pos"])
    expected = task.stored_batches(rows(), tokenizer, 10, batch_size=4)

    def tokenized(batch):
        encodings = tokenizer.encode_batch(batch["text"], 10)
        return {"input_ids": [encoding.ids for encoding in encodings]}

    dataset = datasets.Dataset.from_list(rows()).map(tokenized, batched=True)
    for form in (None, "numpy"):
        stored = StoredBatches(dataset.with_format(form), batch_size=4, max_length=10)
        for (ids, labels), (other, others) in zip(expected, stored, strict=True):
            np.testing.assert_array_equal(ids[0], other[0])
            np.testing.assert_array_equal(labels, others)


@pytest.mark.parametrize("splits", [{"train": 8}, {"train": 8, "test": 2}])
def test_a_dataset_in_splits_is_refused(splits, tokenizer):
    datasets = pytest.importorskip("datasets")
    given = datasets.DatasetDict(
        {k: datasets.Dataset.from_list(rows(n)) for k, n in splits.items()}
    )
    for read in (StoredBatches, lambda data: Classification("ab").stored_batches(data, tokenizer)):
        with pytest.raises(TypeError, match=r"`DatasetDict`, give one split.*dict with Dataset"):
            read(given)


def test_a_map_dataset_of_grain(tokenizer):
    grain = pytest.importorskip("grain")
    task = Classification(["neg", "pos"])
    in_memory = task.stored_batches(rows(), tokenizer, 10, batch_size=4)
    source = grain.MapDataset.source(rows())
    assert_same_batches(in_memory, task.stored_batches(source, tokenizer, 10, batch_size=4))
    with pytest.raises(TypeError, match="be read by position"):
        task.stored_batches(source.to_iter_dataset(), tokenizer)
