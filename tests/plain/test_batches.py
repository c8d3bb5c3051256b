"""Batches: what a model is given for padding, segments and labels of any kind."""

import numpy as np
import pytest

from bert_of_theseus.data import NO_LABEL, Batches, Encoded

LENGTHS = [3, 11, 5, 8, 2]


def encoded(**options):
    ids = [np.arange(1, length + 1, dtype="int32") for length in LENGTHS]
    options.setdefault("labels", np.arange(len(LENGTHS)))
    return Encoded(ids, **options)


def test_padding_has_its_own_id_and_mask():
    # Token 0 may be a real one, as in RoBERTa, where padding is 1.
    texts = Encoded([np.zeros(n, "int32") for n in LENGTHS], np.arange(5))
    names = ["token_ids", "padding_mask"]
    batches = Batches(texts, 2, pad_token_id=1, input_names=names)
    for inputs, labels in batches:
        assert list(inputs) == names
        for row, number in enumerate(labels):
            length = LENGTHS[number]
            assert inputs["padding_mask"][row].tolist() == [
                int(place < length) for place in range(inputs["token_ids"].shape[1])
            ]
            assert (inputs["token_ids"][row] == 1 - inputs["padding_mask"][row]).all()


@pytest.mark.parametrize("segments", [True, False])
def test_inputs_by_name_are_those_of_the_list(segments):
    ids = [np.arange(n, dtype="int32") % 2 for n in LENGTHS] if segments else None
    texts = encoded(segment_ids=ids)
    listed, named = Batches(texts, 2), Batches(texts, 2, input_names=["segment_ids", "token_ids"])
    for (inputs, labels), (by_name, same) in zip(listed, named, strict=True):
        assert list(by_name) == ["segment_ids", "token_ids"]
        np.testing.assert_array_equal(inputs[0], by_name["token_ids"])
        np.testing.assert_array_equal(inputs[1], by_name["segment_ids"])
        np.testing.assert_array_equal(labels, same)


def test_labels_per_token_are_padded_without_a_label():
    tags = [np.full(n, 7, "int32") for n in LENGTHS]
    answers = [np.full((n, 3), 0.25, "float32") for n in LENGTHS]
    for labels in (tags, answers):
        for inputs, target in Batches(encoded(labels=labels), 2):
            assert target.dtype == labels[0].dtype
            assert target.shape == inputs[0].shape + labels[0].shape[1:]
            is_token = inputs[0] > 0
            assert (target[is_token] == labels[0].flat[0]).all()
            assert (target[~is_token] == NO_LABEL).all()


def test_probabilities_are_labels():
    answers = np.random.default_rng(0).random((5, 3)).astype("float32")
    batches = Batches(encoded(labels=answers), 2)
    found = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(found, answers[batches.rows])
    assert found.dtype == "float32"


def test_batches_hold_no_copy():
    texts = encoded()
    assert Batches(texts, 2).encoded is texts


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`input_names` must be some of .*Received: \['ids'\]"):
        Batches(encoded(), input_names=["ids"])
    with pytest.raises(ValueError, match="`pad_token_id` must be"):
        Batches(encoded(), pad_token_id=-1)
    texts = [np.arange(2), np.arange(0)]
    with pytest.raises(ValueError, match=r"tokens for each text\. Number 1 has none"):
        Batches(Encoded(texts, np.arange(2)))
    for changed in ({"segment_ids": [np.ones(2), np.ones(1)]}, {"labels": [np.ones(2)] * 2}):
        with pytest.raises(ValueError, match=r"Text [01] of `encoded` must have as many .* tokens"):
            Batches(Encoded(**{"token_ids": [np.ones(2), np.ones(3)], "labels": None, **changed}))
