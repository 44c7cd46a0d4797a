"""tf.nn: activations, normalisations, and by import losses, convolutions and pooling."""

from __future__ import annotations

from math import nan, prod
from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.clipping import clip_by_norm
from distgrad.compat.tensorflow.conversion import (
    at_home,
    axes,
    converted,
    dims,
    dtype_of,
    floating,
    home_of,
    of_kinds,
    operands,
    together,
)
from distgrad.compat.tensorflow.convolution import (
    conv1d,
    conv2d,
    conv2d_transpose,
    conv3d,
    depthwise_conv2d,
    separable_conv2d,
)
from distgrad.compat.tensorflow.cross_entropies import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
    weighted_cross_entropy_with_logits,
)
from distgrad.compat.tensorflow.elementwise import sigmoid, softplus, tanh
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.indexing import gather
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.pooling import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from distgrad.compat.tensorflow.random import stream_of
from distgrad.compat.tensorflow.sequences import ctc_loss
from distgrad.compat.tensorflow.sorting import top_k
from distgrad.compat.tensorflow.structure import concat
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.dtypes import is_complex

__getattr__ = refusal("nn")

# --- activations --------------------------------------------------------------------------------


def _real(name: str, value: Any) -> dg.Tensor:
    """Return an operand of real floating numbers."""
    return of_kinds(name, "f", converted(value))


def relu(features: Any, name: str | None = None) -> Tensor:
    """Return max(x, 0); the derivative at 0 is 0."""
    return compute(dg.relu, of_kinds("relu", "iuf", converted(features)))


def relu6(features: Any, name: str | None = None) -> Tensor:
    """Return min(max(x, 0), 6); the derivative at both ends is 0."""
    x = of_kinds("relu6", "iuf", converted(features))
    if dtype_of(x).kind in "iu":
        return compute(lambda v: dg.minimum(6, dg.relu(v)), x)
    return compute(dg.nn.relu6, x)


@at_home
def leaky_relu(features: Any, alpha: Any = 0.2, name: str | None = None) -> Tensor:
    """Return x where it is positive and alpha x elsewhere."""
    x = converted(features)
    x = dg.astype(x, "float32") if x.dtype.kind in "iu" else _real("leaky_relu", x)
    if isinstance(alpha, (int, float)) and alpha >= 0:
        return compute(dg.nn.leaky_relu, x, slope=alpha)
    return compute(dg.nn.prelu, *operands("leaky_relu", x, alpha))


def elu(features: Any, name: str | None = None) -> Tensor:
    """Return x where it is positive and exp(x) - 1 elsewhere."""
    return compute(dg.nn.elu, _real("elu", features))


def selu(features: Any, name: str | None = None) -> Tensor:
    """Return the scaled exponential linear unit."""
    return compute(dg.nn.selu, _real("selu", features))


def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Tensor:
    """Return x times the probability that a standard normal number is below x."""
    return compute(dg.nn.gelu, _real("gelu", features), approximate=bool(approximate))


@at_home
def silu(features: Any, beta: Any = 1.0) -> Tensor:
    """Return x sigmoid(beta x)."""
    x = floating("silu", features)
    if isinstance(beta, (int, float)) and beta == 1:
        return compute(dg.nn.silu, x)
    return compute(lambda v, b: v * dg.sigmoid(v * b), *operands("silu", x, beta))


swish = silu


def softsign(features: Any, name: str | None = None) -> Tensor:
    """Return ``x / (1 + |x|)``."""
    return compute(dg.nn.softsign, _real("softsign", features))


