"""Pooling: the greatest or the mean of what each of many sliding windows shows.

Inside, channels come last, and a window covers spatial axes only. Which tap of a window is the
greatest is found once, as one small integer for each window; with that given, cotangents and
tangents are linear operations, adjoint to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, is_complex
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.neural.channels import (
    DataFormat,
    channels_are_first,
    channels_first,
    channels_last,
)
from distgrad.ops.neural.shifted_views import (
    avg_pool_composed,
    avg_pool_vjp_composed,
    max_pool_composed,
    max_pool_jvp_composed,
    max_pool_vjp_composed,
    places_dtype,
    pool_places_composed,
)
from distgrad.ops.rules.batching import with_batch
from distgrad.ops.rules.families import joint, linear, quotient, undifferentiable
from distgrad.shapes import Shape, shape_given
from distgrad.windows import Padding, Pairs, count, counts, paddings, per_axis


def _windows(name: str, x: Spec, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    """Return how many windows fit along each spatial axis of an input."""
    if len(x.shape) != len(window) + 2:
        raise ShapeError(
            f"{name}: an input (batch, *spatial, channels) with {len(window)} spatial axes "
            f"expected for the window {window}, got shape {tuple(x.shape)}"
        )
    return counts(tuple(x.shape[1:-1]), window, stride, padding, (1,) * len(window))


def _pooled_spec(name: str, x: Spec, window: Shape, stride: Shape, padding: Pairs) -> Shape:
    spatial = _windows(name, x, window, stride, padding)
    return (x.shape[0], *spatial, x.shape[-1])


def _fold_examples(name: str) -> Any:
    """Return the batching rule: the batch joins the examples."""

    def rule(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        full = [with_batch(xp, size, a, b) for a, b in zip(arrays, batched, strict=True)]
        flat = [xp.reshape(a, shape=(a.shape[0] * a.shape[1], *a.shape[2:])) for a in full]
        result = getattr(xp, name)(*flat, **params)
        return xp.reshape(result, shape=(size, full[0].shape[1], *result.shape[1:]))

    return rule


# --- the greatest ---------------------------------------------------------------------------------


def _refuse_complex(dtype: Any) -> None:
    if is_complex(as_dtype(dtype)):
        raise DTypeError("max_pool: complex numbers have no order; expected a real dtype")


def _max_pool_spec(x: Spec, *, window: Shape, stride: Shape, padding: Pairs) -> Spec:
    dtype = joint(x)
    _refuse_complex(dtype)
    return Spec(_pooled_spec("max_pool", x, window, stride, padding), dtype)


def _max_pool_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    x = xs[0]
    pulled = xp.max_pool_vjp(
        g, xp.pool_places(x, y, **params), shape=tuple(x.shape[1:-1]), **params
    )
    return (xp.attached(pulled, x),)


def _max_pool_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    x = xs[0]
    return xp.attached(xp.max_pool_jvp(tangents[0], xp.pool_places(x, y, **params), **params), x)


MAX_POOL = Op(
    "max_pool",
    Kind.OPAQUE,
    _max_pool_spec,
    _max_pool_vjp,
    _max_pool_jvp,
    Keep.BOTH,
    max_pool_composed,
    _fold_examples("max_pool"),
)


def _attached_spec(a: Spec, x: Spec) -> Spec:
    return Spec(tuple(a.shape), joint(a))


def _attached_compose(xp: Namespace, a: Array, x: Array) -> Array:
    return a


def _attached_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    x = xs[1]
    return g, xp.full(shape=tuple(x.shape), fill_value=0, dtype=x.dtype) if needs[1] else None


def _attached_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.zeros_like(y) if tangents[0] is None else tangents[0]


def _attached_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    a, x = arrays
    return xp.attached(with_batch(xp, size, a, batched[0]), x)


# The first operand as it is, whose derivative in the second is 0 and not none: integers, such as
# places, are followed by no tape, though they depend on x by steps.
ATTACHED = Op(
    "attached",
    Kind.VIEW,
    _attached_spec,
    _attached_vjp,
    _attached_jvp,
    Keep.SPECS,
    _attached_compose,
    _attached_batch,
)


def _pool_places_spec(x: Spec, y: Spec, *, window: Shape, stride: Shape, padding: Pairs) -> Spec:
    return Spec(
        _pooled_spec("pool_places", x, window, stride, padding), as_dtype(places_dtype(window))
    )


POOL_PLACES = undifferentiable(
    "pool_places",
    _pool_places_spec,
    compose=pool_places_composed,
    batch=_fold_examples("pool_places"),
)


def _scatter_spec(
    g: Spec, places: Spec, *, shape: Shape, window: Shape, stride: Shape, padding: Pairs
) -> Spec:
    return Spec((g.shape[0], *shape, g.shape[-1]), joint(g))


def _scatter_transpose(
    xp: Namespace, g: Array, primal: Spec, places: Array, shape: Shape, **params: Any
) -> Array:
    return xp.max_pool_jvp(g, places, **params)


MAX_POOL_VJP = linear(
    "max_pool_vjp",
    _scatter_transpose,
    _scatter_spec,
    kind=Kind.OPAQUE,
    keep=Keep.REST,
    compose=max_pool_vjp_composed,
    batch=_fold_examples("max_pool_vjp"),
)


def _gather_spec(t: Spec, places: Spec, *, window: Shape, stride: Shape, padding: Pairs) -> Spec:
    return Spec(_pooled_spec("max_pool_jvp", t, window, stride, padding), joint(t))


def _gather_transpose(xp: Namespace, g: Array, primal: Spec, places: Array, **params: Any) -> Array:
    return xp.max_pool_vjp(g, places, shape=tuple(primal.shape[1:-1]), **params)


MAX_POOL_JVP = linear(
    "max_pool_jvp",
    _gather_transpose,
    _gather_spec,
    kind=Kind.OPAQUE,
    keep=Keep.REST,
    compose=max_pool_jvp_composed,
    batch=_fold_examples("max_pool_jvp"),
)


# --- the mean -------------------------------------------------------------------------------------


def _avg_pool_spec(
    x: Spec, *, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Spec:
    return Spec(_pooled_spec("avg_pool", x, window, stride, padding), quotient(x))


def _avg_pool_transpose(xp: Namespace, g: Array, shape: Shape, **params: Any) -> Array:
    return xp.avg_pool_vjp(g, shape=tuple(shape[1:-1]), **params)


AVG_POOL = linear(
    "avg_pool",
    _avg_pool_transpose,
    _avg_pool_spec,
    kind=Kind.OPAQUE,
    compose=avg_pool_composed,
    batch=_fold_examples("avg_pool"),
)


def _avg_pool_vjp_spec(
    g: Spec, *, shape: Shape, window: Shape, stride: Shape, padding: Pairs, counted: Pairs
) -> Spec:
    return Spec((g.shape[0], *shape, g.shape[-1]), quotient(g))


def _avg_pool_vjp_transpose(
    xp: Namespace, g: Array, primal: Shape, shape: Shape, **params: Any
) -> Array:
    return xp.avg_pool(g, **params)


AVG_POOL_VJP = linear(
    "avg_pool_vjp",
    _avg_pool_vjp_transpose,
    _avg_pool_vjp_spec,
    kind=Kind.OPAQUE,
    compose=avg_pool_vjp_composed,
    batch=_fold_examples("avg_pool_vjp"),
)


# --- public functions -----------------------------------------------------------------------------


def _pool(
    op: Op,
    x: Any,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: Padding,
    ceil_mode: bool,
    data_format: str,
    count_include_pad: bool | None,
) -> Any:
    name, shape = op.name, shape_given(x)
    is_first = channels_are_first(name, data_format)
    rank = len(shape) - 2
    if not 1 <= rank <= 3:
        raise ShapeError(
            f"{name}: an input with a batch axis, channels and 1 to 3 spatial axes expected, got "
            f"shape {shape}"
        )
    lengths = shape[2:] if is_first else shape[1:-1]
    sizes = per_axis(name, "window", window, rank)
    strides = sizes if stride is None else per_axis(name, "stride", stride, rank)
    pairs = paddings(name, padding, lengths, sizes, strides, (1,) * rank)
    if any(max(pair) >= size for pair, size in zip(pairs, sizes, strict=True)):
        raise ShapeError(
            f"{name}: padding {pairs} is as wide as the window {sizes}, which would see nothing "
            "else; expected less"
        )
    params: dict[str, Any] = {"window": sizes, "stride": strides, "padding": pairs}
    if ceil_mode:
        params["padding"] = tuple(map(_stretched, lengths, sizes, strides, pairs))
    if count_include_pad is not None:
        params["counted"] = pairs if count_include_pad else ((0, 0),) * rank
    if is_first:
        return channels_first(apply(op, channels_last(x, rank + 2), **params), rank + 2)
    return apply(op, x, **params)


def _stretched(length: int, window: int, stride: int, padding: tuple[int, int]) -> tuple[int, int]:
    """Return padding with so much more behind that the last, partial window fits."""
    before, behind = padding
    rest = (length + before + behind - window) % stride
    more = stride - rest if rest else 0
    # The window must begin within the input or the padding in front of it.
    if count(length, window, stride, (before, behind + more)) * stride - stride >= length + before:
        return padding
    return before, behind + more


def max_pool(
    x: Any,
    /,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil_mode: bool = False,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return the greatest number in each window, over 1 to 3 spatial axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        Of shape ``(batch, *spatial, channels)``, or ``(batch, channels, *spatial)`` with
        ``data_format="channels_first"``; of a real dtype.
    window : int or sequence of int
        How many numbers a window spans, along all axes or each.
    stride : int or sequence of int, optional
        The distance of two windows; that of the window by default, so that none overlap.
    padding : "valid", "same", int or sequence
        See `conv`; less than the window. What is padded is never the greatest.
    ceil_mode : bool
        Whether a last window that reaches beyond the end counts too, if it begins within.
    data_format : "channels_last" or "channels_first"
        The order of the axes of input and output.

    Raises
    ------
    ShapeError
        If the arguments for each axis do not fit the input.
    DTypeError
        If the input is complex.

    Notes
    -----
    Among equal numbers the gradient goes to the first of the window, in the order of memory. A NaN
    is greater than any number, and takes the gradient.
    """
    if hasattr(x, "dtype"):
        _refuse_complex(x.dtype)
    return _pool(MAX_POOL, x, window, stride, padding, ceil_mode, data_format, None)


def avg_pool(
    x: Any,
    /,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    data_format: DataFormat = "channels_last",
) -> Any:
    """Return the mean of each window, over 1 to 3 spatial axes.

    Parameters
    ----------
    x, window, stride, padding, ceil_mode, data_format
        See `max_pool`; `x` may be complex too.
    count_include_pad : bool
        Whether zeros of the padding count as numbers. TensorFlow never counts them, PyTorch does
        unless told otherwise. Those that `ceil_mode` adds never count.

    Raises
    ------
    ShapeError
        If the arguments for each axis do not fit the input.
    """
    return _pool(
        AVG_POOL, x, window, stride, padding, ceil_mode, data_format, bool(count_include_pad)
    )


OPS = (MAX_POOL, ATTACHED, POOL_PLACES, MAX_POOL_VJP, MAX_POOL_JVP, AVG_POOL, AVG_POOL_VJP)
