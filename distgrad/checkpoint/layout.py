"""Which rank writes which rows of which leaf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distgrad.checkpoint.leaves import Leaf
from distgrad.dtypes import as_dtype

# A tensor from this size up is cut by rows, so that all ranks write at once; below, the header's
# entries would weigh more than the balance gains.
_SPLIT_FROM = 1 << 20  # bytes


@dataclass(frozen=True)
class Part:
    """Rows of a leaf that a rank writes; a leaf without axes is one row."""

    path: str
    rank: int
    start: int
    stop: int


def share_out(
    leaves: Sequence[Leaf], shards: Sequence[dict[str, tuple[int, int]]]
) -> dict[str, list[Part]]:
    """Return for each path its parts, in order of the rows; the same on every rank.

    Parameters
    ----------
    leaves : sequence of Leaf
        Those with numbers.
    shards : sequence of dict of str to (int, int)
        For each rank the rows of each shard that it holds.

    Notes
    -----
    Shards are written by those who hold them. What every rank holds is cut into one part a rank if
    it is large, and otherwise written by the rank that has the fewest bytes so far; a generator by
    rank 0.
    """
    ranks = len(shards)
    load = [0] * ranks
    parts: dict[str, list[Part]] = {}
    for leaf in sorted(leaves, key=lambda each: (-_nbytes(each), each.path)):
        rows = leaf.shape[0] if leaf.shape else 1
        if any(leaf.path in held for held in shards):
            # Ranks without rows write nothing.
            held = [(*shards[rank].get(leaf.path, (0, 0)), rank) for rank in range(ranks)]
            cuts = sorted(each for each in held if each[0] < each[1])
        elif leaf.kind == "generator":  # of which ranks may hold unlike states: which one, is known
            cuts = [(0, rows, 0)] if rows else []
        elif ranks > 1 and _nbytes(leaf) >= _SPLIT_FROM and rows >= ranks:
            edges = [rows * rank // ranks for rank in range(ranks + 1)]
            cuts = [(edges[rank], edges[rank + 1], rank) for rank in range(ranks)]
        else:
            rank = min(range(ranks), key=lambda each: load[each])
            cuts = [(0, rows, rank)] if rows else []
        for start, stop, rank in cuts:
            load[rank] += _nbytes(leaf) * (stop - start) // max(rows, 1)
        parts[leaf.path] = [Part(leaf.path, rank, start, stop) for start, stop, rank in cuts]
    return parts


def _nbytes(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape, dtype=object)) * as_dtype(leaf.dtype).itemsize
