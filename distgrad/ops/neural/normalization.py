"""Normalisation in two operations: moments over axes, and what is normalised by moments.

`normalize` is elementwise and takes moments from wherever they come: this batch, all ranks, or what
was learned. So group and instance norm are both of them, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, float32, float64
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import fit, quotient, shape_of
from distgrad.ops.shaping.structure import reshape
from distgrad.shapes import Axis, broadcast, normalize_axes, reduced

# --- moments --------------------------------------------------------------------------------------


def widened(xp: Namespace, x: Array) -> Array:
    """Return x in a dtype in which its squares can be summed."""
    dtype = as_dtype(x.dtype)
    if dtype.kind in "biu":
        return xp.astype(x, dtype=float64)
    return xp.astype(x, dtype=float32) if dtype.itemsize < 4 else x


def _moments_compose(xp: Namespace, x: Array, *, axes: tuple[int, ...]) -> tuple[Array, Array]:
    wide = widened(xp, x)
    mean = xp.mean(wide, axis=axes, keepdims=True)
    centred = wide - mean
    variance = xp.mean(centred * centred, axis=axes, keepdims=True)
    dtype = as_dtype(x.dtype)
    if wide.dtype == x.dtype or dtype.kind in "biu":
        return mean, variance
    return xp.astype(mean, dtype=dtype), xp.astype(variance, dtype=dtype)


def _moments_spec(x: Spec, *, axes: tuple[int, ...]) -> tuple[Spec, Spec]:
    shape = tuple(x.shape)
    chosen = normalize_axes("moments", axes, len(shape))
    spec = Spec(reduced(shape, chosen, keepdims=True), quotient(x))
    return spec, spec


def _moments_vjp(
    xp: Namespace, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Array]:
    (x,), (mean, _) = xs, y
    to_mean, to_variance = g
    count = max(_count(x.shape, params["axes"]), 1)
    # The mean within the variance adds nothing: deviations add up to 0.
    affine = to_variance * (2 / count), to_mean / count
    return (xp.normalize(x, mean, xp.ones_like(mean), *affine, epsilon=0.0),)


def _moments_jvp(
    xp: Namespace, tangents: Sequence[Array], y: Any, xs: Any, params: dict[str, Any]
) -> tuple[Array, Array]:
    (x,), (mean, _), axes = xs, y, params["axes"]
    to_mean = xp.mean(tangents[0], axis=axes, keepdims=True)
    to_variance = 2 * xp.mean((x - mean) * tangents[0], axis=axes, keepdims=True)
    return to_mean, to_variance


def _moments_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Any:
    rank = len(arrays[0].shape) - 1
    axes = tuple(a + 1 for a in normalize_axes("moments", params["axes"], rank))
    return xp.moments(arrays[0], axes=axes)


def _count(shape: Sequence[int], axes: tuple[int, ...]) -> int:
    return prod(shape[a] for a in axes)


MOMENTS = Op(
    "moments",
    Kind.OPAQUE,
    _moments_spec,
    _moments_vjp,
    _moments_jvp,
    Keep.BOTH,
    _moments_compose,
    _moments_batch,
    outputs=2,
)


def moments(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> tuple[Any, Any]:
    """Return the mean and the variance over axes, in two passes: the variance is never negative.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    axis : int or tuple of int, optional
        The axes to average over; all of them by default.
    keepdims : bool
        Whether these axes stay, with length 1.

    Notes
    -----
    The variance is the population's: divided by the number of elements. Both are summed in float32
    for narrower dtypes, and float32 in parts, so that the error does not grow with their number.
    """
    axes = normalize_axes("moments", axis, len(shape_of(x)))
    mean, variance = apply(MOMENTS, x, axes=axes)
    if keepdims:
        return mean, variance
    shape = reduced(shape_of(x), axes, keepdims=False)
    return reshape(mean, shape), reshape(variance, shape)


# --- normalised by given moments ------------------------------------------------------------------


def _inverse(xp: Namespace, variance: Array, epsilon: float) -> Array:
    return 1 / xp.sqrt(variance + epsilon)


def _normalize_compose(
    xp: Namespace, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> Array:
    dtype = as_dtype(x.dtype)
    narrow = dtype.itemsize < 4 and dtype.kind not in "biu"
    given = tuple(widened(xp, each) for each in (x, mean, variance, *affine))
    wide, centre, spread, *rest = given
    factor = _inverse(xp, spread, epsilon)
    if rest:
        factor = factor * rest[0]
    y = (wide - centre) * factor
    if len(rest) > 1:
        y = y + rest[1]
    return xp.astype(y, dtype=dtype) if narrow else y


def _normalize_spec(x: Spec, *others: Spec, epsilon: float) -> Spec:
    return Spec(broadcast("normalize", *(shape_of(each) for each in (x, *others))), quotient(x))


def _normalize_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Array | None]:
    if any(needs[1:]):
        return tuple(xp.normalize_vjp(g, *xs, **params))
    factor = _inverse(xp, xs[2], params["epsilon"])
    return g * (factor * xs[3] if len(xs) > 3 else factor), *(None for _ in xs[1:])


def _normalize_pull_compose(
    xp: Namespace, g: Array, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> tuple[Array, ...]:
    inverse = _inverse(xp, variance, epsilon)
    factor = inverse * affine[0] if affine else inverse
    given = (mean, variance, *affine)
    deviated = g * (x - mean)
    if len({tuple(each.shape) for each in given}) == 1:  # sums first, and factors after
        total, deviated = fit(xp, g, mean), fit(xp, deviated, mean)
        to_mean, to_variance = -total * factor, deviated * factor * inverse * inverse * -0.5
        return (g * factor, to_mean, to_variance, deviated * inverse, total)[: 1 + len(given)]
    to_x = g * factor
    to_variance = fit(xp, deviated * factor * inverse * inverse * -0.5, variance)
    to = [to_x, -fit(xp, to_x, mean), to_variance]
    to += [fit(xp, deviated * inverse, each) for each in affine[:1]]
    return (*to, *(fit(xp, g, each) for each in affine[1:]))


def _normalize_pull_spec(g: Spec, *operands: Spec, epsilon: float) -> tuple[Spec, ...]:
    return tuple(Spec(tuple(each.shape), quotient(each)) for each in operands)


def _normalize_pull_vjp(
    xp: Namespace, a: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
) -> Sequence[Array | None]:
    # As of a fused operation: <a, J^T g> = <g, J a>, and second derivatives commute.
    to_g = derivative(_normalize_compose, xp, xs[1:], tuple(a), params) if needs[0] else None
    return to_g, *derivative(_normalize_pull_compose, xp, xs, (None, *a), params)


def _normalize_pull_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
) -> tuple[Array, ...]:
    moved: tuple[Array, ...] = derivative(_normalize_pull_compose, xp, xs, tangents, params)
    return moved


def _normalize_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
) -> Array:
    moved: Array = derivative(_normalize_compose, xp, xs, tangents, params)
    return moved


NORMALIZE = Op(
    "normalize",
    Kind.ELEMENTWISE,
    _normalize_spec,
    _normalize_vjp,
    _normalize_jvp,
    Keep.INPUTS,
    _normalize_compose,
)

NORMALIZE_VJP = Op(
    "normalize_vjp",
    Kind.OPAQUE,
    _normalize_pull_spec,
    _normalize_pull_vjp,
    _normalize_pull_jvp,
    Keep.INPUTS,
    _normalize_pull_compose,
    outputs=None,
)


def normalize(
    x: Any,
    mean: Any,
    variance: Any,
    /,
    scale: Any = None,
    shift: Any = None,
    *,
    epsilon: float = 1e-5,
) -> Any:
    """Return scale (x - mean) / sqrt(variance + epsilon) + shift, element by element.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    mean, variance : Tensor, Variable or array
        Of shapes that broadcast to that of `x`.
    scale, shift : Tensor, Variable or array, optional
        Likewise.
    epsilon : float
        Added to the variance, in its unit.
    """
    operands = [x, mean, variance]
    given = tuple(shape_of(each) for each in (mean, variance, scale, shift) if each is not None)
    if broadcast("normalize", shape_of(x), *given) != shape_of(x):
        raise ShapeError(
            f"normalize: moments, scale and shift of shapes {', '.join(map(str, given))} do not "
            f"broadcast to the shape of x, {shape_of(x)}"
        )
    if scale is None and shift is not None:
        return add(apply(NORMALIZE, *operands, epsilon=float(epsilon)), shift)
    operands += [each for each in (scale, shift) if each is not None]
    return apply(NORMALIZE, *operands, epsilon=float(epsilon))


OPS = (MOMENTS, NORMALIZE, NORMALIZE_VJP)
