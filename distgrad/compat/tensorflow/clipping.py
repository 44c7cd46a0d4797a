"""Clipping by value and by norm, by TensorFlow's signatures; the mathematics is the library's."""

from __future__ import annotations

from typing import Any

import numpy as np

import distgrad as dg
from distgrad import optimizers
from distgrad.compat.tensorflow.conversion import at_home, dtype_of, floating, operands
from distgrad.compat.tensorflow.conversion import axes as as_axes
from distgrad.compat.tensorflow.slices import IndexedSlices
from distgrad.compat.tensorflow.values import Tensor, compute, refused, wrap
from distgrad.errors import ShapeError


def clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any, name: str | None = None) -> Any:
    """Return values kept within bounds; at a bound the gradient still goes to `t`.

    Where the bounds are crossed, the lower one counts. Slices stay slices where zero lies within
    the bounds; rows of one position are added up first.
    """
    if isinstance(t, IndexedSlices):
        return wrap(optimizers.clip_by_value(t.native(), clip_value_min, clip_value_max))
    x, low, high = operands("clip_by_value", t, clip_value_min, clip_value_max)
    return compute(_clipped, x, low, high)


def _clipped(x: dg.Tensor, low: Any, high: Any) -> Any:
    # The library's own, like NumPy's, lets the upper of crossed bounds count. Python's numbers
    # have no dtype here, and must not get one.
    of_tensors = isinstance(low, dg.Tensor) or isinstance(high, dg.Tensor)
    return dg.clip(x, low, dg.maximum(high, low) if of_tensors else max(high, low))


@at_home
def clip_by_norm(t: Any, clip_norm: Any, axes: Any = None, name: str | None = None) -> Any:
    """Return a tensor scaled down so that its Euclidean norm is at most a number.

    Parameters
    ----------
    t : Tensor, IndexedSlices, Variable or array
        What to clip; of slices, those of one position are added up first.
    clip_norm : positive scalar
        The largest norm that is left alone.
    axes : int or sequence of int, optional
        The axes of the norm; all by default.
    """
    gradient, bound = _gradient("clip_by_norm", t, clip_norm)
    try:
        return wrap(optimizers.clip_by_norm(gradient, bound, as_axes(axes)))
    except ShapeError as error:
        raise refused(error) from error


def clip_by_global_norm(
    t_list: Any, clip_norm: Any, use_norm: Any = None, name: str | None = None
) -> tuple[list[Any], Tensor]:
    """Return tensors scaled down together so that their common norm is at most a number.

    Parameters
    ----------
    t_list : sequence of Tensor, IndexedSlices or None
        What to clip; None stays None.
    clip_norm : positive scalar
        The largest norm that is left alone.
    use_norm : scalar, optional
        Their common norm, if it is known.

    Returns
    -------
    clipped : list of Tensor, IndexedSlices or None
        All NaN if the norm is not finite.
    norm : Tensor
        The norm before clipping.
    """
    norm = global_norm(t_list) if use_norm is None else Tensor(floating("use_norm", use_norm))
    length, bound = operands("clip_by_global_norm", norm, clip_norm)
    given = [None if t is None else _gradient("clip_by_global_norm", t)[0] for t in t_list]
    clipped, _ = optimizers.clip_by_global_norm(given, bound, length)
    return [wrap(each) for each in clipped], norm


def global_norm(t_list: Any, name: str | None = None) -> Tensor:
    """Return the Euclidean norm of all elements of a list of tensors; None counts as nothing.

    Raises
    ------
    TypeError
        If it is no list.
    InvalidArgumentError
        If the tensors differ in dtype.
    """
    if not isinstance(t_list, (list, tuple)):
        raise TypeError(f"`t_list` should be a sequence of tensors. Received {type(t_list)}.")
    given = [_gradient("global_norm", t)[0] for t in t_list if t is not None]
    if not given:
        raise ValueError("global_norm: t_list has no tensor; expected one or more")
    operands("global_norm", *(getattr(each, "values", each) for each in given))
    real = np.empty(0, dtype_of(given[0])).real.dtype
    return Tensor(dg.astype(optimizers.global_norm(given), real))


def _gradient(name: str, t: Any, *numbers: Any) -> list[Any]:
    """Return what the library clips, and numbers brought to its dtype."""
    if isinstance(t, IndexedSlices):
        return [t.native(), *operands(name, t.values, *numbers)[1:]]
    return operands(name, Tensor(floating(name, t)), *numbers)
