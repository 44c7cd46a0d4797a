"""Optimizers that average over MPI ranks: one process's variables, later layers, late waits."""

import math
import os
import time

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.averaging.adding import COMPRESSIONS, Native
from distgrad.distributed.verbs.communicator import exchange_json
from distgrad.errors import DesyncError
from distgrad.optimizers import LAMB, SGD, Adam, LossScale, Optimizer, accumulate, chain, clipping

pytestmark = pytest.mark.mpi(min_size=2)

OPTIMIZERS = {
    "momentum": lambda: SGD(0.1, momentum=0.9),
    "adam": lambda: Adam(0.05),
    "lamb": lambda: LAMB(0.05, weight_decay=0.1),
    "schedule": lambda: SGD(dg.optimizers.schedules.exponential(0.1, 2, 0.5)),
    "clipped each": lambda: Optimizer(chain(clipping(norm=0.05), Adam(0.05))),
    "clipped behind": lambda: Optimizer(chain(Adam(0.05), clipping(value=0.01))),
}
COUPLED = {
    "clipped": lambda: Optimizer(chain(clipping(global_norm=0.05), Adam(0.05))),
    "accumulated": lambda: Optimizer(accumulate(2, Adam(0.05))),
}
LAYERS, WIDTH, EXAMPLES = 6, 12, 11


def model(seed=0, layers=LAYERS):
    rng = np.random.default_rng(seed)
    return [
        dg.Variable(rng.normal(size=(WIDTH, WIDTH)).astype("float32") / 3, name=f"layer{n}")
        for n in range(layers)
    ]


def made(compression):
    """Return a fresh compression, whose memory is that of no other optimizer."""
    return COMPRESSIONS[compression]()


def batches(steps=5):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(EXAMPLES - n, WIDTH)).astype("float32") for n in range(steps)]


def loss_of(layers, x):
    for layer in layers:
        x = dg.tanh(x @ layer)
    return dg.mean(dg.square(x))


def trained(optimizer, comm, layers, way="minimize", steps=5):
    for batch in batches(steps):
        with dg.GradientTape() as tape:
            loss = loss_of(layers, dist.shard(batch, comm))
        if way == "minimize":
            optimizer.minimize(loss, layers, tape)
        else:
            optimizer.apply(tape.gradient(loss, layers), layers)
    return [layer.numpy() for layer in layers]


def alone(make, steps=5):
    ranks = dist.SerialCommunicator()
    return trained(dist.DistributedOptimizer(make(), ranks), ranks, model(), steps=steps)


def assert_same_bits(found, expected):
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("kind", [*OPTIMIZERS, *COUPLED])
@pytest.mark.parametrize("way", ["minimize", "apply"])
def test_variables_are_those_of_one_process_with_the_whole_batch(kind, way):
    make = (OPTIMIZERS | COUPLED)[kind]
    world = dist.world()
    own = model(seed=world.rank)  # rank 0's values count
    optimizer = dist.DistributedOptimizer(make(), bucket_bytes=600)
    optimizer.build(own)

    found = trained(optimizer, world, own, way)

    for mine, other in zip(found, alone(make), strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("way", ["minimize", "apply"])
@pytest.mark.parametrize("bucket_bytes", [600, 1300, 2**20])
def test_steps_at_the_next_read_give_the_same_bits(kind, way, bucket_bytes):
    world, make = dist.world(), OPTIMIZERS[kind]
    options = {"bucket_bytes": bucket_bytes}
    at_once = dist.DistributedOptimizer(make(), overlap=False, **options)
    overlapped = dist.DistributedOptimizer(make(), overlap=True, **options)
    later = dist.DistributedOptimizer(make(), wait="next-read", **options)

    expected = trained(at_once, world, model(), way)

    assert_same_bits(trained(overlapped, world, model(), way), expected)
    assert_same_bits(trained(later, world, model(), way), expected)
    assert later.iterations == at_once.iterations == 5
    states = at_once.state_dict()
    for name, value in later.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), states[name].numpy(), err_msg=name)
    assert later.report.algorithm == "deferred allreduce"


