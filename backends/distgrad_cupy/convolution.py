"""Convolutions on the device: windows unrolled in chunks for cuBLAS, few channels summed directly.

A chunk of windows is unrolled into a matrix, (rows, taps * channels), and multiplied with the
kernel at once; what is unrolled at a time is bounded. The cotangent of the input is a convolution
of stride 1 for each residue of positions modulo the stride: it is gathered, never scattered. Groups
of few channels, depthwise ones among them, have kernels that sum over a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad.ops.neural.unrolled import with_roles_changed
from distgrad.windows import Geometry, adjoint_phases, counts
from distgrad_cupy.running import (
    ELEMENTS,
    THREADS,
    Runner,
    addition_dtype,
    blocks_for,
    composed,
    name_of,
)

Array = Any
Shape = tuple[int, ...]

# How many bytes of unrolled windows are held at a time: enough rows for a product to fill a device,
# little beside its memory.
_CHUNK_BYTES = 1 << 27
# Groups with so many products of channels at most are summed directly: as matrices they would be
# far smaller than the tiles that cuBLAS works in.
_FEW_PRODUCTS = 64
_LARGEST = 2**31 - 1  # of what kernels count by 32 bits: lengths, rows, elements of a chunk
# Where a kernel's cotangent is summed directly, rows are cut into so many parts at most, of so many
# rows at least.
_PARTS = 256
_PART_ROWS = 64


class Slide(NamedTuple):
    """How a window slides over spatial axes: lengths, numbers of windows, taps, and distances."""

    lengths: Shape
    windows: Shape
    window: Shape
    stride: Shape
    before: Shape
    dilation: Shape
    groups: int

    @classmethod
    def of(cls, lengths: Shape, windows: Shape, window: Shape, geometry: Geometry) -> Slide:
        """Return how a window slides, by its geometry and the shapes of three arrays."""
        before = tuple(ahead for ahead, _ in geometry.padding)
        stride, dilation = geometry.stride, geometry.dilation
        return cls(lengths, windows, window, stride, before, dilation, geometry.groups)

    def arguments(self) -> tuple[np.int32, ...]:
        """Return the arguments that every kernel ends with: each for three axes."""
        fillings = (1, 1, 1, 1, 0, 1)
        return tuple(
            np.int32(n)
            for each, filling in zip(self[:-1], fillings, strict=True)
            for n in ((filling,) * (3 - len(each)) + tuple(each))
        )


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of convolution.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "conv": partial(_conv, run),
        "conv_transpose": partial(_conv_transpose, run),
        "conv_kernel_vjp": partial(_conv_kernel_vjp, run),
    }


def _takes(first: Array, second: Array, rank: int, *lengths: int) -> bool:
    """Return whether kernels take the arrays: of one floating dtype, and countable by 32 bits."""
    shapes = (first.shape, second.shape)
    return (
        name_of(first.dtype) in ELEMENTS
        and first.dtype == second.dtype
        and rank <= 3
        and max(*lengths, *(n for shape in shapes for n in shape)) <= _LARGEST
        and all(prod(shape[:-1]) <= _LARGEST for shape in shapes)
    )


def _has_few_channels(inner: int, each: int, groups: int) -> bool:
    return groups > 1 and inner * each <= _FEW_PRODUCTS


# --- the three operations, whose options `how` are the fields of a `Geometry` ---------------------


def _conv(run: Runner, x: Array, w: Array, **how: Any) -> Array:
    geometry = Geometry(**how)
    window, (inner, outputs) = w.shape[:-2], w.shape[-2:]
    groups, lengths = geometry.groups, x.shape[1:-1]
    spatial = counts(lengths, window, geometry.stride, geometry.padding, geometry.dilation)
    if not _takes(x, w, len(window), x.shape[0] * prod(spatial), prod(window) * x.shape[-1]):
        return composed(run, "conv", x, w, **how)
    y = run.module.empty((x.shape[0], *spatial, outputs), x.dtype)
    x, w = map(run.module.ascontiguousarray, (x, w))
    slide = Slide.of(lengths, spatial, window, geometry)
    if not y.size:
        return y
    if not w.size:
        y[...] = 0
    elif _has_few_channels(inner, outputs // groups, groups):
        _direct(run, "direct_conv", x, w, y, slide, w.shape)
    else:
        _convolve(run, x, w, y, slide)
    return y


def _conv_transpose(run: Runner, y: Array, w: Array, *, shape: Shape, **how: Any) -> Array:
    geometry = Geometry(**how)
    window, (inner, outputs), groups = w.shape[:-2], w.shape[-2:], geometry.groups
    if not _takes(y, w, len(window), y.shape[0] * prod(shape), prod(window) * outputs):
        return composed(run, "conv_transpose", y, w, **how, shape=shape)
    x = run.module.empty((y.shape[0], *shape, inner * groups), y.dtype)
    y, w = map(run.module.ascontiguousarray, (y, w))
    if not x.size:
        return x
    if not (y.size and w.size):
        x[...] = 0
    elif _has_few_channels(inner, outputs // groups, groups):
        slide = Slide.of(shape, y.shape[1:-1], window, geometry)
        _direct(run, "direct_transpose", y, w, x, slide, w.shape)
    else:
        _transpose(run, y, w, x, geometry)
    return x


def _transpose(run: Runner, y: Array, w: Array, x: Array, geometry: Geometry) -> None:
    """Write a transposed convolution, one convolution of stride 1 for each residue of positions."""
    window, lengths = w.shape[:-2], y.shape[1:-1]
    rank = len(window)
    turned = with_roles_changed(run.namespace(), w, geometry.groups)
    for phase in adjoint_phases(x.shape[1:-1], lengths, window, geometry):
        places = tuple(slice(p.start, None, s) for p, s in zip(phase, geometry.stride, strict=True))
        target = x[(slice(None), *places)]
        if any(p.taps == 0 for p in phase):
            target[...] = 0
            continue
        # Taps meet windows in reverse; padding of a phase may be negative, where it starts late.
        taps = tuple(slice(p.first, None, p.step) for p in phase)
        part = turned[taps][(slice(None, None, -1),) * rank]
        slide = Slide(
            lengths,
            target.shape[1:-1],
            tuple(p.taps for p in phase),
            (1,) * rank,
            tuple(p.padding[0] for p in phase),
            tuple(p.dilation for p in phase),
            geometry.groups,
        )
        whole = target.shape == x.shape
        result = x if whole else run.module.empty(target.shape, x.dtype)
        _convolve(run, y, run.module.ascontiguousarray(part), result, slide)
        if not whole:
            target[...] = result


def _conv_kernel_vjp(run: Runner, x: Array, y: Array, *, window: Shape, **how: Any) -> Array:
    geometry = Geometry(**how)
    groups = geometry.groups
    inner, outputs = x.shape[-1] // groups, y.shape[-1]
    if not _takes(x, y, len(window), prod(window) * x.shape[-1]):
        return composed(run, "conv_kernel_vjp", x, y, **how, window=window)
    shape = (*window, inner, outputs)
    if not (x.size and y.size and prod(shape)):
        return run.module.zeros(shape, x.dtype)
    x, y = map(run.module.ascontiguousarray, (x, y))
    slide = Slide.of(x.shape[1:-1], y.shape[1:-1], window, geometry)
    each = outputs // groups
    if _has_few_channels(inner, each, groups):
        return _direct_kernel(run, x, y, shape, slide)
    lines = y.reshape(-1, groups, each)
    total = None
    for start, columns in _unrolled(run, x, slide, inner, len(lines)):
        right = lines[start : start + columns.shape[1]].transpose(1, 0, 2)
        # Chunks are added up in their order, in the dtype in which elements are added.
        part = run.wide_matmul(columns.transpose(0, 2, 1), right)
        total = part if total is None else total + part
    return total.transpose(1, 0, 2).reshape(shape).astype(x.dtype, copy=False)  # type: ignore[union-attr]  # there are rows


# --- by products of matrices ----------------------------------------------------------------------


def _convolve(run: Runner, x: Array, w: Array, y: Array, slide: Slide) -> None:
    """Write a convolution of contiguous arrays into one."""
    window, (inner, outputs) = w.shape[:-2], w.shape[-2:]
    groups, lines = slide.groups, y.reshape(-1, outputs)
    if groups == 1 and _is_pointwise(slide):
        run.matmul(x.reshape(-1, inner), w.reshape(inner, outputs), out=lines)
        return
    depth, each = prod(window) * inner, outputs // groups
    matrices = w.reshape(depth, groups, each).transpose(1, 0, 2)
    for start, columns in _unrolled(run, x, slide, inner, len(lines)):
        rows = slice(start, start + columns.shape[1])
        if groups == 1:
            run.matmul(columns[0], matrices[0], out=lines[rows])
        else:
            multiplied = run.matmul(columns, matrices).transpose(1, 0, 2)
            lines[rows] = multiplied.reshape(columns.shape[1], outputs)


def _is_pointwise(slide: Slide) -> bool:
    """Return whether the windows are the elements, in their order."""
    return (
        set(slide.window) == {1}
        and set(slide.stride) == {1}
        and set(slide.before) == {0}
        and slide.windows == slide.lengths
    )


def _unrolled(
    run: Runner, x: Array, slide: Slide, inner: int, rows: int
) -> Iterator[tuple[int, Array]]:
    """Yield the first row of each chunk of windows, and its matrices (groups, rows, depth)."""
    taps = prod(slide.window)
    width = taps * inner * slide.groups  # numbers of a row, over all groups
    step = min(max(min(_CHUNK_BYTES // x.dtype.itemsize, _LARGEST) // width, 1), rows)
    room = run.module.empty(step * width, x.dtype)
    for start in range(0, rows, step):
        length = min(step, rows - start)
        columns = room[: length * width]
        counted = (np.uint32(n) for n in (start, length, taps, inner, slide.groups))
        arguments = (x, columns, *counted, *slide.arguments())
        grid = (blocks_for(columns.size),)
        run.launch("convolution", "unroll", name_of(x.dtype), grid, THREADS, arguments)
        yield start, columns.reshape(slide.groups, length, taps * inner)


# --- directly -------------------------------------------------------------------------------------


def _direct(
    run: Runner, name: str, given: Array, w: Array, out: Array, slide: Slide, shape: Shape
) -> None:
    """Start a kernel that has a thread for each number of its result."""
    channels = (np.int32(n) for n in (*shape[-2:], slide.groups))
    arguments = (given, w, out, np.int64(out.size), *channels, *slide.arguments())
    grid = (blocks_for(out.size),)
    run.launch("convolution", name, name_of(given.dtype), grid, THREADS, arguments)


def _direct_kernel(run: Runner, x: Array, y: Array, shape: Shape, slide: Slide) -> Array:
    """Return the cotangent of a kernel with few channels in a group."""
    rows, count = prod(y.shape[:-1]), prod(shape)
    length = max(_PART_ROWS, -(-rows // _PARTS))
    parts = -(-rows // length)
    sums = run.module.empty((parts, *shape), addition_dtype(name_of(x.dtype)))
    channels = (np.int32(n) for n in (*shape[-2:], slide.groups))
    lengths = (np.int64(count), np.uint32(rows), np.uint32(length))
    arguments = (x, y, sums, *lengths, *channels, *slide.arguments())
    grid = (-(-count // THREADS), parts)
    run.launch("convolution", "direct_kernel", name_of(x.dtype), grid, THREADS, arguments)
    return sums.sum(axis=0).astype(x.dtype, copy=False)
