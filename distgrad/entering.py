"""How values enter: numbers, nested lists and foreign arrays become tensors."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from distgrad import backend as backends
from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.backends_in_force import current_kernels, kernels_in_use, kernels_of
from distgrad.dtypes import DTypeLike, as_dtype, default_dtype, int64, result_type
from distgrad.errors import DTypeError
from distgrad.ops.creation import dtype_of_scalar
from distgrad.ops.elementwise.arithmetic import positive
from distgrad.ops.shaping.placement import to_device
from distgrad.ops.shaping.structure import stack
from distgrad.tensor import Operators, Tensor

_LEVELS = 64  # the most axes that NumPy's arrays have
SCALARS = (bool, int, float, complex)  # Python's numbers, which kernels take as they are


# The innermost of NumPy's functions at work on tensors, and the vocabulary where it computes: its
# constants, NumPy arrays, go there. Outside of them NumPy arrays stay where they are, and meet
# those of another backend in an error.
HOME: ContextVar[tuple[Kernels, Any] | None] = ContextVar("distgrad_home", default=None)


def kernels_owning(values: list[Any]) -> Kernels | None:
    """Return the kernels of the first backend in use that owns one of the values.

    Where several do, because they are backends of one array type, the one in force goes first.
    """
    for value in values:
        if isinstance(value, (*SCALARS, np.generic, np.ndarray, list, tuple)):
            continue
        for kernels in kernels_in_use():
            if kernels.backend.owns(value):
                return kernels
        module = type(value).__module__.partition(".")[0]
        if module in backends.known():
            kernels = kernels_of(module)
            if kernels.backend.owns(value):  # and not one of the module's dtypes
                return kernels
    return None


def asarray_raw(kernels: Kernels, value: Any, dtype: Any = None, copy: bool = False) -> Any:
    """Return any value as a raw array of a backend."""
    if isinstance(value, (np.ndarray, np.generic)):
        own = as_dtype(value.dtype)  # refuses those without arithmetic
        if dtype is None and own is not value.dtype:
            dtype = own  # of another machine's byte order, as files of MNIST and FITS are
        if value.__class__ is not np.ndarray:
            refuse_masked("asarray", value)
        return kernels.backend.asarray(value, dtype=dtype, copy=copy)
    if kernels.backend.owns(value):
        return kernels.backend.asarray(value, dtype=dtype, copy=copy)
    if type(value) in SCALARS:
        try:
            return kernels.backend.asarray(value, dtype=dtype or dtype_of_scalar(value))
        except OverflowError as error:
            raise OverflowError(
                f"asarray: {value} does not fit {dtype or dtype_of_scalar(value)}; give a dtype "
                "that holds it, such as dtype=dg.float64"
            ) from error
    if isinstance(value, (list, tuple)):
        host = as_host(value)
        if value and isinstance(value[0], np.ndarray):
            for each in value:
                refuse_masked("asarray", each)
        if dtype is None and host.dtype.kind in "fc" and not _has_numpy_leaf(value):
            dtype = default_dtype() if host.dtype.kind == "f" else as_dtype(complex)
        as_dtype(host.dtype)
        return kernels.backend.asarray(host, dtype=dtype)
    if isinstance(value, range):
        return asarray_raw(kernels, np.asarray(value, dtype=int64), dtype)
    if home := kernels_owning([value]):
        if kernels.level:
            tensor = asarray(value, dtype=dtype, copy=copy or None)
            return kernels.backend.lift(tensor)  # type: ignore[attr-defined]  # a level has it
        return asarray_raw(kernels, home.backend.to_host(value), dtype)
    if not hasattr(value, "__array__") and _is_on_cuda(value):
        raise DTypeError(
            f"asarray: value is a {type(value).__name__} in the memory of a CUDA device; take "
            "dg.from_dlpack(value) or dg.asarray(cupy.asarray(value)), which share it"
        )
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        host = np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
        return asarray_raw(kernels, host, dtype, copy)
    if isinstance(value, (memoryview, array, bytearray)):  # not bytes, which are text as a rule
        return asarray_raw(kernels, np.asarray(memoryview(value)), dtype, copy)
    raise DTypeError(
        f"asarray: value is a {type(value).__name__}; expected a number, an array, a Tensor, "
        "a Variable, or nested lists of numbers"
    )


def _is_on_cuda(value: Any) -> bool:
    """Return whether a value tells by a protocol that it lies in the memory of a CUDA device."""
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in _CUDA
    return hasattr(value, "__cuda_array_interface__")


def refuse_masked(function: str, value: Any) -> None:
    """Raise unless every element of an array of NumPy's is there.

    Raises
    ------
    DTypeError
        If it is a masked array with an element that is masked.
    """
    masked = sys.modules.get("numpy.ma")  # whoever made a masked array has imported it
    if masked is None or not isinstance(value, masked.MaskedArray):
        return
    missing = int(masked.getmaskarray(value).sum())
    if missing:
        raise DTypeError(
            f"{function}: value is a masked array with {missing} of {value.size} elements masked; "
            "expected all to be there, since a tensor keeps no mask: give them a number, "
            "value.filled(0), and weigh by ~value.mask where they should not count"
        )


def as_host(value: Any) -> np.ndarray[Any, Any]:
    """Return Python's numbers, or nested lists of them, as a NumPy array in double precision.

    Raises
    ------
    DTypeError
        If lists are ragged, or hold no numbers.
    """
    try:
        host = np.asarray(value)
    except ValueError as error:  # NumPy's word for lists of unequal lengths
        raise DTypeError(_NO_NUMBERS.format(type(value).__name__)) from error
    if host.dtype.kind not in "biufc" and host.dtype.name != "bfloat16":
        raise DTypeError(_NO_NUMBERS.format(type(value).__name__))
    return host


_NO_NUMBERS = (
    "asarray: {} is ragged or holds no numbers; expected nested lists of equal lengths, of numbers"
)


def read(value: Any) -> Any:
    """Return the tensor of a variable, or of lists that hold tensors; else the value itself."""
    if isinstance(value, Operators):
        return value.read()
    if isinstance(value, (list, tuple)) and holds_tensors(value):
        return stacked(value)
    return value


def gathered(values: tuple[Any, ...], joint: bool) -> tuple[Any, ...]:
    """Return operands of one function as what has a shape; see `distgrad.core.seam.operands`."""
    found = [read(value) for value in values]
    tensors = [each for each in found if isinstance(each, Tensor)]
    if tensors:
        kernels = max((each.kernels for each in tensors), key=lambda each: each.level)
    else:
        kernels = kernels_owning(found) or current_kernels()
    dtypes = [as_dtype(each.dtype) for each in found if hasattr(each, "dtype")] if joint else []

    def entered(value: Any) -> Any:
        if value is None or isinstance(value, Tensor):
            return value
        # An array beside tensors stays, to be refused by name where it is of another backend.
        if tensors and hasattr(value, "shape") and not _is_number(value):
            return value
        dtype = result_type(*dtypes, value) if joint and type(value) in SCALARS else None
        return Tensor(asarray_raw(kernels, value, dtype), kernels)

    return tuple(entered(each) for each in found)


def _is_number(value: Any) -> bool:
    """Return whether a value is one of NumPy's numbers, which belong to no backend."""
    return isinstance(value, (np.generic, np.ndarray)) and not value.ndim


