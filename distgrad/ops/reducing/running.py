"""Running sums and products along an axis, and the differences between neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.op import Array, Kind, Namespace, Op, Slice, Spec
from distgrad.dtypes import DType, DTypeLike
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import positive, subtract
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import delayed, reduced_in, sum
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import conjugate, joint, linear
from distgrad.ops.shaping.structure import concat, ones_like, zeros_like
from distgrad.shapes import Shape, integer, normalize_axis, shape_given


def _accumulated(operand: Any) -> DType:
    """Return the dtype of a running sum: small integers are summed in the platform's integer."""
    return np.add.reduce(np.zeros(1, joint(operand))).dtype


def _running_spec(name: str) -> Callable[..., Spec]:
    def spec(x: Spec, *, axis: int | None = None) -> Spec:
        if axis is None and len(x.shape) != 1:
            raise ShapeError(
                f"{name}: axis is needed for an array of {len(x.shape)} axes; "
                "give axis=, or reshape to one axis first"
            )
        normalize_axis(name, _place(axis), len(x.shape))
        return Spec(tuple(x.shape), _accumulated(x))

    return spec


def _place(axis: int | None) -> int:
    """Return the axis to run along, which need not be named if it is the only one."""
    return 0 if axis is None else axis


def _running(
    op: Op,
    first: Callable[..., Any],
    x: Any,
    axis: int | None,
    dtype: DTypeLike | None,
    include_initial: bool,
) -> Any:
    """Return a running result, on request with what it starts from in front."""
    running = reduced_in(dtype, op, x, axis=axis)
    if not include_initial:
        return running
    start = sum(running, axis=_place(axis), keepdims=True)
    start = first(start, dtype=running.dtype)  # of small integers the sum is wider
    return concat([start, running], axis=_place(axis))


# --- sums ---------------------------------------------------------------------------------------


def _cumulative_sum_transpose(
    xp: Namespace, g: Array, shape: Shape, axis: int | None = None
) -> Array:
    axis = _place(axis)
    return xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis)


CUMULATIVE_SUM = linear(
    "cumulative_sum",
    _cumulative_sum_transpose,
    _running_spec("cumulative_sum"),
    kind=Kind.OPAQUE,
    batch=batching.along_one_axis("cumulative_sum"),
)


def cumulative_sum(
    x: Any,
    /,
    *,
    axis: int | None = None,
    dtype: DTypeLike | None = None,
    include_initial: bool = False,
) -> Any:
    """Return the running sum along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        The terms.
    axis : int, optional
        The axis to run along; needed unless `x` has exactly one.
    dtype : dtype, optional
        In what to sum; by default in that of `x`, small integers in the platform's integer.
    include_initial : bool
        Whether 0, the sum of nothing, comes first, so that the axis is longer by one.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or several and none is named.
    """
    return _running(CUMULATIVE_SUM, zeros_like, x, axis, dtype, include_initial)


# --- products -----------------------------------------------------------------------------------


def _part(xp: Namespace, x: Array, axis: int, start: int | None, stop: int | None) -> Array:
    before = (Slice(None, None, None),) * axis
    return xp.getitem(x, index=(*before, Slice(start, stop, None)))


def _recurrence(xp: Namespace, a: Array, b: Array, axis: int) -> Array:
    """Return z with z[k] = b[k] + a[k] z[k - 1] along an axis, by doubling steps.

    No division, so that zeros are nothing special; log2(n) steps, each over all elements.
    """
    length = int(b.shape[axis])
    step = 1
    while step < length:
        head, tail = _part(xp, b, axis, None, step), _part(xp, b, axis, step, None)
        factor = _part(xp, a, axis, step, None)
        b = xp.concat(head, tail + factor * _part(xp, b, axis, None, -step), axis=axis)
        if 2 * step < length:
            grown = factor * _part(xp, a, axis, None, -step)
            a = xp.concat(_part(xp, a, axis, None, step), grown, axis=axis)
        step *= 2
    return b


def _cumulative_prod_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any
) -> Any:
    x = xs[0]
    axis = _place(params.get("axis")) % len(x.shape)
    if g.dtype in xp.complex_dtypes:
        x = conjugate(xp, x)
    # What each factor's place gathers from behind: h[k] = g[k] + x[k + 1] h[k + 1].
    behind = _recurrence(xp, delayed(xp, xp.flip(x, axis=axis), axis), xp.flip(g, axis=axis), axis)
    before = delayed(xp, xp.cumulative_prod(x, axis=axis), axis)
    return (before * xp.flip(behind, axis=axis),)


def _cumulative_prod_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    x = xs[0]
    axis = _place(params.get("axis")) % len(x.shape)
    return _recurrence(xp, x, tangents[0] * delayed(xp, y, axis), axis)


CUMULATIVE_PROD = Op(
    "cumulative_prod",
    Kind.OPAQUE,
    _running_spec("cumulative_prod"),
    _cumulative_prod_vjp,
    _cumulative_prod_jvp,
    batch=batching.along_one_axis("cumulative_prod"),
)


def cumulative_prod(
    x: Any,
    /,
    *,
    axis: int | None = None,
    dtype: DTypeLike | None = None,
    include_initial: bool = False,
) -> Any:
    """Return the running product along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        The factors.
    axis : int, optional
        The axis to run along; needed unless `x` has exactly one.
    dtype : dtype, optional
        In what to multiply; by default in that of `x`, small integers in the platform's integer.
    include_initial : bool
        Whether 1, the product of nothing, comes first, so that the axis is longer by one.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or several and none is named.

    Notes
    -----
    The derivatives are right at zeros too, to any order: the cotangent of x[k] is
    y[k - 1] h[k] with h[k] = g[k] + x[k + 1] h[k + 1], solved by doubling. TensorFlow divides by x
    and gives NaN there.
    """
    return _running(CUMULATIVE_PROD, ones_like, x, axis, dtype, include_initial)


# --- differences --------------------------------------------------------------------------------


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """Return the differences between neighbours along an axis, ``x[i + 1] - x[i]``.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of one axis or more.
    axis : int
        The axis; it becomes shorter by `n`.
    n : int
        How often to take differences.
    prepend, append : Tensor, Variable or array, optional
        What to put before and behind `x` along the axis first; with `n` = 0, nothing is.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or `prepend` or `append` does not fit.
    ValueError
        If `n` is negative.
    """
    n = integer("diff", "n", n)
    if n < 0:
        raise ValueError(f"diff: n is {n}; expected 0 or more")
    place = normalize_axis("diff", axis, len(shape_given(x)))
    if not n:
        return positive(x)
    parts = [part for part in (prepend, x, append) if part is not None]
    if len(parts) > 1:
        x = concat(parts, axis=place)
    before = (slice(None),) * place
    for _ in range(n):
        x = subtract(getitem(x, (*before, slice(1, None))), getitem(x, (*before, slice(None, -1))))
    return x


OPS = (CUMULATIVE_SUM, CUMULATIVE_PROD)
