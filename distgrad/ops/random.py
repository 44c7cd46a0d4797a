"""Random numbers as operations: pure functions of a stream, which is an array of three words.

The words of a stream are a key of two and the number of draws made under it, as uint64; see
`distgrad.backend.philox`. An array of streams, shape (..., 3), gives each stream's own numbers
along the leading axes. `distgrad.random.Generator` keeps count of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, Namespace, Op, Spec, SpecRule
from distgrad.core.seam import apply
from distgrad.dtypes import DType, bool_, int64, uint64
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import quotient, shape_of, undifferentiable
from distgrad.ops.shaping.structure import concat, reshape
from distgrad.shapes import Shape, broadcast


def _lead(name: str, stream: Spec) -> Shape:
    """Return the leading axes of an array of streams."""
    shape = tuple(stream.shape)
    if not shape or shape[-1] != 3 or stream.dtype != uint64:
        raise ShapeError(
            f"{name}: a stream is uint64 of shape (..., 3), got {stream.dtype} of shape {shape}; "
            "take those of distgrad.random"
        )
    return shape[:-1]


def _drawing(name: str, dtype: DType | None = None) -> Op:
    """Return an operation that gives an array of numbers for each stream."""

    def spec(stream: Spec, *, shape: Shape, **params: Any) -> Spec:
        return Spec((*_lead(name, stream), *shape), dtype or params["dtype"])

    return undifferentiable(name, spec, batch=batching.trailing(name))


RANDOM_BITS = _drawing("random_bits")
RANDOM_UNIFORM = _drawing("random_uniform")
RANDOM_NORMAL = _drawing("random_normal")
RANDOM_INTEGERS = _drawing("random_integers")
RANDOM_BERNOULLI = _drawing("random_bernoulli", bool_)


def _along(name: str, length: str, tail: Shape, dtype: DType) -> SpecRule:
    def spec(stream: Spec, **params: Any) -> Spec:
        return Spec((*_lead(name, stream), params[length], *tail), dtype)

    return spec


RANDOM_PERMUTATION = undifferentiable(
    "random_permutation",
    _along("random_permutation", "length", (), int64),
    batch=batching.trailing("random_permutation"),
)
RANDOM_SPLIT = undifferentiable(
    "random_split",
    _along("random_split", "count", (3,), uint64),
    batch=batching.trailing("random_split"),
)


def _fold_spec(stream: Spec, index: Any) -> Spec:
    if not isinstance(index, int) and index.dtype.kind not in "iu":
        raise DTypeError(f"fold_in: the index is {index.dtype}; expected integers")
    return Spec((*broadcast("fold_in", _lead("fold_in", stream), shape_of(index)), 3), uint64)


def _fold_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    stream, index = arrays
    lead = batching.seen_shape(stream, batched[0])[:-1]
    rank = max(len(lead), len(batching.seen_shape(index, batched[1])))
    stream = batching.with_rank(xp, stream, batched[0], rank + 1)
    return xp.random_fold(stream, batching.with_rank(xp, index, batched[1], rank))


RANDOM_FOLD = undifferentiable("random_fold", _fold_spec, batch=_fold_batch)


def _row_shape(name: str, stream: Spec, parameter: str, given: Spec) -> Shape:
    """Return the shape of parameters of which each stream has its own row."""
    lead, shape = _lead(name, stream), tuple(given.shape)
    if shape[: len(lead)] != lead:
        raise ShapeError(
            f"{name}: streams of shape {(*lead, 3)} need a {parameter} of shape "
            f"{(*lead, '...')}, got {shape}"
        )
    return shape


def _gamma_spec(stream: Spec, concentration: Spec, *, start: int) -> Spec:
    shape = _row_shape("random_gamma", stream, "concentration", concentration)
    return Spec(shape, quotient(concentration))


def _poisson_spec(stream: Spec, rate: Spec, *, start: int, dtype: DType) -> Spec:
    return Spec(_row_shape("random_poisson", stream, "rate", rate), dtype)


RANDOM_GAMMA = undifferentiable(
    "random_gamma", _gamma_spec, batch=batching.trailing("random_gamma")
)
RANDOM_POISSON = undifferentiable(
    "random_poisson", _poisson_spec, batch=batching.trailing("random_poisson")
)


def draw(op: Op, stream: Any, shape: Shape, rows: Any, **params: Any) -> Any:
    """Return the numbers of a draw, or the chosen rows of them.

    Parameters
    ----------
    op : Op
        One of those of this file that take a shape.
    stream : Tensor
        The stream.
    shape : tuple of int
        Of the whole draw.
    rows : int, slice, range, sequence of int, or None
        Which rows along the first axis; all of them for None.
    **params
        The operation's metadata.
    """
    if rows is None:
        return apply(op, stream, shape=shape, start=0, **params)
    axis = len(stream.shape) - 1
    width = prod(shape[1:])
    parts = [
        apply(op, stream, shape=(stop - first, *shape[1:]), start=first * width, **params)
        for first, stop in runs(rows_of(shape, rows))
    ]
    whole = parts[0] if len(parts) == 1 else concat(parts, axis=axis)
    if isinstance(rows, int):
        return reshape(whole, (*stream.shape[:-1], *shape[1:]))
    return whole


def rows_of(shape: Shape, rows: Any) -> list[int]:
    """Return the numbers of chosen rows, counted from the front.

    Raises
    ------
    ShapeError
        If there is no such row.
    """
    if not shape:
        raise ShapeError("random: rows are chosen of a shape without axes; expected one at least")
    if isinstance(rows, slice):
        return list(range(shape[0]))[rows]
    chosen = [rows] if isinstance(rows, int) else [int(row) for row in rows]
    for row in chosen:
        if not 0 <= row < shape[0]:
            raise ShapeError(
                f"random: row {row} is asked for of shape {shape}; expected 0 to {shape[0] - 1}; "
                "the shape is that of the whole draw, not of the rows"
            )
    return chosen


def runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return the bounds of runs of consecutive rows, in order; one empty run for no row."""
    bounds: list[tuple[int, int]] = []
    for row in rows:
        if bounds and bounds[-1][1] == row:
            bounds[-1] = (bounds[-1][0], row + 1)
        else:
            bounds.append((row, row + 1))
    return bounds or [(0, 0)]


OPS = (
    RANDOM_BITS,
    RANDOM_UNIFORM,
    RANDOM_NORMAL,
    RANDOM_INTEGERS,
    RANDOM_BERNOULLI,
    RANDOM_PERMUTATION,
    RANDOM_GAMMA,
    RANDOM_POISSON,
    RANDOM_FOLD,
    RANDOM_SPLIT,
)
