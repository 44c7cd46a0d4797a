"""Arguments of NumPy's functions: what they all share, and what a tensor cannot honour."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Kind, Op
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_numeric
from distgrad.eager import asarray, asarray_raw, emit
from distgrad.entering import HOME, kernels_owning
from distgrad.errors import DistgradError, DTypeError, MixedBackendError
from distgrad.ops.shaping.structure import astype, stack
from distgrad.tensor import Operators, Tensor

NoValue = np._NoValue  # NumPy's mark of an argument that was not given


def given(value: Any) -> bool:
    """Return whether an argument was given: neither None nor NumPy's mark of absence."""
    return value is not None and value is not NoValue


def flag(value: Any) -> bool:
    """Return a flag, such as ``keepdims``; False where it was not given."""
    return bool(value) if given(value) else False


def refuse_out(name: str, out: Any) -> None:
    """Raise if a result is to be written into an array, which would cut its gradient."""
    parts = out if isinstance(out, tuple) else (out,)
    if any(given(part) for part in parts):
        raise TypeError(
            f"{name}: out= is not taken for tensors, which do not change; use the result"
        )


def as_tensor(value: Any) -> Any:
    """Return an operand as a tensor: what is one as it is, lists in the dtype that NumPy gives.

    Raises
    ------
    MixedBackendError
        If it is a NumPy array, and the function's tensors belong to another backend.
    """
    if isinstance(value, Operators):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        home = HOME.get()
        if home is not None and not _takes_numpy(home[0]):
            function, backend = name_of(home[1]), home[0].backend.name
            raise MixedBackendError(
                f"np.{function}: an operand is a NumPy array, another belongs to the backend "
                f"{backend!r}; move one of them first, such as dg.asarray(a, backend={backend!r})"
            )
    return as_parameter(value)


def as_operand(value: Any) -> Any:
    """Return an operand, where Python's numbers stay what they are: they decide no dtype."""
    return value if type(value) in (bool, int, float, complex) else as_tensor(value)


def as_parameter(value: Any) -> Any:
    """Return what NumPy takes as an array beside its operands as a tensor where those are.

    Weights, sample points, conditions and constants: NumPy arrays are moved.
    """
    if isinstance(value, Operators):
        return value
    if isinstance(value, (list, tuple)):
        if tensors_in(value):
            return stack([as_parameter(part) for part in value])
        value = np.asarray(value)
    home = HOME.get()
    if home is None:
        return asarray(value)
    kernels = home[0]
    if kernels.level:
        return Tensor(asarray_raw(kernels, value), kernels)
    return asarray(value, backend=kernels.backend)


def as_condition(value: Any) -> Any:
    """Return what NumPy takes as a condition as an array or tensor of bool."""
    if isinstance(value, (np.ndarray, Operators)) and value.dtype == np.bool_:
        return value
    return astype(as_parameter(value), np.bool_)


def _takes_numpy(kernels: Kernels) -> bool:
    return kernels.level > 0 or kernels.backend.name == "numpy"


@contextmanager
def outside() -> Iterator[None]:
    """Run a function of the user's within a ``with`` block, where operands do not mix."""
    token = HOME.set(None)
    try:
        yield
    finally:
        HOME.reset(token)


def arrays_entered(value: Any) -> Any:
    """Return a nest of arguments with the arrays of other backends than NumPy's as tensors."""
    if type(value) in (list, tuple):
        return type(value)([arrays_entered(each) for each in value])
    if type(value) is dict:
        return {name: arrays_entered(each) for name, each in value.items()}
    if isinstance(value, (np.ndarray, Operators)) or not hasattr(value, "shape"):
        return value
    return value if kernels_owning([value]) is None else asarray(value)


