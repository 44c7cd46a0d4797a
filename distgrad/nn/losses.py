"""Losses of predictions, and how alike vectors are.

Each gives a value for each element or each example, and reduces no further: `dg.mean` of it is the
loss of a batch, and a sum with a count that of parts of a batch.

Targets (or labels) have the shape of the predictions, or one that broadcasts to it. Targets (n,)
beside predictions (n, 1) would give n × n losses, each of a pair that does not belong together: a
`ShapeError` says so, as it does in all functions here. A prediction without axes is one for all.
"""

from __future__ import annotations

from typing import Any

from distgrad.core.seam import operands
from distgrad.ops.elementwise.arithmetic import (
    abs,
    add,
    divide,
    maximum,
    minimum,
    multiply,
    negative,
    square,
    subtract,
)
from distgrad.ops.elementwise.comparison import greater
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import log, sqrt
from distgrad.ops.neural.kinks import relu
from distgrad.ops.neural.softmax import softplus
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.reducing.reductions import mean
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules.families import shape_of
from distgrad.ops.shaping.structure import expand_dims, squeeze, zeros_like
from distgrad.shapes import Axis, check_targets


def mean_squared_error(*, targets: Any, predictions: Any, axis: Axis = -1) -> Any:
    """Return the mean of the squared differences over axes.

    Parameters
    ----------
    targets, predictions : Tensor, Variable or array
        The targets of the predictions' shape, or one that broadcasts to it.
    axis : int or tuple of int, optional
        The axes to average over; all of them for None.

    Raises
    ------
    ShapeError
        If the targets do not broadcast to the predictions' shape.
    """
    check_pair("mean_squared_error", "targets", targets, "predictions", predictions)
    return mean(square(subtract(predictions, targets)), axis=axis)


def mean_absolute_error(*, targets: Any, predictions: Any, axis: Axis = -1) -> Any:
    """Return the mean of the absolute differences over axes; the derivative at a tie is 0.

    Parameters
    ----------
    targets, predictions, axis
        As for `mean_squared_error`.
    """
    check_pair("mean_absolute_error", "targets", targets, "predictions", predictions)
    return mean(abs(subtract(predictions, targets)), axis=axis)


def huber(*, targets: Any, predictions: Any, delta: float = 1.0) -> Any:
    """Return e^2 / 2 for errors up to delta, and delta (e - delta / 2) beyond, element by element.

    Parameters
    ----------
    targets, predictions : Tensor, Variable or array
        The targets of the predictions' shape, or one that broadcasts to it.
    delta : float > 0
        Where the parabola goes over into a line; in units of the targets.

    References
    ----------
    Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35 (1964).
    """
    if not delta > 0:
        raise ValueError(f"huber: delta is {delta}; expected a number above 0")
    check_pair("huber", "targets", targets, "predictions", predictions)
    error = abs(subtract(predictions, targets))
    near = minimum(error, delta)
    return multiply(near, subtract(error, multiply(near, 0.5)))


def smooth_l1(*, targets: Any, predictions: Any, beta: float = 1.0) -> Any:
    """Return `huber` with delta = beta, divided by beta: slope 1 beyond (Girshick, Fast R-CNN)."""
    if not beta > 0:
        raise ValueError(f"smooth_l1: beta is {beta}; expected a number above 0")
    check_pair("smooth_l1", "targets", targets, "predictions", predictions)
    return divide(huber(targets=targets, predictions=predictions, delta=beta), beta)


def hinge(*, labels: Any, scores: Any) -> Any:
    """Return max(1 - label score, 0), element by element; the derivative at the margin is 0.

    Parameters
    ----------
    labels : Tensor or array
        -1 or 1.
    scores : Tensor, Variable or array
        What should have the label's sign and be at least 1 in size.
    """
    check_pair("hinge", "labels", labels, "scores", scores)
    return relu(subtract(1.0, multiply(labels, scores)))


def squared_hinge(*, labels: Any, scores: Any) -> Any:
    """Return the square of `hinge`, element by element; parameters as there."""
    check_pair("squared_hinge", "labels", labels, "scores", scores)
    return square(hinge(labels=labels, scores=scores))


