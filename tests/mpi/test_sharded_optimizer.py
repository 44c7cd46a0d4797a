"""Sharded optimizers over MPI: the variables of averaged gradients, and checkpoints that re-cut."""

import contextlib

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.sharded.reducing import Collector
from distgrad.distributed.verbs import mpi
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.errors import DesyncError

pytestmark = pytest.mark.mpi


def model(seed=0):
    """Return variables of uneven sizes, one without elements and one with a single one."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (5, 7), "b": (7,), "none": (0, 2), "v": (7, 3), "scale": ()}
    return {
        name: dg.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    }


def batches(steps, examples=13, last=3):
    rng = np.random.default_rng(1)
    sizes = [examples] * (steps - 1) + [last]
    return [
        (rng.normal(size=(n, 5)).astype("float32"), rng.normal(size=(n, 3)).astype("float32"))
        for n in sizes
    ]


def first_of(own):
    return lambda x: dg.tanh(x @ own["w"] + own["b"])


def loss_of(own, x, y, first):
    return dg.mean(dg.square(first(x) @ own["v"] * own["scale"] - y)) + dg.sum(own["none"])


def sharded(comm, stage, own, optimizer=None, **options):
    """Return a sharded Adam for variables, and their first layer: a block at stage 3."""
    optimizer = dg.optimizers.Adam(0.05) if optimizer is None else optimizer
    optimizer = dist.ShardedOptimizer(optimizer, stage, comm, bucket_bytes=100, **options)
    first = first_of(own)
    if stage == 3:
        first = optimizer.block(first, [own["w"], own["b"]])
    optimizer.build(own)
    return optimizer, first


def take_steps(comm, optimizer, own, first, steps):
    for batch in steps:
        x, y = dist.shard(batch, comm)
        with dg.GradientTape() as tape:
            loss = loss_of(own, x, y, first)
        optimizer.minimize(loss, own, tape)


def whole(optimizer, own):
    with optimizer.gathered():
        return {name: each.numpy() for name, each in own.items()}


def plain(comm, steps, make):
    own, optimizer = model(), make()
    for batch in steps:
        x, y = dist.shard(batch, comm)
        with dist.DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = loss_of(own, x, y, first_of(own))
        optimizer.apply(tape.gradient(loss, own), own)
    return {name: each.numpy() for name, each in own.items()}


def clipped():
    parts = dg.optimizers.clipping(global_norm=0.3), dg.optimizers.AdamW(0.05)
    return dg.optimizers.Optimizer(dg.optimizers.chain(*parts))


@pytest.mark.parametrize("elements", [2**28, 16])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("make", [dg.optimizers.Adam, dg.optimizers.LAMB, clipped])
def test_variables_are_those_of_averaged_gradients(monkeypatch, stage, make, elements):
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", elements)
    world, own = dist.world(), model()
    optimizer, first = sharded(world, stage, own, make())
    steps = batches(5, 16, last=4)  # powers of two on each of 2 ranks, which round nothing
    take_steps(world, optimizer, own, first, steps)

    found, expected = whole(optimizer, own), plain(world, steps, make)

    for name, value in expected.items():
        if world.size == 2 and make is dg.optimizers.Adam:  # a sum of two has one order
            np.testing.assert_array_equal(found[name], value)
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    everyone = exchange_json(world, [found[name].tobytes().hex() for name in found])
    assert all(each == everyone[0] for each in everyone)


@pytest.mark.parametrize("stage", [2, 3])
def test_gradients_that_travel_during_the_walk_have_the_same_bits(stage):
    world, steps = dist.world(), batches(4, 16, last=4)
    results = []
    for overlap in (False, True):
        own = model()
        optimizer, first = sharded(world, stage, own, overlap=overlap)
        take_steps(world, optimizer, own, first, steps)
        assert ("overlapped" in dist.last_report(world).algorithm) == overlap
        results.append(whole(optimizer, own))

    for name, value in results[0].items():
        np.testing.assert_array_equal(results[1][name], value)


def test_blocks_that_are_gathered_ahead_give_the_same_bits():
    world, results = dist.world(), []
    for overlap in (False, True):
        rng = np.random.default_rng(2)
        kernels = [dg.Variable(rng.normal(size=(9, 9)) / 3, name=f"k{n}") for n in range(5)]
        optimizer = dist.ShardedOptimizer(
            dg.optimizers.Adam(0.05), 3, world, bucket_bytes=100, overlap=overlap
        )
        blocks = [optimizer.block(lambda x, w=w: dg.tanh(x @ w), [w]) for w in kernels[1:]]
        optimizer.build(kernels)
        for step in range(5):
            if step == 3:
                blocks.reverse()
            x = np.random.default_rng(10 * step + world.rank).normal(size=(4, 9))
            with dg.GradientTape() as tape:
                y = dg.asarray(x) @ kernels[0]  # in no block
                for block in blocks:
                    y = block(y)
                loss = dg.mean(dg.square(y - 1))
            optimizer.minimize(loss, kernels, tape, examples=4)
        with optimizer.gathered():
            results.append([each.numpy() for each in kernels])

    for mine, other in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("stage", [1, 2])
def test_deterministic_sums_have_the_bits_of_one_rank(stage):
    def train(comm):
        own = model()
        optimizer, first = sharded(comm, stage, own, deterministic=True)
        for batch in batches(4, examples=29):
            for x, y in dist.logical_shards(batch, comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(own, x, y, first)
                optimizer.add(tape.gradient(loss, own), own)
            optimizer.step()
        return [each.tobytes() for each in whole(optimizer, own).values()]

    assert train(dist.world()) == train(dist.SerialCommunicator())


@pytest.mark.parametrize("count", [12, 7])
def test_deterministic_sums_at_stage_3_have_the_bits_of_one_rank(count):
    def train(comm):
        own = model()
        optimizer, first = sharded(comm, 3, own, deterministic=count)
        is_even = count % comm.size == 0
        for batch in batches(4, examples=29, last=25):
            with contextlib.nullcontext() if is_even else optimizer.gathered():
                for x, y in dist.logical_shards(batch, comm, count=count):
                    with dg.GradientTape() as tape:
                        loss = loss_of(own, x, y, first)
                    optimizer.backward(loss, own, tape)
            optimizer.step()
        return [each.tobytes() for each in whole(optimizer, own).values()]

    assert train(dist.world()) == train(dist.SerialCommunicator())


def subgroup(size):
    """Return a communicator of the first ranks, or None on the others."""
    world = dist.world()
    part = world._mpi.COMM_WORLD.Split(0 if world.rank < size else 1, world.rank)
    return mpi.MPICommunicator(part, world.guard)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_checkpoint_is_cut_anew_for_another_number_of_ranks(directory, stage):
    world = dist.world()
    steps = batches(6)
    own = model()
    optimizer, first = sharded(world, stage, own)
    take_steps(world, optimizer, own, first, steps)
    expected = whole(optimizer, own)

    # 2, then all there are, then 1 rank: each goes on where the others stopped.
    for place, size in enumerate((min(2, world.size), world.size, 1)):
        comm = subgroup(size)
        if world.rank < size:
            own = model(seed=7)
            optimizer, first = sharded(comm, stage, own)
            state = {"optimizer": optimizer} if stage == 3 else {"own": own, "optimizer": optimizer}
            if place:
                dg.checkpoint.load(directory, state, comm=comm)
                assert optimizer.iterations == 2 * place
            elif stage == 1:
                for name, variable in model().items():
                    own[name].assign(variable)
            else:
                with optimizer.gathered():
                    for name, variable in model().items():
                        own[name].assign(variable.numpy())
            take_steps(comm, optimizer, own, first, steps[2 * place : 2 * place + 2])
            dg.checkpoint.save(directory, state, step=place, comm=comm)
            found = whole(optimizer, own)
        world.barrier()

    if world.rank == 0:
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_rank_with_another_model_is_named():
    world, own = dist.world(), model()
    if world.rank == world.size - 1:
        own["b"] = dg.Variable(np.ones(8, "float32"), name="b")

    with pytest.raises(DesyncError) as caught:
        dist.ShardedOptimizer(dg.optimizers.SGD(0.1), 2).build(own)

    assert caught.value.names == ("b",)
    assert "b float32[8]" in str(caught.value)


@pytest.mark.mpi(min_size=2)
def test_parts_of_deterministic_sums_keep_no_more_than_they_are(monkeypatch):
    comm, own = dist.world(), model()
    kept = []
    finish = Collector.finish

    def watched(self, unit, **how):
        row = finish(self, unit, **how)
        kept.append((row if row.base is None else row.base).size - 1 - unit.row)
        return row

    monkeypatch.setattr(Collector, "finish", watched)
    optimizer, first = sharded(comm, 1, own, deterministic=6)
    for x, y in dist.logical_shards(batches(1)[0], comm, count=6):
        with dg.GradientTape() as tape:
            loss = loss_of(own, x, y, first)
        optimizer.backward(loss, own, tape)
    optimizer.step()

    assert kept
    assert not any(kept)
