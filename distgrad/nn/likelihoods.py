"""Minus the logarithm of how likely targets are, for predicted parameters of a distribution.

Each gives a value for each element, and reduces no further, as the other losses do.
"""

from __future__ import annotations

import math
from typing import Any

from distgrad.nn.losses import check_pair
from distgrad.ops.elementwise.arithmetic import (
    add,
    divide,
    maximum,
    multiply,
    square,
    subtract,
)
from distgrad.ops.elementwise.comparison import greater
from distgrad.ops.elementwise.selection import where
from distgrad.ops.elementwise.transcendental import exp, log
from distgrad.ops.rules.families import shape_of


def gaussian_negative_log_likelihood(
    *, targets: Any, means: Any, variances: Any, epsilon: float = 1e-6, full: bool = False
) -> Any:
    """Return minus the log-density of targets under normal distributions, element by element.

    Parameters
    ----------
    targets : Tensor or array
        What was observed.
    means, variances : Tensor, Variable or array
        Predictions. Variances have the shape of the means, or one that broadcasts to it; targets
        have that of the predictions, or one that broadcasts to it. What has no axes is one for all.
    epsilon : float
        What a variance is at least; below it no gradient reaches the variance.
    full : bool
        Whether to add log(2 pi) / 2, which has no gradient.

    Raises
    ------
    ShapeError
        If targets or variances would make the loss larger than the predictions.

    Notes
    -----
    ``(log v + (t - m)^2 / v) / 2`` [1]_.

    References
    ----------
    .. [1] Nix and Weigend, "Estimating the mean and variance of the target probability
       distribution", ICNN 1994.
    """
    function = "gaussian_negative_log_likelihood"
    check_pair(function, "variances", variances, "means", means)
    whole = means if shape_of(means) else variances
    check_pair(function, "targets", targets, "means" if whole is means else "variances", whole)
    variance = maximum(variances, epsilon)
    loss = add(log(variance), divide(square(subtract(targets, means)), variance))
    loss = multiply(loss, 0.5)
    return add(loss, 0.5 * math.log(2 * math.pi)) if full else loss


def poisson_negative_log_likelihood(
    *, targets: Any, log_rates: Any = None, rates: Any = None, full: bool = False
) -> Any:
    """Return minus the log-probability of counts under Poisson distributions, element by element.

    Parameters
    ----------
    targets : Tensor or array
        Counts, floating.
    log_rates : Tensor, Variable or array, optional
        Logarithms of the predicted means: what a network without a last activation gives.
    rates : Tensor, Variable or array, optional
        The predicted means themselves, above 0, instead.
    full : bool
        Whether to add the logarithm of the targets' factorials, by Stirling's formula, and 0 for
        counts up to 1. It has no gradient in the rates.

    Raises
    ------
    ValueError
        If both or none of `log_rates` and `rates` are given.
    ShapeError
        If the targets do not broadcast to the rates' shape.

    Notes
    -----
    ``exp(x) - t x`` for logarithms x, ``r - t log r`` for rates r.
    """
    if (log_rates is None) == (rates is None):
        raise ValueError(
            "poisson_negative_log_likelihood: expected either log_rates or rates, got "
            f"{'none' if rates is None else 'both'}"
        )
    predicted, predictions = ("log_rates", log_rates) if rates is None else ("rates", rates)
    check_pair("poisson_negative_log_likelihood", "targets", targets, predicted, predictions)
    if rates is None:
        loss = subtract(exp(log_rates), multiply(targets, log_rates))
    else:
        loss = subtract(rates, multiply(targets, log(rates)))
    return add(loss, _log_factorials(targets)) if full else loss


def _log_factorials(counts: Any) -> Any:
    several = greater(counts, 1)
    safe = where(several, counts, 1.0)
    stirling = add(
        subtract(multiply(safe, log(safe)), safe), multiply(log(multiply(safe, 2 * math.pi)), 0.5)
    )
    return where(several, stirling, 0.0)
