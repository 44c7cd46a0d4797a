"""Eager evaluation: the seam's evaluator, which calls kernels and tells whoever listens.

Also here: how values enter (`asarray`), and which backend is in force where no array decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import numpy as np

from distgrad import backend as backends
from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.core.op import Op, Spec
from distgrad.core.seam import LISTENERS, VALUES, bind_evaluator
from distgrad.dtypes import (
    DType,
    DTypeLike,
    as_dtype,
    complex64,
    complex128,
    default_dtype,
    is_differentiable,
    result_type,
)
from distgrad.errors import DistgradError, DTypeError, MixedBackendError
from distgrad.ops import VOCABULARY, comparison
from distgrad.ops.creation import dtype_of_scalar
from distgrad.ops.elementwise import positive
from distgrad.ops.selection import WHERE
from distgrad.ops.structure import TRANSFER, stack
from distgrad.tensor import Operators, Tensor, new_key

_SCALARS = (bool, int, float, complex)
_COMPARISONS = frozenset(comparison.OPS)
_make = Tensor.__new__


# --- the evaluator ------------------------------------------------------------------------------


def evaluate(
    op: Op, inputs: tuple[Any, ...], params: dict[str, Any], kernels: Kernels | None = None
) -> Any:
    """Compute one operation, and tell whoever listens.

    Parameters
    ----------
    op : Op
        The operation.
    inputs : tuple
        Tensors, variables, arrays and scalars.
    params : dict
        The metadata.
    kernels : Kernels, optional
        Where to compute if no input decides; on the backend in force by default.

    Returns
    -------
    Tensor or tuple of Tensor

    Raises
    ------
    MixedBackendError
        If inputs belong to different backends.
    ShapeError
        If their shapes do not fit the operation.
    """
    # One tensor, two of one backend, or one and a number: nearly every call, so it is spelled out.
    keys: tuple[int, ...]
    arrays: tuple[Any, ...]
    if len(inputs) == 2:
        first, second = inputs
        if first.__class__ is not Tensor and isinstance(first, Operators):
            first = first.read()
        if second.__class__ is not Tensor and isinstance(second, Operators):
            second = second.read()
        if first.__class__ is Tensor and second.__class__ is Tensor:
            kernels = first.kernels
            if second.kernels is kernels:
                arrays = (first.array, second.array)
            else:
                kernels, arrays = _lift(op, (first, second))
            keys = (first.key, second.key)
        elif first.__class__ is Tensor and _stays(second, first):
            kernels, arrays, keys = first.kernels, (first.array, second), (first.key, 0)
        elif second.__class__ is Tensor and _stays(first, second):
            kernels, arrays, keys = second.kernels, (first, second.array), (0, second.key)
        else:
            kernels, arrays, keys = _admit(op, (first, second), kernels)
    elif len(inputs) == 1 and inputs[0].__class__ is Tensor:
        first = inputs[0]
        kernels = first.kernels
        arrays = (first.array,)
        keys = (first.key,)
    else:
        kernels, arrays, keys = _admit(op, inputs, kernels)
    if kernels.level:
        kernels, arrays = _at_open_trace(kernels, arrays, keys)

    kernel = kernels.table.get(op) or kernels.resolve(op)
    try:
        result = kernel(*arrays, **params) if params else kernel(*arrays)
    except (TypeError, ValueError, IndexError) as error:
        _explain(op, arrays, params, error)

    if op.outputs == 1:
        home = kernels
        if op is TRANSFER:
            home = kernels_of(params["backend"])
        elif result.__class__ is not kernels.array_type:  # NumPy's scalars, for no dimensions
            result = kernels.backend.asarray(result)
        output: Any = _make(Tensor)
        output.array = result
        output.kernels = home
        output.key = new_key()
    else:
        output = tuple(Tensor(kernels.backend.asarray(each), kernels) for each in result)
    for listener in LISTENERS.get():
        listener.hear(op, keys, arrays, params, output, kernels)
    return output


def emit(op: Op, inputs: Sequence[Any], output: Any) -> None:
    """Tell whoever listens of an operation that was computed elsewhere.

    Parameters
    ----------
    op : Op
        The operation, with its rules.
    inputs : sequence of Tensor or Variable
        What it was computed from.
    output : Tensor or tuple of Tensor
        The result, under identities of its own.
    """
    tensors = [each.read() for each in inputs]
    first = output if isinstance(output, Tensor) else output[0]
    keys = tuple([each.key for each in tensors])
    arrays = tuple([each.array for each in tensors])
    for listener in LISTENERS.get():
        listener.hear(op, keys, arrays, {}, output, first.kernels)


def _admit(
    op: Op, inputs: tuple[Any, ...], kernels: Kernels | None
) -> tuple[Kernels, tuple[Any, ...], tuple[int, ...]]:
    """Return the kernels, raw arrays and identities of inputs of any sort."""
    values = [_read(x) for x in inputs]
    tensors = [value for value in values if value.__class__ is Tensor]
    if tensors:
        found, lifted = _lift(op, tensors)
    else:
        found, lifted = kernels or _kernels_owning(values) or current_kernels(), ()
    rest = iter(lifted)
    arrays, keys = [], []
    for value in values:
        if value.__class__ is Tensor:
            arrays.append(next(rest))
            keys.append(value.key)
        else:
            arrays.append(value if type(value) in _SCALARS else _admitted(op, found, value))
            keys.append(0)
    return found, _beside_numbers(op, found, arrays), tuple(keys)


def _read(value: Any) -> Any:
    """Return the tensor of a variable, or of lists that hold tensors; else the value itself."""
    if isinstance(value, Operators):
        return value.read()
    if isinstance(value, (list, tuple)) and holds_tensors(value):
        return _stacked(value)
    return value


def _stays(scalar: Any, tensor: Tensor) -> bool:
    """Return whether a value is a Python scalar that goes to the kernel as it is."""
    kind = scalar.__class__
    return kind is int or (kind is float and getattr(tensor.array.dtype, "kind", "") in _FLOATING)


_FLOATING = ("f", "c")  # NumPy's letters for dtypes that a Python float does not widen


def _admitted(op: Op, kernels: Kernels, value: Any) -> Any:
    """Return one input that is no tensor as an array of a backend."""
    if kernels.backend.owns(value):
        return asarray_raw(kernels, value)
    if isinstance(value, np.ndarray):
        if value.ndim and not _takes_numpy(kernels):
            _refuse_mixture(op, kernels.backend, load("numpy"))
    elif not kernels.level and (other := _kernels_owning([value])):
        _refuse_mixture(op, kernels.backend, other.backend)
    return asarray_raw(kernels, value)


def _beside_numbers(op: Op, kernels: Kernels, arrays: list[Any]) -> tuple[Any, ...]:
    """Return operands of which Python's numbers decide the kind, never the width.

    NumPy would lift integers beside a Python float to float64; here they get the default dtype.
    """
    scalars = [a for a in arrays if type(a) in _SCALARS]
    alone = len(scalars) == len(arrays)
    if not alone:
        if op in _COMPARISONS or not any(type(scalar) in (float, complex) for scalar in scalars):
            return tuple(arrays)
        dtypes = [as_dtype(a.dtype) for a in arrays if type(a) not in _SCALARS]
        if any(is_differentiable(dtype) for dtype in dtypes):
            return tuple(arrays)
    first = 1 if op is WHERE else 0  # its condition stays what it is
    joint = result_type(*(a for a in arrays[first:] if type(a) in _SCALARS))
    return tuple(
        asarray_raw(kernels, a) if position < first else _brought(kernels, a, joint)
        for position, a in enumerate(arrays)
    )


def _brought(kernels: Kernels, operand: Any, dtype: DType) -> Any:
    if type(operand) in _SCALARS:
        return kernels.backend.asarray(operand, dtype=dtype)
    return kernels.astype(operand, dtype=dtype)


def _at_open_trace(
    kernels: Kernels, arrays: tuple[Any, ...], keys: Sequence[int]
) -> tuple[Kernels, tuple[Any, ...]]:
    """Return arrays as those of the innermost open trace, if that is on a higher level.

    The body of a traced `cond` may compute with nothing but values from outside of it; that belongs
    to the body all the same, and must not run unless the body does.
    """
    trace = VALUES.get()
    if trace is None or trace.kernels.level <= kernels.level:
        return kernels, arrays
    lifted = tuple(
        trace.lift(Tensor(array, kernels, key or None))
        if array.__class__ is kernels.array_type
        else array
        for array, key in zip(arrays, keys, strict=True)
    )
    return trace.kernels, lifted


def _takes_numpy(kernels: Kernels) -> bool:
    """Return whether a NumPy array may meet a backend's arrays without being moved on request."""
    return kernels.level > 0 or kernels.backend.name == "numpy"


