"""Cross-entropies from logits, in one operation with the softmax or sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Never, NoReturn

import numpy as np

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, bool_
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.elementwise.arithmetic import add, multiply, negative, subtract
from distgrad.ops.elementwise.comparison import not_equal
from distgrad.ops.elementwise.selection import where
from distgrad.ops.neural.softmax import log_softmax, softplus
from distgrad.ops.picking.indexing import take
from distgrad.ops.reducing.reductions import mean
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import (
    floating,
    joint,
    shape_of,
    sum_of,
)
from distgrad.ops.shaping.structure import reshape, zeros_like
from distgrad.shapes import check_targets, normalize_axis, shape_given


def _cross_entropy_spec(logits: Spec, labels: Spec) -> Spec:
    expected = tuple(logits.shape)[:-1]
    if not logits.shape or tuple(labels.shape) != expected:
        raise ShapeError(
            f"softmax_cross_entropy: integer labels of shape {expected} expected for logits of "
            f"shape {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    return Spec(expected, floating(logits))


def _cross_entropy_compose(xp: Namespace, logits: Array, labels: Array) -> Array:
    classes = logits.shape[-1]
    picked = xp.one_hot(labels, classes=classes, dtype=bool_)
    outside = xp.logical_or(labels < 0, labels >= classes)
    # By a choice and not a product: a class that is ruled out has log-probability -inf.
    loss = -xp.sum(xp.where(picked, xp.log_softmax(logits, axis=-1), 0), axis=-1)
    return xp.where(outside, np.nan, loss)


def _cross_entropy_slope(xp: Namespace, logits: Array, labels: Array) -> Array:
    picked = xp.one_hot(labels, classes=logits.shape[-1], dtype=logits.dtype)
    return xp.softmax(logits, axis=-1) - picked


def _cross_entropy_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return xp.label_cross_entropy_vjp(g, *xs), None


def _cross_entropy_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.sum(tangents[0] * _cross_entropy_slope(xp, *xs), axis=-1)


LABEL_CROSS_ENTROPY = Op(
    "label_cross_entropy",
    Kind.OPAQUE,
    _cross_entropy_spec,
    _cross_entropy_vjp,
    _cross_entropy_jvp,
    Keep.INPUTS,
    _cross_entropy_compose,
    batching.trailing("label_cross_entropy"),
)


def _pull_spec(g: Spec, logits: Spec, labels: Spec) -> Spec:
    _cross_entropy_spec(logits, labels)
    return Spec(tuple(logits.shape), joint(g, Spec((), floating(logits))))


def _pull_compose(xp: Namespace, g: Array, logits: Array, labels: Array) -> Array:
    return xp.expand_dims(g, axis=-1) * _cross_entropy_slope(xp, logits, labels)


def _curved(xp: Namespace, g: Array, logits: Array, along: Array) -> Array:
    """Return g times the derivative of the softmax along a direction."""
    weights = xp.softmax(logits, axis=-1)
    weighted = weights * along
    centred = weighted - weights * xp.sum(weighted, axis=-1, keepdims=True)
    return xp.expand_dims(g, axis=-1) * centred


def _pull_vjp(xp: Namespace, a: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    g, logits, labels = xs
    to_g = xp.sum(a * _cross_entropy_slope(xp, logits, labels), axis=-1) if needs[0] else None
    return to_g, _curved(xp, g, logits, a) if needs[1] else None, None


def _pull_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    g, logits, labels = xs
    along_g, along_logits, _ = tangents
    terms = []
    if along_g is not None:
        terms.append(xp.label_cross_entropy_vjp(along_g, logits, labels))
    if along_logits is not None:
        terms.append(_curved(xp, g, logits, along_logits))
    return sum_of(terms)


LABEL_CROSS_ENTROPY_VJP = Op(
    "label_cross_entropy_vjp",
    Kind.OPAQUE,
    _pull_spec,
    _pull_vjp,
    _pull_jvp,
    Keep.INPUTS,
    _pull_compose,
    batching.trailing("label_cross_entropy_vjp"),
)


def softmax_cross_entropy(
    *unnamed: Never,
    labels: Any,
    logits: Any,
    axis: int = -1,
    smoothing: float = 0.0,
    weights: Any = None,
    ignored: int | None = None,
) -> Any:
    """Return the cross-entropy between labels and the softmax of logits, one for each example.

    Parameters
    ----------
    labels : Tensor, array or int
        Either integers, the class of each example, of the shape of `logits` without `axis`; or
        probabilities, of the shape of `logits`.
    logits : Tensor, Variable or array
        Unnormalised log-probabilities; the classes lie along `axis`.
    axis : int
        The axis of the classes; the last for integer labels.
    smoothing : float in [0, 1]
        The share of each label that is spread evenly over all classes.
    weights : Tensor or array, optional
        A factor for each class, by which the terms of that class are multiplied.
    ignored : int, optional
        The integer label of examples that do not count: their loss is 0, and so is its gradient. To
        average, divide the sum by the number of the others.

    Returns
    -------
    Tensor
        In nats, of the shape of `logits` without `axis`.

    Raises
    ------
    ShapeError
        If the shapes do not fit, or integer labels come with another axis than the last.
    ValueError
        If `smoothing` is not a share, or labels are to be ignored that are no integers.
    IndexError
        If an integer label is no class, on the CPU; elsewhere its loss is NaN.

    Notes
    -----
    ``-sum(weights * labels * log_softmax(logits))``, computed so that it cannot overflow.

    References
    ----------
    Smoothing: Szegedy et al., "Rethinking the Inception architecture", arXiv:1512.00567, section 7.
    """
    if unnamed:
        _refuse_unnamed("softmax_cross_entropy", unnamed)
    is_number = smoothing.__class__ is float or isinstance(smoothing, Real)
    if not is_number or not 0 <= smoothing <= 1:
        raise ValueError(f"softmax_cross_entropy: smoothing is {smoothing!r}; expected 0 to 1")
    if isinstance(labels, int):  # kernels ask labels for their least and greatest
        labels = np.asarray(labels)
    # A list is passed on as it is, and goes to the backend of the logits.
    dtype = as_dtype(labels.dtype if hasattr(labels, "dtype") else np.asarray(labels).dtype)
    kind = dtype.kind
    if kind == "b":
        raise DTypeError("softmax_cross_entropy: labels are bool; expected integers or floating")
    if kind not in "iu":
        if ignored is not None:
            raise ValueError(
                f"softmax_cross_entropy: labels are {dtype}, and {ignored} is to be ignored; "
                "expected integer labels: give examples a weight of 0 by multiplying the loss"
            )
        if len(shape_of(labels)) != len(shape_of(logits)):
            raise ShapeError(
                f"softmax_cross_entropy: labels are {dtype} of shape {shape_of(labels)}, logits of "
                f"{shape_of(logits)}; expected probabilities of the shape of the logits, or "
                "classes as integers: labels.astype('int64')"
            )
        _check_labels("softmax_cross_entropy", labels, logits)
        terms = multiply(labels, log_softmax(logits, axis=axis))
        if weights is not None:
            terms = multiply(terms, _along(weights, axis, len(terms.shape)))
        loss = negative(sum_over(terms, axis=axis))
        return _smoothed(loss, logits, axis, smoothing, weights)
    ndim = len(shape_given(logits))
    if normalize_axis("softmax_cross_entropy", axis, ndim) != ndim - 1:
        raise ShapeError(
            f"softmax_cross_entropy: axis is {axis}; with integer labels the classes must lie "
            "along the last axis: permute_dims the logits first"
        )
    if ignored is None:
        loss = apply(LABEL_CROSS_ENTROPY, logits, labels)
    else:
        counts = not_equal(labels, ignored)
        labels = where(counts, labels, zeros_like(labels))
        loss = apply(LABEL_CROSS_ENTROPY, logits, labels)
    if weights is not None:
        loss = multiply(loss, take(weights, labels, axis=0))
    loss = _smoothed(loss, logits, axis, smoothing, weights)
    return loss if ignored is None else where(counts, loss, zeros_like(loss))


def _smoothed(loss: Any, logits: Any, axis: int, smoothing: float, weights: Any) -> Any:
    """Return a loss of which a share is that of labels spread evenly over all classes."""
    if not smoothing:
        return loss
    terms = log_softmax(logits, axis=axis)
    if weights is not None:
        terms = multiply(terms, _along(weights, axis, len(terms.shape)))
    even = negative(mean(terms, axis=axis))
    return add(multiply(loss, 1 - smoothing), multiply(even, smoothing))


def _along(weights: Any, axis: int, ndim: int) -> Any:
    """Return a number for each class in a shape that broadcasts along the axis of the classes."""
    return reshape(weights, (-1, *(1,) * (ndim - 1 - axis % ndim)))


def sigmoid_cross_entropy(*unnamed: Never, labels: Any, logits: Any) -> Any:
    """Return the cross-entropy between labels and the sigmoid of logits, element by element.

    Parameters
    ----------
    labels : Tensor or array
        Probabilities between 0 and 1, floating, of the shape of `logits`, or one that broadcasts
        to it.
    logits : Tensor, Variable or array
        Unnormalised log-odds.

    Raises
    ------
    ShapeError
        If the labels do not broadcast to the shape of the logits.

    Notes
    -----
    ``softplus(logits) - labels * logits``, which cannot overflow and has the right slope at 0.
    """
    if unnamed:
        _refuse_unnamed("sigmoid_cross_entropy", unnamed)
    _check_labels("sigmoid_cross_entropy", labels, logits)
    return subtract(softplus(logits), multiply(labels, logits))


def _refuse_unnamed(function: str, unnamed: Sequence[Any]) -> NoReturn:
    """Refuse arguments by position, beside those with a name.

    For these alone the functions take any: without names Python says which are missing, where it
    would say "takes 0 positional arguments". Libraries differ in the order of labels and logits.
    """
    raise TypeError(
        f"{function}: {len(unnamed)} given by position; expected all arguments by name: "
        "labels=..., logits=..."
    )


def _check_labels(function: str, labels: Any, logits: Any) -> None:
    check_targets(function, "labels", shape_of(labels), "logits", shape_of(logits))


OPS = (LABEL_CROSS_ENTROPY, LABEL_CROSS_ENTROPY_VJP)
