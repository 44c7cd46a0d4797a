"""Samples of attention: shapes, masks of both kinds, and causal ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.ops.neural.attention import ATTENTION
from distgrad.shapes import Shape
from distgrad.testing.inputs import ANY, SHIFTED, Sample, frozen, values

_FREE: dict[str, Any] = {"scale": 0.5, "offset": None}
_CASES: dict[str, tuple[Shape, Shape, Shape, dict[str, Any]]] = {
    "one-head": ((4, 3), (5, 3), (5, 2), _FREE),
    "heads": ((2, 3, 4, 3), (2, 3, 5, 3), (2, 3, 5, 2), _FREE),
    "one-query": ((1, 3), (5, 3), (5, 2), _FREE),
    "one-key": ((4, 3), (1, 3), (1, 2), _FREE),
    "no-query": ((0, 3), (5, 3), (5, 2), _FREE),
    "no-head": ((0, 4, 3), (0, 5, 3), (0, 5, 2), _FREE),
    "causal": ((2, 4, 3), (2, 4, 3), (2, 4, 2), {"scale": 0.7, "offset": 0}),
    "cached": ((2, 2, 3), (2, 5, 3), (2, 5, 2), {"scale": 0.7, "offset": 3}),
    "early-rows-blind": ((5, 3), (4, 3), (4, 2), {"scale": 1.0, "offset": -2}),
}


def _attention() -> Iterator[Sample]:
    for variant, (query, key, value, params) in _CASES.items():
        arrays = (values(query, *ANY), values(key, *SHIFTED), values(value, *ANY, seed=1))
        yield Sample(ATTENTION.name, variant, arrays, params)
    arrays = (values((2, 4, 3), *ANY), values((2, 5, 3), *SHIFTED), values((2, 5, 2), *ANY))
    for variant, shape in (
        ("each", (2, 4, 5)),
        ("shared", (1, 4, 5)),
        ("of-keys", (2, 1, 5)),
        ("of-keys-shared", (1, 1, 5)),
        ("of-rows", (1, 4, 1)),
    ):
        yield Sample(
            ATTENTION.name, f"bias-{variant}", (*arrays, values(shape, *ANY, seed=2)), _FREE
        )
        mask = frozen(values(shape, -1.0, 1.0, seed=3) > -0.5)
        yield Sample(ATTENTION.name, f"mask-{variant}", (*arrays, mask), _FREE)
    nothing = np.ones((1, 4, 5), np.bool_)
    nothing[:, 1] = False
    yield Sample(
        ATTENTION.name, "blind-row", (*arrays, frozen(nothing)), {"scale": 0.5, "offset": 1}
    )


FAMILIES = (_attention,)
TAKE_COMPLEX: frozenset[str] = frozenset()
