"""Batches: the same whatever the threads and ranks, from any place on, and errors that come out."""

import gc
import os
import signal
import threading
import time
import traceback
import weakref
from contextlib import suppress

import numpy as np
import pytest

import distgrad.distributed as dist
from distgrad.data import Dataset, Draws, Loader, PartialRows, from_arrays, memory
from distgrad.errors import ShapeError

NUMBERS = from_arrays(np.arange(10))


def threads():
    return {each.name for each in threading.enumerate() if each.name.startswith("distgrad-data")}


def take(loader, count):
    return [next(loader).tolist() for _ in range(count)]


@pytest.mark.parametrize(
    ("last", "sizes"),
    [("across", [4, 4, 4, 4, 4]), ("keep", [4, 4, 2, 4, 4]), ("drop", [4, 4, 4, 4, 4])],
)
def test_the_last_examples_of_an_epoch_go_where_they_are_to(last, sizes):
    with Loader(NUMBERS, 4, seed=1, last=last) as loader:
        batches = take(loader, 5)

    assert [len(batch) for batch in batches] == sizes
    flat = [place for batch in batches for place in batch]
    if last == "drop":
        assert len(set(flat[:8])) == len(set(flat[8:16])) == 8
    else:
        assert sorted(flat[:10]) == list(range(10))


def test_a_batch_may_be_larger_than_the_data():
    with Loader(NUMBERS, 25, seed=0) as loader:
        counts = np.bincount(next(loader), minlength=10)

    assert set(counts) == {2, 3}


