"""Masks in traces: positions stand for a constant one, and others pick nobody knows how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.core.op import Op, Placeholder
from distgrad.debug import output_walked_back
from distgrad.dtypes import bool_
from distgrad.graph.nodes import Node
from distgrad.ops.ordering.searching import refuse_to_foretell
from distgrad.ops.picking.indexing import GETITEM, SCATTER_ADD

_PICKING = (GETITEM, SCATTER_ADD)


def has_known_mask(op: Op, nodes: Sequence[Any]) -> bool:
    """Return whether an operation picks elements, or puts them back, by a mask of known values."""
    return op in _PICKING and any(map(_is_known_mask, nodes[1:]))


def refuse_unknown_masks(op: Op, nodes: Sequence[Any]) -> None:
    """Refuse to pick by a mask whose values the trace computes: how much, nobody knows yet.

    The rules of operations that write by a mask pick by it, too, and know the shape that comes of
    it; so what a walk back picks is let through.

    Raises
    ------
    TraceError
        If there is one.
    """
    if op is GETITEM and any(map(_is_mask, nodes[1:])) and output_walked_back() is None:
        raise refuse_to_foretell("x[mask]")


def without_masks(
    nodes: Sequence[Any], params: dict[str, Any], symbol: Callable[[Any], Any], home: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return operands and metadata with positions in place of masks of known values.

    The spec rule sees shapes and dtypes alone, and cannot tell how much a mask picks.

    Parameters
    ----------
    nodes : sequence of Node
        What is picked from or put back, and the arrays of the index.
    params : dict
        The metadata; ``index`` says where the arrays stand.
    symbol : callable
        Makes a constant of an array.
    home : Kernels
        The vocabulary on the constants' backend.
    """
    first, *arrays = nodes
    rest = iter(arrays)
    index: list[Any] = []
    operands: list[Any] = []
    for part in params["index"]:
        found = [part]
        if part is Placeholder.ARRAY:
            node = next(rest)
            picked: list[Any] = [node]
            if _is_known_mask(node):
                mask = np.asarray(home.backend.to_host(node.value))
                picked = [symbol(positions).node for positions in np.nonzero(mask)]
            operands += picked
            found = [part] * len(picked)
        index += found
    return (first, *operands), {**params, "index": tuple(index)}


def _is_mask(node: Any) -> bool:
    return isinstance(node, Node) and node.dtype == bool_


def _is_known_mask(node: Any) -> bool:
    return _is_mask(node) and node.value is not None and bool(node.shape)
