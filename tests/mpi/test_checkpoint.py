"""Checkpoints over MPI: any number of ranks reads what any other wrote; all fail as one."""

import os
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.errors import (
    CheckpointMismatchError,
    CheckpointWarning,
    CheckpointWriteError,
    DesyncError,
    DTypeError,
)

pytestmark = pytest.mark.mpi

ROWS = 11  # divided by no number of ranks here


def model(seed):
    """Return variables large enough to be cut, and small ones that one rank writes."""
    rng = np.random.default_rng(seed)
    return {
        "table": dg.Variable(rng.normal(size=(1001, 200)), name="table"),
        "layers": [dg.Variable(rng.normal(size=(3, 4)).astype("float32")) for _ in range(5)],
        "scale": dg.Variable(rng.normal()),
        "generator": dg.random.Generator(seed),
        "epoch": seed,
    }


def whole():
    return np.arange(ROWS * 3, dtype=np.float64).reshape(ROWS, 3)


def own_shard(comm, offset=0):
    """Return rows of a tensor cut as evenly as it goes, from this rank's place on."""
    rank = (comm.rank + offset) % comm.size
    start, stop = ROWS * rank // comm.size, ROWS * (rank + 1) // comm.size
    return dg.checkpoint.Shard(dg.Variable(whole()[start:stop]), start=start, rows=ROWS)


def test_generators_that_ranks_drew_from_differently_are_named_and_rank_0s_are_saved(directory):
    world = dist.world()
    generator = dg.random.Generator(3)
    state = {"fill": np.zeros(100), "draws": generator, "same": dg.random.Generator(4)}
    for _ in range(world.rank):
        generator.uniform(())

    with said_once("generators draws have drawn differently" if world.size > 1 else None):
        dg.checkpoint.save(directory, state, step=1)
    dg.checkpoint.load(directory, state)

    assert generator.state == [3, 0, 0]


def test_what_all_ranks_know_of_a_damaged_checkpoint_is_said_once(directory):
    dg.checkpoint.save(directory, {"n": 1}, step=1)
    where = dg.checkpoint.save(directory, {"n": 2}, step=2)
    if dist.world().rank == 0:
        (where / "manifest.json").unlink()
    dist.world().barrier()

    with said_once(f"passed over: {where}"):
        loaded = dg.checkpoint.load(directory)

    assert loaded.step == 1


@contextmanager
def said_once(text):
    """Expect one warning of all ranks, on rank 0, or none of this text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in caught if each.category is CheckpointWarning]
    assert len(said) == int(text is not None and dist.world().rank == 0)
    assert all(text in each for each in said)


def raised(function):
    """Return the error that a call raises, as every rank's words."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one is asserted
        function()
    return caught.value, exchange_json(
        dist.world(), [type(caught.value).__name__, str(caught.value)]
    )


def test_all_ranks_write_and_all_read_the_same(directory):
    world = dist.world()
    where = dg.checkpoint.save(directory, model(1), step=4, metadata={"position": 17})
    fresh = model(2)

    checkpoint = dg.checkpoint.load(directory, fresh)

    expected = model(1)
    assert (checkpoint.step, checkpoint.ranks, checkpoint.nest["epoch"]) == (4, world.size, 1)
    assert checkpoint.metadata == {"position": 17}
    np.testing.assert_array_equal(fresh["table"].numpy(), expected["table"].numpy())
    for own, other in zip(fresh["layers"], expected["layers"], strict=True):
        np.testing.assert_array_equal(own.numpy(), other.numpy())
    assert fresh["generator"].state == expected["generator"].state
    sizes = [each.stat().st_size for each in where.glob("*.safetensors")]
    assert len(sizes) == world.size
    assert max(sizes) < 1.1 * min(sizes)  # the work is spread


def test_one_rank_reads_what_all_wrote_and_all_read_what_one_wrote(directory):
    world, alone = dist.world(), dist.SerialCommunicator()
    dg.checkpoint.save(directory, {**model(1), "moment": own_shard(world)}, step=1)

    by_itself = dg.checkpoint.load(directory, comm=alone).nest

    np.testing.assert_array_equal(by_itself["moment"], whole())
    np.testing.assert_array_equal(by_itself["table"], model(1)["table"].numpy())
    world.barrier()
    if world.rank == 0:
        nest = {**model(3), "moment": dg.Variable(whole() + 1)}
        dg.checkpoint.save(directory, nest, step=2, comm=alone)
    world.barrier()
    shard = own_shard(world)
    checkpoint = dg.checkpoint.load(directory, {**model(2), "moment": shard})
    assert checkpoint.ranks == 1
    rows = slice(shard.start, shard.start + shard.value.shape[0])
    np.testing.assert_array_equal(shard.value.numpy(), whole()[rows] + 1)


