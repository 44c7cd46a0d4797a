"""At stage 3 variables are whole only while something uses them."""

import copy
import gc
import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator, ShardedOptimizer
from distgrad.errors import (
    DesyncError,
    ShapeError,
    ShardedValueError,
    TapeError,
    UnsupportedOptionError,
)
from distgrad.optimizers import SGD, Adam


def failed(results):
    for each in results:
        if isinstance(each, Exception):
            raise each
    return results


def optimizer_of(comm, *variables, rate=0.5):
    optimizer = ShardedOptimizer(SGD(rate), 3, comm)
    optimizer.build(list(variables))
    return optimizer


def test_a_variable_keeps_its_spec_and_refuses_to_show_what_is_elsewhere(on_ranks):
    def look(comm):
        x = dg.Variable(np.arange(6.0).reshape(2, 3), name="x")
        optimizer = optimizer_of(comm, x)
        assert isinstance(x, dg.Variable)
        assert (x.shape, x.dtype, x.ndim, x.size, x.backend.name) == (
            (2, 3),
            "float64",
            2,
            6,
            "numpy",
        )
        start = (0, 2, 4)[comm.rank]
        assert f"elements {start} to {start + 2} are here" in repr(x)
        for look_at in (x.numpy, lambda: x.array, lambda: float(x), lambda: copy.copy(x)):
            with pytest.raises(ShardedValueError, match=rf"rank {comm.rank} holds 2 of its 6 "):
                look_at()
        with optimizer.gathered(x):
            values = x.numpy().tolist()
            assert copy.copy(x).numpy().tolist() == values
            assert "elements" not in repr(x)
        with pytest.raises(ShardedValueError, match=r"optimizer\.gathered"):
            x.numpy()
        return values

    assert failed(on_ranks(3, look)) == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]] * 3


def test_what_is_assigned_reaches_each_ranks_part(on_ranks):
    def assign(comm):
        x = dg.Variable(np.zeros((5,), "float32"), name="x")
        optimizer = optimizer_of(comm, x)
        x.assign(np.arange(5.0))
        with pytest.raises(ShardedValueError):
            x.assign_add(np.ones(5))
        with pytest.raises(ShapeError, match="shape"):
            x.assign(np.ones(4))
        with optimizer.gathered():
            first = x.numpy().tolist()
            x.assign_add(np.ones(5, "float32"))
            x.assign(2 * x)
            inside = x.numpy().tolist()
        x.assign(x.read() + 1)
        optimizer.release()
        with optimizer.gathered():
            return first, inside, x.numpy().tolist()

    expected = ([0, 1, 2, 3, 4], [2, 4, 6, 8, 10], [3, 5, 7, 9, 11])
    assert failed(on_ranks(2, assign)) == [expected] * 2


def test_an_operation_that_reads_a_variable_gathers_it_until_the_step(on_ranks):
    def read(comm):
        x = dg.Variable(np.ones(4), name="x")
        optimizer = optimizer_of(comm, x)
        holdings = optimizer._work.holdings
        with dg.GradientTape() as tape:
            loss = dg.sum(x * x)
        gathered = holdings.gathered_bytes
        optimizer.minimize(loss, x, tape)
        return gathered, holdings.gathered_bytes, optimizer.report().gathered

    assert failed(on_ranks(2, read)) == [(32, 0, 32)] * 2


def test_a_block_is_gathered_twice_and_never_stays(on_ranks):
    def train(comm):
        w = [dg.Variable(np.eye(3) * 2, name=f"w{i}") for i in range(3)]
        optimizer = ShardedOptimizer(SGD(0.5), 3, comm)
        blocks = [optimizer.block(lambda x, v=v: x @ v, v) for v in w]
        optimizer.build(w)
        holdings = optimizer._work.holdings
        before = len(comm.verbs)
        with dg.GradientTape() as tape:
            y = np.ones((2, 3))  # a constant: nothing but the block's variables is followed
            for block in blocks:
                y = block(y)
                assert holdings.gathered_bytes == 0
            loss = dg.mean(y)
        assert tape.summary().records == 4
        optimizer.minimize(loss, w, tape)
        gathers, peak = comm.verbs[before:].count("allgatherv"), optimizer.report().gathered
        with optimizer.gathered():
            return gathers, peak, w[0].numpy()

    for gathers, peak, found in failed(on_ranks(2, train)):
        # 3 forward, 3 backward; after the step nothing is in use.
        assert (gathers, peak) == (6, 72)
        np.testing.assert_allclose(found, 2 * np.eye(3) - 0.5 * 4 * np.full((3, 3), 1 / 3))


