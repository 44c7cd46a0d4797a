"""The deterministic sum over MPI has the bits of a single process, also in many small messages."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs import mpi

pytestmark = pytest.mark.mpi


def train(comm):
    """Return the losses and the last variables' bytes."""
    rng = np.random.default_rng(1)
    w = dg.Variable(rng.normal(size=(5, 3)).astype(np.float32), name="w")
    dist.broadcast_variables([w], comm=comm)
    accumulator = dist.GradientAccumulator([w], comm, deterministic=True)
    x = rng.normal(size=(53, 5)).astype(np.float32)
    losses = []
    for _ in range(5):
        figures = []
        for part in dist.logical_shards(x, comm):
            with dg.GradientTape() as tape:
                loss = dg.mean(dg.square(dg.tanh(part @ w) - 0.5))
            accumulator.add(tape.gradient(loss, [w]))
            figures.append(float(loss) * len(part))
        w.assign_sub(0.5 * accumulator.gradients()[0])
        losses.append(float(dist.sum_logical_shards(figures, comm)))
    return losses, w.numpy().tobytes()


@pytest.mark.parametrize("elements", [2**28, 32])
def test_the_curve_and_the_variables_are_those_of_one_rank_to_the_bit(monkeypatch, elements):
    monkeypatch.setattr(mpi, "MESSAGE_ELEMENTS", elements)

    assert train(dist.world()) == train(dist.SerialCommunicator())
