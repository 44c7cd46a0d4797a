"""Reductions over axes: sums, means, extrema, products, logic."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from math import prod as product
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Slice, Spec, SpecRule
from distgrad.core.seam import apply
from distgrad.dtypes import DType, DTypeLike, as_dtype, bool_, int64
from distgrad.errors import ShapeError
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import floating, joint, linear, quotient, undifferentiable
from distgrad.ops.shaping.structure import astype
from distgrad.shapes import Axis, Shape, integer, normalize_axes, plain_axes, reduced


def _summed(operand: Any) -> DType:
    """Return the dtype of a sum: small integers are summed in the platform's integer."""
    return np.add.reduce(np.zeros(1, joint(operand))).dtype


def _boolean(operand: Any) -> DType:
    return bool_


def _index(operand: Any) -> DType:
    return int64


def _reduction_spec(
    name: str, dtype: Callable[[Any], DType], *, of_something: bool = False
) -> SpecRule:
    """Return the spec rule of a reduction; of nothing it may have no value, as the largest has."""

    def spec(x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
        shape = tuple(x.shape)
        axes = normalize_axes(name, axis, len(shape))
        result = Spec(reduced(shape, axes, keepdims), dtype(x))
        if of_something and not elements_over(shape, axis):
            raise ShapeError(
                f"{name}: an array of shape {shape} has nothing to take the {name} of over axes "
                f"{axes}; expected lengths of 1 or more"
            )
        return result

    return spec


def spread(xp: Namespace, value: Array, shape: Shape, axis: Axis, keepdims: bool) -> Array:
    """Return a reduction's result, or its cotangent, repeated along the axes it ran over."""
    if axis is None and not keepdims:  # a number, which any shape can be made of
        return xp.broadcast_to(value, shape=tuple(shape))
    return xp.broadcast_to(with_axes(xp, value, shape, axis, keepdims), shape=tuple(shape))


def with_axes(xp: Namespace, value: Array, shape: Shape, axis: Axis, keepdims: bool) -> Array:
    """Return a reduction's result with the axes it was reduced over put back as length 1."""
    if keepdims or (not value.shape and not shape):
        return value
    axes = normalize_axes("reduction", axis, len(shape))
    return xp.reshape(value, shape=reduced(tuple(shape), axes, keepdims=True))


def elements_over(shape: Shape, axis: Axis) -> int:
    """Return how many elements lie over the axes that a reduction takes away."""
    if axis is None:
        return product(shape)
    return product(shape[a] for a in normalize_axes("reduction", axis, len(shape)))


def reduced_in(dtype: DTypeLike | None, op: Op, x: Any, **params: Any) -> Any:
    """Return a reduction computed in a dtype, which small integers else are widened from."""
    if dtype is None:
        return apply(op, x, **params)
    chosen = as_dtype(dtype)
    result = apply(op, astype(x, chosen, copy=False), **params)
    return astype(result, chosen, copy=False)


# --- sums and means -----------------------------------------------------------------------------


def _sum_transpose(
    xp: Namespace, g: Array, shape: Shape, axis: Axis = None, keepdims: bool = False
) -> Array:
    return spread(xp, g, shape, axis, keepdims)


SUM = linear("sum", _sum_transpose, _reduction_spec("sum", _summed), kind=Kind.REDUCTION)


def sum(
    x: Any, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False
) -> Any:
    """Return the sum over axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        The terms, of any shape; bool and small integers are summed as platform integers.
    axis : int or tuple of int, optional
        The axes to sum over; all of them by default.
    dtype : dtype, optional
        In what to sum: the terms are converted first.
    keepdims : bool
        Whether these axes stay, with length 1.

    Raises
    ------
    ShapeError
        If `x` has no such axis, or an axis is named twice.
    """
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("sum", axis)
    return reduced_in(dtype, SUM, x, axis=axis, keepdims=keepdims)


def _mean_transpose(
    xp: Namespace, g: Array, shape: Shape, axis: Axis = None, keepdims: bool = False
) -> Array:
    return spread(xp, g / _positive_count(shape, axis), shape, axis, keepdims)


def _positive_count(shape: Shape, axis: Axis) -> int:
    """Return how many elements each result is reduced from, at least 1: nothing divides by 0."""
    return builtins.max(elements_over(shape, axis), 1)


def _mean_compose(xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    total = xp.sum(x, axis=axis, keepdims=keepdims)
    count = elements_over(tuple(x.shape), axis)
    return total / count if count else total * float("nan")


MEAN = linear(
    "mean",
    _mean_transpose,
    _reduction_spec("mean", quotient),
    kind=Kind.REDUCTION,
    compose=_mean_compose,
)


def mean(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the arithmetic mean over axes; NaN where there is nothing to average."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("mean", axis)
    return apply(MEAN, x, axis=axis, keepdims=keepdims)


# --- largest and smallest -----------------------------------------------------------------------


def _extremum(name: str) -> Op:
    """Return max or min over axes; elements that tie share the cotangent equally."""

    def winners(xp: Namespace, y: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
        hit = xp.equal(x, with_axes(xp, y, tuple(x.shape), axis, keepdims))
        weight = xp.astype(hit, dtype=y.dtype)
        return weight / xp.sum(weight, axis=axis, keepdims=True)

    def vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
        axis, keepdims = params.get("axis"), params.get("keepdims", False)
        x = xs[0]
        share = winners(xp, y, x, axis, keepdims)
        return (with_axes(xp, g, tuple(x.shape), axis, keepdims) * share,)

    def jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
        axis, keepdims = params.get("axis"), params.get("keepdims", False)
        share = winners(xp, y, xs[0], axis, keepdims)
        return xp.sum(tangents[0] * share, axis=axis, keepdims=keepdims)

    return Op(
        name, Kind.REDUCTION, _reduction_spec(name, joint, of_something=True), vjp, jvp, Keep.BOTH
    )


MAX = _extremum("max")
MIN = _extremum("min")


def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the largest element over axes; elements that tie share the gradient equally."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("max", axis)
    return apply(MAX, x, axis=axis, keepdims=keepdims)


def min(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return the smallest element over axes; elements that tie share the gradient equally."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("min", axis)
    return apply(MIN, x, axis=axis, keepdims=keepdims)


ARGMAX = undifferentiable(
    "argmax",
    _reduction_spec("argmax", _index, of_something=True),
    batch=batching.along_one_axis("argmax"),
)
ARGMIN = undifferentiable(
    "argmin",
    _reduction_spec("argmin", _index, of_something=True),
    batch=batching.along_one_axis("argmin"),
)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the index of the first largest element along an axis (of all, by default)."""
    if axis is not None and axis.__class__ is not int:
        axis = integer("argmax", "axis", axis)
    return apply(ARGMAX, x, axis=axis, keepdims=keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the index of the first smallest element along an axis (of all, by default)."""
    if axis is not None and axis.__class__ is not int:
        axis = integer("argmin", "axis", axis)
    return apply(ARGMIN, x, axis=axis, keepdims=keepdims)


# --- products -----------------------------------------------------------------------------------


def delayed(xp: Namespace, x: Array, axis: int) -> Array:
    """Return x moved along an axis by one place, with ones coming in."""
    if not x.shape[axis]:
        return x
    before = (Slice(None, None, None),) * axis
    first = xp.getitem(x, index=(*before, Slice(None, 1, None)))
    rest = xp.getitem(x, index=(*before, Slice(None, -1, None)))
    return xp.concat(xp.ones_like(first), rest, axis=axis)


def _others(xp: Namespace, x: Array, axes: Shape) -> Array:
    """Return for each element the product of all *other* elements over the axes.

    No division by the element, which would be wrong at 0: the product of those before it times that
    of those behind it, so that it is exact and differentiable throughout.
    """
    if len(axes) == 1:
        return _others_along(xp, x, axes[0])
    shape = tuple(x.shape)
    kept = [a for a in range(len(shape)) if a not in axes]
    order = (*kept, *axes)
    length = product(shape[a] for a in axes)
    lines = xp.reshape(xp.permute_dims(x, axes=order), shape=(*(shape[a] for a in kept), length))
    others = xp.reshape(_others_along(xp, lines, len(kept)), shape=tuple(shape[a] for a in order))
    return xp.permute_dims(others, axes=tuple(int(a) for a in np.argsort(order)))


def _others_along(xp: Namespace, x: Array, axis: int) -> Array:
    before = delayed(xp, xp.cumulative_prod(x, axis=axis), axis)
    behind = xp.cumulative_prod(xp.flip(x, axis=axis), axis=axis)
    return before * xp.flip(delayed(xp, behind, axis), axis=axis)


def _prod_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    x = xs[0]
    axis, keepdims = params.get("axis"), params.get("keepdims", False)
    others = _others(xp, x, normalize_axes("prod", axis, len(x.shape)))
    if g.dtype in xp.complex_dtypes:
        others = xp.conj(others)
    return (with_axes(xp, g, tuple(x.shape), axis, keepdims) * others,)


def _prod_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    x = xs[0]
    axis, keepdims = params.get("axis"), params.get("keepdims", False)
    others = _others(xp, x, normalize_axes("prod", axis, len(x.shape)))
    return xp.sum(tangents[0] * others, axis=axis, keepdims=keepdims)


PROD = Op("prod", Kind.REDUCTION, _reduction_spec("prod", _summed), _prod_vjp, _prod_jvp)


def prod(
    x: Any, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False
) -> Any:
    """Return the product over axes; parameters and errors as for `sum`.

    Notes
    -----
    The derivatives are right at zeros too, to any order.
    """
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("prod", axis)
    return reduced_in(dtype, PROD, x, axis=axis, keepdims=keepdims)


# --- logic --------------------------------------------------------------------------------------

ALL = undifferentiable("all", _reduction_spec("all", _boolean), kind=Kind.REDUCTION)
ANY = undifferentiable("any", _reduction_spec("any", _boolean), kind=Kind.REDUCTION)


def all(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return whether all elements over axes are true."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("all", axis)
    return apply(ALL, x, axis=axis, keepdims=keepdims)


def any(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return whether one of the elements over axes is true."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("any", axis)
    return apply(ANY, x, axis=axis, keepdims=keepdims)


# --- log-sum-exp --------------------------------------------------------------------------------


def greatest(xp: Namespace, x: Array, axis: Axis) -> Array:
    """Return the largest element over axes, which stay with length 1; -inf of none."""
    if 0 not in x.shape:
        return xp.max(x, axis=axis, keepdims=True)
    shape = reduced(tuple(x.shape), normalize_axes("max", axis, len(x.shape)), keepdims=True)
    return xp.full(shape=shape, fill_value=-np.inf, dtype=floating(x))


def _logsumexp_compose(xp: Namespace, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    top = greatest(xp, x, axis)
    # An infinite largest term is the result; the rest is computed around it without a warning.
    below = xp.minimum(x - xp.where(xp.isfinite(top), top, 0), 0)
    total = xp.sum(xp.exp(below), axis=axis, keepdims=True)
    result = top + xp.log(xp.where(xp.equal(total, 0), 1, total))
    shape = reduced(tuple(x.shape), normalize_axes("logsumexp", axis, len(x.shape)), keepdims)
    return xp.reshape(result, shape=shape)


def _logsumexp_weights(xp: Namespace, y: Array, x: Array, params: dict[str, Any]) -> Array:
    top = with_axes(xp, y, tuple(x.shape), params.get("axis"), params.get("keepdims", False))
    # Where all terms are exp(-inf) the sum has no slope; exp(-inf + inf) would be NaN.
    return xp.exp(x - xp.where(xp.equal(top, -np.inf), 0, top))


def _logsumexp_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    x = xs[0]
    axis, keepdims = params.get("axis"), params.get("keepdims", False)
    weights = _logsumexp_weights(xp, y, x, params)
    return (with_axes(xp, g, tuple(x.shape), axis, keepdims) * weights,)


def _logsumexp_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.sum(tangents[0] * _logsumexp_weights(xp, y, xs[0], params), **params)


LOGSUMEXP = Op(
    "logsumexp",
    Kind.REDUCTION,
    _reduction_spec("logsumexp", floating),
    _logsumexp_vjp,
    _logsumexp_jvp,
    Keep.BOTH,
    _logsumexp_compose,
)


def logsumexp(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Return log(sum(exp(x))) over axes, without overflow; -inf of nothing, or of nothing else."""
    if axis is not None and axis.__class__ is not int:
        axis = plain_axes("logsumexp", axis)
    return apply(LOGSUMEXP, x, axis=axis, keepdims=keepdims)


OPS = (SUM, MEAN, MAX, MIN, ARGMAX, ARGMIN, PROD, ALL, ANY, LOGSUMEXP)