def test_a_block_used_twice_and_one_beside_a_tape_that_watches_nothing(on_ranks):
    def train(comm):
        w = dg.Variable(np.full((2, 2), 2.0), name="w")
        optimizer = ShardedOptimizer(SGD(0.25), 3, comm)
        block = optimizer.block(lambda x: x @ w, w)
        optimizer.build(w)
        with dg.GradientTape(watch_accessed_variables=False) as tape:
            loss = dg.sum(block(block(dg.ones((1, 2)))))
        optimizer.minimize(loss, w, tape, examples=1 + comm.rank)
        with optimizer.gathered():
            return w.numpy()

    w = dg.Variable(np.full((2, 2), 2.0))
    with dg.GradientTape() as tape:
        loss = dg.sum(dg.ones((1, 2)) @ w @ w)
    expected = w.numpy() - 0.25 * tape.gradient(loss, w).numpy()
    for found in failed(on_ranks(2, train)):
        np.testing.assert_allclose(found, expected)


def test_a_block_may_hold_another(on_ranks):
    def train(comm):
        w, v = dg.Variable(np.eye(2) * 2, name="w"), dg.Variable(np.eye(2) * 3, name="v")
        optimizer = ShardedOptimizer(SGD(1.0), 3, comm)
        inner = optimizer.block(lambda x: x @ w, w)
        outer = optimizer.block(lambda x: inner(x) @ v, v)
        optimizer.build([w, v])
        with dg.GradientTape() as tape:
            loss = dg.sum(outer(np.ones((1, 2))))
        optimizer.minimize(loss, [w, v], tape)
        with optimizer.gathered():
            return w.numpy().tolist(), v.numpy().tolist()

    expected = ([[-1.0, -3.0], [-3.0, -1.0]], [[1.0, -2.0], [-2.0, 1.0]])
    assert failed(on_ranks(2, train)) == [expected] * 2


def test_a_block_may_be_a_module_and_read_variables_of_others(on_ranks):
    def model():
        layers = [dg.nn.Dense(4, activation=dg.tanh), dg.nn.Dense(4, activation=dg.tanh)]
        for layer in layers:
            layer.build(dg.ones((1, 4)))
        return layers, dg.Variable(np.full(4, 0.5, "float32"), name="shared")

    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")

    def train(comm, stage):
        layers, shared = model()
        own = [*layers[0].variables, *layers[1].variables, shared]
        optimizer = ShardedOptimizer(Adam(0.1), stage, comm)
        first, second = layers
        if stage == 3:
            first = optimizer.block(first)
            inner = layers[1]
            second = optimizer.block(lambda x: inner(x) * shared, inner.variables)
            optimizer.build(own)
        for _ in range(2):
            with dg.GradientTape() as tape:
                y = first(x * shared)
                y = second(y) if stage == 3 else second(y) * shared
                loss = dg.mean(y * y)
            optimizer.minimize(loss, own, tape, examples=3 - comm.rank)
        with optimizer.gathered():
            return [each.numpy() for each in own]

    expected = failed(on_ranks(2, lambda comm: train(comm, 1)))
    for found in failed(on_ranks(2, lambda comm: train(comm, 3))):
        for own, value in zip(found, expected[0], strict=True):
            np.testing.assert_allclose(own, value, rtol=2e-6, atol=1e-7)


