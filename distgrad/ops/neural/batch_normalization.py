"""Batch norm in one piece: columns normalized by their own moments, which it also returns.

`moments` and `normalize` say the same in two operations; pulled back as one, x and its cotangent
are gone through twice, and nothing is kept but x and a few numbers for each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add
from distgrad.ops.neural.normalization import widened
from distgrad.ops.rules import batching
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import quotient, shape_of
from distgrad.shapes import Axis, normalize_axes, reduced


def _as(xp: Namespace, x: Array, like: Array) -> Array:
    """Return x, computed from an operand, in the dtype that the result has by its rule."""
    return x if x.dtype == like.dtype else xp.astype(x, dtype=quotient(like))


# --- forward --------------------------------------------------------------------------------------


def _spec(x: Spec, *affine: Spec, axes: tuple[int, ...], epsilon: float) -> tuple[Spec, ...]:
    shape = tuple(x.shape)
    each = reduced(shape, normalize_axes("batch_norm", axes, len(shape)), keepdims=True)
    for given, what in zip(affine, ("scale", "shift"), strict=False):
        if tuple(given.shape) != each:
            raise ShapeError(
                f"batch_norm: {what} has shape {tuple(given.shape)}; expected {each}, that of x "
                f"with 1 for the axes {axes}"
            )
    dtype = quotient(x)
    return Spec(shape, dtype), Spec(each, dtype), Spec(each, dtype)


def _compose(
    xp: Namespace, x: Array, *affine: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, Array, Array]:
    wide, *rest = (widened(xp, each) for each in (x, *affine))
    mean, variance = xp.moments(wide, axes=axes)
    y = xp.normalize(wide, mean, variance, *rest, epsilon=epsilon)
    return _as(xp, y, x), _as(xp, mean, x), _as(xp, variance, x)


def _vjp(
    xp: Namespace, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Array]:
    x, *affine = xs
    return tuple(xp.batch_norm_vjp(*g, x, *y[1:], *affine, **params))


def _jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
) -> tuple[Array, ...]:
    return tuple(derivative(_compose, xp, xs, tangents, params))


def _batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> tuple[Array, ...]:
    whole = [batching.with_batch(xp, size, *each) for each in zip(arrays, batched, strict=True)]
    return tuple(xp.batch_norm(*whole, **_behind_the_batch(whole[0], params)))


def _behind_the_batch(x: Array, params: dict[str, Any]) -> dict[str, Any]:
    axes = normalize_axes("batch_norm", params["axes"], len(x.shape) - 1)
    return {**params, "axes": tuple(axis + 1 for axis in axes)}


BATCH_NORM = Op(
    "batch_norm",
    Kind.OPAQUE,
    _spec,
    _vjp,
    _jvp,
    Keep.SUMMARIES,
    _compose,
    _batch,
    outputs=3,
)

# --- pullback -------------------------------------------------------------------------------------


def _pull(
    xp: Namespace,
    given: Sequence[Array],
    x: Array,
    mean: Array,
    variance: Array,
    affine: Sequence[Array],
    axes: tuple[int, ...],
    epsilon: float,
) -> list[Array]:
    """Return cotangents of x and affine, all wide.

    The moments' own come to those that the normalized values have of them: the mean is sum(x) / n,
    and deviations add up to 0, so that the variance's derivative is 2 (x - mean) / n.
    """
    g, by_mean, by_variance = given
    to_x, to_mean, to_variance, *to_affine = xp.normalize_vjp(
        g, x, mean, variance, *affine, epsilon=epsilon
    )
    chosen = normalize_axes("batch_norm", axes, len(x.shape))
    share = 1 / max(prod(x.shape[axis] for axis in chosen), 1)
    slope, offset = (to_variance + by_variance) * (2 * share), (to_mean + by_mean) * share
    rest = xp.normalize(x, mean, xp.ones_like(mean), slope, offset, epsilon=0.0)
    return [to_x + rest, *to_affine]


def _narrowed(xp: Namespace, pulled: Sequence[Array], like: Sequence[Array]) -> tuple[Array, ...]:
    pairs = zip(pulled, like, strict=True)
    return tuple([_as(xp, each, own) for each, own in pairs])


def _pull_compose(
    xp: Namespace,
    g: Array,
    to_mean: Array,
    to_variance: Array,
    x: Array,
    mean: Array,
    variance: Array,
    *affine: Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> tuple[Array, ...]:
    if as_dtype(x.dtype).itemsize < 4:  # what is left of the moments has lost digits
        return _pull_whole(xp, g, to_mean, to_variance, x, *affine, axes=axes, epsilon=epsilon)
    given = [widened(xp, each) for each in (g, to_mean, to_variance)]
    wide, centre, spread, *rest = (widened(xp, each) for each in (x, mean, variance, *affine))
    return _narrowed(xp, _pull(xp, given, wide, centre, spread, rest, axes, epsilon), (x, *affine))


def _pull_whole(
    xp: Namespace,
    g: Array,
    to_mean: Array,
    to_variance: Array,
    x: Array,
    *affine: Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> tuple[Array, ...]:
    """Return what the pullback does, as a function of x: the moments are computed again."""
    given = [widened(xp, each) for each in (g, to_mean, to_variance)]
    wide, *rest = (widened(xp, each) for each in (x, *affine))
    mean, variance = xp.moments(wide, axes=axes)
    return _narrowed(xp, _pull(xp, given, wide, mean, variance, rest, axes, epsilon), (x, *affine))


def _pull_spec(
    g: Spec,
    to_mean: Spec,
    to_variance: Spec,
    x: Spec,
    mean: Spec,
    variance: Spec,
    *affine: Spec,
    axes: tuple[int, ...],
    epsilon: float,
) -> tuple[Spec, ...]:
    return tuple(Spec(tuple(each.shape), quotient(each)) for each in (x, *affine))


def _pull_vjp(
    xp: Namespace, a: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Array | None]:
    # As of a fused operation: <a, J^T g> = <g, J a>, and second derivatives commute. The moments
    # are functions of x, whose cotangent has what would go through them.
    own = (*xs[:4], *xs[6:])
    to_given: tuple[Array | None, ...] = (None, None, None)
    if any(needs[:3]):
        to_given = derivative(_compose, xp, own[3:], tuple(a), params)
    to_x, *to_affine = derivative(_pull_whole, xp, own, (None, None, None, *a), params)
    return (*to_given, to_x, None, None, *to_affine)


def _pull_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
) -> tuple[Array, ...]:
    own, moving = ((*each[:4], *each[6:]) for each in (xs, tangents))
    return tuple(derivative(_pull_whole, xp, own, moving, params))


def _pull_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> tuple[Array, ...]:
    whole = [batching.with_batch(xp, size, *each) for each in zip(arrays, batched, strict=True)]
    return tuple(xp.batch_norm_vjp(*whole, **_behind_the_batch(whole[3], params)))


BATCH_NORM_VJP = Op(
    "batch_norm_vjp",
    Kind.OPAQUE,
    _pull_spec,
    _pull_vjp,
    _pull_jvp,
    Keep.INPUTS,
    _pull_compose,
    _pull_batch,
    outputs=None,
)


def normalize_by_own_moments(
    x: Any, scale: Any = None, shift: Any = None, /, *, axis: Axis, epsilon: float = 1e-5
) -> tuple[Any, Any, Any]:
    """Return scale (x - mean) / sqrt(variance + epsilon) + shift, and mean and variance of x.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    scale, shift : Tensor, Variable or array, optional
        Of the shape of x with 1 for the axes.
    axis : int or tuple of int
        The axes to average over, which stay with length 1 in the moments.
    epsilon : float
        Added to the variance, in its unit.

    Notes
    -----
    With n numbers along the axes, r = 1 / sqrt(variance + epsilon), h = (x - mean) r, and the
    cotangents g of the output, a of the mean and b of the variance (the population's), x gets

        scale r (g - mean(g) - h mean(g h)) + a / n + 2 b (x - mean) / n,

    scale sum(g h) and shift sum(g). A tape keeps x, scale and the moments, but not the output.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", arXiv:1502.03167, section 3.
    """
    affine = () if scale is None else (scale,) if shift is None else (scale, shift)
    axes = normalize_axes("batch_norm", axis, len(shape_of(x)))
    y, mean, variance = apply(BATCH_NORM, x, *affine, axes=axes, epsilon=float(epsilon))
    return (y if scale is not None or shift is None else add(y, shift)), mean, variance


OPS = (BATCH_NORM, BATCH_NORM_VJP)