def test_sparse_gradients_and_layers_without_one_keep_the_bits():
    world = dist.world()

    def run(optimizer):
        rng = np.random.default_rng(2)
        table = dg.Variable(rng.normal(size=(500, 4)).astype("float32"), name="table")
        ways = [dg.Variable(rng.normal(size=(4, 4)).astype("float32"), name=f"w{n}") for n in "ab"]
        for step in range(6):
            rows = np.random.default_rng(step).integers(0, 500, 7 * world.size)
            with dg.GradientTape() as tape:
                h = dg.gather(table, dist.shard(rows))
                chosen = ways[step // 2 % 2]  # the other one has no gradient on any rank
                if step != 5 or world.rank == 0:  # and here on some
                    h = h @ chosen
                loss = dg.mean(dg.square(h))
            optimizer.minimize(loss, [table, *ways], tape)
        return [each.numpy() for each in (table, *ways)]

    expected = run(dist.DistributedOptimizer(Adam(0.1), overlap=False, bucket_bytes=40))
    found = run(dist.DistributedOptimizer(Adam(0.1), wait="next-read", bucket_bytes=40))

    assert_same_bits(found, expected)


def test_a_layer_added_at_the_third_step_gets_the_first_ranks_values():
    world = dist.world()

    def run(optimizer, comm, seed):
        layers = model(seed, layers=3)
        optimizer.build(layers)
        for step, batch in enumerate(batches(6)):
            if step == 3:
                layers += model(seed + 10, layers=1)
                optimizer.build(layers)
            with dg.GradientTape() as tape:
                loss = loss_of(layers, dist.shard(batch, comm))
            optimizer.minimize(loss, layers, tape)
        return [layer.numpy() for layer in layers], sorted(optimizer.state_dict())

    ranks = dist.SerialCommunicator()
    expected, names = run(dist.DistributedOptimizer(Adam(0.05), ranks), ranks, 0)
    for wait in ("step", "next-read"):
        optimizer = dist.DistributedOptimizer(Adam(0.05), wait=wait)
        found, own_names = run(optimizer, world, world.rank)

        assert own_names == names
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)
        assert_same_bits(found, [dist.broadcast(each) for each in found])


@pytest.mark.parametrize("distribute", [dist.DistributedOptimizer, dist.ShardedOptimizer])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rank: SGD(0.1 if rank else 0.2), r"SGD\(learning_rate=0\.2, momentum"),
        (lambda rank: SGD(lambda step: 0.1 + 0.1 * (rank == 0)), r"<schedule from 0\.2>"),
        (
            lambda rank: Optimizer(chain(clipping(global_norm=1.0 + rank), SGD(0.1))),
            r"chain\(clipping\(global_norm=1\.0\), SGD",
        ),
    ],
)
def test_settings_that_differ_between_ranks_are_an_error_on_all(distribute, make, words):
    optimizer = distribute(make(dist.world().rank))

    with pytest.raises(DesyncError, match=words):
        optimizer.build(model(layers=2))


def test_a_layer_added_on_one_rank_alone_is_an_error_on_all():
    layers = model(layers=2)
    optimizer = dist.DistributedOptimizer(SGD(0.1))
    optimizer.build(layers)
    if dist.world().rank == 1:
        layers += model(3, layers=1)
    with dg.GradientTape() as tape:
        loss = loss_of(layers, batches(1)[0])

    with pytest.raises(DesyncError):
        optimizer.minimize(loss, layers, tape)


def test_a_state_that_only_the_first_rank_loaded_is_everybodys():
    world = dist.world()
    before = dist.DistributedOptimizer(Adam(0.05))
    layers = model()
    trained(before, world, layers)
    saved, values = before.state_dict(), [layer.numpy() for layer in layers]
    expected = trained(before, world, layers)
    inner, fresh = Adam(0.05), model(seed=5)
    if world.rank == 0:
        inner.build(fresh)
        for name, layer in enumerate(fresh):
            layer.assign(values[name])
        inner.load_state_dict(saved)
    optimizer = dist.DistributedOptimizer(inner)
    optimizer.build(fresh)

    assert_same_bits(trained(optimizer, world, fresh), expected)
    assert optimizer.iterations == 10


def test_pieces_are_averaged_by_one_communication():
    world = dist.world()
    optimizer = dist.DistributedOptimizer(Adam(0.05))
    layers = model()
    optimizer.build(layers)
    for batch in batches():
        for piece in dist.micro_batches(batch, 3):
            started = world.started
            with dg.GradientTape() as tape:
                loss = loss_of(layers, piece)
            optimizer.add(tape.gradient(loss, layers), layers)
            assert world.started == started
        assert optimizer.step()

    for mine, other in zip(layers, alone(lambda: Adam(0.05)), strict=True):
        np.testing.assert_allclose(mine.numpy(), other, rtol=2e-4, atol=2e-5)


