"""Batch norm over ranks is that of one process on the whole batch, however it is cut."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import BatchError, DesyncError, DTypeError

LENGTHS = [(4, 3), (5, 0), (0, 1, 6), (2, 2, 2)]  # an empty shard, first and last; even ones
CHANNELS = 3


def batch_of(lengths):
    rng = np.random.default_rng(3)
    return [1000.0 + rng.normal(size=(n, 2, CHANNELS)) for n in lengths]


def affine():
    return dg.asarray([0.5, 2.0, -1.0], dtype="float64"), dg.asarray([3.0, 0.0, 1.0])


def curve(y, first):
    """Return the loss of some examples of the global batch, of which this is where they begin."""
    if not y.shape[0]:
        return dg.sum(y)
    weights = 1.0 + np.arange(first, first + y.shape[0]).reshape(-1, 1, 1)
    return dg.sum(weights * dg.sin(y))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_moments_are_those_of_the_whole_batch_and_equal_on_all_ranks(on_ranks, lengths):
    parts = batch_of(lengths)
    whole = np.concatenate(parts)

    found = on_ranks(
        len(lengths), lambda comm: dist.sync_moments(parts[comm.rank], axis=(0, 1), comm=comm)
    )

    for mean, variance in found:
        np.testing.assert_allclose(mean.numpy(), whole.mean((0, 1)), rtol=1e-14)
        np.testing.assert_allclose(variance.numpy(), whole.var((0, 1)), rtol=1e-12)
        assert mean.tolist() == found[0][0].tolist()
        assert variance.tolist() == found[0][1].tolist()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values_gradients_and_second_order_are_those_of_the_whole_batch(on_ranks, lengths):
    parts = batch_of(lengths)
    starts = np.cumsum(lengths) - lengths
    whole = dg.asarray(np.concatenate(parts))
    along = np.cos(np.arange(whole.size)).reshape(whole.shape)

    def derivatives(x, target, direction):
        gradient = dg.grad(target)
        turned = dg.grad(lambda x: dg.sum(gradient(x) * direction))
        return target(x), gradient(x), turned(x)

    def work(comm):
        start, length = starts[comm.rank], lengths[comm.rank]

        def target(x):
            return curve(dist.sync_batch_norm(x, *affine(), comm=comm).output, start)

        mine = dg.asarray(parts[comm.rank])
        return derivatives(mine, target, along[start : start + length])

    value, gradient, turned = derivatives(
        whole, lambda x: curve(dg.nn.batch_norm(x, *affine()).output, 0), along
    )
    found = on_ranks(len(lengths), work)

    assert sum(float(each[0]) for each in found) == pytest.approx(float(value), rel=1e-10)
    for place, expected in ((1, gradient), (2, turned)):
        together = np.concatenate([each[place].numpy() for each in found])
        np.testing.assert_allclose(together, expected.numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_training_step_of_uneven_ranks_is_that_of_one_process(on_ranks, lengths):
    parts = batch_of(lengths)
    total = sum(lengths)

    def step(comm, mine, tape):
        layer = dist.SyncBatchNorm(comm=comm, momentum=0.75, dtype="float64")
        weight = dg.Variable(np.linspace(-1, 1, CHANNELS), name="weight")
        with tape:
            y = layer(dg.asarray(mine) * weight, training=True)
            loss = dg.sum(dg.sin(y)) / total
        gradients = tape.gradient(loss, [weight, layer.scale, layer.shift])
        assert [v.name for v in layer.trainable_variables] == [
            "sync_batch_norm/scale",
            "sync_batch_norm/shift",
        ]
        return [*gradients, layer.running_mean, layer.running_variance, layer(np.ones((1, 2, 3)))]

    def work(comm):
        tape = dist.DistributedGradientTape(dg.GradientTape(), comm, average="sum")
        return step(comm, parts[comm.rank], tape)

    expected = step(dist.SerialCommunicator(), np.concatenate(parts), dg.GradientTape())

    for found in on_ranks(len(lengths), work):
        for mine, whole in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.numpy(), whole.numpy(), rtol=1e-8, atol=1e-9)


def test_one_rank_is_the_plain_layer():
    x = batch_of((5,))[0]
    plain, synced = dg.nn.BatchNorm(), dist.SyncBatchNorm(comm=dist.SerialCommunicator())

    for _ in range(2):
        np.testing.assert_allclose(
            synced(x, training=True).numpy(), plain(x, training=True).numpy(), rtol=1e-9, atol=1e-9
        )
    for mine, other in zip(synced.variables, plain.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-6)


def test_float32_moments_keep_their_dtype_and_a_small_variance(on_ranks):
    def work(comm):
        x = np.float32(1e4) + np.linspace(0, 1, 8, dtype=np.float32)[comm.rank :: 2]
        return dist.sync_moments(x, comm=comm)

    whole = (np.float32(1e4) + np.linspace(0, 1, 8, dtype=np.float32)).astype(np.float64)
    for mean, variance in on_ranks(2, work):
        assert mean.dtype == variance.dtype == np.float32
        assert float(variance) == pytest.approx(whole.var(), rel=1e-6)


def test_a_traced_gradient_is_the_eager_one(on_ranks):
    parts = batch_of((3, 2))

    def work(comm):
        gradient = dg.grad(lambda x: curve(dist.sync_batch_norm(x, comm=comm).output, comm.rank))
        x = dg.asarray(parts[comm.rank])
        return gradient(x), dg.function(gradient)(x)

    for eager, traced in on_ranks(2, work):
        np.testing.assert_allclose(traced.numpy(), eager.numpy(), rtol=1e-12)


def test_channels_that_differ_are_named(on_ranks):
    def work(comm):
        return dist.sync_batch_norm(np.ones((4, 2 + comm.rank)), comm=comm)

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 sends x float64[1, 3], rank 0 sends x float64[1, 2]" in str(error)


def test_no_example_anywhere_is_an_error(on_ranks):
    for error in on_ranks(2, lambda comm: dist.sync_moments(np.ones((0, 3)), comm=comm)):
        assert isinstance(error, BatchError)


def test_integers_have_no_moments():
    with pytest.raises(DTypeError, match="sync_moments: x has dtype int64"):
        dist.sync_moments(np.arange(3), comm=dist.SerialCommunicator())
