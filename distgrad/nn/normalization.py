"""Normalisations of activations: over features, groups of channels, examples of a batch."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from distgrad.core.seam import apply, operands
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add, divide, maximum, multiply, square
from distgrad.ops.elementwise.complex_numbers import conj, real
from distgrad.ops.elementwise.transcendental import sqrt
from distgrad.ops.neural.batch_normalization import normalize_by_own_moments
from distgrad.ops.neural.normalization import moments, normalize
from distgrad.ops.neural.row_normalization import LAYER_NORM, RMS_NORM
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules.families import shape_of
from distgrad.ops.shaping.structure import permute_dims, reshape
from distgrad.shapes import Axis, Shape, normalize_axes, normalize_axis


def layer_norm(
    x: Any,
    scale: Any = None,
    shift: Any = None,
    *,
    axis: int | tuple[int, ...] = -1,
    epsilon: float = 1e-5,
) -> Any:
    """Return x with mean 0 and variance 1 over the features of each example.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    scale, shift : Tensor, Variable or array, optional
        Of the shape of the normalised axes: a factor and a term for each feature.
    axis : int or tuple of int
        The axes of the features.
    epsilon : float
        Added to the variance, in its unit.

    Notes
    -----
    ``scale (x - mean(x)) / sqrt(var(x) + epsilon) + shift``. A tape keeps x and scale.

    References
    ----------
    Ba, Kiros and Hinton, "Layer normalization", arXiv:1607.06450.
    """
    return _over_rows("layer_norm", LAYER_NORM, x, scale, shift, axis, epsilon)


def rms_norm(
    x: Any, scale: Any = None, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-6
) -> Any:
    """Return x divided by the root of its mean square over the features of each example.

    Parameters
    ----------
    x, scale, axis
        As for `layer_norm`.
    epsilon : float
        Added to the mean square, in its unit.

    References
    ----------
    Zhang and Sennrich, "Root mean square layer normalization", arXiv:1910.07467.
    """
    return _over_rows("rms_norm", RMS_NORM, x, scale, None, axis, epsilon)


def _over_rows(
    name: str, op: Any, x: Any, scale: Any, shift: Any, axis: Any, epsilon: float
) -> Any:
    """Return a norm over any axes, as one over the last."""
    x, scale, shift = operands(x, scale, shift)
    shape = shape_of(x)
    axes = normalize_axes(name, axis, len(shape))
    features = tuple(shape[a] for a in axes)
    for each, what in ((scale, "scale"), (shift, "shift")):
        if each is not None and shape_of(each) != features:
            raise ShapeError(
                f"{name}: {what} has shape {shape_of(each)}; expected {features}, the lengths of "
                f"the axes {axes} of x, whose shape is {shape}"
            )
    lead = tuple(a for a in range(len(shape)) if a not in axes)
    order = (*lead, *axes)
    is_last = axes == (len(shape) - 1,)
    rows = x if order == tuple(range(len(shape))) else permute_dims(x, order)
    if not is_last:
        rows = reshape(rows, (*(shape[a] for a in lead), prod(features)))
    affine = [each if is_last or each is None else reshape(each, (-1,)) for each in (scale, shift)]
    if affine[0] is None:
        y = apply(op, rows, epsilon=float(epsilon))
        y = y if affine[1] is None else add(y, affine[1])
    else:
        y = apply(op, rows, *(each for each in affine if each is not None), epsilon=float(epsilon))
    if is_last:
        return y
    y = reshape(y, tuple(shape[a] for a in order))
    if order == tuple(range(len(shape))):
        return y
    return permute_dims(y, tuple(order.index(a) for a in range(len(shape))))


def group_norm(
    x: Any,
    groups: int,
    scale: Any = None,
    shift: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Any:
    """Return x with mean 0 and variance 1 over each group of channels of each example.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real; examples along the first axis.
    groups : int
        How many groups of equal size the channels form.
    scale, shift : Tensor, Variable or array of one axis, optional
        A factor and a term for each channel.
    axis : int
        The axis of the channels: the last for NHWC, 1 for NCHW.
    epsilon : float
        Added to the variance.

    Raises
    ------
    ShapeError
        If the channels do not form so many equal groups.

    References
    ----------
    Wu and He, "Group normalization", arXiv:1803.08494.
    """
    x, scale, shift = operands(x, scale, shift)
    shape = shape_of(x)
    place = normalize_axis("group_norm", axis, len(shape))
    channels = shape[place]
    if place == 0 or groups < 1 or channels % groups:
        raise ShapeError(
            f"group_norm: {channels} channels on axis {place} of shape {shape} are to form "
            f"{groups} groups; expected a divisor, and examples along the first axis"
        )
    split = (*shape[:place], groups, channels // groups, *shape[place + 1 :])
    parts = reshape(x, split)
    axes = tuple(a for a in range(1, len(split)) if a != place)
    mean, variance = moments(parts, axis=axes, keepdims=True)
    inner = (1,) * (len(split) - 2 - place)
    across = (groups, channels // groups, *inner)
    affine = [_in_shape("group_norm", each, channels, across) for each in (scale, shift)]
    return reshape(normalize(parts, mean, variance, *affine, epsilon=epsilon), shape)


def instance_norm(
    x: Any, scale: Any = None, shift: Any = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Any:
    """Return x with mean 0 and variance 1 over each channel of each example.

    Parameters
    ----------
    x, scale, shift, axis, epsilon
        As for `group_norm`, whose groups are single channels here.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance normalization", arXiv:1607.08022.
    """
    x, scale, shift = operands(x, scale, shift)
    shape = shape_of(x)
    place = normalize_axis("instance_norm", axis, len(shape))
    if place == 0:
        raise ShapeError(
            f"instance_norm: the channels of shape {shape} are on its first axis; expected "
            "examples there"
        )
    axes = tuple(a for a in range(1, len(shape)) if a != place)
    mean, variance = moments(x, axis=axes, keepdims=True)
    channels = (shape[place], *(1,) * (len(shape) - 1 - place))
    affine = [_in_shape("instance_norm", s, shape[place], channels) for s in (scale, shift)]
    return normalize(x, mean, variance, *affine, epsilon=epsilon)


class BatchMoments(NamedTuple):
    """What `batch_norm` gives while training.

    Attributes
    ----------
    output : Tensor
        The normalised values.
    mean, variance : Tensor
        Of this batch, a number for each channel; the variance is the population's. Running averages
        are made of them, where the unbiased variance is ``variance * n / (n - 1)``.
    """

    output: Any
    mean: Any
    variance: Any


def batch_norm(
    x: Any,
    scale: Any = None,
    shift: Any = None,
    *,
    mean: Any = None,
    variance: Any = None,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Any:
    """Return x with each channel normalised over the examples of a batch, or by given moments.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    scale, shift : Tensor, Variable or array of one axis, optional
        A factor and a term for each channel.
    mean, variance : Tensor, Variable or array of one axis, optional
        The moments of each channel, to normalise by: those that were averaged while training, for
        inference, or those of all ranks. By default those of x itself, through which gradients
        flow.
    axis : int
        The axis of the channels: the last for NHWC, 1 for NCHW.
    epsilon : float
        Added to the variance.

    Returns
    -------
    Tensor
        The normalised values, where moments are given.
    BatchMoments
        Output, mean and variance, where they are those of x.

    Notes
    -----
    By moments of x this is one operation, of which a tape keeps x, scale, mean and variance.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", arXiv:1502.03167.
    """
    x, scale, shift, mean, variance = operands(x, scale, shift, mean, variance)
    shape = shape_of(x)
    place = normalize_axis("batch_norm", axis, len(shape))
    channels = shape[place]
    along = (1,) * place + (channels,) + (1,) * (len(shape) - 1 - place)
    affine = [_in_shape("batch_norm", each, channels, along) for each in (scale, shift)]
    if (mean is None) != (variance is None):
        raise ValueError(
            "batch_norm: only one of mean and variance is given; expected both, or neither to "
            "normalise by the moments of x"
        )
    if mean is not None:
        given = [_in_shape("batch_norm", each, channels, along) for each in (mean, variance)]
        return normalize(x, *given, *affine, epsilon=epsilon)
    axes = tuple(a for a in range(len(shape)) if a != place)
    y, centre, spread = normalize_by_own_moments(x, *affine, axis=axes, epsilon=epsilon)
    return BatchMoments(y, reshape(centre, (channels,)), reshape(spread, (channels,)))


def _in_shape(name: str, each: Any, channels: int, shape: Shape) -> Any:
    if each is None:
        return None
    if shape_of(each) != (channels,):
        raise ShapeError(
            f"{name}: a number for each of {channels} channels is expected, got shape "
            f"{shape_of(each)}; is axis= that of the channels?"
        )
    return reshape(each, shape)


def l2_normalize(x: Any, /, *, axis: Axis = -1, epsilon: float = 1e-12) -> Any:
    """Return x divided by its Euclidean norm over axes.

    Parameters
    ----------
    x : Tensor, Variable or array
        Floating.
    axis : int or tuple of int, optional
        The axes; all of them for None.
    epsilon : float
        What the squared norm is at least: below, x is divided by the root of this, and no gradient
        flows through the norm.
    """
    squares = real(multiply(x, conj(x))) if _is_complex(x) else square(x)
    return divide(x, sqrt(maximum(sum_over(squares, axis=axis, keepdims=True), epsilon)))


def _is_complex(x: Any) -> bool:
    return getattr(getattr(x, "dtype", None), "kind", "") == "c"
