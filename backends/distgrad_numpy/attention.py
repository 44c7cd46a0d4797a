"""Attention on numpy.ndarray: blocks of scores that fit the cache, computed in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.row_blocks import ones
from distgrad_numpy.threads import run, scratch

Array = np.ndarray[Any, Any]

# How many bytes of scores are worked on at once; they should stay in a core's own cache.
_CACHE = 1 << 20
# Parts of the heads, at least, where there are so many: for threads to share.
_PARTS = 4
# Below this, exponentials of float32 and their sums are far from the ends of the range.
_SAFE = 30.0
# The score of what is not seen, of the greatest number: it has no weight, whatever is added to it.
_NO_WEIGHT = -0.5


class _Block(NamedTuple):
    """Some heads and some of their query rows, with the keys that those may see."""

    heads: slice
    rows: slice
    keys: slice


def _blocks(
    heads: int, rows: int, keys: int, size: int, offset: int | None
) -> Iterator[list[_Block]]:
    """Yield the blocks of a computation, those of the same heads together.

    A block has several heads where they are small, else a part of one.
    """
    scores = max(_CACHE // size, 1)
    several = max(min(scores // max(rows * keys, 1), -(-heads // _PARTS)), 1)
    step = max(rows if several > 1 else min(rows, scores // max(keys, 1)), 1)
    if offset is not None:
        step = min(step, 128)  # the shorter a block, the fewer masked scores it computes in vain
    for first in range(0, heads, several):
        of = []
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            # Under a causal mask later keys get no weight: they are left out.
            seen = keys if offset is None else min(max(stop + offset, 0), keys)
            if seen:
                of.append(_Block(slice(first, first + several), slice(start, stop), slice(0, seen)))
        yield of


class _Problem:
    """The operands with one axis of heads, in a dtype that sums well, and their scores by block."""

    def __init__(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: tuple[Array, ...],
        scale: float,
        offset: int | None,
    ) -> None:
        self.lead = query.shape[:-2]
        self.count = math.prod(self.lead)
        self.dtype = query.dtype
        work = np.float32 if query.dtype.itemsize < 4 else query.dtype
        self.work = np.dtype(work)
        self.query, self.key, self.value = (self.flat(each) for each in (query, key, value))
        self.heads, self.rows = self.query.shape[:2]
        self.keys = self.key.shape[1]
        self.scale = scale
        self.offset = offset
        self.mask = mask[0] if mask else None
        if self.mask is not None:
            full = (*self.lead, *self.mask.shape[-2:])
            # A mask that all heads share stays one: broadcast, never repeated in memory.
            self.shared = self.mask.size == self.mask.shape[-2] * self.mask.shape[-1]
            if self.shared:
                self.mask = self.mask.reshape(1, *self.mask.shape[-2:])
            else:
                self.mask = np.broadcast_to(self.mask, full).reshape(self.count, *full[-2:])

    def flat(self, x: Array) -> Array:
        """Return an operand with its leading axes as one."""
        return x.reshape(self.count, *x.shape[-2:]).astype(self.work, copy=False)

    def blocks(self) -> list[list[_Block]]:
        """Return the blocks in the order of the heads, those of the same heads together."""
        size = self.work.itemsize
        return list(_blocks(self.heads, self.rows, self.keys, size, self.offset))

    def room(self, block: _Block, purpose: str) -> Array:
        """Return memory for a block of scores: the thread's own, used again by every block."""
        heads, rows = self.query[block.heads, block.rows].shape[:2]
        return scratch(purpose, (heads, rows, block.keys.stop), self.work)

    def scaled_query(self) -> Array:
        """Return the query times the scale."""
        scaled: Array = self.query * self.work.type(self.scale)
        return scaled

    def is_small(self, query: Array) -> bool:
        """Return whether no score is large, by the lengths of its rows.

        Then exponentials need no greatest score taken off: neither do they overflow nor vanish.
        """
        if self.mask is not None or (self.offset is not None and self.offset < 0):
            return False
        if query.size == 0 or self.key.size == 0:
            return True
        bound = np.vecdot(query, query).max() * np.vecdot(self.key, self.key).max()
        return bool(bound < _SAFE**2)

    def masked(self, scores: Array, block: _Block) -> Array | None:
        """Mask a block of scores in place, and return where they count.

        None: every row sees something, and what it does not see has a score of no weight.
        """
        allowed = None
        if self.mask is not None:
            part = self.mask[self.place_in_mask(self.mask, block)]
            if part.dtype == np.bool_:
                allowed = part
            else:
                scores += part
        if self.offset is not None and block.rows.start + self.offset + 1 < block.keys.stop:
            if allowed is None and self.offset >= 0:
                first = block.rows.start + self.offset + 1  # keys before are seen by all rows
                scores[..., first:] += _triangle(*scores[0, :, first:].shape, self.work)
                return None
            ends = np.arange(block.rows.start, block.rows.stop)[:, None] + self.offset
            past = np.arange(block.keys.stop) <= ends
            allowed = past if allowed is None else allowed & past
        if allowed is not None:
            np.copyto(scores, _NO_WEIGHT * np.finfo(self.work).max, where=~allowed)
        return allowed

    def place_in_mask(self, mask: Array, block: _Block) -> tuple[slice, slice, slice]:
        """Return where the part of the mask lies that belongs to a block, to be broadcast."""
        return (
            slice(None) if self.shared else block.heads,
            block.rows if mask.shape[1] > 1 else slice(None),
            block.keys if mask.shape[2] > 1 else slice(None),
        )


