"""Convolutions composed of other operations, for backends without kernels of their own.

Windows are unrolled as the rows of a matrix, for some examples at a time, and multiplied with the
kernel; groups are a stack of such matrices.
"""

from __future__ import annotations

from math import prod

import numpy as np

from distgrad.core.op import Array, Namespace, Slice
from distgrad.ops.rules.families import joint, sum_of
from distgrad.shapes import Shape
from distgrad.windows import Pairs, counts, extent

_ALL = Slice(None, None, None)
# How many numbers of unrolled windows are held at a time.
_BLOCK = 1 << 24


def conv_composed(
    xp: Namespace,
    x: Array,
    w: Array,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Array:
    """Compose `conv`."""
    window, (inner, outputs) = tuple(w.shape[:-2]), w.shape[-2:]
    spatial = counts(x.shape[1:-1], window, stride, padding, dilation)
    depth, each = prod(window) * inner, outputs // groups
    matrices = xp.reshape(w, shape=(depth, groups, each))
    matrices = xp.permute_dims(matrices, axes=(1, 0, 2))
    parts = []
    for start, stop in _blocks(x.shape[0], prod(spatial) * depth * groups):
        some = xp.getitem(x, index=(Slice(start, stop, None),))
        some = _placed(xp, some, padding, (1,) * len(window))
        columns = _unrolled(xp, some, window, spatial, stride, dilation)
        product = xp.matmul(_grouped_columns(xp, columns, groups), matrices)
        product = xp.permute_dims(product, axes=(1, 0, 2))
        parts.append(xp.reshape(product, shape=(some.shape[0], *spatial, outputs)))
    return parts[0] if len(parts) == 1 else xp.concat(*parts, axis=0)


def conv_transpose_composed(
    xp: Namespace,
    y: Array,
    w: Array,
    shape: Shape,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Array:
    """Compose `conv_transpose`."""
    window = tuple(w.shape[:-2])
    rank = len(window)
    # A convolution of the operand, spread out, with the kernel turned round and its roles changed.
    turned = with_roles_changed(xp, xp.flip(w, axis=tuple(range(rank))), groups)
    sides = []
    for axis in range(rank):
        reach = extent(window[axis], dilation[axis]) - 1
        spread = max((y.shape[1 + axis] - 1) * stride[axis] + 1, 0)
        before = reach - padding[axis][0]
        sides.append((before, shape[axis] + reach - spread - before))
    placed = _placed(xp, y, tuple(sides), stride)
    ones = (1,) * rank
    none = ((0, 0),) * rank
    return xp.conv(placed, turned, stride=ones, padding=none, dilation=dilation, groups=groups)


def with_roles_changed(xp: Namespace, w: Array, groups: int) -> Array:
    """Return a kernel whose outputs are its inputs, group by group, as the adjoint wants it."""
    *window, inner, outputs = w.shape
    rank, each = len(window), outputs // groups
    split = xp.reshape(w, shape=(*window, inner, groups, each))
    turned = xp.permute_dims(split, axes=(*range(rank), rank + 2, rank + 1, rank))
    return xp.reshape(turned, shape=(*window, each, groups * inner))


def conv_kernel_vjp_composed(
    xp: Namespace,
    x: Array,
    y: Array,
    window: Shape,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Array:
    """Compose `conv_kernel_vjp`."""
    spatial, outputs = tuple(y.shape[1:-1]), y.shape[-1]
    inner, taps, each = x.shape[-1] // groups, prod(window), outputs // groups
    terms = []
    for start, stop in _blocks(x.shape[0], prod(spatial) * taps * x.shape[-1]):
        some = (Slice(start, stop, None),)
        placed = _placed(xp, xp.getitem(x, index=some), padding, (1,) * len(window))
        columns = _unrolled(xp, placed, window, spatial, stride, dilation)
        left = xp.matrix_transpose(_grouped_columns(xp, columns, groups))
        right = xp.reshape(xp.getitem(y, index=some), shape=(left.shape[-1], groups, each))
        terms.append(xp.matmul(left, xp.permute_dims(right, axes=(1, 0, 2))))
    total = xp.permute_dims(sum_of(terms), axes=(1, 0, 2))
    return xp.reshape(total, shape=(*window, inner, outputs))


def _columns(
    xp: Namespace, x: Array, window: Shape, spatial: Shape, stride: Shape, dilation: Shape
) -> Array:
    """Return the windows of a padded input unrolled, (n, *spatial, taps, c)."""
    taps = []
    for tap in np.ndindex(*window):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        places = tuple(
            Slice(start, start + (n - 1) * step + 1, step)
            for start, n, step in zip(starts, spatial, stride, strict=True)
        )
        seen = xp.getitem(x, index=(_ALL, *places, _ALL))
        taps.append(xp.expand_dims(seen, axis=-2))
    return taps[0] if len(taps) == 1 else xp.concat(*taps, axis=-2)


def _unrolled(
    xp: Namespace, x: Array, window: Shape, spatial: Shape, stride: Shape, dilation: Shape
) -> Array:
    """Return the unrolled windows, also where there is none, or no tap in them."""
    if 0 in spatial or 0 in window:
        shape = (x.shape[0], *spatial, prod(window), x.shape[-1])
        return xp.full(shape=shape, fill_value=0, dtype=joint(x))
    return _columns(xp, x, window, spatial, stride, dilation)


def _grouped_columns(xp: Namespace, columns: Array, groups: int) -> Array:
    """Return unrolled windows as a stack of matrices, (groups, rows, taps * channels)."""
    *lead, taps, channels = columns.shape
    rows = prod(lead)
    split = xp.reshape(columns, shape=(rows, taps, groups, channels // groups))
    return xp.reshape(
        xp.permute_dims(split, axes=(2, 0, 1, 3)), shape=(groups, rows, taps * (channels // groups))
    )


def _blocks(examples: int, elements: int) -> list[tuple[int, int]]:
    """Return ranges of examples whose unrolled windows, of so many elements each, fit a block."""
    step = max(_BLOCK // max(elements, 1), 1)
    return [(at, min(at + step, examples)) for at in range(0, max(examples, 1), step)]


def _placed(xp: Namespace, x: Array, padding: Pairs, steps: Shape) -> Array:
    """Return an array with zeros between its elements and around; cut where padding is negative."""
    inside = tuple(max((n - 1) * step + 1, 0) for n, step in zip(x.shape[1:-1], steps, strict=True))
    sides = [(max(lo, 0), max(hi, 0)) for lo, hi in padding]
    spread = tuple(lo + n + hi for n, (lo, hi) in zip(inside, sides, strict=True))
    if spread != tuple(x.shape[1:-1]):
        places = tuple(
            Slice(lo, lo + n, step) for n, (lo, _), step in zip(inside, sides, steps, strict=True)
        )
        index = (_ALL, *places, _ALL)
        x = xp.scatter_add(x, index=index, shape=(x.shape[0], *spread, x.shape[-1]))
    if any(lo < 0 or hi < 0 for lo, hi in padding):
        cut = tuple(
            Slice(max(-lo, 0), n + min(hi, 0), None)
            for n, (lo, hi) in zip(x.shape[1:-1], padding, strict=True)
        )
        x = xp.getitem(x, index=(_ALL, *cut, _ALL))
    return x