def called(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function of the user's returns."""
    with outside():
        return function(*arguments, **options)


def home_of(arguments: Iterable[Any], options: dict[str, Any]) -> Kernels | None:
    """Return the vocabulary where a function of tensors computes: on the highest level of them."""
    best = None
    for each in (*arguments, *options.values()) if options else arguments:
        if isinstance(each, Operators):
            found = [each.read()]
        elif isinstance(each, (list, tuple, dict)):
            found = tensors_in(each)
        else:
            continue
        for tensor in found:
            if best is None or tensor.kernels.level > best.level:
                best = tensor.kernels
    return best


@cache
def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name behind ``np.``, with its module where it is not NumPy's own."""
    name = getattr(function, "__name__", str(function))
    if isinstance(function, np.ufunc) or getattr(np, name, None) is function:
        return name
    if getattr(np.emath, name, None) is function:  # whose module has a private name in some NumPys
        return f"emath.{name}"
    module = getattr(function, "__module__", "") or ""
    return f"{module.removeprefix('numpy').lstrip('.')}.{name}".lstrip(".")


def host(value: Any) -> np.ndarray[Any, Any]:
    """Return the values on the host, which no tape follows from here on."""
    return value.numpy() if isinstance(value, Operators) else np.asarray(value)


def hosted(value: Any) -> Any:
    """Return a nest of arguments with every tensor replaced by its values on the host."""
    if isinstance(value, Operators):
        return value.numpy()
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(hosted(each) for each in value)
    if type(value) is dict:
        return {name: hosted(each) for name, each in value.items()}
    return value


def known_values(
    function: str,
    value: Any,
    *,
    decided: str = "the shape of the result depends",
    remedy: str = "compute it outside of the transformed function, or mask with np.where",
) -> Any:
    """Return values on the host, which decide what there is to compute.

    Raises
    ------
    TraceError, BatchedValueError
        If a transformation stands for them, which does not know them yet.
    """
    try:
        return hosted(value)
    except DistgradError as error:
        home = HOME.get()
        name = function if home is None else name_of(home[1])  # one may stand on another
        raise type(error)(
            f"np.{name}: {decided} on values, which are not known yet in a traced function "
            f"and differ from example to example in vmap; {remedy}"
        ) from error


def as_axis(axis: Any) -> Any:
    """Return an axis, or a tuple of them, as plain integers."""
    if axis is None or axis is NoValue:
        return None
    if isinstance(axis, (tuple, list)):
        return tuple(operator.index(a) for a in axis)
    return operator.index(axis)


def one_axis(name: str, axis: Any, ndim: int) -> int:
    """Return a single axis as a number that is not negative."""
    place = operator.index(axis)
    if not -ndim <= place < ndim:
        raise np.exceptions.AxisError(place, ndim, name)
    return place % ndim


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a nest of arguments, in their order."""
    found: list[Tensor] = []
    _gather(value, found, _LEVELS)
    return found


# NumPy's arrays have at most 64 axes; the arguments of a function are a level of their own.
_LEVELS = 66


def _gather(value: Any, found: list[Tensor], levels: int) -> None:
    if isinstance(value, Operators):
        found.append(value.read())
        return
    if not isinstance(value, (list, tuple, dict)):
        return
    if not levels:
        raise DTypeError(
            "an argument has more than 64 levels of lists; expected as many as an array can have "
            "axes: does one of them hold itself?"
        )
    for each in value.values() if isinstance(value, dict) else value:
        _gather(each, found, levels - 1)


def is_followed(tensors: list[Tensor]) -> bool:
    """Return whether a tape that listens differentiates one of some tensors."""
    return any(listener.follows(t.key) for listener in LISTENERS.get() for t in tensors)


def cut(name: str, inputs: list[Tensor], result: Any) -> Any:
    """Return arrays as tensors, and let tapes know what they came from, and that it was cut."""
    if isinstance(result, tuple):
        parts = [cut(name, inputs, each) for each in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if not isinstance(result, (np.ndarray, np.generic)) or not is_numeric(result.dtype):
        return result
    kernels = inputs[0].kernels
    tensor = Tensor(kernels.backend.asarray(np.asarray(result)), kernels)
    if is_followed(inputs):
        emit(Op(name, Kind.OPAQUE, _unforetold), inputs, tensor)
    return tensor


def _unforetold(*specs: Any, **params: Any) -> Any:
    raise TypeError("a function of NumPy is computed on the host; it is never traced")
