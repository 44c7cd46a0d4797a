"""Collectives beside what they are on one process: a function from all inputs to all outputs.

Each case says a rank's input, the collective, and the same of all ranks' inputs at once. What is
differentiated is the sum of all ranks' targets, each another function of what its rank received.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs.communicator import Communicator


class Case(NamedTuple):
    """A collective, and what it is on one process.

    Attributes
    ----------
    make : callable
        ``make(rank, size) -> numpy.ndarray``: a rank's input.
    collective : callable
        ``collective(x, comm) -> y`` on a rank.
    whole : callable
        ``whole(xs) -> ys``: all ranks' results of all ranks' inputs, in plain operations.
    """

    make: Callable[[int, int], Any]
    collective: Callable[[Any, Communicator], Any]
    whole: Callable[[Sequence[Any]], Sequence[Any]]


class Derivatives(NamedTuple):
    """What is compared: a rank's result, gradient, the gradient's derivative, a tangent."""

    value: Any
    gradient: Any
    second: Any
    tangent: Any


def _rows(*lengths: int) -> Callable[[int, int], Any]:
    """Return a function that gives a rank's array, of so many rows."""

    def make(rank: int, size: int) -> Any:
        shape = (lengths[rank % len(lengths)], 2)
        return np.random.default_rng([5, rank]).uniform(0.5, 2.0, shape)

    return make


def _with_a_zero(rank: int, size: int) -> Any:
    values = _rows(3)(rank, size)
    values[0, rank % 2] = 0.0
    return values


def _tied(rank: int, size: int) -> Any:
    values = _rows(3)(rank, size)
    values[1] = 7.0  # the greatest, on every rank
    return values


def _counted_rows(rank: int, size: int) -> Any:
    return _rows(sum(_counts_of(rank, size)))(rank, size)


def _counts_of(rank: int, size: int) -> list[int]:
    """Return how many of its rows a rank sends to each, nothing to some."""
    return [(rank + 2 * other) % 3 for other in range(size)]


def _even(length: int, size: int) -> list[int]:
    return [(r + 1) * length // size - r * length // size for r in range(size)]


def _cut(x: Any, counts: Sequence[int]) -> list[Any]:
    stops = itertools.accumulate(counts)
    return [x[stop - count : stop] for stop, count in zip(stops, counts, strict=True)]


def _exchanged(xs: Sequence[Any], pieces: Sequence[Sequence[Any]]) -> list[Any]:
    return [dg.concat([own[rank] for own in pieces], axis=0) for rank in range(len(xs))]


def _stacked(reduce: Callable[..., Any]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    return lambda xs: [reduce(dg.stack(xs, axis=0), axis=0)] * len(xs)


def _reduction(op: str) -> Callable[[Any, Communicator], Any]:
    return lambda x, comm: dist.allreduce(x, op, comm)


CASES = {
    "sum": Case(_rows(3), _reduction("sum"), _stacked(dg.sum)),
    "mean": Case(_rows(3), _reduction("mean"), _stacked(dg.mean)),
    "max": Case(_rows(3), _reduction("max"), _stacked(dg.max)),
    "max, tied": Case(_tied, _reduction("max"), _stacked(dg.max)),
    "min": Case(_rows(3), _reduction("min"), _stacked(dg.min)),
    "prod": Case(_rows(3), _reduction("prod"), _stacked(dg.prod)),
    "prod, with zeros": Case(_with_a_zero, _reduction("prod"), _stacked(dg.prod)),
    "broadcast": Case(
        _rows(3),
        lambda x, comm: dist.broadcast(x, root=1 % comm.size, comm=comm),
        lambda xs: [xs[1 % len(xs)]] * len(xs),
    ),
    "allgather": Case(
        _rows(3, 0, 2), dist.allgather, lambda xs: [dg.concat(list(xs), axis=0)] * len(xs)
    ),
    "reduce_scatter": Case(
        _rows(5),
        lambda x, comm: dist.reduce_scatter(x, comm=comm),
        lambda xs: _cut(dg.sum(dg.stack(xs, axis=0), axis=0), _even(5, len(xs))),
    ),
    "reduce_scatter, mean": Case(
        _rows(5),
        lambda x, comm: dist.reduce_scatter(x, "mean", comm),
        lambda xs: _cut(dg.mean(dg.stack(xs, axis=0), axis=0), _even(5, len(xs))),
    ),
    "alltoall": Case(
        _rows(5, 2, 0),
        lambda x, comm: dist.alltoall(x, comm=comm),
        lambda xs: _exchanged(xs, [_cut(x, _even(x.shape[0], len(xs))) for x in xs]),
    ),
    "alltoall, counted": Case(
        _counted_rows,
        lambda x, comm: dist.alltoall(x, _counts_of(comm.rank, comm.size), comm),
        lambda xs: _exchanged(
            xs, [_cut(x, _counts_of(rank, len(xs))) for rank, x in enumerate(xs)]
        ),
    ),
}


def target(case: Case, x: Any, comm: Communicator) -> Any:
    """Return a rank's target: another function on each, curved in every element."""
    return _curve(case.collective(x, comm), comm.rank)


def _curve(y: Any, rank: int) -> Any:
    return dg.sum((rank + 1.0) * y**3 + dg.sin(y))


def _direction(x: Any) -> Any:
    return dg.asarray(np.cos(np.arange(x.size, dtype=np.float64)).reshape(x.shape))


def on_one_process(case: Case, size: int) -> list[Derivatives]:
    """Return what each rank should find, from all inputs at once, by plain operations."""
    everyone = tuple(range(size))
    xs = [dg.asarray(case.make(rank, size)) for rank in everyone]
    along = [_direction(x) for x in xs]

    def total(*values: Any) -> Any:
        return sum(_curve(y, rank) for rank, y in enumerate(case.whole(values)))

    def turned(*values: Any) -> Any:
        gradients = dg.grad(total, everyone)(*values)
        return sum(dg.sum(g * v) for g, v in zip(gradients, along, strict=True))

    found = zip(
        case.whole(xs),
        dg.grad(total, everyone)(*xs),
        dg.grad(turned, everyone)(*xs),
        dg.jvp(lambda *values: list(case.whole(values)), tuple(xs), tuple(along))[1],
        strict=True,
    )
    return [Derivatives(*each) for each in found]


def on_this_rank(case: Case, comm: Communicator) -> Derivatives:
    """Return what a rank finds by the collective itself."""
    x = dg.asarray(case.make(comm.rank, comm.size))
    along = _direction(x)
    gradient = dg.grad(lambda v: target(case, v, comm))
    return Derivatives(
        case.collective(x, comm),
        gradient(x),
        dg.grad(lambda v: dg.sum(gradient(v) * along))(x),
        dg.jvp(lambda v: case.collective(v, comm), (x,), (along,))[1],
    )


def assert_same(found: Derivatives, expected: Derivatives, rank: int) -> None:
    """Raise an `AssertionError` that names what of a rank differs, by more than rounding."""
    for what, mine, whole in zip(Derivatives._fields, found, expected, strict=True):
        # Sums over ranks come in another order: some units in the last place of float64.
        np.testing.assert_allclose(
            mine.numpy(), whole.numpy(), rtol=1e-12, atol=1e-12, err_msg=f"{what} of rank {rank}"
        )
