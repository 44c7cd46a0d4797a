"""tf.test: gradients beside central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.compat.tensorflow.autodiff import GradientTape
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.values import convert_to_tensor

__getattr__ = refusal("test")

_STEP = 1.0 / 1024  # TensorFlow's: a power of two, so that it is exact


def compute_gradient(
    f: Callable[..., Any], x: Any, delta: float | None = None
) -> tuple[list[Any], list[Any]]:
    """Return the Jacobians of a function by its tape and by central differences.

    Parameters
    ----------
    f : callable
        Takes as many tensors as `x` has, returns one.
    x : list or tuple of arrays or tensors
        Where to differentiate.
    delta : float, optional
        The step of the differences; 1/1024 by default.

    Returns
    -------
    theoretical, numerical : list of numpy.ndarray
        For each argument a matrix with a row for each element of the result and a column for each
        element of the argument; a complex element counts as two real ones.

    Raises
    ------
    ValueError
        If `x` is no list or tuple.
    """
    if not isinstance(x, (list, tuple)):
        raise ValueError(
            "`x` must be a list or tuple of values convertible to a Tensor (arguments to `f`), "
            f"not a {type(x)}"
        )
    points = [convert_to_tensor(each) for each in x]
    step = _STEP if delta is None else delta
    places = range(len(points))
    return (
        [_theoretical(f, points, place) for place in places],
        [_numerical(f, points, place, step) for place in places],
    )


def _theoretical(f: Callable[..., Any], points: list[Any], place: int) -> np.ndarray[Any, Any]:
    x = points[place]
    with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = convert_to_tensor(f(*points))
    seed = np.zeros(tuple(y.shape), y.dtype.dtype)
    flat = _as_reals(seed)
    columns = _as_reals(np.zeros(tuple(x.shape), x.dtype.dtype)).size
    jacobian = np.zeros((flat.size, columns), x.dtype.real_dtype.dtype)
    for row in range(flat.size):
        flat[row] = 1
        gradient = tape.gradient(y, x, output_gradients=seed)
        if gradient is not None:
            jacobian[row] = _as_reals(np.asarray(gradient.numpy()))
        flat[row] = 0
    return jacobian


def _numerical(
    f: Callable[..., Any], points: list[Any], place: int, step: float
) -> np.ndarray[Any, Any]:
    host = np.array(points[place].numpy())
    flat = _as_reals(host)

    def value() -> np.ndarray[Any, Any]:
        arguments = [*points[:place], convert_to_tensor(host), *points[place + 1 :]]
        return _as_reals(np.array(convert_to_tensor(f(*arguments)).numpy()))

    columns = []
    for column in range(flat.size):
        original = flat[column]
        flat[column] = original + step
        above = value()
        flat[column] = original - step
        below = value()
        flat[column] = original
        columns.append((above - below) / (2 * step))
    rows = value().size
    dtype = points[place].dtype.real_dtype.dtype
    return np.stack(columns, axis=1).astype(dtype) if columns else np.zeros((rows, 0), dtype)


def _as_reals(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a flat view of an array, of two real numbers for each complex one."""
    flat = array.reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


__all__ = ["compute_gradient"]