def _lift(op: Op, tensors: Sequence[Tensor]) -> tuple[Kernels, tuple[Any, ...]]:
    """Return the kernels of the highest level among tensors, and all as arrays of that level."""
    top = max((tensor.kernels for tensor in tensors), key=_level)
    arrays = []
    for tensor in tensors:
        if tensor.kernels is top:
            arrays.append(tensor.array)
        elif tensor.kernels.level < top.level:
            arrays.append(top.backend.lift(tensor))  # type: ignore[attr-defined]  # a level has it
        else:
            _refuse_mixture(op, top.backend, tensor.kernels.backend)
    return top, tuple(arrays)


def _level(kernels: Kernels) -> int:
    return kernels.level


def _refuse_mixture(op: Op, one: Backend, other: Backend) -> NoReturn:
    raise MixedBackendError(
        f"{op.name}: the operands belong to the backends {one.name!r} and {other.name!r}; "
        f"move one of them first, such as x.to(backend={one.name!r})"
    )


def _explain(op: Op, arrays: tuple[Any, ...], params: dict[str, Any], error: Exception) -> NoReturn:
    """Raise the clearest error for a kernel that failed: the rule's own, if it objects."""
    if isinstance(error, DistgradError):
        raise error
    operands = (
        a if type(a) in _SCALARS else Spec(tuple(a.shape), as_dtype(a.dtype)) for a in arrays
    )
    try:
        op.spec(*operands, **params)
    except DistgradError as explanation:
        raise explanation from None  # it says all that the kernel's own error does, and more
    raise error


