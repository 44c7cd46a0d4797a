"""Gradients computed in memory of two ranks: the bits of those that are copied, and no others."""

import os

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs import shared_memory
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.training import MeteredCommunicator

pytestmark = pytest.mark.mpi(min_size=2)

EXAMPLES, INNER, OUTER = 64, 512, 640  # a gradient of 1.25 MiB, with too many terms for a kernel


def another(*, shares=True):
    """Return a communicator of all ranks."""
    from mpi4py import MPI

    comm = dist.MPICommunicator(MPI.COMM_WORLD, dist.world().guard)
    comm._sums._may_join = shares
    return comm


def can_share():
    world = dist.world()
    cores = len(os.sched_getaffinity(0))
    return world.size == 2 and cores >= 2 and shared_memory._is_possible(2)


def model():
    rng = np.random.default_rng(5)
    shapes = {"kernel": (INNER, OUTER), "bias": (OUTER,)}
    return [
        dg.Variable(rng.normal(size=shape).astype(np.float32), name=name)
        for name, shape in shapes.items()
    ]


def averages(comm, variables, step, examples=None, tape=dg.GradientTape):
    """Return the averages of a step."""
    rng = np.random.default_rng([comm.rank, step])
    x = rng.normal(size=(EXAMPLES, INNER)).astype(np.float32)
    with dist.DistributedGradientTape(tape(), comm, overlap=False) as recorded:
        loss = dg.mean(dg.tanh(x @ variables[0] + variables[1]))
    examples = comm.rank + 1 if examples is None else examples
    return recorded.gradient(loss, variables, examples=examples)


def is_placed(comm, tensor):
    return any(tensor.array.base is each for each in comm.places._own)


@pytest.mark.parametrize("examples", [None, 4, "rank 0 has none"])
def test_averages_in_places_have_the_bits_of_others(examples):
    comm, alone, variables = another(), another(shares=False), model()
    if examples == "rank 0 has none":
        examples = comm.rank

    for step in range(5):
        found = averages(comm, variables, step, examples)
        expected = averages(alone, variables, step, examples)

        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
        assert is_placed(comm, found[0]) == (can_share() and step > 1)
        assert not is_placed(alone, expected[0])
        sums = exchange_json(comm, found[0].numpy().tobytes().hex()[:4000])
        assert len(set(sums)) == 1


def test_a_metered_communicator_takes_the_same_way():
    inner, variables = another(), model()
    comm = MeteredCommunicator(inner)

    for step in range(4):
        comm.read()
        found = averages(comm, variables, step)
        expected = averages(another(shares=False), variables, step)

        np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
        assert comm.read().bytes_sent >= found[0].numpy().nbytes
    assert is_placed(inner, found[0]) == can_share()


def test_gradients_of_one_length_and_several_shapes_lie_apart():
    comm, alone = another(), another(shares=False)
    rng = np.random.default_rng(2)
    variables = [
        dg.Variable(rng.normal(size=shape).astype(np.float32) / 20, name=str(shape))
        for shape in ((INNER, 1024), (1024, INNER), (INNER, 1024))  # each travels alone
    ]

    def step(ranks):
        x = np.random.default_rng(comm.rank).normal(size=(EXAMPLES, INNER)).astype(np.float32)
        with dist.DistributedGradientTape(dg.GradientTape(), ranks, overlap=False) as tape:
            for variable in variables:
                x = dg.tanh(x @ variable)
            loss = dg.mean(x * x)
        return tape.gradient(loss, variables, examples=1)

    for number in range(4):
        found, expected = step(comm), step(alone)

        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
            assert is_placed(comm, mine) == (can_share() and number > 1)


def test_averages_that_are_kept_are_not_written_over():
    comm, variables, kept = another(), model(), []

    for step in range(8):
        found = averages(comm, variables, step)
        kept.append((found, [each.numpy().copy() for each in found]))

    for found, copies in kept:
        for each, copy in zip(found, copies, strict=True):
            np.testing.assert_array_equal(each.numpy(), copy)


def test_one_rank_without_room_and_one_with_agree():
    comm, alone, variables, kept = another(), another(shares=False), model(), []

    for step in range(6):
        found = averages(comm, variables, step)
        if comm.rank == 0:
            kept.append(found)  # after two steps, none of this rank's places is free

        expected = averages(alone, variables, step)
        np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
    if can_share():
        assert is_placed(comm, found[0]) == (comm.rank == 1)


def test_without_memory_for_places_messages_go_through_the_window(monkeypatch):
    comm, variables, make = another(), model(), shared_memory._make

    def refuse(token, nbytes):
        return make(token, nbytes) if nbytes == shared_memory._BYTES else (-1, None)

    monkeypatch.setattr(shared_memory, "_make", refuse)
    for step in range(4):
        found = averages(comm, variables, step)
        expected = averages(another(shares=False), variables, step)

        np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
        assert not is_placed(comm, found[0])
    assert comm._sums.is_in_memory == can_share()


def test_what_a_tape_kept_of_this_ranks_own_gradient_stays():
    comm, variables, held = another(), model(), []

    class Holding(dg.GradientTape):
        def gradient(self, *arguments, **keywords):
            found = super().gradient(*arguments, **keywords)
            held.append((found[0], found[0].numpy().copy()))
            return found

    for step in range(5):
        average = averages(comm, variables, step, tape=Holding)[0]

        for own, copy in held:
            np.testing.assert_array_equal(own.numpy(), copy)
        assert not np.array_equal(average.numpy(), held[-1][1])
        if step == 2 and can_share():  # packed where the other rank sees it
            assert is_placed(comm, average)
