"""Gradients summed in their own memory over MPI: the bits of those that were copied."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist

pytestmark = pytest.mark.mpi(min_size=2)

# 3 and 2 MiB travel alone, the rest together.
SHAPES = ((768, 1024), (5,), (512, 1024), (7, 3))


def model():
    rng = np.random.default_rng(1)
    return [
        dg.Variable(rng.normal(size=shape).astype(np.float32), name=f"v{n}")
        for n, shape in enumerate(SHAPES)
    ]


def factor_of(rank):
    """Return a rank's factor of the first variable."""
    return np.random.default_rng(rank).normal(size=SHAPES[0]).astype(np.float32)


def averages(variables, examples, *, held, **options):
    """Return averages and, where somebody held the gradients, those."""
    world, kept = dist.world(), []

    class Holding(dg.GradientTape):
        def gradient(self, *arguments, **keywords):
            found = super().gradient(*arguments, **keywords)
            if held:
                kept.extend(found)
            return found

    rng = np.random.default_rng(world.rank)
    factors = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    tape = dist.DistributedGradientTape(Holding(), **options)
    with tape:
        loss = sum(dg.sum(dg.tanh(v) * f) for v, f in zip(variables, factors, strict=True))
    return tape.gradient(loss, variables, examples=examples), kept


@pytest.mark.parametrize("reduction", ["native", "hierarchical"])
@pytest.mark.parametrize("even", [True, False])
def test_in_its_own_memory_or_copied_an_average_has_the_same_bits(even, reduction):
    variables, rank = model(), dist.world().rank
    examples = 4 if even else rank  # rank 0 has none
    options = {"overlap": False, "reduction": reduction}

    in_place, _ = averages(variables, examples, held=False, **options)
    copied, kept = averages(variables, examples, held=True, **options)

    assert dist.last_report().buckets == 3
    for mine, other in zip(in_place, copied, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    with dg.GradientTape() as tape:  # what was held is still this rank's own
        loss = dg.sum(dg.tanh(variables[0]) * factor_of(rank))
    np.testing.assert_array_equal(kept[0].numpy(), tape.gradient(loss, variables[0]).numpy())
    assert in_place[0].array.flags.owndata
    assert not copied[0].array.flags.owndata


def test_overlapped_messages_give_the_bits_of_those_after_the_walk():
    variables = model()

    expected, _ = averages(variables, 3, held=False, overlap=False)
    for _ in range(3):
        found, _ = averages(variables, 3, held=False, overlap=True)

        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
    assert dist.last_report().algorithm == "overlapped allreduce"


def test_the_average_is_that_of_all_examples():
    variables, world = model(), dist.world()
    found, own = averages(variables, world.rank + 1.0, held=True, overlap=False)

    weights = np.arange(1, world.size + 1) / (world.size * (world.size + 1) / 2)
    for average, mine in zip(found, own, strict=True):
        everyone = dist.allgather(mine.numpy()[np.newaxis])
        expected = np.tensordot(weights, np.asarray(everyone, np.float64), 1)
        np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-6)