def test_shards_are_cut_anew(directory):
    world = dist.world()
    dg.checkpoint.save(directory, {"moment": own_shard(world)}, step=1)
    cuts = np.linspace(0, ROWS, world.size + 3).astype(int)  # more shards than there are ranks
    start, stop = int(cuts[world.rank + 1]), int(cuts[world.rank + 2])
    part = dg.Variable(np.zeros((stop - start, 3)))

    dg.checkpoint.load(directory, {"moment": dg.checkpoint.Shard(part, start=start, rows=ROWS)})

    np.testing.assert_array_equal(part.numpy(), whole()[start:stop])


def test_a_rank_with_a_full_disk_makes_all_ranks_raise_the_same(directory, monkeypatch):
    world = dist.world()
    dg.checkpoint.save(directory, model(1), step=1)
    last = world.size - 1
    if world.rank == last:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
    error, words = raised(lambda: dg.checkpoint.save(directory, model(2), step=2))
    monkeypatch.undo()

    assert isinstance(error, CheckpointWriteError)
    assert "No space left on device" in str(error)
    assert f"rank {last}:" in str(error) or world.size == 1
    assert all(each == words[0] for each in words)
    assert os.listdir(directory) == ["step-0000000001"]
    assert dg.checkpoint.load(directory, model(2)).step == 1


def test_ranks_with_different_nests_raise_and_say_where(directory):
    world = dist.world()
    if world.size == 1:
        pytest.skip("one rank agrees with itself")
    shape = (2,) if world.rank == 0 else (3,)
    error, words = raised(
        lambda: dg.checkpoint.save(directory, {"model": {"bias": np.ones(shape)}}, step=1)
    )

    assert isinstance(error, DesyncError)
    assert "model/bias is float64[3] here, float64[2] on rank 0" in str(error)
    assert all(each == words[0] for each in words)


def test_what_one_rank_cannot_save_all_refuse(directory):
    world = dist.world()
    value = np.array([None]) if world.rank == world.size - 1 else np.ones(1)
    error, words = raised(lambda: dg.checkpoint.save(directory, {"x": value}, step=1))

    assert isinstance(error, DTypeError)
    assert all(each == words[0] for each in words)


def test_what_one_rank_finds_damaged_all_pass_over(directory):
    world = dist.world()
    for step in (1, 2):
        where = dg.checkpoint.save(directory, {"moment": own_shard(world)}, step=step)
    path = where / f"rank-{world.size - 1:05d}-of-{world.size:05d}.safetensors"
    if world.rank == 0:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    world.barrier()

    # Only one rank reads the damaged file: each reads its own rows.
    with said_once("'moment', do not have the checksum"):
        checkpoint = dg.checkpoint.load(directory, {"moment": own_shard(world)})

    assert checkpoint.step == 1


def test_what_does_not_fit_on_one_rank_is_assigned_on_none(directory):
    world = dist.world()
    dg.checkpoint.save(directory, {"x": np.ones(2)}, step=1)
    shape = 3 if world.rank == world.size - 1 else 2
    variable = dg.Variable(np.zeros(shape))
    error, words = raised(lambda: dg.checkpoint.load(directory, {"x": variable}))

    assert isinstance(error, CheckpointMismatchError)
    assert all(each == words[0] for each in words)
    assert variable.numpy().tolist() == [0] * shape


def test_the_manager_writes_beside_the_training_and_finishes_with_the_next_call(directory):
    world = dist.world()
    x = dg.Variable(np.zeros((700, 300)))
    with dg.checkpoint.Manager(directory, keep=2) as manager:
        for step in range(5):
            manager.save({"x": x, "moment": own_shard(world)}, step=step)
            x.assign_add(np.ones((700, 300)))
            world.allreduce(np.ones(3))  # the training goes on meanwhile
            manager.poll()

    world.barrier()
    assert manager.latest == 4
    assert float(manager.load({"x": x, "moment": own_shard(world)}).nest["x"][5, 5]) == 4
    assert sorted(os.listdir(directory)) == ["step-0000000003", "step-0000000004"]


def test_an_error_in_one_ranks_thread_is_raised_by_all(directory, monkeypatch):
    world = dist.world()
    manager = dg.checkpoint.Manager(directory)
    if world.rank == world.size - 1:
        monkeypatch.setattr(
            "distgrad.checkpoint.saving.write_arrays",
            lambda *arguments: (_ for _ in ()).throw(MemoryError("nothing left")),
        )
    manager.save({"moment": own_shard(world)}, step=1)
    error, words = raised(manager.wait)

    assert isinstance(error, CheckpointWriteError)
    assert "nothing left" in str(error)
    assert all(each == words[0] for each in words)
    assert os.listdir(directory) == []
