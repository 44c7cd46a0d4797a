"""NumPy's functions of sorted values on tensors: sorting, partitions, medians and quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.dtypes import is_differentiable
from distgrad.numpy_functions.arguments import (
    as_axis,
    as_tensor,
    flag,
    host,
    hosted,
    one_axis,
    refuse_out,
)
from distgrad.ops.elementwise.arithmetic import add, multiply, subtract
from distgrad.ops.elementwise.selection import where as choose
from distgrad.ops.ordering import sorting
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.shaping.arrangement import moveaxis
from distgrad.ops.shaping.structure import astype, expand_dims, reshape, stack


def _line(a: Any, axis: Any) -> tuple[Any, int]:
    """Return a tensor and the axis to sort along; None is the flattened tensor."""
    x = as_tensor(a)
    if axis is None:
        return reshape(x, (-1,)), 0
    return x, one_axis("axis", axis, x.ndim)


def _sort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    x, place = _line(a, axis)
    return sorting.sort(x, axis=place)


def _argsort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    x, place = _line(a, axis)
    return sorting.argsort(x, axis=place)


def _partition(
    a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None
) -> Any:
    # The positions by NumPy's own selection, so that the order of the rest is NumPy's too.
    x, place = _line(a, axis)
    positions = np.argpartition(host(x), kth, axis=place)
    return take_along_axis(x, positions, axis=place)


def _sort_complex(a: Any) -> Any:
    x = sorting.sort(as_tensor(a), axis=-1) if not _is_complex(a) else _sorted_complex(as_tensor(a))
    return x if _is_complex(x) else astype(x, np.result_type(x.dtype, np.complex64))


def _is_complex(a: Any) -> bool:
    return bool(np.dtype(as_tensor(a).dtype).kind == "c")


def _sorted_complex(x: Any) -> Any:
    return take_along_axis(x, np.argsort(host(x), axis=-1), axis=-1)


# --- quantiles ----------------------------------------------------------------------------------

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
        whole = np.isclose(n * q, np.round(n * q), atol=1e-12)
        exact = np.where(whole, np.round(n * q) - 0.5, np.ceil(n * q) - 1)
    elif method == "closest_observation":
        exact = np.round(n * q - 1e-12) - 1
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
    return reshape(moved, (*rest, -1)), shape, axes


def _quantiles(
    name: str, a: Any, q: Any, axis: Any, method: str, keepdims: Any, weights: Any, skip_nan: bool
) -> Any:
    fractions = np.asarray(hosted(q), np.float64)
    if np.any((fractions < 0) | (fractions > 1) | np.isnan(fractions)):
        raise ValueError(f"{name}: quantiles must be in the range from 0 to 1 (percentiles to 100)")
    if weights is not None:
        raise TypeError(f"{name}: weights= is not taken for tensors; leave it out")
    lines, shape, axes = _as_lines(a, axis)
    ordered = sorting.sort(lines, axis=-1)
    values = host(ordered)
    whole = np.full(lines.shape[:-1], values.shape[-1])
    unknown = np.isnan(values).sum(axis=-1)
    count = whole - unknown if skip_nan else whole
    spoilt = (count == 0) if skip_nan else (unknown > 0)
    parts = []
    for fraction in fractions.ravel():
        below, above, weight = _places(fraction, count, method)
        low = take_along_axis(ordered, below[..., None], axis=-1)
        high = take_along_axis(ordered, above[..., None], axis=-1)
        share = np.asarray(weight[..., None], ordered.dtype)
        # Where both are one value, their difference may be inf - inf.
        mixed = add(low, multiply(share, choose(host(low) == host(high), 0, subtract(high, low))))
        parts.append(choose(spoilt[..., None], np.nan, mixed) if np.any(spoilt) else mixed)
    kept = tuple(1 if place in axes else length for place, length in enumerate(shape))
    rest = lines.shape[:-1]
    results = [reshape(part, kept if flag(keepdims) else rest) for part in parts]
    if not fractions.ndim:
        return results[0]
    stacked = stack(results, axis=0)
    return reshape(stacked, (*fractions.shape, *results[0].shape))


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
        fractions = np.asarray(hosted(q), np.float64) / (100 if hundred else 1)
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
        return _quantiles(name, a, 0.5, axis, "linear", keepdims, None, skip_nan)

    return function


def _trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Any:
    x = as_tensor(filt)
    kept = np.nonzero(host(x))[0]
    if x.ndim != 1:
        raise TypeError(f"trim_zeros: an array of shape {x.shape}; expected one axis for tensors")
    start = kept[0] if "f" in trim.lower() and kept.size else (0 if kept.size else x.shape[0])
    stop = kept[-1] + 1 if "b" in trim.lower() and kept.size else x.shape[0]
    return getitem(x, slice(int(start), int(stop)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sort": _sort,
    "argsort": _argsort,
    "partition": _partition,
    "sort_complex": _sort_complex,
    "quantile": _quantile(skip_nan=False, hundred=False),
    "percentile": _quantile(skip_nan=False, hundred=True),
    "nanquantile": _quantile(skip_nan=True, hundred=False),
    "nanpercentile": _quantile(skip_nan=True, hundred=True),
    "median": _median(skip_nan=False),
    "nanmedian": _median(skip_nan=True),
    "trim_zeros": _trim_zeros,
}
