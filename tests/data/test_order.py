"""The order of examples: a permutation an epoch, evenly spread, from any place on."""

import numpy as np
import pytest

from distgrad.data import Order

# Below and above the length up to which words are sorted, at powers of two and beside them.
LENGTHS = [1, 2, 3, 7, 1438, 4096, 4097, 5000, 8192, 8193, 60_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_each_epoch_holds_every_example_once(length):
    order = Order(length, seed=3)

    for epoch in (0, 1, 17):
        places = order.places(epoch * length, (epoch + 1) * length)
        assert np.array_equal(np.sort(places), np.arange(length))


@pytest.mark.parametrize("length", [1438, 60_000])
def test_epochs_and_seeds_differ(length):
    order = Order(length, seed=3)

    first, second = order.places(0, length), order.places(length, 2 * length)
    other = Order(length, seed=4).places(0, length)

    # Of two independent permutations one place is the same on average.
    assert np.count_nonzero(first == second) < 10
    assert np.count_nonzero(first == other) < 10


@pytest.mark.parametrize("length", [10, 1438, 60_000, 10**12])
def test_any_place_is_found_without_those_before(length):
    places = Order(length, seed=1).places(4000, 13_000)

    for start, stop in ((4000, 4001), (4095, 4097), (8190, 8200), (12_999, 13_000)):
        fresh = Order(length, seed=1)
        assert np.array_equal(fresh.places(start, stop), places[start - 4000 : stop - 4000])


def test_a_large_order_takes_no_memory():
    order = Order(10**12, seed=0)

    order.places(10**15, 10**15 + 128)

    assert sum(chunk.nbytes for chunk in order._chunks.values()) < 1 << 20


def test_the_order_stays_that_of_this_version():
    # Checkpoints of older versions go on with it: these numbers must never change.
    assert Order(10, seed=7).places(0, 10).tolist() == [9, 1, 8, 5, 4, 7, 2, 0, 3, 6]
    assert Order(10**6, seed=7).places(0, 5).tolist() == [598414, 97047, 49952, 222747, 684547]


@pytest.mark.parametrize("length", [60, 5000])
def test_every_example_comes_as_often_at_every_place(length):
    # Above 4096 by the network: 10 parts of the places against 10 parts of the examples.
    counts = np.zeros((10, 10))
    epochs = 400 if length == 60 else 40
    order = Order(length, seed=11)
    for epoch in range(epochs):
        places = order.places(epoch * length, (epoch + 1) * length)
        np.add.at(counts, (np.arange(length) * 10 // length, places * 10 // length), 1)

    expected = length * epochs / 100
    # 81 degrees of freedom, and a little less spread than of independent draws: mean 81, sd 13.
    assert 81 - 65 < np.sum((counts - expected) ** 2 / expected) < 81 + 65


def test_neighbours_in_the_data_are_no_neighbours_in_the_order():
    places = Order(60_000, seed=2).places(0, 60_000)

    steps = np.diff(places)
    # Of a random permutation, a step is +1 or -1 with probability 1 / n each.
    assert np.count_nonzero(np.abs(steps) == 1) < 12
    # The sums of products of neighbours are those of independent numbers: sd 1 / sqrt(n).
    centred = places - places.mean()
    correlation = np.mean(centred[1:] * centred[:-1]) / centred.var()
    assert abs(correlation) < 5 / np.sqrt(60_000)


def test_without_shuffling_examples_come_in_turn():
    assert Order(4, seed=0, shuffle=False).places(2, 7).tolist() == [2, 3, 0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 0), "length is 0; expected one example at least"), ((3, -1), "seed is -1")],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(arguments[0], seed=arguments[1])
