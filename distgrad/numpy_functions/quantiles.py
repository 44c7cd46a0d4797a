"""NumPy's medians, quantiles and percentiles on tensors, with weights and without NaN."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.dtypes import is_differentiable
from distgrad.numpy_functions.arguments import (
    as_axis,
    as_parameter,
    as_tensor,
    flag,
    host,
    one_axis,
    refuse_out,
    tensors_in,
)
from distgrad.ops.elementwise.arithmetic import add, divide, minimum, multiply, subtract
from distgrad.ops.elementwise.comparison import equal, greater, isnan, less
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.ordering import sorting
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import all as all_of
from distgrad.ops.reducing.reductions import any as any_of
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.reducing.running import cumulative_sum
from distgrad.ops.shaping.arrangement import moveaxis
from distgrad.ops.shaping.structure import astype, broadcast_to, expand_dims, reshape, stack
from distgrad.tensor import Operators

# Where the quantile lies among n sorted values: n q + alpha + q (1 - alpha - beta) - 1, the methods
# of Hyndman and Fan (1996), Sample quantiles in statistical packages.
_CONTINUOUS: dict[str, tuple[float, float]] = {
    "interpolated_inverted_cdf": (0, 1),
    "hazen": (0.5, 0.5),
    "weibull": (0, 0),
    "linear": (1, 1),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
}

_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "lower": np.floor,
    "higher": np.ceil,
    "nearest": np.round,
    "midpoint": lambda exact: np.where(exact == np.floor(exact), exact, np.floor(exact) + 0.5),
}


def _places(q: Any, n: Any, method: str) -> tuple[Any, Any, Any]:
    """Return the positions below and above each quantile, and the weight of the one above."""
    last = np.maximum(n - 1, 0)
    if method in _CONTINUOUS:
        alpha, beta = _CONTINUOUS[method]
        exact = n * q + (alpha + q * (1 - alpha - beta)) - 1
    elif method == "inverted_cdf":
        exact = np.ceil(n * q) - 1
    elif method == "averaged_inverted_cdf":
        whole = np.abs(n * q - np.round(n * q)) <= 1e-12
        exact = np.where(whole, np.round(n * q) - 0.5, np.ceil(n * q) - 1)
    elif method == "closest_observation":
        exact = np.round(n * q) - 1  # of two as near, the one of even rank
    elif method in _ROUNDINGS:
        exact = (n - 1) * q
        exact = _ROUNDINGS[method](exact)
    else:
        raise ValueError(
            f"quantile: method is {method!r}; expected one of {', '.join(sorted(_CONTINUOUS))}, "
            "inverted_cdf, averaged_inverted_cdf, closest_observation, lower, higher, nearest, "
            "midpoint"
        )
    exact = np.clip(exact, 0, last)
    below = np.floor(exact).astype(np.int64)
    return below, np.minimum(below + 1, last).astype(np.int64), exact - below


def _as_lines(a: Any, axis: Any) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """Return a tensor whose last axis holds what is ordered, its shape, and the axes reduced."""
    x = as_tensor(a)
    if not is_differentiable(x.dtype):
        x = astype(x, np.float64)
    axes = as_axis(axis)
    if axes is None:
        axes = tuple(range(x.ndim))
    axes = tuple(one_axis("axis", each, x.ndim) for each in np.atleast_1d(axes))
    back = tuple(range(-len(axes), 0))
    shape = x.shape
    moved = moveaxis(x, axes, back) if axes else expand_dims(x, axis=-1)
    rest = moved.shape[: x.ndim - len(axes)]
    length = prod(moved.shape[len(rest) :])  # without lines, -1 would tell nothing
    return reshape(moved, (*rest, length)), shape, axes


def _quantiles(
    name: str, a: Any, q: Any, axis: Any, method: str, keepdims: Any, weights: Any, skip_nan: bool
) -> Any:
    lines, shape, axes = _as_lines(a, axis)
    if weights is not None:
        return _weighted(name, lines, q, method, weights, shape, axes, keepdims, skip_nan)
    ordered = sorting.sort(lines, axis=-1)
    length = ordered.shape[-1]
    if not length:
        raise IndexError(f"{name}: nothing to take a quantile of; expected one element or more")
    unknown = sum_over(astype(isnan(ordered), np.float64), axis=-1)
    count = subtract(float(length), unknown) if skip_nan else length
    spoilt = equal(count, 0) if skip_nan else greater(unknown, 0)
    parts = []
    for fraction in _one_by_one(q):
        below, above, weight = _places(fraction, count, method)
        low, high = _picked(ordered, below), _picked(ordered, above)
        share = astype(as_parameter(weight), ordered.dtype)
        # Where both are one value, their difference may be inf - inf.
        mixed = add(low, multiply(share, choose(equal(low, high), 0, subtract(high, low))))
        parts.append(choose(spoilt, np.nan, mixed))
    return _arranged(parts, q, shape, axes, keepdims)


def _picked(ordered: Any, position: Any) -> Any:
    """Return the element of each line at a position, which is one for all, or one for each."""
    if not np.ndim(position):
        return getitem(
            ordered, (..., position if isinstance(position, Operators) else int(position))
        )
    return getitem(take_along_axis(ordered, expand_dims(position, axis=-1), axis=-1), (..., 0))


def _checked(name: str, q: Any, hundred: bool) -> Any:
    """Return the fractions asked for: an array in double precision, or a tensor.

    Raises
    ------
    ValueError
        If one lies outside of 0 to 1; of a trace's symbol that is not known.
    """
    most = 100 if hundred else 1
    if tensors_in(q):
        fractions = as_parameter(q)
        values = np.zeros(()) if fractions.read().kernels.level else host(fractions)
        fractions = divide(fractions, most)
    else:
        values = np.asarray(q, np.float64)
        fractions = values / most
    if not np.all((values >= 0) & (values <= most)):  # not NaN, either
        raise ValueError(f"{name}: quantiles must be in the range from 0 to 1 (percentiles to 100)")
    return fractions


def _one_by_one(q: Any) -> list[Any]:
    if isinstance(q, Operators):
        return [getitem(reshape(q, (-1,)), place) for place in range(q.size)]
    return list(q.ravel())


def _weighted(
    name: str, lines: Any, q: Any, method: str, weights: Any, shape: tuple[int, ...],
    axes: tuple[int, ...], keepdims: Any, skip_nan: bool,
) -> Any:  # fmt: skip
    """Return quantiles of weighted values: where the running sum of the weights reaches each."""
    if method != "inverted_cdf":
        raise ValueError(
            f"{name}: method is {method!r}; expected 'inverted_cdf', the only one with weights"
        )
    w = as_parameter(weights)
    if w.shape != shape:
        if len(axes) != 1 or w.shape != (shape[axes[0]],):
            raise TypeError(
                f"{name}: weights have shape {w.shape}; expected {shape}, or one number for each "
                "place of a single axis"
            )
        w = broadcast_to(w, lines.shape)
    else:
        w = reshape(moveaxis(w, axes, tuple(range(-len(axes), 0))), lines.shape)
    w = astype(w, np.float64)
    unknown = isnan(lines)
    if skip_nan:
        w = choose(unknown, 0, w)
    order = sorting.argsort(lines, axis=-1)
    ordered = take_along_axis(lines, order, axis=-1)
    running = cumulative_sum(take_along_axis(w, order, axis=-1), axis=-1)
    reached = divide(running, getitem(running, (..., slice(-1, None))))
    reached = choose(equal(reached, 0), -1.0, reached)  # what counts nothing is never the least
    spoilt = (all_of if skip_nan else any_of)(unknown, axis=-1)
    parts = []
    for fraction in _one_by_one(q):
        before = sum_over(astype(less(reached, fraction), np.int64), axis=-1)
        position = minimum(before, lines.shape[-1] - 1)
        parts.append(choose(spoilt, np.nan, _picked(ordered, position)))
    return _arranged(parts, q, shape, axes, keepdims)


def _arranged(
    parts: list[Any], q: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: Any
) -> Any:
    """Return the results for each quantile in the shape that NumPy gives them."""
    kept = tuple(1 if place in axes else length for place, length in enumerate(shape))
    rest = tuple(length for place, length in enumerate(shape) if place not in axes)
    results = [reshape(part, kept if flag(keepdims) else rest) for part in parts]
    return reshape(stack(results, axis=0), (*q.shape, *results[0].shape)) if q.ndim else results[0]


def _quantile(skip_nan: bool, hundred: bool) -> Callable[..., Any]:
    name = ("nan" if skip_nan else "") + ("percentile" if hundred else "quantile")

    def function(
        a: Any,
        q: Any,
        axis: Any = None,
        out: Any = None,
        overwrite_input: bool = False,
        method: str = "linear",
        keepdims: Any = False,
        *,
        weights: Any = None,
        interpolation: Any = None,
    ) -> Any:
        refuse_out(name, out)
        fractions = _checked(name, q, hundred)
        return _quantiles(
            name, a, fractions, axis, interpolation or method, keepdims, weights, skip_nan
        )

    return function


def _median(skip_nan: bool) -> Callable[..., Any]:
    name = "nanmedian" if skip_nan else "median"

    def function(
        a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
        keepdims: Any = False,
    ) -> Any:  # fmt: skip
        refuse_out(name, out)
        return _quantiles(name, a, np.float64(0.5), axis, "linear", keepdims, None, skip_nan)

    return function


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantile": _quantile(skip_nan=False, hundred=False),
    "percentile": _quantile(skip_nan=False, hundred=True),
    "nanquantile": _quantile(skip_nan=True, hundred=False),
    "nanpercentile": _quantile(skip_nan=True, hundred=True),
    "median": _median(skip_nan=False),
    "nanmedian": _median(skip_nan=True),
}
