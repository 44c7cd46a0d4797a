"""A sharded optimizer's variables are those of the plain one, and it holds less."""

import threading
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    DistributedGradientTape,
    GradientAccumulator,
    RecordedCommunicator,
    SerialCommunicator,
    ShardedOptimizer,
    last_report,
    logical_shards,
    micro_batches,
    shard,
)
from distgrad.distributed.sharded.prefetching import Prefetch
from distgrad.errors import (
    BatchError,
    CommunicationError,
    DesyncError,
    ShapeError,
    TapeError,
    TraceError,
    UnsupportedOptionError,
)
from distgrad.optimizers import (
    LAMB,
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    LossScale,
    Optimizer,
    RMSprop,
    accumulate,
    chain,
    clipping,
)

OPTIMIZERS = {
    "sgd": lambda: SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: Adam(0.05),
    "adamw": lambda: AdamW(0.05, weight_decay=0.1),
    "rmsprop": lambda: RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: Adagrad(0.1),
    "amsgrad": lambda: Adam(0.05, amsgrad=True),
    "schedule": lambda: SGD(dg.optimizers.schedules.exponential(0.1, 2, 0.5)),
    "lamb": lambda: LAMB(0.05, weight_decay=0.1),
    "clipped": lambda: Optimizer(chain(clipping(global_norm=0.05), Adam(0.05))),
    "clipped by value": lambda: Optimizer(chain(clipping(value=0.01), SGD(0.1))),
    "clipped each": lambda: Optimizer(chain(clipping(norm=0.05), SGD(0.1))),
    "clipped behind": lambda: Optimizer(chain(SGD(0.1), clipping(global_norm=0.003))),
    "accumulated": lambda: Optimizer(accumulate(2, Adam(0.05))),
}


def variables(dtype="float64"):
    """Return variables of uneven sizes: one of no elements, one with fewer than there are ranks."""
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 7), "b": (7,), "none": (0, 2), "v": (7, 3), "scale": ()}
    return {
        name: dg.Variable(rng.normal(size=shape).astype(dtype), name=name)
        for name, shape in shapes.items()
    }


def batches(steps=4, examples=11, dtype="float64", last=3):
    """Return batches, the last of which is shorter."""
    rng = np.random.default_rng(1)
    sizes = [examples] * (steps - 1) + [last]
    return [
        (rng.normal(size=(size, 5)).astype(dtype), rng.normal(size=(size, 3)).astype(dtype))
        for size in sizes
    ]


def hidden(model):
    return lambda x: dg.tanh(x @ model["w"] + model["b"])


def loss_of(model, x, y, first=None):
    first = hidden(model) if first is None else first
    return dg.mean(dg.square(first(x) @ model["v"] * model["scale"] - y)) + dg.sum(model["none"])


def plainly(optimizer, comm, dtype="float64", steps=4, **sizes):
    model = variables(dtype)
    for batch in batches(steps, dtype=dtype, **sizes):
        x, y = shard(batch, comm)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = loss_of(model, x, y)
        optimizer.apply(tape.gradient(loss, model), model)
    return {name: each.numpy() for name, each in model.items()}


def sharded(optimizer, comm, stage, dtype="float64", steps=4, bucket_bytes=100, **sizes):
    model = variables(dtype)
    sharding = ShardedOptimizer(optimizer, stage, comm, bucket_bytes=bucket_bytes)
    first = None
    if stage == 3:
        first = sharding.block(hidden(model), [model["w"], model["b"]])
        sharding.build(model)
    for batch in batches(steps, dtype=dtype, **sizes):
        x, y = shard(batch, comm)
        with dg.GradientTape() as tape:
            loss = loss_of(model, x, y, first)
        assert sharding.minimize(loss, model, tape)
    assert sharding.iterations == steps
    with sharding.gathered():
        return {name: each.numpy() for name, each in model.items()}


def assert_equal(found, expected, rtol=1e-12):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol, err_msg=name)


def failed(results):
    for each in results:
        if isinstance(each, Exception):
            raise each
    return results


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_variables_are_those_of_the_plain_optimizer(on_ranks, kind, stage):
    make = OPTIMIZERS[kind]
    expected = plainly(make(), SerialCommunicator())

    for ranks in (1, 3):
        found = failed(on_ranks(ranks, lambda comm: sharded(make(), comm, stage)))
        for each in found:
            # Norms are added up in another order.
            assert_equal(each, expected, rtol=1e-9)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [2, 4, 5, 16])
