"""Samples of random numbers: of one stream, and of an array of streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.dtypes import float32, float64, int32, int64, uint8, uint32, uint64
from distgrad.shapes import Shape
from distgrad.testing.inputs import HostArray, Sample, frozen, values

_ONE = frozen(np.array([5, 2**63 + 1, 3], np.uint64))
_DRAWS: dict[str, tuple[dict[str, Any], ...]] = {
    "random_bits": ({"dtype": uint64}, {"dtype": uint32}),
    "random_uniform": (
        *({"dtype": dtype, "low": 0.0, "high": 1.0} for dtype in (float64, float32)),
        {"dtype": float32, "low": -1.5, "high": 2.25},
    ),
    "random_normal": ({"dtype": float64}, {"dtype": float32}),
    "random_integers": (
        {"dtype": int64, "low": -3, "high": 4},
        {"dtype": uint64, "low": 0, "high": 2**64},
        {"dtype": int32, "low": -5, "high": 2**31},
        {"dtype": uint8, "low": 0, "high": 10},
    ),
    "random_bernoulli": ({"p": 0.3}, {"p": 1.0}),
}
_SHAPES: dict[str, tuple[Shape, int]] = {
    "matrix": ((3, 5), 0),
    "from-within": ((3, 5), 7),
    "no-axes": ((), 0),
    "empty": ((0, 3), 0),
}


def _streams(*lead: int) -> HostArray:
    line = np.arange(3 * int(np.prod(lead)), dtype=np.uint64) + 2
    return frozen(line.reshape(*lead, 3))


def _random() -> Iterator[Sample]:
    for name, choices in _DRAWS.items():
        for place, params in enumerate(choices):
            for variant, (shape, start) in _SHAPES.items():
                full = {"shape": shape, "start": start, **params}
                yield Sample(name, f"{variant}-{place}", (_ONE,), full)
            full = {"shape": (4,), "start": 1, **params}
            yield Sample(name, f"streams-{place}", (_streams(2, 3),), full)
            yield Sample(name, f"no-stream-{place}", (_streams(0, 3),), full)
    for length in (0, 1, 7):
        yield Sample("random_permutation", f"of-{length}", (_ONE,), {"length": length})
    yield Sample("random_permutation", "streams", (_streams(2),), {"length": 5})
    for count in (0, 2, 20):
        yield Sample("random_split", f"into-{count}", (_ONE,), {"count": count})
    yield Sample("random_split", "streams", (_streams(2),), {"count": 2})
    indices = frozen(np.array([[0, 5, 2**40]]))
    yield Sample("random_fold", "number", (_ONE, 7))
    yield Sample("random_fold", "indices", (_ONE, indices))
    yield Sample("random_fold", "streams", (_streams(2, 1), indices))
    for variant, shape in (("matrix", (3, 4)), ("no-axes", ()), ("empty", (0, 3))):
        given = values(shape, 0.2, 5.0)
        yield Sample("random_gamma", variant, (_ONE, given), {"start": 0})
    yield Sample("random_gamma", "streams", (_streams(2), values((2, 5), 0.2, 5.0)), {"start": 0})
    for dtype in (int64, int32, float32):
        for variant, shape in (("matrix", (3, 4)), ("no-axes", ()), ("empty", (0, 3))):
            given = values(shape, 0.2, 50.0)  # both methods, which part at 10
            params = {"start": 0, "dtype": dtype}
            yield Sample("random_poisson", f"{variant}-{dtype}", (_ONE, given), params)
    given = values((2, 5), 0.0, 30.0)
    params = {"start": 3, "dtype": int64}
    yield Sample("random_poisson", "streams", (_streams(2), given), params)
    for low, high in ((-2.0, 2.0), (-np.inf, np.inf), (1.5, 9.0), (-9.0, -1.5)):
        u = values((3, 4), 0.001, 0.999)
        yield Sample("normal_quantile", f"{low}-{high}", (u,), {"low": low, "high": high})


FAMILIES = (_random,)
TAKE_COMPLEX: frozenset[str] = frozenset()