@pytest.mark.parametrize("threads", [0, 1])
def test_a_batch_larger_than_the_memory_is_refused_at_once(threads):
    with (
        Loader(
            NUMBERS, 10**14, seed=0, rows=lambda size: (0, size // 2), threads=threads
        ) as loader,
        pytest.raises(
            MemoryError, match=r"50000000000000 of them here, takes 745,058 GiB at least"
        ),
    ):
        next(loader)


def test_the_limit_of_a_container_counts_as_the_memory(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "limit").write_text("1048576\n")
    paths = (tmp_path / "memory.max", tmp_path / "limit", tmp_path / "missing")
    monkeypatch.setattr(memory, "_LIMITS", paths)

    assert memory.machine_memory() == 2**20


@pytest.mark.parametrize("last", ["across", "keep", "drop"])
@pytest.mark.parametrize("given", range(7))
def test_a_loader_goes_on_from_any_batch(last, given):
    def augmented():
        data = NUMBERS.map(lambda x, draws: x + draws.uniform(), random=True)
        return Loader(data, 4, seed=5, last=last)

    with augmented() as first, augmented() as second:
        take(first, given)
        state = first.state()
        second.load_state(state)

        assert take(second, 6) == take(first, 6)
    assert all(type(value) is int for value in state.values())


def test_batches_depend_on_neither_threads_nor_how_far_ahead():
    def slow(x, draws):
        time.sleep(0.002 * (x[0] % 3))  # threads overtake each other
        return x + draws.normal()

    data = from_arrays(np.arange(57)).map(slow, random=True)
    runs = []
    for count, ahead in ((0, 1), (1, 1), (3, 5)):
        with Loader(data, 8, seed=2, threads=count, ahead=ahead) as loader:
            runs.append(take(loader, 15))

    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_share_each_batch_without_a_gap_or_an_example_twice(ranks):
    data = from_arrays(np.arange(11)).map(lambda x, d: (x, d.uniform()), random=True)
    with Loader(data, 4, seed=3) as whole:
        expected = [next(whole) for _ in range(6)]

    parts = []
    for rank in range(ranks):
        world = dist.RecordedCommunicator(size=ranks, rank=rank)

        def rows(size, rank=rank):
            return rank * size // ranks, (rank + 1) * size // ranks

        with Loader(data, 4, seed=3, rows=rows) as loader:
            parts.append([dist.shard(next(loader), world) for _ in range(6)])

    for number, (places, numbers) in enumerate(expected):
        assert np.array_equal(np.concatenate([part[number][0] for part in parts]), places)
        assert np.array_equal(np.concatenate([part[number][1] for part in parts]), numbers)


def test_a_rank_reads_its_own_rows_alone():
    read = []

    class Watched(Dataset):
        def __len__(self):
            return 100

        def read(self, places):
            read.append(len(places))
            return places

    with Loader(Watched(), 10, seed=0, rows=lambda size: (3, 6), threads=0) as loader:
        batch = next(loader)

    assert read == [3]
    assert (batch.shape, batch[3:6].shape, batch[4:4].shape) == ((10,), (3,), (0,))
    with pytest.raises(IndexError, match="rows 2 to 6 were asked for, but this rank has read 3 to"):
        batch[2:6]
    with pytest.raises(IndexError, match="expected a slice"):
        batch[4]
    with pytest.raises(IndexError):
        np.asarray(batch)


def test_a_rank_without_rows_knows_the_shape():
    with Loader(from_arrays(np.zeros((9, 3))), 2, seed=0, rows=lambda size: (0, 0)) as loader:
        batch = next(loader)

    assert isinstance(batch, PartialRows)
    assert (batch.shape, batch[0:0].shape) == ((2, 3), (0, 3))


# --- threads --------------------------------------------------------------------------------------


def test_no_more_batches_are_prepared_than_allowed():
    started = []

    class Counted(Dataset):
        def __len__(self):
            return 1000

        def read(self, places):
            started.append(len(places))
            return places

    with Loader(Counted(), 2, seed=0, threads=2, ahead=3) as loader:
        next(loader)
        time.sleep(0.1)
        assert len(started) == 4  # the one that was given, and three


def test_an_error_in_a_thread_comes_out_with_its_own_traceback():
    def breaks(x):
        if 7 in x:
            raise RuntimeError("seven is broken")
        return x

    with Loader(from_arrays(np.arange(10)).map(breaks), 2, seed=0, shuffle=False) as loader:
        assert take(loader, 3) == [[0, 1], [2, 3], [4, 5]]
        for _ in range(2):  # it is not passed over
            with pytest.raises(RuntimeError, match="seven is broken") as caught:
                next(loader)
    assert "in breaks" in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("only_references_count")
def test_a_batch_that_failed_goes_with_its_error():
    rows = []

    def breaks(x):
        rows.append(weakref.ref(x))
        raise RuntimeError("broken")

    loader = Loader(from_arrays(np.arange(10)).map(breaks), 2, seed=0)
    with suppress(RuntimeError):  # pytest.raises would keep it
        next(loader)
    loader.close()

    assert rows
    assert {row() for row in rows} == {None}


@pytest.mark.parametrize("count", [0, 1])
def test_a_data_set_that_stops_iteration_does_not_end_the_batches_in_silence(count):
    def runs_out(x):
        return next(iter([]))

    with (
        Loader(from_arrays(np.arange(10)).map(runs_out), 2, seed=0, threads=count) as loader,
        pytest.raises(RuntimeError, match="the data set raised StopIteration"),
    ):
        list(loader)


@pytest.mark.parametrize("rows", [None, lambda size: (0, size)])
def test_a_map_that_leaves_examples_out_is_refused(rows):
    data = from_arrays({"x": np.arange(10)}).map(lambda each: {"x": each["x"][each["x"] > 5]})

    with (
        Loader(data, 10, seed=0, rows=rows) as loader,
        pytest.raises(ShapeError, match=r"x has shape \(4,\) for 10 examples; expected one row"),
    ):
        next(loader)


def test_a_forked_process_goes_on_with_threads_of_its_own():
    with Loader(NUMBERS, 3, seed=0, threads=0) as plain:
        expected = take(plain, 5)
    with Loader(NUMBERS, 3, seed=0, threads=2) as loader:
        first = next(loader)
        child = os.fork()
        if not child:
            signal.alarm(20)  # it would wait for ever
            took = [next(loader).tolist() for _ in range(4)]
            os._exit(0 if took == expected[1:] else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [first.tolist(), *take(loader, 4)] == expected


def test_a_loader_that_is_closed_after_each_epoch_keeps_nothing_of_its_threads():
    loader = Loader(NUMBERS, 4, seed=1)
    next(loader)
    pool = weakref.ref(loader._pool)
    loader.close()
    gc.collect()

    assert pool() is None


def test_no_thread_is_left_after_close_or_without_a_reference():
    loader = Loader(NUMBERS, 3, seed=0)
    next(loader)
    assert threads()
    loader.close()
    assert not threads()

    next(loader)  # it can be used again
    assert threads()
    del loader
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_waiting_for_data_is_measured():
    def slow(x):
        time.sleep(0.03)
        return x

    with Loader(NUMBERS.map(slow), 5, seed=0) as loader:
        next(loader)

    assert loader.waited >= 0.03


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (0, {}, "batch is 0; expected 1 or more"),
        (3, {"threads": -1}, "threads is -1"),
        (3, {"ahead": 0}, "ahead is 0"),
        (3, {"last": "pad"}, "last is 'pad'; expected one of across, keep, drop"),
        (11, {"last": "drop"}, "leaves none"),
    ],
)
def test_what_makes_no_sense_is_refused(batch, options, message):
    with pytest.raises(ValueError, match=message):
        Loader(NUMBERS, batch, seed=0, **options)


