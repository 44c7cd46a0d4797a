"""Convolutions on the CPU: windows unrolled block by block, never those of a whole batch.

A block of output rows is unrolled into a scratch matrix, (rows, taps * channels), and multiplied
with the kernel at once. Blocks run on as many threads as BLAS has. The cotangent of the input is a
convolution of stride 1 for each residue of positions modulo the stride. Where a C++ compiler is,
the compiled kernels compute what they can; where oneDNN is installed, it is asked before them, but
for points with a stride.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np

from distgrad.ops.neural.unrolled import with_roles_changed
from distgrad.windows import Geometry, Pairs, adjoint_phases, counts
from distgrad_numpy import depthwise, few_channels, onednn, pointwise
from distgrad_numpy.blocked import vocabulary
from distgrad_numpy.blocks import Ranges, blocks_of, rows_of, windows_of
from distgrad_numpy.compiled import convolution as compiled
from distgrad_numpy.compiled import depthwise as by_channel
from distgrad_numpy.compiled import points
from distgrad_numpy.threads import run, scratch

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

# A block of unrolled windows is to have so many bytes: BLAS packs the kernel anew for each, which
# must be little beside the products. With 1 MiB of second-level cache, blocks of 4 MiB took 1.05 to
# 1.12 times as long as bare BLAS, and those of 1 MiB 1.1 to 1.6 times.
_BLOCK_BYTES = 1 << 22
# At least so many blocks, for threads to share, as long as each has the fewest rows worth a
# product; more rows where the kernel that is packed is large.
_BLOCKS = 16
_FEWEST_ROWS = 192
_LARGE_KERNEL = 1 << 17
# Fewer numbers than that side by side are slow to copy.
_SHORT_RUN = 16
# What a chunk of the batch adds up of a kernel's cotangent stays below this, over all chunks.
_SUMS_BYTES = 1 << 25
_CHUNKS = 8
# So few products for each group are quicker as scaled additions than as matrices.
_CHANNELWISE = 8
_CHANNELWISE_BYTES = 1 << 17
_DEPTHWISE_BYTES = 1 << 20


# --- the three operations -------------------------------------------------------------------------


def conv(x: Array, w: Array, stride: Shape, padding: Pairs, dilation: Shape, groups: int) -> Array:
    """Return the convolution of an input with a kernel."""
    geometry = Geometry(stride, padding, dilation, groups)
    spatial = counts(x.shape[1:-1], w.shape[:-2], stride, padding, dilation)
    y = np.empty((x.shape[0], *spatial, w.shape[-1]), np.result_type(x, w))
    if not (
        points.conv(x, w, y, geometry)
        or onednn.conv(x, w, y, geometry)
        or compiled.conv(x, w, y, geometry)
        or by_channel.conv(x, w, y, geometry)
        or pointwise.conv(x, w, y, geometry)
    ):
        _convolve(x, w, y, geometry)
    return y


def conv_transpose(
    y: Array,
    w: Array,
    shape: Shape,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Array:
    """Return the adjoint of a convolution in its input."""
    x = np.empty((y.shape[0], *shape, w.shape[-2] * groups), np.result_type(y, w))
    geometry = Geometry(stride, padding, dilation, groups)
    if (
        points.conv_transpose(y, w, x, geometry)
        or onednn.conv_transpose(y, w, x, geometry)
        or compiled.conv_transpose(y, w, x, geometry)
        or by_channel.conv_transpose(y, w, x, geometry)
        or pointwise.conv_transpose(y, w, x, geometry)
    ):
        return x
    if 0 not in y.shape and 0 not in x.shape and few_channels.applies(w, geometry):
        few_channels.conv_transpose(y, w, x, geometry, _working(x.dtype))
        return x
    window = w.shape[:-2]
    rank = len(window)
    turned = with_roles_changed(vocabulary(), w, groups)
    for phase in adjoint_phases(shape, y.shape[1:-1], window, geometry):
        places = tuple(slice(p.start, None, s) for p, s in zip(phase, stride, strict=True))
        target = x[(slice(None), *places)]
        if any(p.taps == 0 for p in phase):
            target[...] = 0
            continue
        taps = tuple(slice(p.first, None, p.step) for p in phase)
        cuts = tuple(slice(max(-p.padding[0], 0), None) for p in phase)
        source = y[(slice(None), *cuts)]
        ends = tuple(
            slice(None, max(n + min(p.padding[1], 0), 0))
            for n, p in zip(source.shape[1:-1], phase, strict=True)
        )
        source = source[(slice(None), *ends)]
        sides = tuple((max(p.padding[0], 0), max(p.padding[1], 0)) for p in phase)
        reverse = (slice(None, None, -1),) * rank
        unit = Geometry((1,) * rank, sides, tuple(p.dilation for p in phase), groups)
        _convolve(source, turned[taps][reverse], target, unit)
    return x


def conv_kernel_vjp(
    x: Array,
    y: Array,
    window: Shape,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
) -> Array:
    """Return the adjoint of a convolution in its kernel."""
    geometry = Geometry(stride, padding, dilation, groups)
    dtype = np.result_type(x, y)
    w = np.empty((*window, x.shape[-1] // groups, y.shape[-1]), dtype)
    if (
        points.conv_kernel_vjp(x, y, w, geometry)
        or onednn.conv_kernel_vjp(x, y, w, geometry)
        or compiled.conv_kernel_vjp(x, y, w, geometry)
        or by_channel.conv_kernel_vjp(x, y, w, geometry)
        or pointwise.conv_kernel_vjp(x, y, w, geometry)
    ):
        return w
    if w.size and _is_pointwise(x, w, y, geometry):
        np.matmul(
            x.reshape(-1, w.shape[-2]).T, y.reshape(-1, w.shape[-1]), out=w[(0,) * len(window)]
        )
        return w
    working = _working(dtype)
    inner, each = w.shape[-2], w.shape[-1] // groups
    channelwise = groups > 1 and inner * each <= _CHANNELWISE
    if channelwise:
        height = _channelwise_rows(y.shape, working)
    else:
        height = _rows(y.shape, prod(window) * inner, each, working)
    blocks = list(blocks_of(y.shape, height))
    # The same chunks on any number of threads: so the sums are the same to the last bit.
    number = max(min(_CHUNKS, len(blocks), _SUMS_BYTES // max(w.size * working.itemsize, 1)), 1)
    chunks = [
        blocks[i * len(blocks) // number : (i + 1) * len(blocks) // number] for i in range(number)
    ]
    sums = np.zeros((number, *w.shape), working)
    add = _add_channelwise if channelwise else _add_products

    def work(chunk: int) -> None:
        for block in chunks[chunk]:
            add(x, y, sums[chunk], geometry, block)

    run(work, range(number))
    np.copyto(w, sums[0] if number == 1 else sums.sum(axis=0), casting="same_kind")
    return w


def _working(dtype: Any) -> np.dtype[Any]:
    """Return the dtype to multiply in: float32 for narrower ones, which BLAS does not know."""
    kind = np.dtype(dtype)
    narrow = kind == np.float16 or (kind.kind == "V" and kind.itemsize == 2)
    return np.dtype(np.float32) if narrow else kind


def _rows(shape: Shape, depth: int, outputs: int, dtype: Any) -> int:
    """Return how many windows of so many numbers to unroll at a time.

    It follows from shapes alone, and so do the results to the last bit, on any number of threads.
    """
    fewest = _FEWEST_ROWS * (4 if depth * outputs > _LARGE_KERNEL else 1)
    fitting = _BLOCK_BYTES // max(depth * dtype.itemsize, 1)
    return int(max(min(fitting, prod(shape[:-1]) // _BLOCKS), min(fewest, 4 * fitting), 8))


def _channelwise_rows(shape: Shape, dtype: Any) -> int:
    """Return how many windows to look at at a time where there is no product of matrices."""
    return int(max(_CHANNELWISE_BYTES // max(shape[-1] * dtype.itemsize, 1), 8))


# --- convolution ----------------------------------------------------------------------------------


def _convolve(x: Array, w: Array, y: Array, geometry: Geometry) -> None:
    """Write the convolution of an input with a kernel into an array."""
    window, (inner, outputs) = w.shape[:-2], w.shape[-2:]
    groups = geometry.groups
    if 0 in y.shape:
        return
    if 0 in w.shape:
        y[...] = 0
        return
    each = outputs // groups
    if _is_pointwise(x, w, y, geometry):
        np.matmul(x.reshape(-1, inner), w.reshape(inner, outputs), out=y.reshape(-1, outputs))
        return
    working = _working(y.dtype)
    if groups > 1 and inner * each <= _CHANNELWISE:
        kernel = np.ascontiguousarray(w.reshape(prod(window), inner, groups, each), working)
        # Repeated along a row, so that one call of a ufunc multiplies whole rows.
        rows = np.repeat(kernel.transpose(1, 3, 0, 2)[..., None, :], y.shape[-2], axis=-2)
        if inner == each == 1 and geometry.stride[-1] == 1 and x.dtype == y.dtype == working:
            height = max(_DEPTHWISE_BYTES // (outputs * working.itemsize), 8)
            weights = rows.reshape(*window, -1)
            run(
                lambda block: depthwise.convolve(x, weights, y, window, geometry, block),
                list(blocks_of(y.shape, height)),
            )
            return
        blocks = list(blocks_of(y.shape, _channelwise_rows(y.shape, working)))
        run(lambda block: _scaled_sum(x, rows, y, window, geometry, block), blocks)
        return
    depth = prod(window) * inner
    matrix = np.ascontiguousarray(w.reshape(depth, outputs), working)

    def work(block: Ranges) -> None:
        windows = windows_of(x, window, geometry, block)
        target = rows_of(y, block)
        rows = prod(target.shape[:-1])
        for group in range(groups):
            of = slice(group * each, (group + 1) * each)
            columns = _unrolled(windows[..., group * inner : (group + 1) * inner], rows, working)
            _multiply(columns, matrix[:, of], target[..., of], rows)

    run(work, list(blocks_of(y.shape, _rows(y.shape, depth, each, working))))


def _is_pointwise(x: Array, w: Array, y: Array, geometry: Geometry) -> bool:
    """Return whether a convolution is one product of matrices as they lie in memory."""
    return (
        geometry.groups == 1
        and set(w.shape[:-2]) == {1}
        and set(geometry.stride) == {1}
        and x.shape[:-1] == y.shape[:-1]
        and x.flags.c_contiguous
        and y.flags.c_contiguous
        and _working(y.dtype) == y.dtype
    )


def _unrolled(windows: Array, rows: int, dtype: Any) -> Array:
    """Return a view of windows as a matrix in scratch memory, one window a row."""
    depth = prod(windows.shape) // rows
    rank = windows.ndim // 2  # of the block; as many axes again are those of a window
    if windows.shape[-1] * windows.shape[-2] < min(_SHORT_RUN, windows.shape[rank - 1]):
        # Columns of the matrix are copied quicker than such short rows.
        behind = windows.transpose(*range(rank, windows.ndim), *range(rank))
        columns = scratch("columns", behind.shape, dtype)
        np.copyto(columns, behind, casting="same_kind")
        return columns.reshape(depth, rows).T
    columns = scratch("columns", windows.shape, dtype)
    np.copyto(columns, windows, casting="same_kind")
    return columns.reshape(rows, depth)


def _multiply(columns: Array, matrix: Array, target: Array, rows: int) -> None:
    """Write a product into an array, directly where it lies there as a matrix."""
    if target.flags.c_contiguous and target.dtype == columns.dtype:
        np.matmul(columns, matrix, out=target.reshape(rows, matrix.shape[1]))
        return
    result = scratch("result", (rows, matrix.shape[1]), columns.dtype)
    np.matmul(columns, matrix, out=result)
    np.copyto(target, result.reshape(target.shape), casting="same_kind")


def _scaled_sum(
    x: Array, kernel: Array, y: Array, window: Shape, geometry: Geometry, block: Ranges
) -> None:
    """Write a block of a convolution with few channels in a group: sums of scaled views."""
    inner, each, *_, groups = kernel.shape
    windows = windows_of(x, window, geometry, block)
    lead = windows.shape[: len(block)]
    target = rows_of(y, block)
    direct = each == 1 and target.dtype == kernel.dtype
    term = scratch("term", (*lead, groups), kernel.dtype)
    for o in range(each):
        total = target if direct else scratch("total", (*lead, groups), kernel.dtype)
        written = False
        for tap, place in enumerate(product(*map(range, window))):
            seen = windows[(slice(None),) * len(block) + place]
            for i in range(inner):
                factor = kernel[i, o, tap, : lead[-1]]
                channel = seen if inner == 1 else seen[..., i::inner]
                if written:
                    np.multiply(channel, factor, out=term, casting="same_kind")
                    np.add(total, term, out=total)
                else:
                    np.multiply(channel, factor, out=total, casting="same_kind")
                    written = True
        if not direct:
            target[..., o::each] = total


# --- the cotangent of the kernel ------------------------------------------------------------------


def _add_products(x: Array, y: Array, total: Array, geometry: Geometry, block: Ranges) -> None:
    """Add a block's part of the kernel's cotangent to a sum."""
    *window, inner, outputs = total.shape
    groups = geometry.groups
    each = outputs // groups
    windows = windows_of(x, tuple(window), geometry, block)
    rows = prod(windows.shape[: len(block)])
    right = rows_of(y, block)
    sums = total.reshape(-1, outputs)
    for group in range(groups):
        of = slice(group * each, (group + 1) * each)
        columns = _unrolled(windows[..., group * inner : (group + 1) * inner], rows, total.dtype)
        factor = right[..., of]
        if not factor.flags.c_contiguous or factor.dtype != total.dtype:
            copy = scratch("factor", factor.shape, total.dtype)
            np.copyto(copy, factor, casting="same_kind")
            factor = copy
        term = scratch("product", (sums.shape[0], each), total.dtype)
        np.matmul(columns.T, factor.reshape(rows, each), out=term)
        np.add(sums[:, of], term, out=sums[:, of])


def _add_channelwise(x: Array, y: Array, total: Array, geometry: Geometry, block: Ranges) -> None:
    """Add a block's part of the cotangent of a kernel with few channels in a group."""
    *window, inner, outputs = total.shape
    groups = geometry.groups
    each = outputs // groups
    windows = windows_of(x, tuple(window), geometry, block)
    right = rows_of(y, block)
    letters = "abcd"[: len(block)]
    rule = f"{letters}z,{letters}z->z"
    for place in product(*map(range, window)):
        seen = windows[(slice(None),) * len(block) + place]
        for i in range(inner):
            for o in range(each):
                total[(*place, i)].reshape(groups, each)[:, o] += np.einsum(
                    rule,
                    seen[..., i::inner],
                    right[..., o::each],
                    dtype=total.dtype,
                    casting="same_kind",
                )


KERNELS: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "conv_kernel_vjp": conv_kernel_vjp,
}
