"""Schedules of the learning rate: plain functions of how many steps were made before.

Each returns a callable that takes a Python number, or within `distgrad.function` a tensor of no
dimensions, and returns the same kind. Any callable that does is a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.ops.elementwise.selection import clip, where
from distgrad.ops.elementwise.transcendental import cos
from distgrad.tensor import Operators

Schedule = Callable[[Any], Any]


def constant(rate: float) -> Schedule:
    """Return a schedule that is always the same."""
    _check("constant", "rate", rate)
    return lambda step: 0.0 * step + rate


def exponential(rate: float, steps: int, factor: float, staircase: bool = False) -> Schedule:
    """Return a schedule that is multiplied by a factor every so many steps.

    Parameters
    ----------
    rate : float
        Where it starts.
    steps : int
        After how many steps it has been multiplied once.
    factor : float in (0, 1]
        By what.
    staircase : bool
        Whether it stays the same in between.

    Notes
    -----
    ``rate * factor ** (step / steps)``
    """
    _check("exponential", "rate", rate)
    _check("exponential", "steps", steps)
    _check("exponential", "factor", factor)
    return lambda step: rate * factor ** (step // steps if staircase else step / steps)


def piecewise(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """Return a schedule that jumps: ``rates[i]`` from step ``boundaries[i - 1]`` on.

    TensorFlow's ``PiecewiseConstantDecay`` jumps one step later: a boundary belongs to the rate
    before it there.

    Parameters
    ----------
    boundaries : sequence of int
        Steps in ascending order.
    rates : sequence of float
        One more than there are boundaries.
    """
    if len(rates) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"piecewise: {len(boundaries)} boundaries and {len(rates)} rates; expected ascending "
            "boundaries, and one rate more"
        )
    for rate in rates:
        _check("piecewise", "a rate", rate, zero=True)

    def at(step: Any) -> Any:
        now = 0.0 * step + rates[0]
        for boundary, rate in zip(boundaries, rates[1:], strict=True):
            now = _where(step >= boundary, 0.0 * step + rate, now)
        return now

    return at


def polynomial(rate: float, end: float, steps: int, power: float = 1.0) -> Schedule:
    """Return a schedule that goes from one rate to another in so many steps, and stays there.

    Parameters
    ----------
    rate, end : float
        Where it starts, and where it ends.
    steps : int
        How many steps lie between.
    power : float
        Of the part that remains; 1 is a straight line.

    Notes
    -----
    ``end + (rate - end) * (1 - min(step, steps) / steps) ** power``
    """
    _check("polynomial", "rate", rate, zero=True)
    _check("polynomial", "end", end, zero=True)
    _check("polynomial", "steps", steps)
    return lambda step: end + (rate - end) * (1.0 - _share(step, steps)) ** power


def cosine(rate: float, steps: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Return a schedule that rises in a straight line, and falls along half a cosine.

    Parameters
    ----------
    rate : float
        The highest, after the warm-up.
    steps : int
        After how many steps it has come to `end`, the warm-up included.
    warmup : int
        For how many steps it rises: ``rate / warmup`` in the first one, so that none is wasted.
    end : float
        Where it stays in the end.

    References
    ----------
    .. [1] Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
       arXiv:1608.03983, equation 5.
    """
    _check("cosine", "rate", rate)
    _check("cosine", "end", end, zero=True)
    _check("cosine", "steps", steps)
    if not 0 <= warmup < steps:
        raise ValueError(f"cosine: warmup is {warmup}; expected 0 or more, and less than {steps}")

    def fall(step: Any) -> Any:
        turn = math.pi * _share(step, steps - warmup)
        height = cos(turn) if isinstance(turn, Operators) else math.cos(turn)
        return end + (rate - end) * 0.5 * (1.0 + height)

    return linear_warmup(warmup, fall) if warmup else fall


def linear_warmup(steps: int, then: float | Schedule) -> Schedule:
    """Return a schedule that rises in a straight line to where another one starts.

    Parameters
    ----------
    steps : int
        For how many steps; the first one has a `steps`-th of the rate.
    then : float or schedule
        What follows; it counts its steps from the end of the warm-up.

    References
    ----------
    .. [1] Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour",
       arXiv:1706.02677, 2017, section 2.2.
    """
    _check("linear_warmup", "steps", steps)
    after = then if callable(then) else constant(then)
    peak = after(0)

    def at(step: Any) -> Any:
        rising = peak * (step + 1) / steps
        return _where(step < steps, rising, after(_at_least_zero(step - steps)))

    return at


def _share(step: Any, steps: int) -> Any:
    """Return which part of the steps is done, 1 at most."""
    if isinstance(step, Operators):
        return clip(step / steps, 0.0, 1.0)
    return min(max(step / steps, 0.0), 1.0)


def _at_least_zero(step: Any) -> Any:
    return clip(step, 0, None) if isinstance(step, Operators) else max(step, 0)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, Operators):
        return where(condition, yes, no)
    return yes if condition else no


def _check(kind: str, argument: str, value: Any, *, zero: bool = False) -> None:
    number = isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))
    if not number or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{kind}: {argument} is {value!r}; expected a positive number")