# --- the recorded vocabulary: what rules compute in when their result is to be differentiated ----


class Recorded:
    """The vocabulary on tensors, for rules whose work somebody listens to.

    Parameters
    ----------
    kernels : Kernels
        Where to compute if no input decides.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.complex_dtypes = frozenset((complex64, complex128))
        for name, op in kernels.vocabulary.items():
            setattr(self, name, _recorded(op, kernels))


def _recorded(op: Op, kernels: Kernels) -> Callable[..., Any]:
    def recorded(*inputs: Any, **params: Any) -> Any:
        return evaluate(op, inputs, params, kernels)

    return recorded


# --- backends in force --------------------------------------------------------------------------

_kernels: dict[int, Kernels] = {}  # by the backend's id; the kernels keep the backend alive
_process_default: Backend | None = None
_in_force: ContextVar[Backend | None] = ContextVar("distgrad_backend", default=None)


def load(backend: str | Backend) -> Backend:
    """Return a backend from its name, or the backend itself."""
    return backends.load(backend) if isinstance(backend, str) else backend


def kernels_of(backend: str | Backend) -> Kernels:
    """Return the vocabulary on a backend's arrays."""
    loaded = load(backend)
    kernels = _kernels.get(id(loaded))
    if kernels is None:
        kernels = _kernels[id(loaded)] = make_kernels(loaded)
    return kernels


def make_kernels(backend: Backend) -> Kernels:
    """Return the vocabulary on a backend's arrays, made anew."""
    kernels = Kernels(backend, VOCABULARY)
    kernels.recorded = Recorded(kernels)
    return kernels


# How many transformations this code stands in: the level of the innermost one.
_depth: ContextVar[int] = ContextVar("distgrad_depth", default=0)


@contextmanager
def deeper() -> Iterator[int]:
    """Enter a transformation for a ``with`` block; its level is higher than those around it."""
    level = _depth.get() + 1
    token = _depth.set(level)
    try:
        yield level
    finally:
        _depth.reset(token)


def current_kernels() -> Kernels:
    """Return the vocabulary on the backend in force."""
    chosen = _in_force.get() or _process_default
    return kernels_of(chosen or os.environ.get("DISTGRAD_BACKEND") or "numpy")


def set_backend(backend: str | Backend) -> None:
    """Set the backend on which new arrays are made.

    Parameters
    ----------
    backend : str or Backend
        A name (see `list_backends`) or a backend object.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        If there is no such backend, or it does not work here.
    """
    global _process_default  # noqa: PLW0603  one of the library's few settings
    _process_default = load(backend)


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[Backend]:
    """Make new arrays on a backend within a ``with`` block."""
    chosen = load(backend)
    token = _in_force.set(chosen)
    try:
        yield chosen
    finally:
        _in_force.reset(token)


