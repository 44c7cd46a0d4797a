"""Clipping by a norm, by TensorFlow's signatures."""

from __future__ import annotations

from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import axes, floating, operands
from distgrad.compat.tensorflow.linalg import global_norm
from distgrad.compat.tensorflow.values import Tensor, compute


def clip_by_norm(t: Any, clip_norm: Any, axes: Any = None, name: str | None = None) -> Tensor:
    """Return a tensor scaled down so that its Euclidean norm is at most a number.

    Parameters
    ----------
    t : Tensor, Variable or array
        What to clip.
    clip_norm : positive scalar
        The largest norm that is left alone.
    axes : int or sequence of int, optional
        The axes of the norm; all by default.
    """
    x, limit = operands("clip_by_norm", Tensor(floating("clip_by_norm", t)), clip_norm)
    along = _axes(axes)

    def of(values: dg.Tensor, bound: Any) -> Any:
        total = dg.sum(values * values, axis=along, keepdims=True)
        nonzero = total > 0
        # A safe number inside, so that a tensor of zeros has a gradient.
        length = dg.where(nonzero, dg.sqrt(dg.where(nonzero, total, 1)), total)
        return values * bound / dg.maximum(length, bound)

    return compute(of, x, limit)


_axes = axes  # `clip_by_norm` has a parameter of that name


def clip_by_global_norm(
    t_list: Any, clip_norm: Any, use_norm: Any = None, name: str | None = None
) -> tuple[list[Any], Tensor]:
    """Return tensors scaled down together so that their common norm is at most a number.

    Parameters
    ----------
    t_list : sequence of Tensor or None
        What to clip; None stays None.
    clip_norm : positive scalar
        The largest norm that is left alone.
    use_norm : scalar, optional
        Their common norm, if it is known.

    Returns
    -------
    clipped : list of Tensor or None
        All NaN if the norm is not finite.
    norm : Tensor
        The norm before clipping.
    """
    norm = global_norm(t_list) if use_norm is None else Tensor(floating("use_norm", use_norm))
    length, bound = operands("clip_by_global_norm", norm, clip_norm)
    # An infinite norm minus itself is NaN, which tells of the overflow as TensorFlow does.
    scale = bound / dg.maximum(length, bound) + (length - length)
    clipped = [
        None
        if t is None
        else compute(lambda x: x * dg.astype(scale, x.dtype), floating("clip_by_global_norm", t))
        for t in t_list
    ]
    return clipped, norm