@pytest.mark.parametrize("bucket_bytes", [1, 300, 10**6])
def test_any_number_of_ranks_and_any_cut_will_do(on_ranks, ranks, stage, bucket_bytes):
    expected = plainly(Adam(0.05), SerialCommunicator())

    found = failed(
        on_ranks(ranks, lambda comm: sharded(Adam(0.05), comm, stage, bucket_bytes=bucket_bytes))
    )

    for each in found:
        assert_equal(each, expected, rtol=1e-9)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_on_two_ranks_the_bits_are_those_of_averaged_gradients(on_ranks, stage):
    # Equal powers of two: then neither to weigh before the sum nor to divide after it rounds.
    sizes = {"examples": 16, "last": 8}
    expected = failed(on_ranks(2, lambda comm: plainly(Adam(0.05), comm, "float32", **sizes)))
    found = failed(on_ranks(2, lambda comm: sharded(Adam(0.05), comm, stage, "float32", **sizes)))

    for name, value in expected[0].items():
        assert found[0][name].tobytes() == found[1][name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_mixed_and_narrow_dtypes_keep_their_own(on_ranks, stage):
    def model():
        rng = np.random.default_rng(3)
        return [
            dg.Variable(rng.normal(size=(3, 5)).astype("float16"), name="half"),
            dg.Variable(rng.normal(size=(5,)), name="double"),
            dg.Variable(rng.normal(size=(5,)) + 1j, name="complex"),
            dg.Variable(np.arange(3), name="count", trainable=False),
        ]

    def loss_of(half, double, complex_, x):
        y = dg.astype(x @ half, "float64") * double
        return dg.mean(dg.square(y)) + dg.mean(dg.square(dg.abs(complex_)))

    x = np.random.default_rng(4).normal(size=(8, 3)).astype("float16")

    def train(comm, cut):
        own = model()
        half, double, complex_ = own[:3]
        optimizer = ShardedOptimizer(Adam(0.1), stage, comm) if cut else Adam(0.1)
        if cut:
            optimizer.build(own)
        for _ in range(3):
            part = shard(x, comm)
            if cut:
                with dg.GradientTape() as tape:
                    loss = loss_of(half, double, complex_, part)
                optimizer.minimize(loss, own, tape)
            else:
                with DistributedGradientTape(dg.GradientTape(), comm) as tape:
                    loss = loss_of(half, double, complex_, part)
                optimizer.apply(tape.gradient(loss, own[:3]), own[:3])
        with optimizer.gathered() if cut else np.errstate():
            return [each.numpy() for each in own]

    expected = failed(on_ranks(2, lambda comm: train(comm, cut=False)))[0]
    for found in failed(on_ranks(2, lambda comm: train(comm, cut=True))):
        for own, value in zip(found, expected, strict=True):
            assert own.dtype == value.dtype
            np.testing.assert_array_equal(own, value)


# --- what is added up -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_deterministic_sums_have_the_bits_of_any_number_of_ranks(on_ranks, stage):
    def plain(comm):
        model, optimizer = variables("float32"), Adam(0.05)
        accumulator = GradientAccumulator(model, comm, deterministic=True)
        for batch in batches(examples=29, dtype="float32"):
            for x, y in logical_shards(batch, comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(model, x, y)
                accumulator.add(tape.gradient(loss, model))
            optimizer.apply(accumulator.gradients(), model)
        return b"".join(each.numpy().tobytes() for each in model.values())

    def cut(comm):
        model = variables("float32")
        optimizer = ShardedOptimizer(Adam(0.05), stage, comm, deterministic=True, bucket_bytes=100)
        for batch in batches(examples=29, dtype="float32"):
            for x, y in logical_shards(batch, comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(model, x, y)
                optimizer.add(tape.gradient(loss, model), model)
            optimizer.build(model)  # a rank may have had no shard yet
            optimizer.step()
        return b"".join(each.numpy().tobytes() for each in model.values())

    expected = plain(SerialCommunicator())

    for ranks in (1, 2, 3, 4, 5):
        assert set(failed(on_ranks(ranks, cut))) == {expected}, ranks


def ordered_at_stage_3(comm, count=24, examples=29, last=25, *, is_gathered=False, calls=1):
    """Return the bytes of variables after steps at stage 3 with logical shards."""
    model = variables("float32")
    optimizer = ShardedOptimizer(Adam(0.05), 3, comm, deterministic=count, bucket_bytes=100)
    first = optimizer.block(hidden(model), [model["w"], model["b"]])
    optimizer.build(model)
    for batch in batches(examples=examples, dtype="float32", last=last):
        with optimizer.gathered() if is_gathered else nullcontext():
            for x, y in logical_shards(batch, comm, count=count):
                with dg.GradientTape() as tape:
                    loss = loss_of(model, x, y, first)
                    for _ in range(calls - 1):
                        loss = loss + loss_of(model, x + 1, y, first)
                optimizer.backward(loss, model, tape)
        optimizer.step()
    with optimizer.gathered():
        return b"".join(each.numpy().tobytes() for each in model.values())


@pytest.mark.parametrize("is_gathered", [False, True])
def test_deterministic_sums_at_stage_3_have_the_bits_of_stage_1(on_ranks, is_gathered):
    def whole(comm):
        model = variables("float32")
        optimizer = ShardedOptimizer(Adam(0.05), 1, comm, deterministic=24)
        for batch in batches(examples=29, dtype="float32", last=25):
            for x, y in logical_shards(batch, comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(model, x, y)
                optimizer.backward(loss, model, tape)
            optimizer.step()
        return b"".join(each.numpy().tobytes() for each in model.values())

    expected = whole(SerialCommunicator())

    # 24 shards are not shared evenly by 5 ranks: there nothing may be gathered in between.
    for ranks in (1, 2, 3, 4, 5) if is_gathered else (1, 2, 3, 4):
        found = on_ranks(ranks, partial(ordered_at_stage_3, is_gathered=is_gathered))
        assert set(failed(found)) == {expected}, ranks


@pytest.mark.parametrize("examples", [13, 3])
def test_logical_shards_without_an_example_count_nothing_at_stage_3(on_ranks, examples):
    train = partial(ordered_at_stage_3, examples=examples, last=2, is_gathered=True)
    expected = train(SerialCommunicator())

    for ranks in (2, 5):
        assert set(failed(on_ranks(ranks, train))) == {expected}, ranks


def test_a_block_that_is_called_twice_in_a_loss_is_one_logical_shards(on_ranks):
    train = partial(ordered_at_stage_3, count=6, calls=2)
    expected = train(SerialCommunicator())

    for ranks in (2, 3):
        assert set(failed(on_ranks(ranks, train))) == {expected}, ranks


def test_ranks_with_unlike_many_logical_shards_at_stage_3_are_told(on_ranks):
    for error in on_ranks(5, ordered_at_stage_3):
        assert isinstance(error, DesyncError)
        assert "ShardedOptimizer.step" in str(error)
        assert "gather parameters" in str(error)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_rank_without_a_logical_shard_takes_part_in_the_sum(on_ranks, stage):
    def train(comm):
        x = dg.Variable([1.0, 2.0, 3.0])
        optimizer = ShardedOptimizer(SGD(0.5), stage, comm, deterministic=2)
        optimizer.build(x)
        for part in logical_shards(np.arange(6.0), comm, count=2):
            with dg.GradientTape() as tape:
                loss = dg.mean(part * dg.sum(x))
            optimizer.backward(loss, x, tape)
        optimizer.step()
        return x.numpy().tolist()

    assert failed(on_ranks(3, train)) == [[-0.25, 0.75, 1.75]] * 3


@pytest.mark.parametrize("is_block", [False, True])
def test_steps_may_be_taken_while_variables_are_gathered(on_ranks, is_block):
    def train(comm):
        x = dg.Variable([3.0, 4.0, 5.0], name="x")
        optimizer = ShardedOptimizer(SGD(0.5), 3, comm)

        def squares():
            return dg.sum(x**2)

        used = optimizer.block(squares, [x]) if is_block else squares
        optimizer.build(x)
        with optimizer.gathered():
            with dg.GradientTape() as tape:
                loss = used() + dg.sum(x)  # also read outside of its block
            optimizer.minimize(loss, x, tape, examples=1)
            return x.numpy().tolist()

    assert failed(on_ranks(2, train)) == [[-0.5, -0.5, -0.5]] * 2


@pytest.mark.parametrize("kind", ["clipped", "clipped each", "lamb"])
def test_deterministic_norms_do_not_know_how_parts_are_cut(on_ranks, kind):
    def train(comm):
        model = variables("float32")
        optimizer = ShardedOptimizer(OPTIMIZERS[kind](), 2, comm, deterministic=6, bucket_bytes=100)
        for batch in batches(examples=29, dtype="float32"):
            with dg.GradientTape(persistent=True) as tape:
                losses = [loss_of(model, x, y) for x, y in logical_shards(batch, comm, count=6)]
            optimizer.minimize(losses, model, tape)
        return b"".join(each.numpy().tobytes() for each in model.values())

    expected = train(SerialCommunicator())

    for ranks in (2, 3):
        assert set(failed(on_ranks(ranks, train))) == {expected}, ranks


def test_deterministic_takes_one_loss_for_each_logical_shard(on_ranks):
    def train(comm):
        x = dg.Variable([1.0, 2.0, 3.0])
        optimizer = ShardedOptimizer(SGD(0.5), 2, comm, deterministic=6)
        with dg.GradientTape(persistent=True) as tape:
            losses = [
                dg.mean(part * dg.sum(x)) for part in logical_shards(np.arange(7.0), comm, count=6)
            ]
        optimizer.minimize(losses, x, tape)
        return x.numpy().tolist()

    assert failed(on_ranks(2, train)) == [[-0.5, 0.5, 1.5]] * 2


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_pieces_of_a_batch_are_added_up_in_parts(on_ranks, stage):
    def train(comm):
        model = variables()
        optimizer = ShardedOptimizer(Adam(0.05), stage, comm)
        optimizer.build(model)
        for batch in batches(steps=2, examples=16):
            if len(batch[0]) < 2 * comm.size:
                break
            for x, y in micro_batches(batch, 2, comm):
                with dg.GradientTape() as tape:
                    loss = loss_of(model, x, y)
                optimizer.backward(loss, model, tape)
            optimizer.step()
        with optimizer.gathered():
            return {name: each.numpy() for name, each in model.items()}

    expected = variables()
    optimizer = Adam(0.05)
    x, y = batches(steps=2, examples=16)[0]
    with dg.GradientTape() as tape:
        loss = loss_of(expected, x, y)
    optimizer.apply(tape.gradient(loss, expected), expected)
    expected = {name: each.numpy() for name, each in expected.items()}

    for each in failed(on_ranks(2, train)):
        assert_equal(each, expected)


@pytest.mark.parametrize("average", ["examples", "ranks", "sum"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_weighed_as_a_distributed_tape_does(on_ranks, stage, average):
    def train(comm):
        x = dg.Variable([1.0, 2.0, 3.0])
        optimizer = ShardedOptimizer(SGD(1.0), stage, comm, average=average)
        optimizer.build(x)
        part = shard(np.array([1.0, 10.0]), comm)  # one rank of three has nothing: NaN
        with dg.GradientTape() as tape, np.errstate(invalid="ignore"):
            loss = dg.mean(dg.asarray(part)) * dg.sum(x) if len(part) else dg.sum(x) * np.nan
        optimizer.minimize(loss, x, tape)
        with optimizer.gathered():
            return x.numpy().tolist()

    moved = 11.0 if average == "sum" else 5.5
    assert failed(on_ranks(3, train)) == [[1 - moved, 2 - moved, 3 - moved]] * 3


def test_averages_are_taken_as_they_are_if_that_is_asked_for(on_ranks):
    def train(comm):
        model = variables()
        optimizer = ShardedOptimizer(Adam(0.05), 1, comm, average=None)
        for batch in batches():
            x, y = shard(batch, comm)
            with DistributedGradientTape(dg.GradientTape(), comm) as tape:
                loss = loss_of(model, x, y)
            optimizer.apply(tape.gradient(loss, model), model)
        return {name: each.numpy() for name, each in model.items()}

    expected = plainly(Adam(0.05), SerialCommunicator())
    for each in failed(on_ranks(3, train)):
        assert_equal(each, expected, rtol=1e-9)


def test_averages_that_would_be_averaged_again_are_refused(on_ranks):
    def train(comm):
        x = dg.Variable([1.0, 2.0], name="x")
        optimizer = ShardedOptimizer(SGD(1.0), 1, comm)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = dg.sum(x)
        optimizer.apply(tape.gradient(loss, x), x)

    for error in on_ranks(2, train):
        assert isinstance(error, TapeError)
        assert "'x' is an average over ranks already" in str(error)


def test_a_tape_that_averages_is_refused():
    x = dg.Variable(1.0)
    comm = SerialCommunicator()
    optimizer = ShardedOptimizer(SGD(1.0), 1, comm)
    with DistributedGradientTape(dg.GradientTape(), comm) as tape:
        loss = x * 2

    with pytest.raises(TypeError, match="plain GradientTape"):
        optimizer.minimize(loss, x, tape)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_variable_without_gradient_stays_and_one_that_some_ranks_use_moves(on_ranks, stage):
    def train(comm):
        own = [dg.Variable(np.ones(3), name=name) for name in "usn"]
        used, some = own[:2]
        optimizer = ShardedOptimizer(Adam(0.5), stage, comm)
        optimizer.build(own)
        with dg.GradientTape() as tape:
            loss = dg.sum(used) + (dg.sum(some) if comm.rank == 1 else 0 * dg.sum(some))
        optimizer.minimize(loss, own, tape)
        slots = {each.name: each.numpy() for each in optimizer.variables}
        assert not slots["n/first_moment"].any()
        with optimizer.gathered():
            return [each.numpy().tolist() for each in own]

    for found in failed(on_ranks(2, train)):
        np.testing.assert_allclose(found, [[0.5] * 3, [0.5] * 3, [1.0] * 3], rtol=1e-6)


# --- gradients that travel during the walk --------------------------------------------------------


class Waiting(RecordedCommunicator):
    """Sums of gradients are those of another rank that sends its own when it is told to."""

    def __init__(self, size=2, rank=0):
        super().__init__(size, rank)
        self.arrived, self.threads, self.gathering = threading.Event(), [], []

    def duplicate(self):
        other = Waiting(self.size, self.rank)
        for name in ("calls", "arrived", "threads", "gathering"):
            setattr(other, name, getattr(self, name))
        return other

    def allgatherv(self, array, counts, *, out=None):
        self.gathering.append(threading.current_thread())
        return super().allgatherv(array, counts, out=out)

    def reduce_scatter(self, array, op="sum"):
        self.threads.append(threading.current_thread())
        assert self.arrived.wait(20), "the walk did not go on while a message was under way"
        return super().reduce_scatter(array, op)


def telling(x, act):
    """Return x; the way back through it does something."""

    @dg.custom_gradient
    def identity(x):
        def gradient(g):
            act()
            return g

        return x, gradient

    return identity(x)


def chain_of(comm, act, stage, overlap=True):
    """Train four variables; the way back does something once it has the gradient of the last."""
    kernels = [dg.Variable(np.eye(10) * (n + 1), name=f"kernel{n}") for n in range(4)]
    optimizer = ShardedOptimizer(SGD(0.1), stage, comm, bucket_bytes=800, overlap=overlap)
    layers = [lambda x, w=w: x @ w for w in kernels]
    if stage == 3:
        layers = [optimizer.block(f, [w]) for f, w in zip(layers, kernels, strict=True)]
    optimizer.build(kernels)
    with dg.GradientTape() as tape:
        y = dg.ones((3, 10), dtype="float64")
        for layer in layers[:-1]:
            y = layer(y)
        loss = dg.mean(layers[-1](telling(y, act)))
    optimizer.minimize(loss, kernels, tape, examples=3)
    return optimizer


@pytest.mark.parametrize("stage", [2, 3])
def test_a_walk_goes_on_while_gradients_travel(stage):
    comm = Waiting()

    chain_of(comm, comm.arrived.set, stage)

    report = last_report(comm)
    assert report.algorithm == "overlapped reduce_scatter"
    assert report.buckets == len(comm.threads) == 4
    assert threading.main_thread() not in comm.threads


@pytest.mark.parametrize("overlap", [False, None])
def test_without_cores_to_spare_gradients_are_reduced_by_the_thread_that_computes(
    overlap, monkeypatch
):
    monkeypatch.setattr("distgrad.distributed.averaging.lanes.threads_per_rank", lambda ranks: 1)
    comm = Waiting()
    comm.arrived.set()

    chain_of(comm, lambda: None, 2, overlap)

    assert last_report(comm).algorithm == "reduce_scatter"
    assert set(comm.threads) == {threading.main_thread()}


def test_a_walk_that_fails_while_gradients_travel_is_told_at_the_next_one():
    comm = Waiting()
    comm.arrived.set()

    def fail():
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        chain_of(comm, fail, 2)
    with pytest.raises(CommunicationError, match="interrupted by an exception"):
        chain_of(comm, lambda: None, 2)


def blocks_of(comm, overlap=True, count=4):
    """Return variables of one block each, these, and their optimizer."""
    kernels = [dg.Variable(np.eye(10) * (n + 1), name=f"kernel{n}") for n in range(count)]
    optimizer = ShardedOptimizer(SGD(0.1), 3, comm, overlap=overlap)
    blocks = [optimizer.block(lambda x, w=w: x @ w, [w]) for w in kernels]
    optimizer.build(kernels)
    return kernels, blocks, optimizer


def step_of(kernels, blocks, optimizer, order=None):
    with dg.GradientTape() as tape:
        y = dg.ones((3, 10), dtype="float64")
        for place in range(len(blocks)) if order is None else order:
            y = blocks[place](y)
        loss = dg.mean(y)
    optimizer.minimize(loss, kernels, tape, examples=3)


def waiting(size=2):
    comm = Waiting(size)
    comm.arrived.set()
    return comm


def test_from_the_second_step_on_variables_are_gathered_ahead():
    comm = waiting()
    kernels, blocks, optimizer = blocks_of(comm)
    main, found = threading.main_thread(), []

    for _ in range(3):
        comm.gathering.clear()
        step_of(kernels, blocks, optimizer)
        found.append([thread is main for thread in comm.gathering])

    # The first of a step, and the last block again on the way back, are not foreseen in time.
    ahead = [True, False, False, False, True, False, False, False]
    assert found == [[True] * 8, ahead, ahead]


def test_another_order_than_the_step_before_is_no_error():
    comm = waiting()
    kernels, blocks, optimizer = blocks_of(comm)
    plain = blocks_of(waiting(), overlap=False)

    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (3, 3, 0), (0, 1, 2, 3), (0, 1), (0, 1, 2, 3)):
        step_of(kernels, blocks, optimizer, order)
        step_of(*plain, order)

    with optimizer.gathered(), plain[2].gathered():
        for mine, other in zip(kernels, plain[0], strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_what_is_assigned_while_it_is_gathered_ahead_is_read():
    comm = waiting()
    kernels, blocks, optimizer = blocks_of(comm)
    step_of(kernels, blocks, optimizer)

    x = dg.ones((3, 10), dtype="float64")
    blocks[0](x)
    assert optimizer._work.holdings._prefetch.bytes == 800  # of the second block
    kernels[1].assign(np.zeros((10, 10)))

    assert optimizer._work.holdings._prefetch.bytes == 0
    with optimizer.gathered(kernels[1]):
        np.testing.assert_array_equal(kernels[1].numpy()[:5], np.zeros((5, 10)))


def test_what_a_checkpoint_loads_into_parts_is_not_what_was_gathered_before(tmp_path):
    comm = SerialCommunicator()
    kernels, blocks, optimizer = blocks_of(comm, overlap=None)
    dg.checkpoint.save(tmp_path, {"optimizer": optimizer}, step=0, comm=comm)
    optimizer._work.holdings._prefetch = foreseen = Prefetch(waiting(1), True)
    for _ in range(2):
        step_of(kernels, blocks, optimizer)
    blocks[0](dg.ones((3, 10), dtype="float64"))
    assert foreseen.bytes == 800

    dg.checkpoint.load(tmp_path, {"optimizer": optimizer}, comm=comm)

    assert foreseen.bytes == 0
    np.testing.assert_array_equal(blocks[1](np.ones((1, 10))), np.full((1, 10), 2.0))


def test_one_block_more_is_held_while_it_is_gathered_ahead():
    peaks = {}
    for overlap in (False, True):
        kernels, blocks, optimizer = blocks_of(waiting(), overlap)
        for _ in range(3):
            step_of(kernels, blocks, optimizer)
        peaks[overlap] = optimizer.report().gathered

    assert peaks == {False: 800, True: 1600}


def test_one_message_more_is_held_while_another_one_travels():
    peaks = {}
    for overlap in (False, True):
        comm = Waiting()
        comm.arrived.set()
        peaks[overlap] = chain_of(comm, lambda: None, 2, overlap).report().gradients

    message = 8 * 2 * (1 + 50)  # of one variable: a row for each rank, with its weight
    assert peaks[False] <= peaks[True] <= peaks[False] + message


# --- loss scaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_is_skipped_everywhere_if_one_rank_overflows(on_ranks, stage):
    def train(comm):
        x = dg.Variable(np.ones(4, "float16"), name="x")
        optimizer = ShardedOptimizer(SGD(0.5), stage, comm)
        optimizer.build(x)
        scale = LossScale(initial=8.0)
        taken = []
        for step in range(2):
            factor = np.inf if step == 0 and comm.rank == 1 else 1.0
            with dg.GradientTape() as tape, np.errstate(invalid="ignore"):
                loss = scale.scale(dg.sum(x) * dg.asarray(factor, dtype="float16"))
            taken.append(optimizer.minimize(loss, x, tape, loss_scale=scale))
        with optimizer.gathered():
            return taken, float(scale.factor), x.numpy().tolist(), optimizer.iterations

    assert failed(on_ranks(2, train)) == [([False, True], 4.0, [0.5] * 4, 1)] * 2


def test_a_loss_scale_applies_a_sharded_optimizer(on_ranks):
    def train(comm):
        x = dg.Variable(np.ones(4, "float16"))
        optimizer, scale = ShardedOptimizer(SGD(0.5), 2, comm), LossScale(initial=8.0)
        gradient = np.full(4, 8.0 if comm.rank else np.nan, "float16")
        first = scale.apply(optimizer, dg.asarray(gradient), x)
        second = scale.apply(optimizer, dg.asarray(np.full(4, 4.0, "float16")), x)
        return first, second, x.numpy().tolist()

    assert failed(on_ranks(2, train)) == [(False, True, [0.5] * 4)] * 2


# --- what is refused ------------------------------------------------------------------------------


def test_an_overlap_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(
        ValueError, match="ShardedOptimizer: overlap is 'walk'; expected True, False"
    ):
        ShardedOptimizer(SGD(0.1), 2, SerialCommunicator(), overlap="walk")


def test_optimizers_of_whole_vectors_are_refused():
    with pytest.raises(TypeError, match="LBFGS and NewtonCG"):
        ShardedOptimizer(LBFGS())
    with pytest.raises(UnsupportedOptionError, match="lazy=True"):
        ShardedOptimizer(SGD(0.1, lazy=True))
    with pytest.raises(UnsupportedOptionError, match="last of a chain"):
        ShardedOptimizer(Optimizer(chain(LAMB(0.1), clipping(value=1.0))))
    with pytest.raises(UnsupportedOptionError, match="in front"):
        ShardedOptimizer(Optimizer(accumulate(2, chain(clipping(norm=1.0), SGD(0.1)))))


def test_a_transform_of_ones_own_says_that_it_treats_elements_one_by_one(on_ranks):
    class Sign:
        def init(self, parameters):
            return ()

        def update(self, gradients, state, parameters):
            return {n: None if g is None else dg.sign(g) for n, g in gradients.items()}, state

    with pytest.raises(UnsupportedOptionError, match="elementwise = True"):
        ShardedOptimizer(Optimizer(chain(Sign(), SGD(0.1))))
    Sign.elementwise = True

    def train(comm):
        x = dg.Variable([3.0, -4.0, 0.0])
        optimizer = ShardedOptimizer(Optimizer(chain(Sign(), SGD(1.0))), 1, comm)
        optimizer.apply(dg.asarray([7.0, -7.0, 0.0]), x)
        return x.numpy().tolist()

    assert failed(on_ranks(2, train)) == [[2.0, -3.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"stage": 4}, ValueError, "expected 1, 2 or 3"),
        ({"average": "median"}, ValueError, "'examples'"),
        ({"bucket_bytes": 0}, ValueError, "1 or more"),
        ({"stage": 2, "average": None}, UnsupportedOptionError, "stage 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        ShardedOptimizer(SGD(0.1), **arguments)


def test_an_optimizer_with_a_state_is_refused():
    optimizer = Adam(0.1)
    optimizer.build(dg.Variable(1.0))

    with pytest.raises(ValueError, match="fresh one"):
        ShardedOptimizer(optimizer)


def test_misuse_is_named():
    comm = SerialCommunicator()
    x, y = dg.Variable([1.0], name="x"), dg.Variable([1.0], name="y")
    optimizer = ShardedOptimizer(SGD(0.1), 1, comm)

    with pytest.raises(ValueError, match="nothing to take a step with"):
        optimizer.step()
    with pytest.raises(ValueError, match="'x' is there twice"):
        optimizer.build([x, x])
    with pytest.raises(TypeError, match="expected variables, got float"):
        optimizer.build([1.0])
    with pytest.raises(ShapeError, match="'x' has shape"):
        optimizer.apply([dg.ones(2)], [x])
    with pytest.raises(ValueError, match="'y' is not among the 1"):
        optimizer.apply([dg.ones(1)], [y])
    with pytest.raises(ValueError, match="every gradient is None"):
        optimizer.apply([None], [x])
    with pytest.raises(BatchError, match="has an example"):
        optimizer.apply([dg.ones(1)], [x], examples=0)
    with pytest.raises(UnsupportedOptionError, match="whole at stage 1"):
        optimizer.block(lambda: None, [y])
    with pytest.raises(TraceError, match=r"within dg\.function"):
        dg.function(lambda g: optimizer.apply([g], [x]))(dg.ones(1))
    fixed = dg.Variable([1.0], trainable=False, name="fixed")
    with pytest.raises(ValueError, match="not trainable"):
        ShardedOptimizer(SGD(0.1), 1, comm).apply([dg.ones(1), dg.ones(1)], [x, fixed])


def test_a_loss_that_another_tape_records_is_refused():
    x = dg.Variable([1.0])
    optimizer = ShardedOptimizer(SGD(0.1), 2, SerialCommunicator())

    with dg.GradientTape():
        with dg.GradientTape() as tape:
            loss = dg.sum(x * x)
        with pytest.raises(TapeError, match="another tape records"):
            optimizer.minimize(loss, x, tape)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_ranks_with_other_variables_are_named(on_ranks, stage):
    def train(comm):
        x = dg.Variable(np.ones(4 if comm.rank == 1 else 3), name="x")
        optimizer = ShardedOptimizer(SGD(0.1), stage, comm)
        optimizer.build(x)

    for error in on_ranks(3, train):
        assert isinstance(error, DesyncError)
        assert "rank 1 sends x float64[4]" in str(error)


def test_a_rank_that_adds_where_others_step_is_named(on_ranks):
    def train(comm):
        x = dg.Variable(np.ones(3), name="x")
        optimizer = ShardedOptimizer(SGD(0.1), 2, comm)
        optimizer.add(dg.ones(3), x)
        if comm.rank == 1:
            optimizer.add(dg.ones(3), x)
        else:
            optimizer.step()

    for error in on_ranks(3, train):
        assert isinstance(error, DesyncError)
        assert "rank 1 does ShardedOptimizer.add" in str(error)


def test_all_ranks_start_from_the_values_of_rank_0(on_ranks):
    def train(comm):
        x = dg.Variable(np.full(3, 1.0 + comm.rank), name="x")
        ShardedOptimizer(SGD(0.5), 1, comm).apply(dg.ones(3), x)
        return x.numpy().tolist()

    assert failed(on_ranks(2, train)) == [[0.5] * 3] * 2


# --- what travels, and what is held ---------------------------------------------------------------


def test_a_step_sends_what_an_allreduce_does_and_holds_one_part():
    comm = RecordedCommunicator(size=4)
    x = dg.Variable(np.ones((10, 20), "float32"), name="x")
    optimizer = ShardedOptimizer(Adam(0.1), 2, comm)
    optimizer.build(x)
    before = len(comm.calls)
    with dg.GradientTape() as tape:
        loss = dg.sum(x)
    optimizer.minimize(loss, x, tape)

    carried = [call for call in comm.calls[before:] if call.verb != "allreduce"]
    assert [(call.verb, call.shape) for call in carried] == [
        ("reduce_scatter", (4, 51)),
        ("allgatherv", (50,)),
    ]
    report = optimizer.report()
    assert report.parameters == 800
    assert report.state == 2 * 200 + 16
    assert report.formulas["state"] == ("8 n / N", 400.0)
    assert report.formulas["gradients"] == ("4 n / N", 200.0)
    assert "stage 2 on 4 ranks, n = 200" in str(report)
    assert sum(part.array.nbytes for part in optimizer._work.holdings.parts) == 0


def test_at_stage_2_only_a_unit_of_gradients_is_there_at_a_time(on_ranks):
    def peak(comm, stage):
        layers = [dg.Variable(np.eye(32, dtype="float32"), name=f"w{i}") for i in range(8)]
        optimizer = ShardedOptimizer(SGD(0.1), stage, comm, bucket_bytes=4096)
        with dg.GradientTape() as tape:
            y = dg.ones((2, 32))
            for w in layers:
                y = y @ w
            loss = dg.mean(y)
        optimizer.minimize(loss, layers, tape)
        return optimizer.report().gradients

    whole = 8 * 4096
    for stage, limit in ((1, 1.9 * whole), (2, 0.8 * whole)):
        for found in failed(on_ranks(4, lambda comm, stage=stage: peak(comm, stage))):
            assert found < limit


def test_checks_for_stage_3_come_before_the_forward_pass():
    x = dg.Variable([1.0])
    optimizer = ShardedOptimizer(SGD(0.1), 3, SerialCommunicator())
    with dg.GradientTape() as tape:
        loss = dg.sum(x)

    with pytest.raises(ValueError, match="before the forward pass"):
        optimizer.minimize(loss, x, tape)


def test_nothing_is_left_of_a_walk_that_failed():
    @dg.custom_gradient
    def passing(x):
        def gradient(g):
            if step == 1:
                raise ZeroDivisionError("planted")
            return g

        return x, gradient

    early, late = [dg.Variable(np.zeros(3), name=name) for name in ("early", "late")]
    optimizer = ShardedOptimizer(SGD(1.0), 2, SerialCommunicator(), bucket_bytes=8)
    optimizer.build([early, late])
    for step in range(3):
        with dg.GradientTape() as tape:
            loss = dg.sum(passing(early * 1.0)) + 100.0**step * dg.sum(late)
        with pytest.raises(ZeroDivisionError) if step == 1 else nullcontext():
            optimizer.minimize(loss, [early, late], tape)

    assert early.numpy().tolist() == [-2.0] * 3
    assert late.numpy().tolist() == [-10001.0] * 3
