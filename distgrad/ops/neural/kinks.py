"""Activation functions with kinks: what the derivative is there, each says for itself."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.core.seam import apply, operands
from distgrad.ops.elementwise.arithmetic import multiply
from distgrad.ops.elementwise.comparison import greater
from distgrad.ops.elementwise.selection import where
from distgrad.ops.neural.activations import activation
from distgrad.ops.rules.families import elementwise_spec, joint


def _relu_vjp(xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Any) -> Any:
    return (xp.relu_vjp(g, y),)


def _relu_jvp(xp: Namespace, tangents: Any, y: Array, xs: Any, params: Any) -> Array:
    return xp.relu_vjp(tangents[0], y)


def _relu_compose(xp: Namespace, x: Array) -> Array:
    return xp.maximum(x, 0)


def _relu_pull(xp: Namespace, g: Array, y: Array) -> Array:
    return xp.where(y > 0, g, 0)


RELU = Op(
    "relu",
    Kind.ELEMENTWISE,
    elementwise_spec("relu", joint),
    _relu_vjp,
    _relu_jvp,
    Keep.OUTPUT,
    _relu_compose,
)
RELU_VJP = activation("relu", _relu_compose, _relu_pull, keep=Keep.OUTPUT)[1]


def relu(x: Any, /) -> Any:
    """Return max(x, 0), element by element; the derivative at 0 is 0."""
    return apply(RELU, x)


def _leaky_relu(xp: Namespace, x: Array, *, slope: float) -> Array:
    # The larger or the smaller of two: no choice at every element.
    return xp.maximum(x, x * slope) if slope <= 1 else xp.minimum(x, x * slope)


def _leaky_relu_pull(xp: Namespace, g: Array, y: Array, *, slope: float) -> Array:
    return xp.where(y > 0, g, g * slope)


# With a slope of 0 or more the output has the sign of the input: that is what is kept.
LEAKY_RELU, LEAKY_RELU_VJP = activation(
    "leaky_relu", _leaky_relu, _leaky_relu_pull, keep=Keep.OUTPUT
)


def leaky_relu(x: Any, /, *, slope: float = 0.01) -> Any:
    """Return x where it is positive and slope x elsewhere; the derivative at 0 is the slope.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    slope : float >= 0
        0.2 unless given in TensorFlow, where it is called alpha.

    Raises
    ------
    ValueError
        If `slope` is negative: `prelu` takes any.
    """
    return apply(LEAKY_RELU, x, slope=_not_negative("leaky_relu", "slope", slope))


def _hard_sigmoid(xp: Namespace, x: Array) -> Array:
    return xp.minimum(xp.maximum(x / 6 + 0.5, 0), 1)


def _hard_sigmoid_pull(xp: Namespace, g: Array, y: Array) -> Array:
    return xp.where(xp.logical_and(y > 0, y < 1), g / 6, 0)


HARD_SIGMOID, HARD_SIGMOID_VJP = activation(
    "hard_sigmoid", _hard_sigmoid, _hard_sigmoid_pull, keep=Keep.OUTPUT
)


def hard_sigmoid(x: Any, /) -> Any:
    """Return min(max(x / 6 + 1/2, 0), 1), element by element; the derivative at both ends is 0."""
    return apply(HARD_SIGMOID, x)


def _hard_swish(xp: Namespace, x: Array) -> Array:
    return x * xp.minimum(xp.maximum(x / 6 + 0.5, 0), 1)


def _hard_swish_pull(xp: Namespace, g: Array, x: Array) -> Array:
    return g * xp.where(x <= -3, 0, xp.where(x >= 3, 1, x / 3 + 0.5))


def _hard_swish_bend(xp: Namespace, x: Array) -> Array:
    return xp.astype(xp.abs(x) < 3, dtype=x.dtype) / 3


HARD_SWISH, HARD_SWISH_VJP = activation(
    "hard_swish", _hard_swish, _hard_swish_pull, _hard_swish_bend
)


def hard_swish(x: Any, /) -> Any:
    """Return x hard_sigmoid(x), element by element; the derivative is 0 at -3 and 1 at 3.

    References
    ----------
    Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, section 5.2.
    """
    return apply(HARD_SWISH, x)


def _relu6(xp: Namespace, x: Array) -> Array:
    return xp.minimum(xp.maximum(x, 0), 6)


def _relu6_pull(xp: Namespace, g: Array, y: Array) -> Array:
    return xp.where(xp.logical_and(y > 0, y < 6), g, 0)


RELU6, RELU6_VJP = activation("relu6", _relu6, _relu6_pull, keep=Keep.OUTPUT)


def relu6(x: Any, /) -> Any:
    """Return min(max(x, 0), 6), element by element; the derivative at both ends is 0."""
    return apply(RELU6, x)


def _hard_tanh(xp: Namespace, x: Array) -> Array:
    return xp.minimum(xp.maximum(x, -1), 1)


def _hard_tanh_pull(xp: Namespace, g: Array, x: Array) -> Array:
    return xp.where(xp.abs(x) <= 1, g, 0)


HARD_TANH, HARD_TANH_VJP = activation("hard_tanh", _hard_tanh, _hard_tanh_pull)


def hard_tanh(x: Any, /) -> Any:
    """Return min(max(x, -1), 1), element by element; the derivative at both ends is 1."""
    return apply(HARD_TANH, x)


def _hard_shrink(xp: Namespace, x: Array, *, bound: float) -> Array:
    return xp.where(xp.abs(x) > bound, x, 0)


def _nonzero_pull(xp: Namespace, g: Array, y: Array, *, bound: float) -> Array:
    return xp.where(xp.equal(y, 0), 0, g)


HARD_SHRINK, HARD_SHRINK_VJP = activation(
    "hard_shrink", _hard_shrink, _nonzero_pull, keep=Keep.OUTPUT
)


def hard_shrink(x: Any, /, *, bound: float = 0.5) -> Any:
    """Return x where it is farther from 0 than a bound, and 0 elsewhere, at the bound too.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    bound : float >= 0
        The bound; there the derivative is 0.
    """
    return apply(HARD_SHRINK, x, bound=_not_negative("hard_shrink", "bound", bound))


def _soft_shrink(xp: Namespace, x: Array, *, bound: float) -> Array:
    return xp.sign(x) * xp.maximum(xp.abs(x) - bound, 0)


SOFT_SHRINK, SOFT_SHRINK_VJP = activation(
    "soft_shrink", _soft_shrink, _nonzero_pull, keep=Keep.OUTPUT
)


def soft_shrink(x: Any, /, *, bound: float = 0.5) -> Any:
    """Return x moved towards 0 by a bound, and 0 within it; parameters as for `hard_shrink`."""
    return apply(SOFT_SHRINK, x, bound=_not_negative("soft_shrink", "bound", bound))


def _threshold(xp: Namespace, x: Array, *, above: float, value: float) -> Array:
    return xp.where(x > above, x, value)


def _threshold_pull(xp: Namespace, g: Array, x: Array, *, above: float, value: float) -> Array:
    return xp.where(x > above, g, 0)


THRESHOLD, THRESHOLD_VJP = activation("threshold", _threshold, _threshold_pull)


def threshold(x: Any, /, *, above: float, value: float = 0.0) -> Any:
    """Return x where it is above a number, and another number elsewhere; the derivative there is 0.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    above : float
        What x must exceed.
    value : float
        What stands where it does not.
    """
    return apply(THRESHOLD, x, above=float(above), value=float(value))


def prelu(x: Any, slope: Any, /) -> Any:
    """Return x where it is positive and slope x elsewhere, with a slope that may be learned.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    slope : Tensor, Variable or array
        Of a shape that broadcasts to that of `x`; the derivative in x at 0 is the slope.
    """
    x, slope = operands(x, slope)
    return where(greater(x, 0), x, multiply(x, slope))


def _not_negative(function: str, name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{function}: {name} is {value}; expected 0 or more")
    return float(value)


OPS = (
    *(RELU, RELU_VJP),
    *(LEAKY_RELU, LEAKY_RELU_VJP, RELU6, RELU6_VJP, HARD_SIGMOID, HARD_SIGMOID_VJP),
    *(HARD_SWISH, HARD_SWISH_VJP, HARD_TANH, HARD_TANH_VJP, HARD_SHRINK, HARD_SHRINK_VJP),
    *(SOFT_SHRINK, SOFT_SHRINK_VJP, THRESHOLD, THRESHOLD_VJP),
)