def negative_log_likelihood(*, labels: Any, log_probabilities: Any) -> Any:
    """Return minus the logarithm of the label's probability, one for each example.

    Parameters
    ----------
    labels : Tensor or array of int
        The class of each example.
    log_probabilities : Tensor, Variable or array
        Such as `log_softmax` gives, with the classes along the last axis.
    """
    shape = shape_of(log_probabilities)
    check_targets(
        *("negative_log_likelihood", "labels", shape_of(labels)),
        *("log_probabilities without their last axis", shape[:-1]),
    )
    picked = take_along_axis(log_probabilities, expand_dims(labels, axis=-1), axis=-1)
    return negative(squeeze(picked, axis=-1))


def kl_divergence(*, probabilities: Any, log_predictions: Any, axis: int = -1) -> Any:
    """Return sum p (log p - log q) over an axis; a class with p = 0 adds 0.

    Parameters
    ----------
    probabilities : Tensor, Variable or array
        p, not negative.
    log_predictions : Tensor, Variable or array
        log q, such as `log_softmax` gives.
    axis : int
        The axis of the classes.
    """
    check_pair("kl_divergence", "probabilities", probabilities, "log_predictions", log_predictions)
    there = greater(probabilities, 0)
    # The logarithm of a safe number, so that no derivative there is 0 times infinity.
    logs = log(where(there, probabilities, 1.0))
    terms = multiply(probabilities, subtract(logs, log_predictions))
    return sum_over(where(there, terms, zeros_like(terms)), axis=axis)


def binary_cross_entropy(*, labels: Any, probabilities: Any, epsilon: float = 1e-7) -> Any:
    """Return the cross-entropy between labels and probabilities, element by element.

    Parameters
    ----------
    labels : Tensor or array
        Probabilities between 0 and 1.
    probabilities : Tensor, Variable or array
        Predictions; kept `epsilon` away from 0 and 1. Where logits are at hand,
        `sigmoid_cross_entropy` is precise.
    epsilon : float
        What a probability is at least.
    """
    check_pair("binary_cross_entropy", "labels", labels, "probabilities", probabilities)
    p = minimum(maximum(probabilities, epsilon), 1 - epsilon)
    positive = multiply(labels, log(p))
    return negative(add(positive, multiply(subtract(1.0, labels), log(subtract(1.0, p)))))


def weighted_sigmoid_cross_entropy(*, labels: Any, logits: Any, positive_weight: Any) -> Any:
    """Return `sigmoid_cross_entropy` with positive labels weighted, element by element.

    Parameters
    ----------
    labels : Tensor or array
        Probabilities between 0 and 1, floating.
    logits : Tensor, Variable or array
        Unnormalised log-odds.
    positive_weight : float or Tensor
        The factor of the positive part: above 1 for more recall, below for more precision.

    Notes
    -----
    ``(1 - z) x + (1 + (w - 1) z) softplus(-x)``, which cannot overflow.
    """
    function = "weighted_sigmoid_cross_entropy"
    check_pair(function, "labels", labels, "logits", logits)
    check_pair(function, "positive_weight", positive_weight, "logits", logits)
    # Two Python numbers are no tensor yet, of whatever dtype: the labels decide it.
    extra = (
        positive_weight - 1.0
        if isinstance(positive_weight, (int, float))
        else subtract(positive_weight, 1.0)
    )
    weight = add(multiply(labels, extra), 1.0)
    negatives = multiply(subtract(1.0, labels), logits)
    return add(negatives, multiply(weight, softplus(negative(logits))))


def cosine_similarity(a: Any, b: Any, /, *, axis: int = -1, epsilon: float = 1e-8) -> Any:
    """Return the cosine of the angle between vectors along an axis.

    Parameters
    ----------
    a, b : Tensor, Variable or array
        Real, of shapes that broadcast.
    axis : int
        The axis of the vectors.
    epsilon : float
        What each vector's length is at least, in the quotient.
    """
    a, b = operands(a, b)
    product = sum_over(multiply(a, b), axis=axis)
    lengths = [
        sqrt(maximum(sum_over(square(each), axis=axis), epsilon * epsilon)) for each in (a, b)
    ]
    return divide(product, multiply(*lengths))


def check_pair(
    function: str, argument: str, targets: Any, predicted: str, predictions: Any
) -> None:
    """Refuse targets that would make a loss larger than its predictions.

    Parameters
    ----------
    function, argument, predicted : str
        The loss, and what it calls its targets and its predictions.
    targets, predictions : Tensor, Variable, array or number
        The values.

    Raises
    ------
    ShapeError
        If the targets do not broadcast to the shape of the predictions, which have an axis.
    """
    expected = shape_of(predictions)
    if expected:
        check_targets(function, argument, shape_of(targets), predicted, expected)