@pytest.mark.parametrize("name", ["batch", "threads", "ahead", "seed"])
def test_what_is_no_integer_is_refused(name):
    with pytest.raises(TypeError, match=f"{name} .*2.5.*expected"):
        Loader(NUMBERS, **{"batch": 3, "seed": 0, name: 2.5})


def test_numbers_may_be_those_of_numpy():
    with (
        Loader(NUMBERS, np.int64(3), seed=np.int64(2)) as loader,
        Loader(NUMBERS, 3, seed=2) as other,
    ):
        assert take(loader, 5) == take(other, 5)
        assert type(loader.state()["seed"]) is int


@pytest.mark.parametrize(("name", "other"), [("seed", 9), ("examples", 11)])
def test_a_state_of_another_order_is_refused(name, other):
    loader = Loader(NUMBERS, 3, seed=0)

    with pytest.raises(ValueError, match=f"of a loader with {name} {other}"):
        loader.load_state({**loader.state(), name: other})


# --- random numbers of examples -------------------------------------------------------------------


def test_maps_of_a_chain_and_epochs_have_numbers_of_their_own():
    def noise(x, draws):
        return np.concatenate([x, draws.uniform((1,))], axis=1)

    data = from_arrays(np.zeros((5, 1))).map(noise, random=True)
    data = data.subset(np.arange(5)).map(noise, random=True)

    first = data.take(np.arange(5), seed=1, epoch=0)
    second = data.take(np.arange(5), seed=1, epoch=1)
    assert len(np.unique(np.concatenate([first[:, 1:], second[:, 1:]]))) == 20


def test_draws_are_spread_as_they_should_be():
    draws = Draws(3, depth=0, epoch=0, places=np.arange(20_000))

    uniform, whole = draws.uniform(), draws.integers(-1, 2, (2,))
    normal, rare = draws.normal((3,)), draws.bernoulli(0.1)

    assert abs(uniform.mean() - 0.5) < 0.01
    assert (uniform.min() >= 0, uniform.max() < 1) == (True, True)
    assert np.allclose(np.bincount(whole.ravel() + 1) / 40_000, 1 / 3, atol=0.015)
    assert (abs(normal.mean()) < 0.02, abs(normal.std() - 1) < 0.02) == (True, True)
    assert abs(rare.mean() - 0.1) < 0.01
    assert not np.allclose(uniform[:5], draws.uniform()[:5])