def test_with_deterministic_the_bits_are_those_of_one_process():
    def run(comm):
        optimizer = dist.DistributedOptimizer(Adam(0.05), comm, deterministic=6)
        layers = model()
        optimizer.build(layers)
        for batch in batches():
            for piece in dist.logical_shards(batch, count=6, comm=comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(layers, piece)
                optimizer.add(tape.gradient(loss, layers), layers)
            optimizer.step()
        return [layer.numpy() for layer in layers]

    assert_same_bits(run(dist.world()), run(dist.SerialCommunicator()))


@pytest.mark.parametrize("way", ["minimize", "apply"])
@pytest.mark.parametrize("compression", ["fp16", "bf16", "int8", "topk", "powersgd"])
def test_compressed_averages_that_are_waited_for_late_have_the_same_bits(compression, way):
    world, at_once, late = dist.world(), model(), model()
    first, second = (
        dist.DistributedOptimizer(
            Adam(0.05), compression=made(compression), bucket_bytes=600, **options
        )
        for options in ({"overlap": False}, {"wait": "next-read"})
    )
    expected = trained(first, world, at_once, way)

    found = trained(second, world, late, way)

    assert_same_bits(found, expected)
    assert second.report.algorithm.startswith("deferred ")
    assert second.report.compression == first.report.compression > 1
    everyone = exchange_json(world, [each.tobytes().hex() for each in found])
    assert all(each == everyone[0] for each in everyone)


def test_all_ranks_skip_a_step_that_overflowed_on_one():
    world = dist.world()
    optimizer, scale = dist.DistributedOptimizer(SGD(0.1)), LossScale(initial=4.0)
    x = dg.Variable([1.0, 2.0], name="x")
    for step in range(3):
        factor = np.inf if step == 1 and world.rank == world.size - 1 else 1.0
        with dg.GradientTape() as tape:
            loss = scale.scale(dg.sum(x * factor))
        taken = optimizer.minimize(loss, x, tape, examples=1, loss_scale=scale)
        assert taken == (step != 1)
        assert optimizer.skipped == (step == 1)
    assert scale.apply(optimizer, dg.asarray([2.0, 2.0]), x)

    assert float(scale.factor) == 2.0
    np.testing.assert_allclose(x.numpy(), [0.7, 1.7], rtol=1e-6)
    assert optimizer.iterations == 3


def test_a_checkpoint_and_other_looks_complete_a_step_under_way(directory):
    world = dist.world()
    expected = model()
    trained(dist.DistributedOptimizer(Adam(0.05), overlap=False), world, expected)
    layers = model()
    optimizer = dist.DistributedOptimizer(Adam(0.05), wait="next-read", bucket_bytes=600)
    for batch in batches():
        with dg.GradientTape() as tape:
            loss = loss_of(layers, dist.shard(batch))
        optimizer.apply(tape.gradient(loss, layers), layers)
    assert all(type(layer) is not dg.Variable for layer in layers)
    dg.checkpoint.save(
        directory / "saved", {"model": layers, "optimizer": optimizer}, step=5, comm=world
    )

    assert all(type(layer) is dg.Variable for layer in layers)
    fresh, again = model(seed=4), dist.DistributedOptimizer(Adam(0.05))
    again.build(fresh)
    dg.checkpoint.load(directory / "saved", {"model": fresh, "optimizer": again}, comm=world)
    for mine, other in zip(fresh, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    assert again.iterations == 5
    world.barrier()


def test_what_travels_is_hidden_behind_the_next_forward_pass(monkeypatch):
    """Sleeps stand for computing and for a network: they leave the cores free."""
    # Those that wait take the time of those that work where ranks share cores: the sleeps are
    # longer by as much, so that what is computed stays little beside them.
    delay = 0.02 * math.ceil(dist.world().size / len(os.sched_getaffinity(0))) ** 2
    add_up = Native.add_up

    def slowly(self, *arguments):
        time.sleep(delay)
        return add_up(self, *arguments)

    monkeypatch.setattr(Native, "add_up", slowly)

    @dg.custom_gradient
    def delayed(x):
        time.sleep(delay)
        return x, lambda g: g

    def exposed(optimizer):
        layers = [dg.Variable(np.ones(2**16, np.float32), name=f"v{n}") for n in range(8)]
        found = []
        for _ in range(6):
            with dg.GradientTape() as tape:
                y = dg.asarray(np.float32(1))
                for layer in layers:
                    y = delayed(y + dg.mean(layer))
            optimizer.minimize(y, layers, tape, examples=1)
            found.append(optimizer.report.exposed_seconds)
        optimizer.wait()
        return min(found[3:])  # the least disturbed: a busy machine adds to each

    options = {"bucket_bytes": 2**18}
    at_once = exposed(dist.DistributedOptimizer(SGD(0.1), overlap=True, **options))
    later = exposed(dist.DistributedOptimizer(SGD(0.1), wait="next-read", **options))

    assert at_once > 7 * delay  # of eight messages; there is nothing to compute in the walk
    assert later < 0.8 * at_once