def holds_tensors(value: Any, levels: int = _LEVELS) -> bool:
    """Return whether nested lists hold a tensor or variable.

    Raises
    ------
    DTypeError
        If they have more levels than an array can have axes, as a list that holds itself has.
    """
    if not isinstance(value, (list, tuple)):
        return isinstance(value, Operators)
    if not levels:
        raise DTypeError(
            f"asarray: lists of more than {_LEVELS} levels; expected as many as an array can have "
            "axes: does one of them hold itself?"
        )
    return any(holds_tensors(each, levels - 1) for each in value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def stacked(value: Any) -> Tensor:
    """Return nested lists that hold tensors as one tensor, by operations that tapes hear."""
    leaves = list(_leaves(value))
    home = next(leaf for leaf in leaves if isinstance(leaf, Operators)).backend
    joint = result_type(*(leaf if type(leaf) in SCALARS else leaf.dtype for leaf in leaves))

    def joined(part: Any) -> Any:
        if isinstance(part, (list, tuple)):
            return stack([joined(each) for each in part])
        return part if isinstance(part, Operators) else asarray(part, dtype=joint, backend=home)

    result: Tensor = joined(value)
    return result


def _has_numpy_leaf(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return hasattr(value, "dtype")


def asarray(
    value: Any,
    /,
    *,
    dtype: DTypeLike | None = None,
    backend: str | Backend | None = None,
    device: str | None = None,
    copy: bool | None = None,
) -> Tensor:
    """Return a value as a tensor.

    Parameters
    ----------
    value : Tensor, Variable, array, scalar or nested lists
        NumPy and CuPy arrays keep their dtype and share their memory unless `copy` is true; Python
        floats get the default dtype, integers int64.
    dtype : dtype, optional
        The dtype wanted.
    backend : str or Backend, optional
        Where to put it; by default where it is, or on the backend in force.
    device : str, optional
        On which of that backend's devices, such as ``"cuda:1"``.
    copy : bool, optional
        Whether to copy even where memory could be shared; False is a promise that nothing is.

    Raises
    ------
    DTypeError
        If the value holds no numbers, lists are ragged, or elements of a masked array are masked.
    ValueError
        If `copy` is False and the value has to be copied, or there is no such device.
    """
    tensor = _entered(value, dtype, backend, copy)
    moved: Tensor = to_device(tensor, device)
    if copy is False and not _shares(moved, value):
        raise ValueError(
            f"asarray: copy is False, but a {type(value).__name__} cannot become a tensor of dtype "
            f"{moved.dtype} on {moved.device} without a copy; leave copy away"
        )
    return moved


def _shares(tensor: Tensor, value: Any) -> bool:
    """Return whether a tensor was made of a value without copying it."""
    if isinstance(value, Operators):
        return value.read().array is tensor.array
    if tensor.array is value:
        return True
    if isinstance(value, (bool, int, float, complex, list, tuple, np.generic)):
        return False
    host = tensor.array if isinstance(tensor.array, np.ndarray) else None
    return host is None or bool(np.shares_memory(host, np.asarray(value))) or not host.size


def _entered(
    value: Any, dtype: DTypeLike | None, backend: str | Backend | None, copy: bool | None
) -> Tensor:
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(value, (list, tuple)) and holds_tensors(value):
        value = stacked(value)
    if isinstance(value, Operators):
        tensor = value.read()
        # To a transformation's level a tensor is lifted where it meets others of that level.
        if backend is not None and not getattr(backend, "level", 0):
            tensor = tensor.to(backend=backend)
        if wanted is not None and wanted != tensor.dtype:
            converted: Tensor = tensor.astype(wanted)
            return converted
        return positive(tensor) if copy or tensor is not value else tensor
    if backend is not None:
        kernels = kernels_of(backend)
    else:
        kernels = kernels_owning([value]) or current_kernels()
    return Tensor(asarray_raw(kernels, value, wanted, bool(copy)), kernels)


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Return an array of another library as a tensor, without copying it.

    Parameters
    ----------
    x : array
        Anything with ``__dlpack__`` and ``__dlpack_device__``: PyTorch's tensors, JAX's arrays ...
        Whoever changes it changes the tensor's values under the eyes of the tapes: don't.
    device : str, optional
        A device of the backend that the array goes to: of ``cupy`` for memory of CUDA devices, else
        of the backend in force.
    copy : bool, optional
        True always copies; False raises where the array cannot be shared.

    Raises
    ------
    TypeError
        If `x` speaks no DLPack.
    BackendUnavailableError
        If `x` lies on a CUDA device and CuPy does not work here.

    Examples
    --------
    >>> import numpy as np
    >>> import distgrad as dg
    >>> print(dg.from_dlpack(np.asarray([1.0, 2.0])))
    dg.Tensor([1. 2.], shape=(2,), dtype=float64)
    """
    if not hasattr(x, "__dlpack__"):
        raise TypeError(
            f"from_dlpack: a {type(x).__name__} has no __dlpack__; expected an array of a library "
            "that speaks DLPack; dg.asarray takes numbers, lists and buffers"
        )
    kernels = kernels_of("cupy") if _is_on_cuda(x) else current_kernels()
    module = getattr(kernels.backend, "module", np)
    array = kernels.backend.asarray(module.from_dlpack(x), copy=bool(copy))
    tensor: Tensor = to_device(Tensor(array, kernels), device)
    if copy is False and tensor.array is not array:
        raise ValueError(
            f"from_dlpack: copy is False, but the array lies on another device than {device!r}"
        )
    return tensor


_CUDA = (2, 13)  # DLPack's numbers for CUDA's own memory, and for its managed memory


def beside(value: Any, tensor: Tensor) -> Tensor:
    """Return a value as a tensor that can meet another one in an operation.

    Parameters
    ----------
    value : Tensor, Variable, array, scalar or nested lists
        What comes from a user: a cotangent, a tangent.
    tensor : Tensor
        Whose backend it goes to, unless it belongs to a transformation on a higher level.
    """
    kernels = tensor.kernels
    if isinstance(value, Operators):
        own = value.read()
        # Of two levels the lower is lifted where they meet.
        if own.kernels.level != kernels.level or own.kernels is kernels:
            return own
    if kernels.level:
        return Tensor(asarray_raw(kernels, value), kernels)
    return asarray(value, backend=kernels.backend)