def softmax(logits: Any, axis: int | None = -1, name: str | None = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along an axis, without overflow."""
    along = -1 if axis is None else axes(axis)
    return compute(dg.softmax, _real("softmax", logits), axis=along)


def log_softmax(logits: Any, axis: int | None = -1, name: str | None = None) -> Tensor:
    """Return log(softmax(x)) along an axis."""
    along = -1 if axis is None else axes(axis)
    return compute(dg.log_softmax, _real("log_softmax", logits), axis=along)


# --- normalisation ------------------------------------------------------------------------------


def moments(
    x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance over axes."""
    values = floating("moments", x)
    along = _axes(axes)
    if is_complex(values.dtype):
        mean = compute(dg.mean, values, axis=along, keepdims=bool(keepdims))
        return mean, compute(dg.var, values, axis=along, keepdims=bool(keepdims))
    mean, variance = dg.nn.moments(values, axis=along, keepdims=bool(keepdims))
    return Tensor(mean), Tensor(variance)


_axes = axes  # `moments` has a parameter of that name


@at_home
def batch_normalization(
    x: Any,
    mean: Any,
    variance: Any,
    offset: Any,
    scale: Any,
    variance_epsilon: Any,
    name: str | None = None,
) -> Tensor:
    """Return scale (x - mean) / sqrt(variance + epsilon) + offset; the last two may be None."""
    given = [t for t in (offset, scale) if t is not None]
    v, m, s, e, *rest = operands(
        "batch_normalization",
        Tensor(floating("batch_normalization", x)),
        mean,
        variance,
        variance_epsilon,
        *given,
    )
    shift = rest.pop(0) if offset is not None else None
    factor = rest.pop(0) if scale is not None else None

    def of() -> Any:
        inverse = 1 / dg.sqrt(dg.add(s, e))
        if factor is not None:
            inverse = dg.multiply(inverse, factor)
        base = dg.multiply(-1.0 * inverse, m)
        return v * inverse + (base if shift is None else dg.add(shift, base))

    return compute(of)


def l2_normalize(
    x: Any, axis: Any = None, epsilon: float = 1e-12, name: str | None = None
) -> Tensor:
    """Return x divided by its Euclidean norm over axes, of which the square is at least epsilon."""
    along = _axes(axis)
    return compute(dg.nn.l2_normalize, floating("l2_normalize", x), axis=along, epsilon=epsilon)


def l2_loss(t: Any, name: str | None = None) -> Tensor:
    """Return half the sum of the squares."""
    return compute(lambda x: dg.sum(dg.square(x)) / 2, _real("l2_loss", t))


def bias_add(
    value: Any, bias: Any, data_format: str | None = None, name: str | None = None
) -> Tensor:
    """Return a tensor with one number added to each channel.

    Parameters
    ----------
    value : Tensor, Variable or array
        Channels last, or second for a `data_format` such as "NCHW".
    bias : Tensor, Variable or array of one axis
        A number for each channel.
    data_format : str, optional
        Such as "NHWC", which is the default, or "NCHW".

    Raises
    ------
    InvalidArgumentError
        If the number of channels differs.
    """
    if data_format is not None and data_format[:2] not in ("NC", "N.") and data_format[0] != "N":
        raise ValueError(f"`data_format` must be of the form `N...C` or `NC...`, got {data_format}")
    x, b = together("BiasAdd", convert_to_tensor(value), bias)
    channel = 1 if data_format is not None and data_format.startswith("NC") else x.ndim - 1
    if b.ndim != 1 or x.shape[channel] != b.shape[0]:
        raise InvalidArgumentError(
            f"Must provide as many biases as the channel dimension of the input tensor: "
            f"{list(b.shape)} vs. {x.shape[channel]} in {list(x.shape)}"
        )
    return compute(lambda v, c: v + dg.reshape(c, (-1, *(1,) * (v.ndim - 1 - channel))), x, b)


def dropout(
    x: Any,
    rate: Any,
    noise_shape: Any = None,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return x with elements dropped at random, and the others scaled up to keep the mean.

    Parameters
    ----------
    x : Tensor, Variable or array
        Floating.
    rate : float in [0, 1)
        The share that is dropped.
    noise_shape : shape, optional
        The shape of the random choices, which broadcasts to that of `x`.
    seed : int, optional
        See `distgrad.compat.tensorflow.random`.

    Raises
    ------
    ValueError
        If `rate` is outside of [0, 1).
    """
    values = Tensor(floating("dropout", x))
    share = float(rate)
    if not 0 <= share < 1:
        raise ValueError(
            f"`rate` must be a scalar tensor or a float in the range [0, 1), got {rate}"
        )
    if share == 0:
        return values
    lengths = values.shape if noise_shape is None else dims(noise_shape)
    with home_of(values):
        generator = stream_of(seed)
    return compute(dg.nn.dropout, values, share, generator=generator, shape=lengths)


def embedding_lookup(
    params: Any, ids: Any, max_norm: float | None = None, name: str | None = None
) -> Tensor:
    """Return the rows of a table at positions; its gradient is an `IndexedSlices`, see `gather`.

    Parameters
    ----------
    params : Tensor, Variable, array, or list of such
        The table; in a list its parts, one after the other, of rows as many as can be, the first
        ones with one more.
    ids : Tensor or array of int
        Positions along the first axis, of any shape.
    max_norm : float, optional
        The largest Euclidean norm of what is picked; longer rows are scaled down.
    """
    picked = gather(_table(params), ids)
    if max_norm is not None:
        along = range(len(convert_to_tensor(ids).shape), len(picked.shape))
        picked = clip_by_norm(picked, max_norm, axes=list(along))
    return picked


def _table(params: Any) -> Any:
    """Return the table of which parts may be given.

    Raises
    ------
    ValueError
        If the list is empty.
    InvalidArgumentError
        If the parts are not as TensorFlow divides a table.
    """
    if not isinstance(params, (list, tuple)):
        return params
    if not params:
        raise ValueError("Need at least one param")
    if not all(hasattr(part, "dtype") for part in params):
        return params  # a table written out in numbers
    if len(params) == 1:
        return params[0]
    parts = [convert_to_tensor(part) for part in params]
    rows = [part.shape[0] for part in parts]
    if rows != sorted(rows, reverse=True) or rows[0] - rows[-1] > 1:
        raise InvalidArgumentError(
            f"embedding_lookup: the parts of params have {rows} rows; expected the same number, or "
            "one more for the first ones"
        )
    return concat(parts, axis=0)


def zero_fraction(value: Any, name: str | None = None) -> Tensor:
    """Return the share of elements that are 0, as float32; NaN of no elements."""

    def of(x: dg.Tensor) -> Any:
        zeros = dg.sum(dg.astype(dg.equal(x, 0), "float32"))
        return zeros / (prod(x.shape) or nan)

    return compute(of, convert_to_tensor(value))


__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_normalization",
    "bias_add",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "ctc_loss",
    "depthwise_conv2d",
    "dropout",
    "elu",
    "embedding_lookup",
    "gelu",
    "l2_loss",
    "l2_normalize",
    "leaky_relu",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "moments",
    "relu",
    "relu6",
    "selu",
    "separable_conv2d",
    "sigmoid",
    "sigmoid_cross_entropy_with_logits",
    "silu",
    "softmax",
    "softmax_cross_entropy_with_logits",
    "softplus",
    "softsign",
    "sparse_softmax_cross_entropy_with_logits",
    "swish",
    "tanh",
    "top_k",
    "weighted_cross_entropy_with_logits",
    "zero_fraction",
]
