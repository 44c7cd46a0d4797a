"""Families of operations: say what is particular to one, and its rules follow.

*Elementwise* operations need their partial derivatives, *linear* ones their transpose, *bilinear*
ones a transpose for each argument. Only what belongs to no family states its rules in full.

The cotangent of a complex value follows TensorFlow's and PyTorch's convention: for a real loss it
is the direction of steepest ascent, so a VJP multiplies by the *conjugate* of a partial derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from distgrad.core.op import Array, BatchRule, Keep, Kind, Namespace, Op, Spec, SpecRule
from distgrad.dtypes import DType, as_dtype, bool_, float64, is_differentiable, result_type
from distgrad.errors import DTypeError
from distgrad.shapes import Shape, broadcast, broadcast_axes

Partial: TypeAlias = Callable[..., Array]  # (xp, y, *inputs) -> derivative in one input
DTypeRule: TypeAlias = Callable[..., DType]

_SCALARS = (bool, int, float, complex)


# --- broadcasting -------------------------------------------------------------------------------


def sum_to(xp: Namespace, cotangent: Array, shape: Shape) -> Array:
    """Return a cotangent summed over the axes along which its primal was broadcast."""
    axes = broadcast_axes(shape, tuple(cotangent.shape))
    if axes:
        cotangent = xp.sum(cotangent, axis=axes, keepdims=True)
    return cotangent if cotangent.shape == shape else xp.reshape(cotangent, shape=shape)


def fit(xp: Namespace, cotangent: Array, primal: Any) -> Array:
    """Return a cotangent in the shape of its primal: an array, a `Spec`, or None for "the same"."""
    if primal is None or cotangent.shape == primal.shape:
        return cotangent
    return sum_to(xp, cotangent, tuple(primal.shape))


def conjugate(xp: Namespace, factor: Array) -> Array:
    """Return the conjugate of a factor that may be an array, a scalar or real."""
    if type(factor) in _SCALARS:
        return factor.conjugate()
    return xp.conj(factor) if factor.dtype in xp.complex_dtypes else factor


def real_cotangent(xp: Namespace, cotangent: Array) -> Array:
    """Return the cotangent of a real value, whose imaginary part, if any, means nothing.

    It has one where the real value met a complex one further on. Linear rules may pass it on, but
    one that goes from a real value back to a complex one has to leave it out.
    """
    return xp.real(cotangent) if cotangent.dtype in xp.complex_dtypes else cotangent


def scaled_keeping_zeros(xp: Namespace, g: Array, factor: Any) -> Array:
    """Return a cotangent times a partial derivative, 0 where the cotangent is 0.

    So it is where an element was masked behind this operation, by `where`: its own derivative may
    be infinite there. Rules take it in a walk that passed a `where` (``xp.keeps_zeros``).
    """
    return g * factor if type(factor) in _SCALARS else xp.multiply_no_nan(factor, g)


def brought_back(xp: Namespace, cotangent: Array, primal: Any) -> Array:
    """Return a cotangent as real where its primal is, and no wider where that is narrow.

    For operations that give complex numbers for real ones: the narrowest are those of two float32.
    """
    if primal.dtype in xp.complex_dtypes:
        return cotangent
    cotangent = real_cotangent(xp, cotangent)
    dtype = as_dtype(primal.dtype)
    return xp.astype(cotangent, dtype=dtype) if dtype.itemsize < 4 else cotangent


def shape_of(value: Any) -> Shape:
    """Return the shape of an array, a spec, a Python scalar or nested lists."""
    if type(value) in _SCALARS:
        return ()
    try:
        return tuple(value.shape)
    except AttributeError:
        if isinstance(value, (list, tuple)):  # a user's, which become an array at the seam
            return np.shape(value)
        raise DTypeError(
            f"a {type(value).__name__} has no shape; expected a number, an array, a Tensor, a "
            "Variable, or nested lists of numbers"
        ) from None


# --- dtype rules --------------------------------------------------------------------------------


def joint(*operands: Any) -> DType:
    """Return the dtype to which the operands promote."""
    return result_type(*(o if type(o) in _SCALARS else o.dtype for o in operands))


def floating(*operands: Any) -> DType:
    """Return the dtype to which the operands promote; NumPy's floating one for integers."""
    dtype = joint(*operands)
    return dtype if is_differentiable(dtype) else np.sqrt(np.zeros((), dtype)).dtype


def quotient(*operands: Any) -> DType:
    """Return the dtype to which the operands promote; float64 for integers of any width."""
    dtype = joint(*operands)
    return dtype if is_differentiable(dtype) else float64


def lifted(xp: Namespace, x: Array) -> Array:
    """Return integers in float64, as `quotient` says, and what is floating as it is."""
    return xp.astype(x, dtype=float64) if as_dtype(x.dtype).kind in "biu" else x


def boolean(*operands: Any) -> DType:
    """Return bool, whatever the operands."""
    return bool_


def real_part(operand: Any) -> DType:
    """Return the real dtype with the precision of the operand's."""
    return np.empty((), joint(operand)).real.dtype


def elementwise_spec(name: str, dtype: DTypeRule) -> SpecRule:
    """Return the spec rule of an operation whose operands broadcast."""

    def spec(*operands: Any, **params: Any) -> Spec:
        return Spec(broadcast(name, *(shape_of(o) for o in operands)), dtype(*operands))

    return spec


# --- elementwise --------------------------------------------------------------------------------


