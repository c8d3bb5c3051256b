"""Orders of any number of rows: each row once, every order as likely, no memory."""

import collections
import itertools
import tracemalloc

import numpy as np
import pytest

from bert_of_theseus.order import Permutation


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 1000, 65537])
def test_each_number_occurs_once(count):
    order = Permutation(count, [42, 0])
    assert len(order) == count
    assert sorted(order[:].tolist()) == list(range(count))
    np.testing.assert_array_equal(np.concatenate([order[:3], order[3:]]), order[:])
    assert [order[place] for place in range(min(count, 3))] == order[:3].tolist()
    for place in (count, -1, np.array([count]), np.array([[0], [-1]]), 0.5, np.array([0.5])):
        with pytest.raises(IndexError):
            order[place]
    assert order[np.array([], int)].tolist() == []


def test_every_order_of_a_few_is_as_likely():
    draws = 12000
    found = collections.Counter(tuple(Permutation(4, [seed, 1])[:]) for seed in range(draws))
    expected = draws / 24
    orders = itertools.permutations(range(4))
    chi_square = sum((found[order] - expected) ** 2 / expected for order in orders)
    assert chi_square < 23 + 4 * np.sqrt(2 * 23)  # 23 degrees of freedom, four sigma


def test_places_of_many_say_nothing_about_the_numbers():
    count = 10**8
    order = Permutation(count, [42, 3])
    for places in (slice(0, 4000), slice(count - 4000, count)):
        numbers = order[places] / count
        assert abs(numbers.mean() - 0.5) < 4 / np.sqrt(12 * 4000)
        for lag in (1, 2, 100):
            assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 4 / np.sqrt(4000)
    assert np.intersect1d(order[:4000], Permutation(count, [42, 4])[:4000]).size < 4


def test_an_order_of_many_takes_no_memory():
    Permutation(10, 0)[:5]
    tracemalloc.start()
    try:
        order = Permutation(10**15, [42, 0])
        order[10**14 : 10**14 + 640]
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
