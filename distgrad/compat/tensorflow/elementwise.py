"""Element by element: TensorFlow's names and signatures for arithmetic and functions of numbers."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import (
    at_home,
    converted,
    dtype_of,
    floating,
    of_kinds,
    operands,
    quotients,
    refuse_zero_divisor,
    together,
)
from distgrad.compat.tensorflow.dtypes import as_dtype, spoken
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.dtypes import complex_of, is_complex

_Unary = Callable[..., Tensor]

_NUMBERS, _ORDERED, _REAL, _TRUTH = "iufc", "iuf", "f", "b"  # kinds of dtypes, NumPy's letters


def _any(function: Callable[..., Any], kinds: str = _NUMBERS) -> _Unary:
    """Return a function of one tensor, whose dtype is of kinds that go by NumPy's letters."""

    def unary(x: Any, name: str | None = None) -> Tensor:
        return compute(function, of_kinds(function.__name__, kinds, converted(x)))

    return _named(unary, function)


def _of_input(function: Callable[..., Any]) -> _Unary:
    """Return a function of one tensor of any dtype, the argument that TensorFlow calls `input`."""

    def unary(input: Any, name: str | None = None) -> Tensor:
        return compute(function, converted(input))

    return _named(unary, function)


def _floating(function: Callable[..., Any]) -> _Unary:
    """Return a function of one tensor of floating or complex numbers."""
    return _any(function, "fc")


def _of_two(
    function: Callable[..., Any], kinds: str = _NUMBERS, *, divides: bool = False
) -> Callable[..., Tensor]:
    """Return a function of two tensors of one dtype, which is of one of the kinds."""

    def binary(x: Any, y: Any, name: str | None = None) -> Tensor:
        both = operands(function.__name__, x, y)
        leading = of_kinds(function.__name__, kinds, _leading(both))
        if divides:
            refuse_zero_divisor(function.__name__, both[1], leading.dtype)
        return compute(function, *both)

    return _named(binary, function)


def _leading(both: list[Any]) -> dg.Tensor:
    """Return the first operand that is a tensor: it has the dtype of both."""
    return next(each for each in both if isinstance(each, dg.Tensor))


def _named(wrapper: Callable[..., Tensor], function: Callable[..., Any]) -> Callable[..., Tensor]:
    wrapper.__name__ = wrapper.__qualname__ = function.__name__
    wrapper.__doc__ = (function.__doc__ or "").splitlines()[0]
    return wrapper


# --- functions of one tensor --------------------------------------------------------------------

abs = _any(dg.abs)
negative = _any(dg.negative)
sign = _any(dg.sign)
square = _any(dg.square)
identity = _of_input(dg.positive)
conj = _any(dg.conj)
real = _of_input(dg.real)
imag = _of_input(dg.imag)
floor, ceil, round = _any(dg.floor, _REAL), _any(dg.ceil, _REAL), _any(dg.round)
logical_not = _any(dg.logical_not, _TRUTH)
is_nan, is_inf, is_finite = (_any(of, _REAL) for of in (dg.isnan, dg.isinf, dg.isfinite))

exp, expm1, log, log1p, sqrt = map(_floating, (dg.exp, dg.expm1, dg.log, dg.log1p, dg.sqrt))
sin, cos, tan = map(_floating, (dg.sin, dg.cos, dg.tan))
asin, acos, atan = map(_floating, (dg.asin, dg.acos, dg.atan))
sinh, cosh, tanh = map(_floating, (dg.sinh, dg.cosh, dg.tanh))
asinh, acosh, atanh = map(_floating, (dg.asinh, dg.acosh, dg.atanh))
sigmoid = _floating(dg.sigmoid)
erf, erfc = _any(dg.erf, _REAL), _any(dg.erfc, _REAL)


def rsqrt(x: Any, name: str | None = None) -> Tensor:
    """Return 1 / sqrt(x)."""
    return compute(lambda a: 1 / dg.sqrt(a), floating("rsqrt", x))


def reciprocal(x: Any, name: str | None = None) -> Tensor:
    """Return 1 / x."""
    return compute(lambda a: 1 / a, floating("reciprocal", x))


def softplus(features: Any, name: str | None = None) -> Tensor:
    """Return log(1 + exp(features))."""
    return compute(dg.softplus, of_kinds("softplus", _REAL, converted(features)))


def log_sigmoid(x: Any, name: str | None = None) -> Tensor:
    """Return log(sigmoid(x)), precise where the sigmoid itself would underflow."""
    return compute(lambda a: -dg.softplus(-a), of_kinds("log_sigmoid", _REAL, converted(x)))


def angle(input: Any, name: str | None = None) -> Tensor:
    """Return the angle in radians of complex numbers; of real ones 0 or pi."""

    def of(a: dg.Tensor) -> Any:
        if is_complex(a.dtype):
            return dg.atan2(dg.imag(a), dg.real(a))
        return dg.astype(a < 0, a.dtype) * pi

    return compute(of, floating("angle", input))


# --- functions of two tensors -------------------------------------------------------------------

