"""tf.reduce_* and their like: over axes, with the dtype of the input kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import axes, dtype_of, floating, tensor_dtype
from distgrad.compat.tensorflow.dtypes import int64
from distgrad.compat.tensorflow.elementwise import require_numbers
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.dtypes import is_differentiable
from distgrad.shapes import normalize_axis


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reduction whose result has the dtype of its input, integers too."""

    def reduction(x: dg.Tensor, **params: Any) -> Any:
        result = function(x, **params)
        return result if result.dtype == x.dtype else dg.astype(result, x.dtype)

    return reduction


def _over(function: Callable[..., Any], x: Tensor | dg.Tensor, axis: Any, keepdims: Any) -> Tensor:
    """Return a reduction over the axes that TensorFlow's arguments name."""
    return compute(function, x, axis=axes(axis), keepdims=bool(keepdims))


def reduce_sum(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the sum over axes, all of them by default, in the dtype of the input."""
    x = require_numbers("reduce_sum", input_tensor)
    return _over(_kept(dg.sum), x, axis, keepdims)


def reduce_mean(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the mean over axes in the dtype of the input: that of integers is cut to one.

    The mean of no integers is 0, that of no floating numbers NaN.
    """
    x = require_numbers("reduce_mean", input_tensor)
    of_none = not math.prod(x.shape) and not is_differentiable(x.dtype)
    return _over(_kept(dg.sum if of_none else dg.mean), x, axis, keepdims)


def reduce_prod(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the product over axes in the dtype of the input."""
    x = require_numbers("reduce_prod", input_tensor)
    return _over(_kept(dg.prod), x, axis, keepdims)


def reduce_max(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the largest element over axes; elements that tie share the gradient equally.

    Of no elements it is the lowest number of the dtype, minus infinity where there is one.
    """
    x = require_numbers("reduce_max", input_tensor)
    return _over(_of_any(dg.max, _lowest), x, axis, keepdims)


def reduce_min(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the smallest element over axes; elements that tie share the gradient equally.

    Of no elements it is the highest number of the dtype, infinity where there is one.
    """
    x = require_numbers("reduce_min", input_tensor)
    return _over(_of_any(dg.min, _highest), x, axis, keepdims)


def _lowest(x: dg.Tensor) -> Any:
    """Return the lowest number of a tensor's dtype: minus infinity, if it has that."""
    return -np.inf if is_differentiable(x.dtype) else int(np.iinfo(x.dtype).min)


def _highest(x: dg.Tensor) -> Any:
    """Return the highest number of a tensor's dtype: infinity, if it has that."""
    return np.inf if is_differentiable(x.dtype) else int(np.iinfo(x.dtype).max)


def _of_any(function: Callable[..., Any], neutral: Callable[[dg.Tensor], Any]) -> Any:
    """Return a reduction to an extremum that takes no elements at all, too."""

    def reduction(x: dg.Tensor, axis: Any, keepdims: bool) -> Any:
        if x.size:
            return function(x, axis=axis, keepdims=keepdims)
        # The sum has the shape of the result, and of no elements the gradient of an extremum.
        return _kept(dg.sum)(x, axis=axis, keepdims=keepdims) + neutral(x)

    return reduction


def reduce_all(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return whether all elements over axes are true."""
    x = convert_to_tensor(input_tensor)
    return _over(dg.all, x, axis, keepdims)


def reduce_any(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return whether one of the elements over axes is true."""
    x = convert_to_tensor(input_tensor)
    return _over(dg.any, x, axis, keepdims)


def reduce_logsumexp(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return log(sum(exp(x))) over axes, without overflow."""
    x = floating("reduce_logsumexp", input_tensor)
    return _over(dg.logsumexp, x, axis, keepdims)


def reduce_variance(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the variance over axes, of the population.

    Raises
    ------
    TypeError
        If the input holds integers.
    """
    x = _sample(input_tensor)
    return _over(dg.var, x, axis, keepdims)


def reduce_std(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the standard deviation over axes, of the population.

    Raises
    ------
    TypeError
        If the input holds integers.
    """
    x = _sample(input_tensor)
    return _over(dg.std, x, axis, keepdims)


def _sample(input_tensor: Any) -> Tensor:
    x = convert_to_tensor(input_tensor)
    if not is_differentiable(dtype_of(x)):
        raise TypeError(f"Input must be either real or complex. Received integer type {x.dtype}.")
    return x


def reduce_euclidean_norm(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """Return the Euclidean norm over axes; its gradient at zeros is 0."""

    def of(x: dg.Tensor) -> Any:
        return dg.linalg.vector_norm(x, axis=axes(axis), keepdims=bool(keepdims))

    return compute(of, floating("reduce_euclidean_norm", input_tensor))


def count_nonzero(
    input: Any,
    axis: Any = None,
    keepdims: bool = False,
    dtype: Any = int64,
    name: str | None = None,
) -> Tensor:
    """Return how many elements over axes are not 0."""
    x = convert_to_tensor(input).read()
    hit = dg.astype(dg.not_equal(x, 0), tensor_dtype(dtype, int64))
    return compute(_kept(dg.sum), hit, axis=axes(axis), keepdims=bool(keepdims))


def argmax(
    input: Any, axis: Any = None, output_type: Any = int64, name: str | None = None
) -> Tensor:
    """Return the index of the first largest element along an axis, the first one by default."""
    return _position(dg.argmax, input, axis, output_type)


def argmin(
    input: Any, axis: Any = None, output_type: Any = int64, name: str | None = None
) -> Tensor:
    """Return the index of the first smallest element along an axis, the first one by default."""
    return _position(dg.argmin, input, axis, output_type)


def _position(function: Callable[..., Any], input: Any, axis: Any, output_type: Any) -> Tensor:
    along = 0 if axis is None else axes(axis)
    wanted = tensor_dtype(output_type, int64)
    return compute(lambda x: dg.astype(function(x, axis=along), wanted), convert_to_tensor(input))


# --- running sums and products --------------------------------------------------------------------


def cumsum(
    x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: str | None = None
) -> Tensor:
    """Return the running sum along an axis.

    Parameters
    ----------
    x : Tensor, Variable or array
        The terms.
    axis : int
        The axis to run along.
    exclusive : bool
        Whether each sum leaves its own term out.
    reverse : bool
        Whether to run from the end.
    """
    along = axes(axis)

    def of(terms: dg.Tensor) -> Any:
        normalize_axis("cumsum", along, terms.ndim)
        turned = dg.flip(terms, axis=along) if reverse else terms
        if exclusive:  # put a zero in front, and leave out the last term
            place = along % terms.ndim
            count = terms.shape[place]
            zeros = dg.zeros_like(_part(turned, place, 0, min(count, 1)))
            turned = dg.concat([zeros, _part(turned, place, 0, max(count - 1, 0))], axis=place)
        sums = _kept(dg.cumulative_sum)(turned, axis=along)
        return dg.flip(sums, axis=along) if reverse else sums

    return compute(of, require_numbers("cumsum", x))


def cumprod(
    x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: str | None = None
) -> Tensor:
    """Return the running product along an axis; parameters as for `cumsum`.

    Notes
    -----
    The gradient is right at zeros too, where TensorFlow's is NaN.
    """
    along = axes(axis)

    def of(factors: dg.Tensor) -> Any:
        turned = dg.flip(factors, axis=along) if reverse else factors
        products = dg.cumulative_prod(
            turned, axis=along, dtype=factors.dtype, include_initial=exclusive
        )
        if exclusive:  # 1 comes first, and the product of all is left out
            place = along % products.ndim
            products = _part(products, place, 0, products.shape[place] - 1)
        return dg.flip(products, axis=along) if reverse else products

    return compute(of, require_numbers("cumprod", x))


def _part(x: dg.Tensor, axis: int, start: int, stop: int) -> Any:
    return x[(slice(None),) * axis + (slice(start, stop),)]
