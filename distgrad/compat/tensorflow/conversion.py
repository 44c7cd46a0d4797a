"""How values and arguments enter: TensorFlow's dtype rules, and the forms that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.dtypes import DType, as_dtype, spoken
from distgrad.compat.tensorflow.errors import (
    InvalidArgumentError,
    MixedDtypesError,
    UnfitNumberError,
)
from distgrad.core import seam
from distgrad.dtypes import as_dtype as native_dtype
from distgrad.dtypes import is_differentiable, is_real_floating
from distgrad.entering import holds_tensors
from distgrad.tensor import Operators

P = ParamSpec("P")
R = TypeVar("R")

_INTEGER_DTYPES = (np.dtype("int32"), np.dtype("int64"))
_KIND_ORDER = "biufc"  # a Python number fits a tensor of its own kind or of a later one


def native(value: Any) -> Any:
    """Return what the library computes with: the tensor inside; anything else as it is."""
    if isinstance(value, Operators):
        return value.read()
    return value


@contextmanager
def home_of(value: Any) -> Iterator[None]:
    """Make new arrays beside a tensor within a ``with`` block.

    Those for a tensor of a transformation are made below it, from where they are lifted.
    """
    if value.kernels.level:
        yield
    else:
        with dg.use_backend(value.backend):
            yield


def at_home(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that makes new arrays beside the first tensor among its arguments.

    For functions that convert one argument before they have seen the others: a list that stands
    before a tensor would go to the backend in force.
    """

    @wraps(function)
    def placed(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Operators):
                with home_of(value):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return placed


# --- dtypes -------------------------------------------------------------------------------------


def dtype_of(value: Any) -> np.dtype[Any]:
    """Return the dtype of a tensor, a variable or an array, as NumPy's."""
    holder = getattr(value, "_value", value)  # of a handle, or of a variable without a read
    return native_dtype(getattr(holder, "array", holder).dtype)


def operands(name: str, *values: Any) -> list[Any]:
    """Return operands of one dtype, ready for the library: nothing is promoted, only converted.

    Parameters
    ----------
    name : str
        The operation, for messages.
    *values : Tensor, Variable, array, scalar or nested lists
        The first tensor decides the dtype; where there is none, the first value. Tensors of another
        dtype are refused; arrays are brought to it, numbers and lists if they fit.

    Raises
    ------
    InvalidArgumentError
        If tensors differ in dtype, or a number does not fit; a `TypeError` too in the latter case.
    """
    leader = next((i for i, value in enumerate(values) if isinstance(value, Operators)), None)
    if leader is None and any(map(holds_tensors, values)):
        return operands(name, *(converted(v) if holds_tensors(v) else v for v in values))
    if leader is None:
        first = converted(values[0])
        dtype = dtype_of(first)
        rest = [_brought(name, i + 1, v, dtype) for i, v in enumerate(values[1:])]
        return [first, *rest]
    dtype = dtype_of(values[leader])
    if all(isinstance(value, (Operators, float)) for value in values):
        return [_brought(name, i, value, dtype) for i, value in enumerate(values)]
    with home_of(values[leader]):  # where arrays, lists and numbers go
        return [_brought(name, i, value, dtype) for i, value in enumerate(values)]


def together(name: str, *values: Any) -> list[dg.Tensor]:
    """Return operands of one dtype, numbers among them as tensors on the backend of the others."""
    return list(seam.operands(*operands(name, *values)))


