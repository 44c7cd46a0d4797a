"""Messages that lie in memory of two ranks, here of two threads: each adds up one half."""

import os
import sys
import threading

import numpy as np
import pytest

from distgrad.distributed.verbs import places as subject
from distgrad.distributed.verbs import shared_memory
from distgrad.distributed.verbs.places import Places, bytes_for
from distgrad.distributed.verbs.shared_memory import SharedMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such memory")

LONG, SIZES = 2**18, (("f", 2**18), ("f", 2**18 + 3), ("d", 2**17 + 1), ("F", 2**17))


def ranks_with(sizes):
    """Return memory in which two ranks meet, and their places, one pair for each rank."""
    descriptor, window = shared_memory._make(1)
    os.close(descriptor)
    both = [Places(rank) for rank in range(2)]
    wanted = [each.missing(sizes) for each in both]
    assert wanted[0] == wanted[1]
    descriptor, memory = shared_memory._make(1, bytes_for(wanted[0]))
    os.close(descriptor)
    for each in both:
        each.take_over(memory, wanted[0])
    return [(SharedMemory(window, rank), both[rank]) for rank in range(2)]


def complete(requests):
    """Complete requests and return what came of them."""
    try:
        while True:
            request = next(requests)
            while not request.Test():
                os.sched_yield()
    except StopIteration as end:
        return end.value


def in_threads(work):
    """Return what a function returns for both ranks, each in a thread of its own."""
    found = [None, None]

    def run(rank):
        found[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return found


def drawn(rank, size):
    rng = np.random.default_rng(rank)
    numbers = rng.normal(size=size[1])
    return (numbers * (1 + 2j) if size[0] == "F" else numbers).astype(size[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.3, 0.7), (1.0, 0.0)])
def test_both_messages_become_the_sum_in_the_order_of_the_ranks(size, factors):
    ranks = ranks_with((size,))
    own = [drawn(rank, size) for rank in range(2)]

    def work(rank):
        memory, places = ranks[rank]
        flat = places.take(size[1], np.dtype(size[0]))
        for _ in range(3):  # what was told before is told anew
            flat[...] = own[rank]
            assert complete(places.add_up(memory, flat, factors[rank])) is True
        return flat

    found = in_threads(work)

    scalar = own[0].dtype.type
    expected = own[0] * scalar(factors[0]) + own[1] * scalar(factors[1])
    for each in found:
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("elsewhere", [0, 1])
def test_nothing_is_done_where_one_message_lies_elsewhere(elsewhere):
    ranks = ranks_with((("f", LONG),))

    def work(rank):
        memory, places = ranks[rank]
        flat = np.empty(LONG, "f") if rank == elsewhere else places.take(LONG, np.dtype("f"))
        flat[...] = rank + 1
        assert places.has(flat)
        is_done = complete(places.add_up(memory, flat, 0.5))
        untouched = np.all(flat == rank + 1)
        complete(memory.add_up(flat, 0.5))  # through the window, which then is in step
        return is_done, untouched, np.all(flat == 1.5), places.take(LONG, np.dtype("f")) is not None

    assert in_threads(work) == [(False, True, True, True)] * 2


def test_a_place_is_free_until_somebody_has_it_or_a_view_of_it():
    places = ranks_with((("f", LONG),))[0][1]
    assert len(places.free(("f", LONG))) == 2

    first = places.take(LONG, np.dtype("f"))[1:].reshape(-1, 1)
    second = places.take(LONG, np.dtype("f")).reshape(512, 512)

    assert not np.shares_memory(first, second)
    assert places.take(LONG, np.dtype("f")) is None
    assert not places.free(("f", LONG))
    del first
    assert places.take(LONG, np.dtype("f")) is not None
    assert places.take(LONG, np.dtype("d")) is None


def test_only_the_one_view_of_a_whole_place_holds_it():
    places = ranks_with((("f", LONG),))[0][1]
    view = places.take(LONG, np.dtype("f")).reshape(512, 512)
    assert places.holds(view)

    part = view[1:]
    assert part.base is view.base
    assert not places.holds(view)
    assert not places.holds(part)
    del part
    assert places.holds(view)
    assert not places.holds(np.empty((512, 512), "f"))
    assert not places.holds(np.empty(LONG, "f").reshape(512, 512))


def test_places_are_found_once_for_long_messages_and_no_more_than_there_may_be(monkeypatch):
    monkeypatch.setattr(subject, "_MOST", 6 * 4 * LONG)
    places, short = Places(0), ("f", 1000)
    step = (("f", LONG), short, ("f", LONG), ("f", LONG + 1))

    assert not places.is_settled(step)
    first = places.missing(step)

    assert places.is_settled(step)
    assert first == [("f", LONG)] * 4 + [("f", LONG + 1)]  # a page longer: no second one
    assert places.missing((("d", LONG),)) == []


def test_after_an_interrupted_sum_nothing_more_comes_to_lie_there():
    memory, places = ranks_with((("f", LONG),))[0]
    flat = places.take(LONG, np.dtype("f"))

    requests = places.add_up(memory, flat, 1.0)
    request = next(requests)
    requests.close()  # as an error of the guard's does: the other rank may still come
    del flat

    assert not request.Test()
    assert places.take(LONG, np.dtype("f")) is None
    assert places.free(("f", LONG)) == []
