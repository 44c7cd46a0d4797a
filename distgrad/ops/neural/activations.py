"""Smooth activation functions, with a derivative in one piece.

Each is two operations: the function, and ``<name>_vjp``, its cotangent from that of the output, as
one operation that a backend can compute in a single pass. Both follow from one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op
from distgrad.core.seam import apply
from distgrad.dtypes import DType
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import multiply, negative, operand, subtract
from distgrad.ops.elementwise.transcendental import tanh
from distgrad.ops.neural.softmax import sigmoid, softmax, softplus
from distgrad.ops.rules.families import (
    conjugate,
    elementwise_spec,
    expand_to,
    fit,
    lifted,
    quotient,
    sum_of,
)
from distgrad.ops.shaping.structure import reshape
from distgrad.shapes import normalize_axis

Part = Callable[..., Array]


def activation(
    name: str, value: Part, pull: Part, bend: Part | None = None, *, keep: Keep = Keep.INPUTS
) -> tuple[Op, Op]:
    """Return an activation function and the operation that pulls cotangents back through it.

    Parameters
    ----------
    name : str
        The operation's name; the second one's is ``<name>_vjp``.
    value : callable
        ``value(xp, x, **params)``: the function, of floating x; if it takes complex numbers, it is
        analytic, and real for real ones.
    pull : callable
        ``pull(xp, g, kept, **params)``: g times the slope, computed from x, or with ``Keep.OUTPUT``
        from the function's value.
    bend : callable, optional
        ``bend(xp, kept, **params)``: the derivative of the slope in what is kept; None: it is zero
        but at the kinks.
    keep : Keep
        ``INPUTS`` or ``OUTPUT``.
    """
    pulling = f"{name}_vjp"
    of_output = keep is Keep.OUTPUT

    def compose(xp: Namespace, x: Array, **params: Any) -> Array:
        return value(xp, lifted(xp, x), **params)

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array]:
        # The conjugate of the slope is the slope at the conjugate.
        return (getattr(xp, pulling)(g, conjugate(xp, y if of_output else xs[0]), **params),)

    def jvp(
        xp: Namespace, tangents: Sequence[Array], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        return getattr(xp, pulling)(tangents[0], y if of_output else xs[0], **params)

    def pull_compose(xp: Namespace, g: Array, kept: Array, **params: Any) -> Array:
        return pull(xp, lifted(xp, g), lifted(xp, kept), **params)

    def pull_vjp(
        xp: Namespace, a: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        g, kept = xs[0], conjugate(xp, xs[1])
        to_g = to_kept = None
        if needs[0]:
            to_g = fit(xp, getattr(xp, pulling)(a, kept, **params), g)
        if needs[1] and bend is not None:
            to_kept = fit(xp, a * conjugate(xp, g) * bend(xp, kept, **params), kept)
        elif needs[1]:
            to_kept = xp.zeros_like(kept)
        return to_g, to_kept

    def pull_jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        g, kept = xs
        terms = []
        if tangents[0] is not None:
            terms.append(getattr(xp, pulling)(tangents[0], kept, **params))
        if tangents[1] is not None and bend is not None:
            terms.append(g * tangents[1] * bend(xp, kept, **params))
        return expand_to(xp, sum_of(terms), y) if terms else xp.zeros_like(y)

    spec = elementwise_spec(name, quotient)
    # Without curvature the slope is a choice, and no factor.
    pull_spec = elementwise_spec(pulling, quotient if bend is not None else _of_first)
    elementwise = Kind.ELEMENTWISE
    return (
        Op(name, elementwise, spec, vjp, jvp, keep, compose),
        Op(pulling, elementwise, pull_spec, pull_vjp, pull_jvp, _PULLED, pull_compose),
    )


_PULLED = ((1,), (0, 1))  # a pullback is linear in the cotangent, whose own reads no values of it


def _of_first(g: Any, kept: Any) -> DType:
    return quotient(g)


# --- GELU -----------------------------------------------------------------------------------------

_ROOT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)  # of the normal distribution at 0
# Hendrycks and Gimpel, arXiv:1606.08415, section 2.
TANH_LINEAR, TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


def _density(xp: Namespace, x: Array) -> Array:
    return _DENSITY * xp.exp(-0.5 * x * x)


def _cumulated(xp: Namespace, x: Array) -> Array:
    return 0.5 + 0.5 * xp.erf(x * _ROOT_HALF)


def _gelu(xp: Namespace, x: Array) -> Array:
    return x * _cumulated(xp, x)


def _gelu_pull(xp: Namespace, g: Array, x: Array) -> Array:
    return g * (_cumulated(xp, x) + x * _density(xp, x))


def _gelu_bend(xp: Namespace, x: Array) -> Array:
    return (2 - x * x) * _density(xp, x)


GELU, GELU_VJP = activation("gelu", _gelu, _gelu_pull, _gelu_bend)


def _inner(xp: Namespace, x: Array) -> Array:
    return xp.tanh(x * (TANH_LINEAR + (TANH_LINEAR * TANH_CUBIC) * (x * x)))


def _gelu_tanh(xp: Namespace, x: Array) -> Array:
    return 0.5 * x * (1 + _inner(xp, x))


def _gelu_tanh_pull(xp: Namespace, g: Array, x: Array) -> Array:
    t = _inner(xp, x)
    rate = TANH_LINEAR + (3 * TANH_LINEAR * TANH_CUBIC) * (x * x)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * rate)


def _gelu_tanh_bend(xp: Namespace, x: Array) -> Array:
    t = _inner(xp, x)
    rate = TANH_LINEAR + (3 * TANH_LINEAR * TANH_CUBIC) * (x * x)
    curve = (6 * TANH_LINEAR * TANH_CUBIC) * x
    return (1 - t * t) * (rate + 0.5 * x * (curve - 2 * t * rate * rate))


GELU_TANH, GELU_TANH_VJP = activation("gelu_tanh", _gelu_tanh, _gelu_tanh_pull, _gelu_tanh_bend)


def gelu(x: Any, /, *, approximate: bool = False) -> Any:
    """Return x times the probability that a standard normal number is below x.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    approximate : bool
        Whether to take the authors' approximation by a tanh, off by less than 5e-4.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian error linear units", arXiv:1606.08415.
    """
    return apply(GELU_TANH if approximate else GELU, x)


# --- other smooth ones ----------------------------------------------------------------------------


def _silu(xp: Namespace, x: Array) -> Array:
    return x * xp.sigmoid(x)


def _silu_pull(xp: Namespace, g: Array, x: Array) -> Array:
    s = xp.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def _silu_bend(xp: Namespace, x: Array) -> Array:
    s = xp.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


SILU, SILU_VJP = activation("silu", _silu, _silu_pull, _silu_bend)


def silu(x: Any, /) -> Any:
    """Return x sigmoid(x), element by element; `swish` is another name of it."""
    return apply(SILU, x)


swish = silu


def _mish(xp: Namespace, x: Array) -> Array:
    return x * xp.tanh(xp.softplus(x))


def _mish_pull(xp: Namespace, g: Array, x: Array) -> Array:
    t = xp.tanh(xp.softplus(x))
    return g * (t + x * xp.sigmoid(x) * (1 - t * t))


def _mish_bend(xp: Namespace, x: Array) -> Array:
    t, s = xp.tanh(xp.softplus(x)), xp.sigmoid(x)
    return s * (1 - t * t) * (2 + x * (1 - s - 2 * s * t))


MISH, MISH_VJP = activation("mish", _mish, _mish_pull, _mish_bend)


def mish(x: Any, /) -> Any:
    """Return x tanh(softplus(x)), element by element (Misra, arXiv:1908.08681)."""
    return apply(MISH, x)


def _softsign(xp: Namespace, x: Array) -> Array:
    return x / (1 + xp.abs(x))


def _softsign_pull(xp: Namespace, g: Array, x: Array) -> Array:
    below = 1 + xp.abs(x)
    return g / (below * below)


def _softsign_bend(xp: Namespace, x: Array) -> Array:
    below = 1 + xp.abs(x)
    return -2 * xp.sign(x) / (below * below * below)


SOFTSIGN, SOFTSIGN_VJP = activation("softsign", _softsign, _softsign_pull, _softsign_bend)


def softsign(x: Any, /) -> Any:
    """Return ``x / (1 + |x|)``, element by element; its second derivative at 0 is 0."""
    return apply(SOFTSIGN, x)


def _elu(xp: Namespace, x: Array, *, alpha: float, scale: float) -> Array:
    y = xp.where(x < 0, alpha * xp.expm1(xp.minimum(x, 0)), x)
    return y if scale == 1 else scale * y


def _elu_pull(xp: Namespace, g: Array, y: Array, *, alpha: float, scale: float) -> Array:
    return g * xp.where(y < 0, y + scale * alpha, scale)


def _elu_bend(xp: Namespace, y: Array, *, alpha: float, scale: float) -> Array:
    return xp.astype(y < 0, dtype=y.dtype)


ELU, ELU_VJP = activation("elu", _elu, _elu_pull, _elu_bend, keep=Keep.OUTPUT)

# Klambauer et al., "Self-normalizing neural networks", arXiv:1706.02515, section 2.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def elu(x: Any, /, *, alpha: float = 1.0) -> Any:
    """Return x where it is 0 or more, alpha (exp(x) - 1) elsewhere; the derivative at 0 is 1.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    alpha : float > 0
        Minus the value towards which it falls.

    Raises
    ------
    ValueError
        If `alpha` is not positive.
    """
    return apply(ELU, x, alpha=_positive("elu", "alpha", alpha), scale=1.0)


def selu(x: Any, /) -> Any:
    """Return 1.0507 elu(x, alpha=1.6733): normalises itself; the derivative at 0 is 1.0507.

    References
    ----------
    Klambauer et al., "Self-normalizing neural networks", arXiv:1706.02515.
    """
    return apply(ELU, x, alpha=SELU_ALPHA, scale=SELU_SCALE)


def _celu(xp: Namespace, x: Array, *, alpha: float) -> Array:
    return xp.where(x < 0, alpha * xp.expm1(xp.minimum(x, 0) / alpha), x)


def _celu_pull(xp: Namespace, g: Array, y: Array, *, alpha: float) -> Array:
    return g * (xp.minimum(y, 0) / alpha + 1)


def _celu_bend(xp: Namespace, y: Array, *, alpha: float) -> Array:
    return xp.astype(y < 0, dtype=y.dtype) / alpha


CELU, CELU_VJP = activation("celu", _celu, _celu_pull, _celu_bend, keep=Keep.OUTPUT)


def celu(x: Any, /, *, alpha: float = 1.0) -> Any:
    """Return max(x, 0) + min(alpha (exp(x / alpha) - 1), 0), element by element.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real.
    alpha : float > 0
        Minus the value towards which it falls; the derivative is continuous, 1 at 0.

    References
    ----------
    Barron, "Continuously differentiable exponential linear units", arXiv:1704.07483.
    """
    return apply(CELU, x, alpha=_positive("celu", "alpha", alpha))


# --- made of others -------------------------------------------------------------------------------


def log_sigmoid(x: Any, /) -> Any:
    """Return log(sigmoid(x)) = -softplus(-x), element by element, without overflow."""
    return negative(softplus(negative(x)))


def tanh_shrink(x: Any, /) -> Any:
    """Return x - tanh(x), element by element."""
    return subtract(x, tanh(x))


def softmin(x: Any, /, *, axis: int = -1) -> Any:
    """Return softmax(-x) along an axis."""
    return softmax(negative(x), axis=axis)


def glu(x: Any, /, *, axis: int = -1) -> Any:
    """Return the first half of x along an axis, times the sigmoid of the second.

    Raises
    ------
    ShapeError
        If the axis has an odd length.

    References
    ----------
    Dauphin et al., "Language modeling with gated convolutional networks", arXiv:1612.08083.
    """
    x = operand(x)
    shape = tuple(x.shape)
    place = normalize_axis("glu", axis, len(shape))
    if shape[place] % 2:
        raise ShapeError(f"glu: axis {axis} of shape {shape} is odd; expected two equal halves")
    halves = reshape(x, (*shape[:place], 2, shape[place] // 2, *shape[place + 1 :]))
    front = (slice(None),) * place
    return multiply(halves[(*front, 0)], sigmoid(halves[(*front, 1)]))


def _positive(function: str, name: str, value: float) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number > 0:
        raise ValueError(f"{function}: {name} is {value!r}; expected a number above 0")
    return number


OPS = (
    *(GELU, GELU_VJP, GELU_TANH, GELU_TANH_VJP, SILU, SILU_VJP, MISH, MISH_VJP),
    *(SOFTSIGN, SOFTSIGN_VJP, ELU, ELU_VJP, CELU, CELU_VJP),
)
