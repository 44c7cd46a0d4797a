"""Adding up within machines first gives what adding up flat does, however uneven the machines."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed import DistributedGradientTape
from distgrad.distributed.averaging.hierarchy import NODE_SIZES, Hierarchy
from distgrad.errors import DesyncError, LaunchError, UnsupportedOptionError
from distgrad.training import MeteredCommunicator

SPLITS = ["2", "1,1", "3", "2,1", "1,2", "1,1,1", "2,2", "3,1", "1,2,1", "4,3", "2,3,3"]


def ranks_of(sizes):
    return sum(int(each) for each in sizes.split(","))


def own(rank, length, dtype):
    return np.random.default_rng(rank).normal(size=length).astype(dtype)


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("length", [0, 1, 2, 7, 1000])
def test_the_sum_is_that_of_all_ranks(on_ranks, monkeypatch, sizes, length):
    monkeypatch.setenv(NODE_SIZES, sizes)
    size = ranks_of(sizes)

    def work(comm):
        message = own(comm.rank, length, "float64")
        before = comm.started
        hierarchy = Hierarchy(comm)
        built = comm.started
        hierarchy.add_up(comm, message)
        return message, comm.started - built, built - before

    results = on_ranks(size, work)

    expected = sum(own(rank, length, "float64") for rank in range(size))
    for message, operations, _ in results:
        np.testing.assert_allclose(message, expected, rtol=0, atol=1e-13)
        assert operations == 1  # the same on all ranks, whatever parts each of them has
    assert len({message.tobytes() for message, _, _ in results}) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("sizes", ["2,1", "2,2", "1,1,1", "3"])
def test_a_tape_gives_the_average_of_the_flat_one(on_ranks, monkeypatch, sizes, dtype):
    monkeypatch.setenv(NODE_SIZES, sizes)
    size = ranks_of(sizes)

    def work(comm):
        results = []
        for reduction in ("native", "hierarchical"):
            x = dg.Variable(np.zeros(12, dtype), name="x")
            with DistributedGradientTape(dg.GradientTape(), comm, reduction=reduction) as tape:
                y = dg.real(dg.sum(x * own(comm.rank, 12, dtype)))
            results.append(tape.gradient(y, x, examples=comm.rank).numpy())
        return *results, dist.last_report(comm).algorithm

    tolerance = {"float16": 1e-3, "float64": 1e-14}.get(dtype, 1e-6)
    for native, hierarchical, algorithm in on_ranks(size, work):
        assert hierarchical.dtype == dtype
        assert algorithm == "hierarchical"
        np.testing.assert_allclose(hierarchical, native, rtol=0, atol=tolerance)


def test_between_machines_each_byte_travels_once(on_ranks, monkeypatch):
    monkeypatch.setenv(NODE_SIZES, "2,2")

    def work(comm):
        hierarchy, message = Hierarchy(comm), np.ones(1000)
        sent = hierarchy.add_up(comm, message)
        return sent, hierarchy.nodes

    for sent, nodes in on_ranks(4, work):
        assert nodes == ((0, 1), (2, 3))
        assert sent == 8000 + 4000  # within the machine, and this rank's half between them


def test_what_the_machines_are_is_asked_of_mpi(on_ranks, monkeypatch):
    monkeypatch.delenv(NODE_SIZES, raising=False)

    assert on_ranks(3, lambda comm: Hierarchy(comm).nodes) == [((0, 1, 2),)] * 3


@pytest.mark.parametrize("sizes", ["2,2", "0,3", "two,one", "3,", "-1,4"])
def test_sizes_that_do_not_fit_the_ranks_are_refused(on_ranks, monkeypatch, sizes):
    monkeypatch.setenv(NODE_SIZES, sizes)

    for error in on_ranks(3, Hierarchy):
        assert isinstance(error, LaunchError)
        assert f"{NODE_SIZES}={sizes!r} does not share 3 ranks; expected" in str(error)


def test_an_accumulator_and_a_metered_communicator_take_it(on_ranks, monkeypatch):
    monkeypatch.setenv(NODE_SIZES, "2,1")

    def work(comm):
        metered = MeteredCommunicator(comm)
        x = dg.Variable(np.zeros(1000), name="x")
        accumulator = dist.GradientAccumulator(x, metered, reduction="hierarchical")
        accumulator.add(dg.full((1000,), comm.rank + 1.0))
        found = accumulator.gradients().numpy()
        return found, metered.read().bytes_sent

    for found, sent in on_ranks(3, work):
        np.testing.assert_allclose(found, 2, rtol=1e-6)
        assert sent > 4000


def test_ranks_that_add_up_in_other_ways_are_told(on_ranks):
    def work(comm):
        x = dg.Variable(2.0)
        reduction = "hierarchical" if comm.rank == 1 else "native"
        with DistributedGradientTape(dg.GradientTape(), comm, reduction=reduction) as tape:
            y = x * x
        tape.gradient(y, x)

    for error in on_ranks(3, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 does gradient (average='examples', reduction='hierarchical')" in str(error)


def test_a_communicator_without_parts_is_refused():
    x = dg.Variable(2.0)
    comm = dist.RecordedCommunicator(2)
    with DistributedGradientTape(dg.GradientTape(), comm, reduction="hierarchical") as tape:
        y = x * x
    with pytest.raises(UnsupportedOptionError, match="needs a communicator with split"):
        tape.gradient(y, x)


def test_an_unknown_way_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'ring'; expected one of 'native', 'hierarchical'"):
        DistributedGradientTape(dg.GradientTape(), reduction="ring")