def unary(
    name: str,
    partial: Partial | None,
    *,
    keep: Keep = Keep.INPUTS,
    dtype: DTypeRule = joint,
    compose: Callable[..., Array] | None = None,
) -> Op:
    """Return an elementwise operation of one argument from its derivative.

    Parameters
    ----------
    name : str
        The operation's name.
    partial : callable or None
        ``partial(xp, y, x)``: the derivative at each element. With ``keep=Keep.OUTPUT`` the VJP
        passes None for ``x``, with ``Keep.INPUTS`` None for ``y``. None: not differentiable.
    keep : Keep
        What `partial` reads.
    dtype : callable
        The dtype of the output from the operand's spec.
    compose : callable, optional
        See `Op`.
    """
    if partial is None:
        return Op(name, Kind.ELEMENTWISE, elementwise_spec(name, dtype), compose=compose)
    derivative = partial

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array]:
        factor = derivative(xp, y, None if xs is None else xs[0])
        if g.dtype in xp.complex_dtypes:
            factor = conjugate(xp, factor)
        return (scaled_keeping_zeros(xp, g, factor) if xp.keeps_zeros else g * factor,)

    def jvp(
        xp: Namespace, tangents: Sequence[Array], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        return tangents[0] * derivative(xp, y, xs[0])

    spec = elementwise_spec(name, dtype)
    return Op(name, Kind.ELEMENTWISE, spec, vjp, jvp, keep, compose)


def binary(
    name: str,
    first: Partial | None,
    second: Partial | None,
    *,
    keep: Keep | tuple[tuple[int, ...], ...] = Keep.INPUTS,
    dtype: DTypeRule = joint,
    compose: Callable[..., Array] | None = None,
) -> Op:
    """Return an elementwise operation of two arguments from its partial derivatives.

    Parameters
    ----------
    name : str
        The operation's name.
    first, second : callable or None
        ``first(xp, y, a, b)``: the derivative in the first argument, likewise in the second.
        Both None: not differentiable.
    keep : Keep or tuple
        What the derivatives read.
    dtype : callable
        The dtype of the output from the operands' specs.
    compose : callable, optional
        See `Op`.
    """
    spec = elementwise_spec(name, dtype)
    if first is None or second is None:
        return Op(name, Kind.ELEMENTWISE, spec, compose=compose)
    in_first, in_second = first, second

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        a, b = xs
        to_a = to_b = None
        is_complex = g.dtype in xp.complex_dtypes
        if needs[0]:
            factor = in_first(xp, y, a, b)
            factor = conjugate(xp, factor) if is_complex else factor
            term = scaled_keeping_zeros(xp, g, factor) if xp.keeps_zeros else g * factor
            to_a = fit(xp, term, a)
        if needs[1]:
            factor = in_second(xp, y, a, b)
            factor = conjugate(xp, factor) if is_complex else factor
            term = scaled_keeping_zeros(xp, g, factor) if xp.keeps_zeros else g * factor
            to_b = fit(xp, term, b)
        return to_a, to_b

    def jvp(
        xp: Namespace,
        tangents: Sequence[Array | None],
        y: Array,
        xs: Any,
        params: dict[str, Any],
    ) -> Array:
        terms = [
            tangent * partial(xp, y, *xs)
            for tangent, partial in zip(tangents, (in_first, in_second), strict=True)
            if tangent is not None
        ]
        return expand_to(xp, sum_of(terms), y)

    return Op(name, Kind.ELEMENTWISE, spec, vjp, jvp, keep, compose)


def sum_of(terms: Sequence[Array]) -> Array:
    """Return the sum of one or more terms."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def expand_to(xp: Namespace, tangent: Array, y: Array) -> Array:
    """Return a tangent in the shape of the output to which its primal was broadcast."""
    if tangent.shape == y.shape:
        return tangent
    return xp.broadcast_to(tangent, shape=tuple(y.shape))


# --- linear -------------------------------------------------------------------------------------


def linear(
    name: str,
    transpose: Callable[..., Array],
    spec: SpecRule,
    *,
    kind: Kind = Kind.VIEW,
    keep: Keep = Keep.SHAPES,
    compose: Callable[..., Array] | None = None,
    batch: BatchRule | None = None,
) -> Op:
    """Return an operation that is linear in its one differentiable argument, the first.

    Parameters
    ----------
    name : str
        The operation's name.
    transpose : callable
        ``transpose(xp, g, shape, *rest, **params)``: the adjoint applied to a cotangent. ``shape``
        is the input's shape; under ``Keep.SPECS`` and ``Keep.REST`` it is the input's `Spec`, and
        under the latter ``rest`` are the other array arguments, such as indices.
    spec : callable
        See `Op`.
    kind : Kind
        See `Op`.
    keep : Keep
        ``SHAPES``, ``SPECS`` or ``REST``.
    compose, batch : callable, optional
        See `Op`.
    """

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        primal = g.shape if xs is None else xs[0]
        rest = () if xs is None else xs[1:]
        to_first = transpose(xp, g, primal, *rest, **params)
        return (to_first, *(None for _ in rest))

    def jvp(
        xp: Namespace,
        tangents: Sequence[Array | None],
        y: Array,
        xs: Any,
        params: dict[str, Any],
    ) -> Array:
        return getattr(xp, name)(tangents[0], *xs[1:], **params)

    return Op(name, kind, spec, vjp, jvp, keep, compose, batch)


def undifferentiable(
    name: str,
    spec: SpecRule,
    *,
    kind: Kind = Kind.OPAQUE,
    compose: Callable[..., Array] | None = None,
    batch: BatchRule | None = None,
    outputs: int | None = 1,
) -> Op:
    """Return an operation that has no derivative: the tape ends there."""
    return Op(name, kind, spec, compose=compose, batch=batch, outputs=outputs)