def _brought(name: str, position: int, value: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(value, Operators):
        given = dtype_of(value)
        if given == dtype:
            return value.read()
    elif type(value) in (float, int) and is_differentiable(dtype):
        return value  # the kernels convert it
    elif isinstance(value, (np.ndarray, np.generic)):
        return dg.asarray(value.astype(dtype))
    else:
        found = converted(value)
        given = dtype_of(found)
        python = isinstance(value, (bool, int, float, complex, list, tuple, range))
        if given == dtype or _rank(given) <= _rank(dtype):
            # Python's numbers at once: by way of float32 they would lose half of their digits.
            return converted(value, dtype) if python else dg.astype(found, dtype)
        if python:
            raise UnfitNumberError(
                f"Cannot convert {value!r} to EagerTensor of dtype {spoken(dtype)}: cannot compute "
                f"{_SPOKEN.get(name, name)} as input #{position}(zero-based) was expected to be a "
                f"{spoken(dtype)} tensor but is a {spoken(given)} tensor; use tf.cast"
            )
    refusal = MixedDtypesError if name == "divide" else InvalidArgumentError
    raise refusal(
        f"cannot compute {_SPOKEN.get(name, name)} as input #{position}(zero-based) was expected "
        f"to be a {spoken(dtype)} tensor but is a {spoken(given)} tensor; bring both to one dtype, "
        f"such as tf.cast(x, tf.{dtype.name})"
    )


def _rank(dtype: np.dtype[Any]) -> int:
    """Return the place of a dtype's kind in that order; to NumPy, bfloat16 is of the kind "V"."""
    return _KIND_ORDER.find("f" if is_real_floating(dtype) else dtype.kind)


# What TensorFlow calls these operations in its messages.
_SPOKEN = {
    "add": "AddV2",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "RealDiv",
    "pow": "Pow",
    "matmul": "MatMul",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "equal": "Equal",
    "less": "Less",
    "greater": "Greater",
}


def floating(name: str, value: Any) -> dg.Tensor:
    """Return an operand of an operation that takes floating and complex numbers only.

    Raises
    ------
    InvalidArgumentError
        If it holds integers or truth values.
    """
    return of_kinds(name, "fc", converted(value))


def of_kinds(name: str, kinds: str, tensor: dg.Tensor) -> dg.Tensor:
    """Return an operand if its dtype is of one of the kinds, which go by NumPy's letters.

    Raises
    ------
    InvalidArgumentError
        If it is not.
    """
    dtype = tensor.dtype
    if dtype.kind not in kinds and not ("f" in kinds and is_real_floating(dtype)):
        allowed = ", ".join(_OF_KIND[kind] for kind in "fciub" if kind in kinds)
        advice = ", or write 1.0 for 1" if dtype.kind in "iu" else ""
        raise InvalidArgumentError(
            f"{name}: Value for attr 'T' of {spoken(dtype)} is not in the list of allowed values: "
            f"{allowed}; use tf.cast{advice}"
        )
    return tensor


_OF_KIND = {
    "f": "bfloat16, half, float, double",
    "c": "complex64, complex128",
    "i": "int8, int16, int32, int64",
    "u": "uint8, uint16, uint32, uint64",
    "b": "bool",
}


def refuse_zero_divisor(name: str, divisor: Any, dtype: np.dtype[Any]) -> None:
    """Raise where integers are divided by 0 on the host; what a trace computes has no value yet.

    Raises
    ------
    InvalidArgumentError
        If a divisor is 0; NumPy, and TensorFlow on a GPU, compute something instead.
    """
    numbers = divisor.array if isinstance(divisor, dg.Tensor) else divisor
    if dtype.kind in "iu" and isinstance(numbers, (int, np.ndarray)) and not np.all(numbers):
        raise InvalidArgumentError(f"Integer division by zero: {name} has a divisor that is 0")


def quotients(a: Any, b: Any) -> tuple[Any, Any]:
    """Return operands of a true division: those of integers are divided as floating numbers.

    Raises
    ------
    MixedDtypesError
        If they are truth values.
    """
    tensor = a if isinstance(a, dg.Tensor) else b
    if tensor.dtype.kind == "b":
        raise MixedDtypesError(
            "divide: the operands are bool; expected numbers: tf.cast(x, tf.float32)"
        )
    if tensor.dtype.kind not in "iu":
        return a, b
    wide = np.float32 if tensor.dtype.itemsize < 4 else np.float64
    return tuple(dg.astype(x, wide) if isinstance(x, dg.Tensor) else x for x in (a, b))


# --- how values enter ---------------------------------------------------------------------------


def converted(value: Any, dtype: Any = None, dtype_hint: Any = None) -> dg.Tensor:
    """Return a value as one of the library's tensors; a variable is read.

    Parameters and errors are those of `convert_to_tensor`.
    """
    if isinstance(value, Operators):
        given = dtype_of(value)
        if dtype is not None and as_dtype(dtype).dtype != given:
            raise ValueError(
                f"Tensor conversion requested dtype {as_dtype(dtype).name} for Tensor with dtype "
                f"{given.name}: {value!r}; use tf.cast"
            )
        return value.read()
    if value is None:
        raise ValueError(
            "Attempt to convert a value (None) with an unsupported type "
            "(<class 'NoneType'>) to a Tensor."
        )
    if dtype is None and dtype_hint is not None:
        try:
            return converted(value, dtype_hint)
        except (TypeError, ValueError):
            return converted(value)
    wanted = None if dtype is None else as_dtype(dtype).dtype
    if isinstance(value, (np.ndarray, np.generic)):
        # A copy: the caller may go on to change the array.
        return dg.asarray(np.array(value, dtype=wanted))
    if isinstance(value, (list, tuple)) and holds_tensors(value):
        return _stacked(value, wanted)
    if isinstance(value, (bool, int, float, complex, list, tuple, range)):
        return dg.asarray(_host(value, wanted))
    tensor = dg.asarray(value)  # another library's array
    return tensor if wanted is None else dg.astype(tensor, wanted)


def _host(value: Any, wanted: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    """Return Python's numbers in TensorFlow's choice of dtype, or in the one wanted."""
    try:
        host = np.asarray(list(value) if isinstance(value, range) else value)
    except ValueError as error:
        raise ValueError("Can't convert non-rectangular Python sequence to Tensor.") from error
    if wanted is not None:
        if host.size and _rank(host.dtype) > _rank(wanted):
            shown_value = value if not isinstance(value, (list, tuple)) else host.flat[0].item()
            raise TypeError(
                f"Cannot convert {shown_value!r} to EagerTensor of dtype {spoken(wanted)}"
            )
        return host.astype(wanted)
    if host.dtype.kind == "f":
        return host.astype(_first_floating(value))
    if host.dtype.kind in "iu":
        for dtype in _INTEGER_DTYPES:
            if not host.size or np.all(host == host.astype(dtype)):
                return host.astype(dtype)
    return host.astype(np.complex128) if host.dtype.kind == "c" else host


def _first_floating(value: Any) -> np.dtype[Any]:
    """Return the dtype of the first number in nested lists, if it is NumPy's and floating."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    given = np.dtype(getattr(value, "dtype", np.float32))
    return given if given.kind == "f" else np.dtype(np.float32)


def _stacked(value: Any, wanted: np.dtype[Any] | None) -> dg.Tensor:
    """Return nested lists that hold tensors as one tensor, by operations that tapes hear."""
    parts = [
        _stacked(v, wanted) if isinstance(v, (list, tuple)) and holds_tensors(v) else v
        for v in value
    ]
    if wanted is not None:
        parts = [converted(v, wanted) for v in parts]
    whole = together("Pack", *parts)
    joint = next(v.dtype for v, p in zip(whole, parts, strict=True) if isinstance(p, Operators))
    stacked: dg.Tensor = dg.stack([v if v.dtype == joint else dg.astype(v, joint) for v in whole])
    return stacked


# --- arguments ----------------------------------------------------------------------------------


def dims(shape: Any) -> tuple[int, ...]:
    """Return a shape given as a list, a TensorShape, an int or an integer tensor."""
    if isinstance(shape, Operators):
        shape = shape.tolist()
    if isinstance(shape, (int, np.integer)):
        return (int(shape),)
    return tuple(-1 if n is None else int(n) for n in shape)


def axes(axis: Any) -> Any:
    """Return one axis, or a tuple of axes, given as an int, a list or an integer tensor."""
    if axis is None:
        return None
    if isinstance(axis, (Operators, np.ndarray)):
        axis = axis.tolist()
    return int(axis) if isinstance(axis, (int, np.integer)) else tuple(int(a) for a in axis)


def integer_host(name: str, value: Any) -> np.ndarray[Any, Any]:
    """Return integers of any sort as a NumPy array.

    Raises
    ------
    InvalidArgumentError
        If they are no integers.
    """
    host = np.asarray(value.numpy() if isinstance(value, Operators) else value)
    if host.size == 0:
        return host.astype(np.int64)
    if host.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name}: got {spoken(host.dtype)}; expected integers")
    return host


def tensor_dtype(dtype: Any, default: DType) -> np.dtype[Any]:
    """Return NumPy's dtype for an argument `dtype`."""
    return default.dtype if dtype is None else as_dtype(dtype).dtype
