"""Sigmoid and softmax: probabilities from logits, and one-hot vectors from labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import DTypeLike, as_dtype, default_dtype
from distgrad.errors import DTypeError
from distgrad.ops.reducing.reductions import greatest
from distgrad.ops.rules import batching
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import (
    floating,
    joint,
    lifted,
    quotient,
    unary,
    undifferentiable,
)
from distgrad.shapes import integer, normalize_axis


def _sigmoid_compose(xp: Namespace, x: Array) -> Array:
    if x.dtype in xp.complex_dtypes:
        return 0.5 * (xp.tanh(0.5 * x) + 1)
    # (1 + tanh(x / 2)) / 2 would round to 0 far below 0, and its logarithm be -inf.
    x = lifted(xp, x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x < 0, e, 1.0) / (1 + e)


SIGMOID = unary(
    "sigmoid",
    lambda xp, y, x: y * (1 - y),
    keep=Keep.OUTPUT,
    dtype=quotient,
    compose=_sigmoid_compose,
)


def sigmoid(x: Any, /) -> Any:
    """Return 1 / (1 + exp(-x)), element by element, without overflow, and exact far below 0 too."""
    return apply(SIGMOID, x)


def _softplus_compose(xp: Namespace, x: Array) -> Array:
    return xp.logaddexp(x, xp.zeros_like(x))


SOFTPLUS = unary(
    "softplus", lambda xp, y, x: xp.sigmoid(x), dtype=floating, compose=_softplus_compose
)


def softplus(x: Any, /) -> Any:
    """Return log(1 + exp(x)), element by element, without overflow."""
    return apply(SOFTPLUS, x)


# --- softmax ------------------------------------------------------------------------------------


def _softmax_spec(x: Spec, *, axis: int) -> Spec:
    normalize_axis("softmax", axis, len(x.shape))
    return Spec(tuple(x.shape), floating(x))


def _softmax_compose(xp: Namespace, x: Array, axis: int) -> Array:
    weights = xp.exp(x - greatest(xp, x, axis))
    return weights / xp.sum(weights, axis=axis, keepdims=True)


def _softmax_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (xp.softmax_vjp(g, y, **params),)


def _softmax_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    pulled: Array = xp.softmax_vjp(tangents[0], y, **params)
    return pulled


SOFTMAX = Op(
    "softmax",
    Kind.OPAQUE,
    _softmax_spec,
    _softmax_vjp,
    _softmax_jvp,
    Keep.OUTPUT,
    _softmax_compose,
    batching.along_one_axis("softmax"),
)


def _pull_spec(g: Spec, y: Spec, *, axis: int) -> Spec:
    return Spec(tuple(_softmax_spec(y, axis=axis).shape), joint(g, y))


def _pull_compose(xp: Namespace, g: Array, y: Array, axis: int) -> Array:
    weighted = g * y
    return weighted - y * xp.sum(weighted, axis=axis, keepdims=True)


def _pull_vjp(xp: Namespace, a: Array, _: Array, xs: Any, params: Any, needs: Any) -> Any:
    g, y = xs
    to_g = xp.softmax_vjp(a, y, **params) if needs[0] else None
    if not needs[1]:
        return to_g, None
    s, t = (xp.sum(each * y, keepdims=True, **params) for each in (g, a))
    return to_g, a * (g - s) - g * t


def _pull_jvp(
    xp: Namespace, tangents: Sequence[Array | None], _: Array, xs: Any, params: Any
) -> Array:
    moved: Array = derivative(_pull_compose, xp, xs, tangents, params)
    return moved


def _pull_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Array:
    rank = max(len(a.shape) - b for a, b in zip(arrays, batched, strict=True))
    axis = normalize_axis("softmax", params["axis"], rank) + 1
    full = (batching.with_batch(xp, size, a, b) for a, b in zip(arrays, batched, strict=True))
    pulled: Array = xp.softmax_vjp(*full, axis=axis)
    return pulled


# The Jacobian is symmetric: the tangent is pushed on as the cotangent is pulled back.
SOFTMAX_VJP = Op(
    "softmax_vjp",
    Kind.OPAQUE,
    _pull_spec,
    _pull_vjp,
    _pull_jvp,
    Keep.INPUTS,
    _pull_compose,
    _pull_batch,
)


def softmax(x: Any, /, *, axis: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)) along an axis, without overflow."""
    return apply(SOFTMAX, x, axis=axis)


def _log_softmax_compose(xp: Namespace, x: Array, axis: int) -> Array:
    return x - xp.logsumexp(x, axis=axis, keepdims=True)


def _log_softmax_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (g - xp.exp(y) * xp.sum(g, axis=params["axis"], keepdims=True),)


def _log_softmax_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    t = tangents[0]
    return t - xp.sum(t * xp.exp(y), axis=params["axis"], keepdims=True)


LOG_SOFTMAX = Op(
    "log_softmax",
    Kind.OPAQUE,
    _softmax_spec,
    _log_softmax_vjp,
    _log_softmax_jvp,
    Keep.OUTPUT,
    _log_softmax_compose,
    batching.along_one_axis("log_softmax"),
)


def log_softmax(x: Any, /, *, axis: int = -1) -> Any:
    """Return log(softmax(x)) along an axis, precise where the softmax itself would underflow."""
    return apply(LOG_SOFTMAX, x, axis=axis)


# --- cross-entropies from logits ----------------------------------------------------------------


def _one_hot_spec(labels: Spec, *, classes: int, dtype: Any) -> Spec:
    return Spec((*labels.shape, classes), as_dtype(dtype))


ONE_HOT = undifferentiable("one_hot", _one_hot_spec, batch=batching.trailing("one_hot"))


def one_hot(labels: Any, classes: int, *, dtype: DTypeLike | None = None) -> Any:
    """Return rows of zeros with a one at each label.

    Parameters
    ----------
    labels : Tensor or array of int
        Of any shape; a label outside 0 ... classes - 1 gives a row of zeros.
    classes : int
        The length of the new last axis.
    dtype : dtype, optional
        The default dtype unless given.

    Raises
    ------
    DTypeError
        If the labels are no integers.
    """
    given = as_dtype(labels.dtype if hasattr(labels, "dtype") else np.asarray(labels).dtype)
    if given.kind not in "biu":
        raise DTypeError(
            f"one_hot: labels have dtype {given}; expected integers: labels.astype('int64')"
        )
    chosen = default_dtype() if dtype is None else as_dtype(dtype)
    return apply(ONE_HOT, labels, classes=integer("one_hot", "classes", classes), dtype=chosen)


OPS = (
    SIGMOID,
    SOFTPLUS,
    SOFTMAX,
    SOFTMAX_VJP,
    LOG_SOFTMAX,
    ONE_HOT,
)