def list_backends() -> tuple[str, ...]:
    """Return the names of the installed backends; `distgrad.backend.status` says which work."""
    return backends.known()


# --- how values enter ---------------------------------------------------------------------------


def _kernels_owning(values: list[Any]) -> Kernels | None:
    """Return the kernels of the first backend in use that owns one of the values.

    Where several do, because they are backends of one array type, the one in force goes first.
    """
    chosen = _in_force.get() or _process_default
    first = [kernels_of(chosen)] if chosen else []
    for value in values:
        if isinstance(value, (*_SCALARS, np.generic, np.ndarray, list, tuple)):
            continue
        for kernels in (*first, *_kernels.values()):
            if kernels.backend.owns(value):
                return kernels
        module = type(value).__module__.partition(".")[0]
        if module in backends.known():
            return kernels_of(module)
    return None


def asarray_raw(kernels: Kernels, value: Any, dtype: Any = None, copy: bool = False) -> Any:
    """Return any value as a raw array of a backend."""
    if isinstance(value, (np.ndarray, np.generic)):
        as_dtype(value.dtype)  # refuses those without arithmetic
        return kernels.backend.asarray(value, dtype=dtype, copy=copy)
    if kernels.backend.owns(value):
        return kernels.backend.asarray(value, dtype=dtype, copy=copy)
    if type(value) in _SCALARS:
        return kernels.backend.asarray(value, dtype=dtype or dtype_of_scalar(value))
    if isinstance(value, (list, tuple)):
        host = as_host(value)
        if dtype is None and host.dtype.kind in "fc" and not _has_numpy_leaf(value):
            dtype = default_dtype() if host.dtype.kind == "f" else as_dtype(complex)
        as_dtype(host.dtype)
        return kernels.backend.asarray(host, dtype=dtype)
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        host = np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
        return asarray_raw(kernels, host, dtype, copy)
    raise DTypeError(
        f"asarray: value is a {type(value).__name__}; expected a number, an array, a Tensor, "
        "a Variable, or nested lists of numbers"
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


def holds_tensors(value: Any) -> bool:
    """Return whether nested lists hold a tensor or variable."""
    if isinstance(value, (list, tuple)):
        return any(holds_tensors(each) for each in value)
    return isinstance(value, Operators)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _stacked(value: Any) -> Tensor:
    """Return nested lists that hold tensors as one tensor, by operations that tapes hear."""
    leaves = list(_leaves(value))
    home = next(leaf for leaf in leaves if isinstance(leaf, Operators)).backend
    joint = result_type(*(leaf if type(leaf) in _SCALARS else leaf.dtype for leaf in leaves))

    def stacked(part: Any) -> Any:
        if isinstance(part, (list, tuple)):
            return stack([stacked(each) for each in part])
        return part if isinstance(part, Operators) else asarray(part, dtype=joint, backend=home)

    return stacked(value)


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
    copy : bool, optional
        Whether to copy even where memory could be shared.

    Raises
    ------
    DTypeError
        If the value holds no numbers, or lists are ragged.
    """
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(value, (list, tuple)) and holds_tensors(value):
        value = _stacked(value)
    if isinstance(value, Operators):
        tensor = value.read()
        if backend is not None:
            tensor = tensor.to(backend=backend)
        if wanted is not None and wanted != tensor.dtype:
            return tensor.astype(wanted)
        return positive(tensor) if copy or tensor is not value else tensor
    if backend is not None:
        kernels = kernels_of(backend)
    else:
        kernels = _kernels_owning([value]) or current_kernels()
    return Tensor(asarray_raw(kernels, value, wanted, bool(copy)), kernels)


def beside(value: Any, tensor: Tensor) -> Tensor:
    """Return a value as a tensor that can meet another one in an operation.

    Parameters
    ----------
    value : Tensor, Variable, array, scalar or nested lists
        What comes from a user: a cotangent, a tangent.
    tensor : Tensor
        Whose backend it goes to, unless it belongs to a transformation on a higher level.
    """
    if isinstance(value, Operators):
        own = value.read()
        if own.kernels.level > tensor.kernels.level:
            return own
    return asarray(value, backend=tensor.kernels.backend)


bind_evaluator(evaluate)
