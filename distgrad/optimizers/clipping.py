"""Clipping: keep gradients within bounds, by value or by norm.

All take nests with None where there is no gradient, which stays None. The rows of `IndexedSlices`
stay rows; those of one position are added up first, because it is their sum that the array holds.
(TensorFlow clips each row by itself, and takes the norm of the rows as if none were of one
position: with repeated positions its result depends on how often a row was picked.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.dtypes import as_dtype, is_complex, is_differentiable, result_type
from distgrad.eager import asarray
from distgrad.errors import DTypeError
from distgrad.ops.elementwise.arithmetic import maximum
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.selection import clip, where
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import astype
from distgrad.sparse import IndexedSlices, made
from distgrad.tensor import Operators

_NARROW = ("float16", "bfloat16")  # their squares overflow from 256 on; summed in float32


def clip_by_value(gradients: Any, low: Any, high: Any) -> Any:
    """Return gradients whose elements lie within bounds.

    Parameters
    ----------
    gradients : nest of Tensor, IndexedSlices, array or None
        What to clip.
    low, high : number, array or None
        The bounds; `low` is not above `high`. None is no bound.

    Returns
    -------
    nest
        Like `gradients`. Slices become dense where the zeros between their rows would have to be
        clipped as well: unless both bounds are numbers with zero between them.

    Raises
    ------
    DTypeError
        If a gradient is complex: complex numbers have no order.
    TypeError
        If a bound is neither a number nor an array.
    ValueError
        If `low` is a number above `high`, or one of them is NaN.

    Notes
    -----
    At a bound the derivative is 1, as of `distgrad.clip`.
    """
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, (list, tuple)) and bound is not None:
            _check_number("clip_by_value", name, bound)
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    if numbers and not low <= high:
        raise ValueError(
            f"clip_by_value: low is {low}, high {high}; expected low not above high: exchange them?"
        )
    spares_zero = numbers and low <= 0 <= high

    def clipped(gradient: Any) -> Any:
        if is_complex(gradient.dtype):
            raise DTypeError(
                f"clip_by_value: a gradient is {gradient.dtype}; expected real numbers: clip "
                "complex ones by their norm"
            )
        if isinstance(gradient, IndexedSlices):
            once = _with_distinct_rows(gradient) if spares_zero else None
            if once is not None:
                return made(clip(once.values, low, high), once.indices, once.dense_shape)
            gradient = gradient.to_dense()
        return clip(gradient, low, high)

    return tree.map(lambda leaf: clipped(_gradient("clip_by_value", leaf)), gradients)


def clip_by_norm(gradients: Any, clip_norm: Any, axes: int | Sequence[int] | None = None) -> Any:
    """Return gradients, each scaled down by itself so that its Euclidean norm is at most a number.

    Parameters
    ----------
    gradients : nest of Tensor, IndexedSlices, array or None
        What to clip.
    clip_norm : positive number or Tensor of no dimensions
        The largest norm that is left alone, in units of the gradients.
    axes : int or sequence of int, optional
        The axes of the norm; all by default.

    Returns
    -------
    nest
        Like `gradients`: ``g * clip_norm / max(norm(g), clip_norm)``.

    Raises
    ------
    TypeError
        If `clip_norm` is neither a number nor a tensor.
    ValueError
        If `clip_norm` is a negative number.

    Notes
    -----
    At a norm of zero its derivative is taken as zero: there the gradient is that of the identity,
    where TensorFlow's is NaN.
    """
    _refuse_negative("clip_by_norm", clip_norm)
    along = axes if axes is None or isinstance(axes, int) else tuple(axes)

    def clipped(gradient: Any) -> Any:
        rows = gradient
        if isinstance(gradient, IndexedSlices):
            once = _with_distinct_rows(gradient)
            gradient = gradient.to_dense() if once is None else once
            rows = gradient if once is None else once.values
        length = _root(sum_over(_squares(rows), axis=along, keepdims=True))
        bound = _as_bound(clip_norm, length)
        scaled = rows * astype(bound / maximum(length, bound), _real_dtype(rows.dtype))
        if isinstance(gradient, IndexedSlices):
            return made(scaled, gradient.indices, gradient.dense_shape)
        return scaled

    return tree.map(lambda leaf: clipped(_gradient("clip_by_norm", leaf)), gradients)


def clip_by_global_norm(gradients: Any, clip_norm: Any, use_norm: Any = None) -> tuple[Any, Any]:
    """Return gradients scaled down together so that their common norm is at most a number.

    Parameters
    ----------
    gradients : nest of Tensor, IndexedSlices, array or None
        What to clip.
    clip_norm : positive number or Tensor of no dimensions
        The largest norm that is left alone.
    use_norm : number or Tensor of no dimensions, optional
        Their common norm, if it is known: `global_norm` is not computed then.

    Returns
    -------
    clipped : nest
        Like `gradients`: ``g * clip_norm / max(norm, clip_norm)``; all NaN if the norm is not
        finite, so that an overflow shows, as in TensorFlow.
    norm : Tensor
        The norm before clipping, see `global_norm`.

    Raises
    ------
    TypeError
        If `clip_norm` is neither a number nor a tensor.
    ValueError
        If `clip_norm` is a negative number, or there is no gradient and no `use_norm`.

    References
    ----------
    .. [1] Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
       ICML 2013, arXiv:1211.5063, algorithm 1.
    """
    _refuse_negative("clip_by_global_norm", clip_norm)
    norm = global_norm(gradients) if use_norm is None else asarray(use_norm)
    bound = _as_bound(clip_norm, norm)
    # An infinite norm minus itself is NaN.
    scale = bound / maximum(norm, bound) + (norm - norm)

    def clipped(leaf: Any) -> Any:
        gradient = _gradient("clip_by_global_norm", leaf)
        return gradient * astype(scale, _real_dtype(gradient.dtype))

    return tree.map(clipped, gradients), norm


def global_norm(gradients: Any) -> Any:
    """Return the Euclidean norm of all elements of gradients together.

    Parameters
    ----------
    gradients : nest of Tensor, IndexedSlices, array or None
        None counts as nothing.

    Returns
    -------
    Tensor
        Of no dimensions, real, in the widest dtype among the gradients, float32 at least: half
        precision would overflow.

    Raises
    ------
    ValueError
        If there is no gradient.

    Notes
    -----
    ``sqrt(Σ |g|²)``, whose derivative is taken as zero where it is zero.
    """
    leaves = [_gradient("global_norm", leaf) for leaf in tree.flatten(gradients)[0]]
    if not leaves:
        raise ValueError(
            "global_norm: there is no gradient; expected one or more that are not None"
        )
    parts = [sum_over(_squares(_whole(leaf))) for leaf in leaves]
    joint = result_type(*(part.dtype for part in parts))
    total = parts[0] if parts[0].dtype == joint else astype(parts[0], joint)
    for part in parts[1:]:
        total = total + part
    return _root(total)


# --- helpers ------------------------------------------------------------------------------------


def _gradient(function: str, leaf: Any) -> Any:
    """Return a leaf as a tensor or slices; refuse what has no direction."""
    gradient = leaf if isinstance(leaf, IndexedSlices) else asarray(leaf)
    if not is_differentiable(gradient.dtype):
        raise DTypeError(
            f"{function}: a gradient has dtype {gradient.dtype}; expected floating numbers: "
            "convert it with astype"
        )
    return gradient


def _with_distinct_rows(slices: IndexedSlices) -> IndexedSlices | None:
    """Return slices with each position once; None where positions are not known yet (a trace)."""
    return None if slices.indices.kernels.level else slices.coalesce()


def _whole(gradient: Any) -> Any:
    """Return an array with the elements of a gradient: of slices the distinct rows, or all."""
    if not isinstance(gradient, IndexedSlices):
        return gradient
    once = _with_distinct_rows(gradient)
    return gradient.to_dense() if once is None else once.values


def _squares(x: Any) -> Any:
    if is_complex(x.dtype):
        return real(x * conj(x))
    wide = astype(x, "float32") if x.dtype.name in _NARROW else x
    return wide * wide


def _root(total: Any) -> Any:
    """Return the square root, whose derivative at zero is taken as zero."""
    positive = total > 0
    # A safe number inside: what `where` leaves out must not divide by zero on the way back. What is
    # left out is NaN as well, which is passed on.
    return where(positive, sqrt(where(positive, total, 1)), total)


def _real_dtype(dtype: Any) -> Any:
    return np.empty(0, as_dtype(dtype)).real.dtype if is_complex(dtype) else dtype


def _as_bound(clip_norm: Any, norm: Any) -> Any:
    """Return the largest norm as a number, or as a tensor of the same dtype as a norm."""
    if isinstance(clip_norm, Operators) or hasattr(clip_norm, "dtype"):
        return astype(asarray(clip_norm), norm.dtype)
    return float(clip_norm)


def _check_number(function: str, argument: str, value: Any) -> None:
    """Refuse what is neither a number nor an array, such as text."""
    if not isinstance(value, (int, float, Operators)) and not hasattr(value, "dtype"):
        raise TypeError(f"{function}: {argument} is {value!r}; expected a number or an array")


def _refuse_negative(function: str, clip_norm: Any) -> None:
    _check_number(function, "clip_norm", clip_norm)
    if isinstance(clip_norm, (int, float)) and not clip_norm >= 0:
        raise ValueError(f"{function}: clip_norm is {clip_norm}; expected a positive number")