@lru_cache(maxsize=16)
def _triangle(rows: int, keys: int, dtype: np.dtype[Any]) -> Array:
    """Return what is added to scores of which each row sees one more than that before it."""
    seen = np.arange(keys) < np.arange(rows)[:, None]
    triangle = np.where(seen, 0, _NO_WEIGHT * np.finfo(dtype).max).astype(dtype)
    triangle.flags.writeable = False
    return triangle


def attention(
    query: Array,
    key: Array,
    value: Array,
    *mask: Array,
    scale: float,
    offset: int | None,
) -> tuple[Array, Array]:
    """Return attention's output, and of each row the logarithm of its exponentials' sum."""
    problem = _Problem(query, key, value, mask, scale, offset)
    output = np.zeros((problem.heads, problem.rows, value.shape[-1]), problem.work)
    sums = np.zeros((problem.heads, problem.rows), problem.work)  # 0 where a row sees nothing
    scaled = problem.scaled_query()
    small = problem.is_small(scaled)

    def work(blocks: list[_Block]) -> None:
        for block in blocks:
            rows, keys = (block.heads, block.rows), (block.heads, block.keys)
            weights = problem.room(block, "scores")
            np.matmul(scaled[rows], problem.key[keys].swapaxes(1, 2), out=weights)
            allowed = problem.masked(weights, block)
            if small:
                np.exp(weights, out=weights)
                total = _totals(weights)
                sums[rows] = np.log(total)[..., 0]
            else:
                top = weights.max(axis=-1, keepdims=True)
                weights -= top
                np.exp(weights, out=weights)
                total = _totals(weights)
                sees = top > _NO_WEIGHT / 2 * np.finfo(problem.work).max
                sums[rows] = np.where(sees, top + np.log(total), 0)[..., 0]
                if allowed is not None:
                    weights *= allowed
            part = output[rows]
            np.matmul(weights, problem.value[keys], out=part)
            part /= total

    run(work, problem.blocks())
    shape = (*problem.lead, problem.rows)
    return (
        output.reshape(*shape, value.shape[-1]).astype(problem.dtype, copy=False),
        sums.reshape(shape).astype(problem.dtype, copy=False),
    )


def _totals(weights: Array) -> Array:
    total: Array = np.vecdot(weights, ones(weights.shape[-1], weights.dtype))[..., None]
    return total


