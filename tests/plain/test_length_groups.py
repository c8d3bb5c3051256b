"""Batches of mixed lengths are divided into groups that take the least time."""

import itertools

import numpy as np
import pytest

from bert_of_theseus.deploy.padding import by_length


def masks(*lengths, width=None):
    return 1 * (np.arange(width or max(lengths)) < np.array(lengths)[:, None])


def cost(groups):
    return sum(len(rows) * length + 16 for rows, length in groups)


@pytest.mark.parametrize("seed", range(20))
def test_each_text_is_in_one_group_with_all_of_its_tokens(seed):
    rng = np.random.default_rng(seed)
    mask = masks(*rng.integers(0, 70, 1 + rng.integers(40)), width=70)
    mask[:, 2] *= rng.integers(0, 2, len(mask))  # a hole is no padding
    mask[0] = 0
    groups = by_length(mask)
    assert sorted(np.concatenate([rows for rows, _ in groups])) == list(range(len(mask)))
    for rows, length in groups:
        assert 1 <= length <= 70 and not mask[rows, length:].any()
        # The output for a row without tokens depends on its length.
        assert length == 70 or mask[rows].any(axis=1).all()
    assert cost(groups) <= cost([(range(len(mask)), 70)])


def test_no_other_groups_take_less_time():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = np.sort(4 * rng.integers(1, 30, 8))
        least = min(
            cost(
                [
                    (range(begin, end), lengths[end - 1])
                    for begin, end in itertools.pairwise((0, *places, len(lengths)))
                ]
            )
            for number in range(len(lengths))
            for places in itertools.combinations(range(1, len(lengths)), number)
        )
        assert cost(by_length(masks(*lengths))) == least


@pytest.mark.parametrize(
    "mask",
    [masks(7), masks(*[50] * 9), masks(50, 49, 48), masks(9, 1), masks(90, 2)[:, ::-1]],
    ids=["one text", "one length", "like lengths", "short", "padding on the left"],
)
def test_a_batch_stays_whole_where_a_division_would_not_pay(mask):
    ((rows, length),) = by_length(mask)
    assert list(rows) == list(range(len(mask))) and length == mask.shape[1]