add = _of_two(dg.add)
subtract = _of_two(dg.subtract)
multiply = _of_two(dg.multiply)
pow = _of_two(dg.pow)
maximum, minimum = _of_two(dg.maximum, _ORDERED), _of_two(dg.minimum, _ORDERED)
floormod = mod = _of_two(dg.remainder, _ORDERED, divides=True)
floordiv = _of_two(dg.floor_divide, _ORDERED, divides=True)
equal, not_equal = (_of_two(of, _NUMBERS + _TRUTH) for of in (dg.equal, dg.not_equal))
less, less_equal = _of_two(dg.less, _ORDERED), _of_two(dg.less_equal, _ORDERED)
greater, greater_equal = _of_two(dg.greater, _ORDERED), _of_two(dg.greater_equal, _ORDERED)
logical_and, logical_or = _of_two(dg.logical_and, _TRUTH), _of_two(dg.logical_or, _TRUTH)
logical_xor = _of_two(dg.logical_xor, _TRUTH)


def atan2(y: Any, x: Any, name: str | None = None) -> Tensor:
    """Return the angle of the point (x, y) in radians: its first argument is the ordinate."""
    both = operands("atan2", y, x)
    of_kinds("atan2", _REAL, _leading(both))
    return compute(dg.atan2, *both)


def divide(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x / y; integers are divided as floating numbers."""
    return compute(dg.divide, *quotients(*operands("divide", x, y)))


truediv = divide


def squared_difference(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return (x - y)**2, or ``|x - y|**2`` for complex numbers."""

    def of(a: Any, b: Any) -> Any:
        difference = dg.subtract(a, b)
        if is_complex(difference.dtype):
            return dg.multiply(dg.conj(difference), difference)
        return dg.square(difference)

    both = operands("squared_difference", x, y)
    of_kinds("squared_difference", _NUMBERS, _leading(both))
    return compute(of, *both)


def divide_no_nan(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x / y, and 0 where y is 0; the derivatives are 0 there too."""

    def of(a: Any, b: Any) -> Any:
        zero = dg.equal(b, 0)
        return dg.where(zero, 0, dg.divide(a, dg.where(zero, 1, b)))

    return compute(of, *quotients(*_tensors("divide", x, y)))


def multiply_no_nan(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x * y, and 0 where y is 0 even if x is infinite or NaN."""
    both = _tensors("multiply_no_nan", x, y)
    of_kinds("multiply_no_nan", "fc", both[0])
    return compute(dg.multiply_no_nan, *both)


def xlogy(x: Any, y: Any, name: str | None = None) -> Tensor:
    """Return x log(y), and 0 where x is 0; the derivatives are 0 there too."""

    def of(a: Any, b: Any) -> Any:
        return dg.multiply(a, dg.log(dg.where(dg.equal(a, 0), 1, b)))

    both = _tensors("xlogy", x, y)
    of_kinds("xlogy", "fc", both[0])
    return compute(of, *both)


def _tensors(name: str, x: Any, y: Any) -> list[Any]:
    """Return operands of one floating dtype, both of them tensors."""
    return together(name, x, y)


def scalar_mul(scalar: Any, x: Any, name: str | None = None) -> Tensor:
    """Return a number times a tensor."""
    return multiply(scalar, x)


def add_n(inputs: Any, name: str | None = None) -> Tensor:
    """Return the sum of tensors of one shape and dtype.

    Raises
    ------
    ValueError
        If there is none.
    InvalidArgumentError
        If they differ in shape or dtype.
    """
    given = list(inputs)
    if not given:
        raise ValueError("Inputs must be a list or tuple of tensors; got none")
    first, *rest = together("AddN", *(convert_to_tensor(each) for each in given))
    total = dg.positive(first)
    for each in rest:
        if each.shape != first.shape:
            raise InvalidArgumentError(
                f"Inputs to operation AddN must have the same size and shape. Input 0: "
                f"{list(first.shape)} != input: {list(each.shape)}"
            )
        total = dg.add(total, each)
    return Tensor(total)


# --- dtypes -------------------------------------------------------------------------------------


def cast(x: Any, dtype: Any, name: str | None = None) -> Tensor:
    """Return values in another dtype; the gradient comes back in their own, and integers end it.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; a tensor that is of the dtype already is returned itself.
    dtype : dtype
        The dtype wanted; of complex numbers in a real one, the real part.
    """
    wanted = as_dtype(dtype)
    tensor = convert_to_tensor(x)
    if tensor.dtype == wanted:
        return tensor
    value = tensor.read()
    if tensor.dtype.is_complex and not wanted.is_complex:
        value = dg.real(value)
    return compute(dg.astype, value, wanted.dtype)


@at_home
def complex(real: Any, imag: Any, name: str | None = None) -> Tensor:
    """Return complex numbers from their parts.

    Raises
    ------
    TypeError
        If the parts are not both float32 or both float64.
    """
    a, b = convert_to_tensor(real), convert_to_tensor(imag)
    if a.dtype != b.dtype or dtype_of(a) not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(
            f"The `real` and `imag` components have incorrect types: {a.dtype.name} "
            f"{b.dtype.name}. They must be consistent, and one of [tf.float32, tf.float64]"
        )
    wide = complex_of(dtype_of(a))
    return compute(lambda x, y: dg.astype(x, wide) + 1j * dg.astype(y, wide), a, b)


def require_numbers(name: str, x: Any) -> dg.Tensor:
    """Return an operand that holds numbers, and no truth values.

    Raises
    ------
    InvalidArgumentError
        If it holds truth values.
    """
    tensor = converted(x)
    if tensor.dtype.kind == "b":
        raise InvalidArgumentError(
            f"{name}: Value for attr 'T' of {spoken(tensor.dtype)} is not in the list of "
            "allowed values: numbers; use tf.cast(x, tf.int32)"
        )
    return tensor