def attention_vjp(*arrays: Array, scale: float, offset: int | None) -> tuple[Array, ...]:
    """Return the cotangents of query, key, value and, if it is added to the scores, the mask."""
    inputs, (output, sums), (g, g_sums) = arrays[:-4], arrays[-4:-2], arrays[-2:]
    query, key, value, *mask = inputs
    problem = _Problem(query, key, value, tuple(mask), scale, offset)
    work = problem.work
    to_query, to_key, to_value = (
        np.zeros(each.shape, work) for each in (problem.query, problem.key, problem.value)
    )
    wants_mask = bool(mask) and mask[0].dtype != np.bool_
    to_mask = (
        np.zeros(problem.mask.shape, work) if wants_mask and problem.mask is not None else None
    )
    flat_g = problem.flat(g)
    flat_sums = sums.reshape(problem.count, problem.rows, 1).astype(work, copy=False)
    # The cotangent of each row's sum, less the weighted mean of what reaches its weights.
    centre = np.einsum("hre,hre->hr", problem.flat(output), flat_g)[..., None]
    centre -= g_sums.reshape(problem.count, problem.rows, 1)
    # What is taken off each row is one more term of its products: no pass of its own.
    scaled = np.concatenate((problem.scaled_query(), -flat_sums), axis=-1)
    longer_keys = np.concatenate((problem.key, np.ones((*problem.key.shape[:2], 1), work)), axis=-1)
    longer_g = np.concatenate((flat_g, -centre), axis=-1)
    longer_values = np.concatenate((problem.value, longer_keys[..., -1:]), axis=-1)
    width = problem.query.shape[-1]

    def pull(blocks: list[_Block]) -> None:
        for block in blocks:
            rows, keys = (block.heads, block.rows), (block.heads, block.keys)
            weights = problem.room(block, "scores")
            np.matmul(scaled[rows], longer_keys[keys].swapaxes(1, 2), out=weights)
            allowed = problem.masked(weights, block)
            np.exp(weights, out=weights)
            if allowed is not None and (mask or (offset is not None and offset < 0)):
                weights *= allowed  # a row that sees nothing has weights of one
            to_value[keys] += np.matmul(weights.swapaxes(1, 2), flat_g[rows])
            to_scores = problem.room(block, "to scores")
            np.matmul(longer_g[rows], longer_values[keys].swapaxes(1, 2), out=to_scores)
            to_scores *= weights
            if to_mask is not None:
                place = problem.place_in_mask(to_mask, block)
                to_mask[place] += fit_to(to_scores, to_mask[place].shape)
            np.matmul(to_scores, problem.key[keys], out=to_query[rows])
            to_key[keys] += np.matmul(to_scores.swapaxes(1, 2), scaled[rows][..., :width])

    if to_mask is None:
        run(pull, problem.blocks())
    else:
        # Heads that share a mask add to one place, in an order that no thread may change.
        for blocks in problem.blocks():
            pull(blocks)
    to_query *= work.type(scale)
    pulled = [
        each.reshape(x.shape).astype(problem.dtype, copy=False)
        for each, x in zip((to_query, to_key, to_value), inputs, strict=False)
    ]
    if not mask:
        return tuple(pulled)
    if to_mask is None:
        return *pulled, np.zeros_like(mask[0])
    return *pulled, _as_mask(to_mask, problem, mask[0]).astype(mask[0].dtype, copy=False)


def fit_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Return x summed over the axes on which the shape has a single place."""
    axes = tuple(a for a, length in enumerate(shape) if length != x.shape[a])
    return x.sum(axis=axes, keepdims=True) if axes else x


def _as_mask(to_mask: Array, problem: _Problem, mask: Array) -> Array:
    if problem.shared:
        return to_mask.reshape(mask.shape)
    return fit_to(to_mask.reshape(*problem.lead, *to_mask.shape[1:]), mask.shape)


KERNELS: dict[str, Callable[..., Any]] = {"attention": attention, "attention_vjp": attention_vjp}