def test_a_traced_function_runs_within_a_block():
    w = dg.Variable(np.full((2, 2), 3.0), name="w")
    optimizer = ShardedOptimizer(SGD(1.0), 3, SerialCommunicator())
    block = optimizer.block(dg.function(lambda x: dg.sum(x @ w)), w)
    optimizer.build(w)

    for _ in range(2):
        with dg.GradientTape() as tape:
            loss = block(dg.ones((1, 2), dtype="float64"))
        optimizer.minimize(loss, w, tape)

    with optimizer.gathered():
        assert w.numpy().tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_forward_mode_goes_through_a_block():
    w = dg.Variable(np.array([[2.0, 0.0], [1.0, 3.0]]), name="w")
    optimizer = ShardedOptimizer(SGD(1.0), 3, SerialCommunicator())
    block = optimizer.block(lambda x: dg.square(x @ w), w)
    x = dg.asarray([[1.0, 2.0]], dtype="float64")
    with dg.ForwardAccumulator(x, dg.ones((1, 2), dtype="float64")) as pushed:
        y = block(x)

    assert pushed.jvp(y).tolist() == [[2 * 4.0 * 3.0, 2 * 6.0 * 3.0]]


def test_what_cannot_be_is_refused():
    w, v = dg.Variable([1.0, 2.0], name="w"), dg.Variable([1.0], name="v")
    optimizer = ShardedOptimizer(SGD(1.0), 3, SerialCommunicator())
    block = optimizer.block(lambda x: dg.sum(x * w), w)

    with pytest.raises(ValueError, match="'w' is in a block already"):
        optimizer.block(lambda x: x, w)
    with pytest.raises(ValueError, match="no trainable variables"):
        optimizer.block(lambda x: x)
    optimizer.build([w, v])
    with pytest.raises(ValueError, match="built already"):
        optimizer.block(lambda x: x, dg.Variable(1.0))
    with dg.GradientTape() as tape:
        x = dg.asarray([1.0, 1.0])
        tape.watch(x)
        loss = block(x)
    with pytest.raises(TapeError, match=r"call optimizer\.minimize"):
        tape.gradient(loss, x)
    with pytest.raises(UnsupportedOptionError, match=r"within dg\.function"):
        dg.function(block)(dg.ones(2))
    with pytest.raises(UnsupportedOptionError, match=r"read within dg\.function"):
        dg.function(lambda x: x * v)(dg.ones(1))


def test_ranks_that_read_other_variables_are_named(on_ranks):
    def read(comm):
        x, y = dg.Variable(np.ones(4), name="x"), dg.Variable(np.ones((4,)), name="y")
        optimizer = ShardedOptimizer(SGD(1.0), 3, comm, bucket_bytes=1)
        optimizer.build([x, y])
        return dg.sum(y if comm.rank == 2 else x)

    for error in on_ranks(3, read):
        assert isinstance(error, DesyncError)
        assert "rank 2 does gather parameters (read of 'y')" in str(error)


def test_the_peak_of_a_step_is_that_of_parts_and_one_block(on_ranks):
    """Eight layers of 1 MiB on 4 ranks: what the threads of all four hold at most, together."""
    width, depth, ranks = 512, 8, 4
    layer = width * width * 4

    def train(comm, stage, measured):
        w = [dg.Variable(np.eye(width, dtype="float32"), name=f"w{i}") for i in range(depth)]
        optimizer = ShardedOptimizer(SGD(0.1), stage, comm, bucket_bytes=layer)
        blocks = [lambda x, v=v: dg.tanh(x @ v) for v in w]
        if stage == 3:
            blocks = [optimizer.block(block, v) for block, v in zip(blocks, w, strict=True)]
        optimizer.build(w)
        for _ in range(2):
            comm.barrier()
            if comm.rank == 0:
                gc.collect()
                tracemalloc.reset_peak()
            comm.barrier()
            with dg.GradientTape() as tape:
                y = dg.ones((4, width))
                for block in blocks:
                    y = block(y)
                loss = dg.mean(y)
            optimizer.minimize(loss, w, tape)
            del tape, y, loss
        comm.barrier()
        if comm.rank == 0:
            measured.append(tracemalloc.get_traced_memory()[1])
        comm.barrier()

    peaks = {}
    for stage in (1, 2, 3):
        measured = []
        tracemalloc.start()
        try:
            failed(on_ranks(ranks, lambda comm, m=measured, s=stage: train(comm, s, m)))
        finally:
            tracemalloc.stop()
        peaks[stage] = measured[0] / ranks / layer  # layers for each rank

    # Stage 1 holds parameters and gradients, 16 layers; stage 2 the parameters and parts; stage 3
    # parts, 2 layers of each, and a block: its parameters, gradients and messages.
    assert peaks[1] > 16
    assert peaks[2] < 14
    assert peaks[3] < 10
