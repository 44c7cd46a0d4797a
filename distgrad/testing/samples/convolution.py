"""Samples of convolutions and of pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from distgrad.ops.neural.pooling import POOL_PLACES
from distgrad.shapes import Shape
from distgrad.testing.inputs import ANY, SHIFTED, HostArray, Sample, frozen, values
from distgrad.windows import counts


class _Case(NamedTuple):
    """Shapes of an input and a kernel, and how the kernel slides."""

    x: Shape
    w: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape
    groups: int = 1


_CONVOLUTIONS = {
    "line": _Case((2, 7, 2), (3, 2, 3), (1,), ((0, 0),), (1,)),
    "line-strided-padded": _Case((1, 8, 2), (3, 2, 2), (2,), ((1, 2),), (1,)),
    "line-stride-beyond-window": _Case((2, 9, 1), (2, 1, 2), (3,), ((1, 0),), (1,)),
    "line-strided-dilated": _Case((1, 11, 1), (3, 1, 2), (2,), ((2, 3),), (3,)),
    "line-even-strided-dilated": _Case((1, 12, 1), (3, 1, 1), (4,), ((1, 3),), (2,)),
    "line-padding-beyond-window": _Case((1, 3, 1), (2, 1, 2), (1,), ((3, 4),), (1,)),
    "plane": _Case((2, 4, 5, 2), (2, 3, 2, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    "plane-strided": _Case((1, 5, 6, 2), (3, 2, 2, 3), (2, 3), ((1, 1), (0, 1)), (1, 1)),
    "plane-dilated": _Case((1, 5, 6, 1), (2, 2, 1, 2), (1, 2), ((0, 1), (1, 0)), (3, 2)),
    "plane-groups": _Case((1, 3, 4, 4), (2, 2, 2, 6), (1, 1), ((1, 0), (0, 0)), (1, 1), 2),
    "plane-depthwise": _Case((2, 3, 4, 3), (2, 3, 1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 3),
    "plane-depthwise-twice": _Case((1, 5, 4, 2), (3, 2, 1, 4), (2, 1), ((1, 1), (0, 0)), (1, 1), 2),
    "plane-pointwise": _Case((2, 2, 3, 3), (1, 1, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "plane-pointwise-strided": _Case((1, 4, 3, 2), (1, 1, 2, 3), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    "space": _Case(
        (1, 3, 4, 3, 2), (2, 2, 1, 2, 2), (1, 2, 1), ((0, 1), (0, 0), (0, 0)), (1, 1, 1)
    ),
    "window-too-long": _Case((1, 2, 1), (3, 1, 2), (1,), ((0, 0),), (1,)),
    "no-example": _Case((0, 4, 2), (2, 2, 3), (1,), ((0, 0),), (1,)),
    "no-channel": _Case((1, 4, 0), (2, 0, 3), (1,), ((0, 0),), (1,)),
}


def _convolutions() -> Iterator[Sample]:
    for variant, case in _CONVOLUTIONS.items():
        geometry: dict[str, Any] = {
            "stride": case.stride,
            "padding": case.padding,
            "dilation": case.dilation,
            "groups": case.groups,
        }
        spatial = counts(case.x[1:-1], case.w[:-2], case.stride, case.padding, case.dilation)
        x, w = values(case.x, *ANY), values(case.w, *SHIFTED)
        y = values((case.x[0], *spatial, case.w[-1]), -1.7, 1.9)
        yield Sample("conv", variant, (x, w), geometry)
        yield Sample("conv_transpose", variant, (y, w), {**geometry, "shape": case.x[1:-1]})
        yield Sample("conv_kernel_vjp", variant, (x, y), {**geometry, "window": case.w[:-2]})
    case = _CONVOLUTIONS["plane"]
    geometry = {"stride": (1, 1), "padding": ((1, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    backwards = values((2, 8, 5, 2), *ANY)[:, ::-2, ::-1]
    first = frozen(np.moveaxis(values((3, 2, 3, 2), *SHIFTED), 0, -1))
    yield Sample("conv", "strided", (backwards, first), geometry)


_POOLS: dict[str, tuple[Shape, Shape, Shape, tuple[tuple[int, int], ...]]] = {
    "line": ((2, 6, 2), (2,), (2,), ((0, 0),)),
    "line-overlapping-padded": ((1, 5, 2), (3,), (1,), ((1, 2),)),
    "line-with-gaps": ((1, 8, 1), (2,), (3,), ((1, 0),)),
    "plane": ((2, 4, 6, 2), (2, 3), (2, 3), ((0, 0), (0, 0))),
    "plane-overlapping": ((1, 5, 4, 2), (3, 2), (2, 1), ((1, 1), (0, 1))),
    "plane-of-ones": ((1, 3, 2, 2), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "space": ((1, 3, 2, 4, 1), (2, 1, 2), (1, 1, 2), ((0, 1), (0, 0), (0, 0))),
    "window-too-long": ((1, 2, 1), (3,), (1,), ((0, 0),)),
    "no-example": ((0, 4, 2), (2,), (2,), ((0, 0),)),
}


def _pools() -> Iterator[Sample]:
    for variant, (shape, window, stride, padding) in _POOLS.items():
        geometry: dict[str, Any] = {"window": window, "stride": stride, "padding": padding}
        x = values(shape, *ANY)
        ones = (1,) * len(window)
        y_shape = (shape[0], *counts(shape[1:-1], window, stride, padding, ones), shape[-1])
        g = values(y_shape, *SHIFTED)
        places = _places(x, y_shape, window, stride, padding)
        yield Sample("max_pool", variant, (x,), geometry)
        laid = {**geometry, "shape": shape[1:-1]}
        yield Sample("max_pool_vjp", variant, (g, places), laid)
        yield Sample("max_pool_jvp", variant, (x, places), geometry)
        yield Sample("pool_places", variant, (x, _greatest(x, places, geometry)), geometry)
        yield Sample("attached", variant, (g, x))
        none = ((0, 0),) * len(window)
        for name, counted in (("", none), ("-counting-padding", padding)):
            means = {**geometry, "counted": counted}
            yield Sample("avg_pool", variant + name, (x,), means)
            yield Sample("avg_pool_vjp", variant + name, (g,), {**means, "shape": shape[1:-1]})
    big = {"window": (300,), "stride": (20,), "padding": ((0, 0),)}
    yield Sample("max_pool", "many-taps", (values((1, 340, 1), *ANY),), big)


def _places(
    x: HostArray,
    y_shape: Shape,
    window: Shape,
    stride: Shape,
    padding: tuple[tuple[int, int], ...],
) -> HostArray:
    """Return the first greatest tap of each window, by looking at all of them one by one."""
    dtype = POOL_PLACES.spec(x, x, window=window, stride=stride, padding=padding).dtype
    places = np.zeros(y_shape, dtype)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    for example, *spot, channel in np.ndindex(*y_shape):
        corner = [at * step for at, step in zip(spot, stride, strict=True)]
        box = tuple(slice(at, at + taps) for at, taps in zip(corner, window, strict=True))
        places[(example, *spot, channel)] = np.argmax(padded[(example, *box, channel)])
    return frozen(places)


def _greatest(x: HostArray, places: HostArray, geometry: dict[str, Any]) -> HostArray:
    """Return what the chosen tap of each window sees."""
    greatest = np.zeros(places.shape)
    for place in np.ndindex(*places.shape):
        tap = np.unravel_index(places[place], geometry["window"])
        where = [
            at * step + t - before
            for at, step, t, (before, _) in zip(
                place[1:-1], geometry["stride"], tap, geometry["padding"], strict=True
            )
        ]
        greatest[place] = x[(place[0], *where, place[-1])]
    return frozen(greatest)


FAMILIES = (_convolutions, _pools)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset(
    "conv conv_transpose conv_kernel_vjp attached max_pool_vjp max_pool_jvp "
    "avg_pool avg_pool_vjp".split()
)
