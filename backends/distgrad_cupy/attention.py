"""Attention on the device, by blocks of heads and query rows: two products and a kernel between.

The scores of a block are a product of cuBLAS; one kernel scales and masks them and makes them
weights in place; another product is the output. The backward pass makes a block's weights again. So
memory grows with the number of queries and keys, not with their product, and the products run on
whatever units the device has for them. (A single kernel that goes over keys by tiles holds them in
registers and shared memory, whose sizes have to be found on the device that runs it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from distgrad_cupy.running import (
    ELEMENTS,
    Runner,
    addition_dtype,
    composed,
    name_of,
    threads_for_row,
)

Array = Any

# How many bytes of scores are worked on at once: enough rows for products to fill a device, and
# little beside its memory.
_BLOCK_BYTES = 1 << 26
# Under a causal mask a block computes the scores of all keys that its last row sees: the shorter
# a block, the fewer are computed in vain. Products want as many rows.
_FEWEST_ROWS = 128
_CAUSAL_BLOCKS = 8
_MOST_BLOCKS = 2**31 - 1  # along the first axis of a grid
_AXES = 4  # in front of queries and keys: so many the kernel tells apart in a mask


class Block(NamedTuple):
    """Some heads and some of their query rows, with the number of keys that those may see.

    Attributes
    ----------
    heads, rows : slice
        Which ones.
    keys : int
        How many, from the first on.
    is_all : bool
        Whether these are all that there are: then nothing has to be cut, or added up.
    """

    heads: slice
    rows: slice
    keys: int
    is_all: bool = False

    def queries_of(self, x: Array) -> Array:
        """Return the part of an array (heads, queries, ...)."""
        return x if self.is_all else x[self.heads, self.rows]

    def keys_of(self, x: Array) -> Array:
        """Return the part of an array (heads, keys, ...)."""
        return x if self.is_all else x[self.heads, : self.keys]


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of attention.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {"attention": partial(_attention, run), "attention_vjp": partial(_attention_vjp, run)}


class _Problem:
    """The operands with one axis of heads, contiguous, and the rows of their scores by block."""

    def __init__(
        self,
        run: Runner,
        operands: tuple[Array, ...],
        mask: tuple[Array, ...],
        scale: float,
        offset: int | None,
    ) -> None:
        self.run, self.module = run, run.module
        query, key, _ = operands
        self.lead = tuple(query.shape[:-2])
        self.dtype = query.dtype
        self.work = addition_dtype(name_of(query.dtype))
        self.query, self.key, self.value = map(self.flat, operands)
        self.heads, self.queries = prod(self.lead), query.shape[-2]
        self.keys = key.shape[-2]
        self.scale, self.offset = scale, offset
        self.mask = run.module.ascontiguousarray(mask[0]) if mask else None

    def flat(self, x: Array) -> Array:
        """Return an operand (*heads, rows, width) with one axis of heads."""
        whole = x.reshape(prod(self.lead), *x.shape[-2:])
        return self.module.ascontiguousarray(whole)

    def blocks(self, *, of_all_heads: bool) -> Iterator[Block]:
        """Yield the blocks, with all heads in each or as many as fit; none without a row."""
        most = max(_BLOCK_BYTES // self.work.itemsize // max(self.keys, 1), 1)  # rows of scores
        rows = max(most // max(self.heads, 1), min(_FEWEST_ROWS, most))
        if self.offset is not None:
            rows = min(rows, max(_FEWEST_ROWS, -(-self.queries // _CAUSAL_BLOCKS)))
        rows = max(min(rows, self.queries), 1)
        heads = self.heads if of_all_heads else max(most // rows, 1)
        if of_all_heads:
            rows = max(min(rows, most // max(self.heads, 1)), 1)
        whole = slice(0, self.heads), slice(0, self.queries), self.keys
        for first in range(0, self.heads, max(heads, 1)):
            for start in range(0, self.queries, rows):
                stop = min(start + rows, self.queries)
                last = self.keys if self.offset is None else stop + self.offset
                keys = min(max(last, 0), self.keys)
                if keys:  # else nothing is seen: zeros stand there already
                    last_head = min(first + heads, self.heads)
                    part = slice(first, last_head), slice(start, stop), keys
                    yield Block(*part, is_all=part == whole)

    def weights(self, block: Block, logarithms: Array | None = None) -> Array:
        """Return the attention weights of a block; write the logarithms of their sums."""
        query, key = block.queries_of(self.query), block.keys_of(self.key)
        scores = self.run.wide_matmul(query, key.transpose(0, 2, 1))
        own = scores if self.work == self.dtype else self.module.empty(scores.shape, self.dtype)
        rows = scores.shape[0] * scores.shape[1]
        numbers = rows, block.keys, block.heads.start, query.shape[1], block.rows.start
        arguments = (
            scores,
            own,
            logarithms,
            *(np.int64(n) for n in numbers),
            np.float64(self.scale),
            *self._mask_arguments(),
        )
        self._launch("attention_weights", rows, block.keys, arguments)
        return own

    def _mask_arguments(self) -> tuple[Any, ...]:
        mask, down, along = self.mask, 0, 0
        lengths: tuple[int, ...] = ()
        steps: tuple[int, ...] = ()
        if mask is not None:
            shape = mask.shape
            whole = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
            step = [w if n > 1 else 0 for n, w in zip(shape, whole, strict=True)]
            lengths, steps, (down, along) = self.lead, tuple(step[:-2]), step[-2:]
        missing = _AXES - len(lengths)
        kind = 0 if mask is None else 1 if mask.dtype == np.bool_ else 2
        return (
            mask,
            np.int32(kind),
            *(np.int64(n) for n in ((1,) * missing + tuple(lengths))),
            *(np.int64(n) for n in ((0,) * missing + tuple(steps))),
            np.int64(down),
            np.int64(along),
            np.int32(self.offset is not None),
            np.int64(self.offset or 0),
        )

    def pulled(
        self, block: Block, g: Array, g_sums: Array, factor: float
    ) -> tuple[Array, Array, Array, Array]:
        """Return what a block adds to the cotangents of query, key and value, and of its scores.

        Of the first two, and of the scores, `factor` times these, where the scale is not yet on
        them.
        """
        multiply = self.run.wide_matmul
        g, query = block.queries_of(g), block.queries_of(self.query)
        key, value = block.keys_of(self.key), block.keys_of(self.value)
        weights = self.weights(block)
        to_weights = multiply(g, value.transpose(0, 2, 1))
        own = self.work == self.dtype
        to_scores = to_weights if own else self.module.empty(to_weights.shape, self.dtype)
        rows = to_weights.shape[0] * to_weights.shape[1]
        arrays = (to_weights, weights, self.module.ascontiguousarray(block.queries_of(g_sums)))
        how = (np.int64(rows), np.int64(block.keys), np.float64(factor))
        self._launch("attention_scores_vjp", rows, block.keys, (*arrays, to_scores, *how))
        return (
            multiply(to_scores, key),
            multiply(to_scores.transpose(0, 2, 1), query),
            multiply(weights.transpose(0, 2, 1), g),
            to_scores,
        )

    def _launch(self, name: str, rows: int, keys: int, arguments: tuple[Any, ...]) -> None:
        grid, threads = (min(rows, _MOST_BLOCKS),), threads_for_row(keys)
        self.run.launch("attention", name, name_of(self.dtype), grid, threads, arguments)


def _takes(inputs: tuple[Array, ...], others: tuple[Array, ...] = ()) -> bool:
    """Return whether kernels take the arrays: of one floating dtype, a mask also of bool."""
    query, key, value, *mask = inputs
    floating = (query, key, value, *others, *(m for m in mask if m.dtype != np.bool_))
    return (
        name_of(query.dtype) in ELEMENTS
        and all(each.dtype == query.dtype for each in floating)
        and query.ndim - 2 <= _AXES
        and all(m.ndim == query.ndim for m in mask)
    )


def _attention(
    run: Runner, *inputs: Array, scale: float, offset: int | None
) -> tuple[Array, Array]:
    if not _takes(inputs):
        pair: tuple[Array, Array]
        pair = composed(run, "attention", *inputs, scale=scale, offset=offset)
        return pair
    problem = _Problem(run, inputs[:3], inputs[3:], scale, offset)
    output, sums = _outputs(problem)
    lead = (*problem.lead, problem.queries)
    return output.reshape(*lead, output.shape[-1]), sums.reshape(lead)


def _outputs(problem: _Problem) -> tuple[Array, Array]:
    """Return the outputs of all heads, and the logarithms of the sums of their weights."""
    module, shape, value = problem.module, (problem.heads, problem.queries), problem.value
    blocks = [*problem.blocks(of_all_heads=False)]
    if blocks and blocks[0].is_all:
        sums = module.empty(shape, problem.dtype)
        return problem.run.matmul(problem.weights(blocks[0], sums), value), sums
    # Rows that see nothing stay zeros.
    output = module.zeros((*shape, value.shape[-1]), problem.dtype)
    sums = module.zeros(shape, problem.dtype)
    for block in blocks:
        own = module.empty(block.queries_of(sums).shape, problem.dtype)
        weights = problem.weights(block, own)
        sums[block.heads, block.rows] = own
        output[block.heads, block.rows] = problem.run.matmul(weights, block.keys_of(value))
    return output, sums


def _attention_vjp(
    run: Runner, *arrays: Array, scale: float, offset: int | None
) -> tuple[Array, ...]:
    inputs, (g, g_sums) = arrays[:-4], arrays[-2:]
    if not _takes(inputs, (g, g_sums)):
        cotangents: tuple[Array, ...]
        cotangents = composed(run, "attention_vjp", *arrays, scale=scale, offset=offset)
        return cotangents
    problem = _Problem(run, inputs[:3], inputs[3:], scale, offset)
    module, mask = run.module, inputs[3:]
    wants_mask = bool(mask) and mask[0].dtype != np.bool_
    to_mask = module.zeros(mask[0].shape, problem.work) if wants_mask else None
    # Numbers of half precision, and what a mask is given, stay as they are before the scale.
    factor = scale if to_mask is None and problem.work == problem.dtype else 1.0
    g = problem.flat(g)
    g_sums = module.ascontiguousarray(g_sums.reshape(problem.heads, problem.queries))
    totals = _cotangents(problem, g, g_sums, factor, to_mask)
    if factor != scale:
        for each in totals[:2]:
            each *= problem.work.type(scale)  # noqa: PLW2901  in place
    pulled = [
        each.reshape(x.shape).astype(problem.dtype, copy=False)
        for each, x in zip(totals, inputs[:3], strict=True)
    ]
    if not mask:
        return tuple(pulled)
    last = module.zeros_like(mask[0]) if to_mask is None else to_mask.astype(problem.dtype)
    return (*pulled, last)


def _cotangents(
    problem: _Problem, g: Array, g_sums: Array, factor: float, to_mask: Array | None
) -> list[Array]:
    """Return those of query, key and value, the first two times `factor`, and add to a mask's."""
    blocks = [*problem.blocks(of_all_heads=to_mask is not None)]
    operands = (problem.query, problem.key, problem.value)
    totals: list[Array] = []
    if not (blocks and blocks[0].is_all):
        totals = [problem.module.zeros(each.shape, problem.work) for each in operands]
    for block in blocks:
        *found, to_scores = problem.pulled(block, g, g_sums, factor)
        if to_mask is not None:
            _add_to_mask(to_mask, to_scores.reshape(*problem.lead, *to_scores.shape[1:]), block)
        if block.is_all:
            return found
        totals[0][block.heads, block.rows] = found[0]
        for total, part in zip(totals[1:], found[1:], strict=True):
            _add(block.keys_of(total), part)
    return totals


def _add(place: Array, values: Array) -> None:
    """Add to a view; Python's `x[i] += y` would also copy the view onto itself, by a launch."""
    place += values


def _add_to_mask(to_mask: Array, to_scores: Array, block: Block) -> None:
    """Add a block's part, of all heads, to the cotangent of a mask that was added to the scores."""
    rows = block.rows if to_mask.shape[-2] > 1 else slice(None)
    keys = slice(0, block.keys) if to_mask.shape[-1] > 1 else slice(None)
    place = to_mask[..., rows, keys]
    axes = tuple(a for a, n in enumerate(place.shape) if n != to_scores.shape[a])
    if axes:
        to_scores = to_scores.sum(axis=axes, keepdims=True, dtype=to_mask.dtype)
    place += to_scores
