"""Eager evaluation: the seam's evaluator, which calls kernels and tells whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np

from distgrad.autocasting import autocast_operands
from distgrad.backend.kernels import Kernels
from distgrad.backends_in_force import (
    bind_recorded,
    current_kernels,
    deeper,
    kernels_of,
    list_backends,
    load,
    make_kernels,
    set_backend,
    use_backend,
)
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS, OPEN_KEEPERS, VALUES, bind_evaluator
from distgrad.dtypes import DType, as_dtype, complex64, complex128, is_differentiable, result_type
from distgrad.entering import (
    HOME,
    SCALARS,
    as_host,
    asarray,
    asarray_raw,
    beside,
    gathered,
    holds_tensors,
    kernels_owning,
    read,
)
from distgrad.kernel_errors import explain_failure, refuse_mixture
from distgrad.ops.elementwise import comparison
from distgrad.ops.elementwise.selection import WHERE
from distgrad.ops.shaping.structure import TRANSFER
from distgrad.tensor import Operators, Tensor, new_key

# Whoever computes imports this module, which binds the evaluator; with it come the names for how
# values enter and which backend is in force.
__all__ = [
    "Recorded",
    "as_host",
    "asarray",
    "asarray_raw",
    "beside",
    "current_kernels",
    "deeper",
    "emit",
    "evaluate",
    "holds_tensors",
    "kernels_of",
    "list_backends",
    "load",
    "make_kernels",
    "set_backend",
    "use_backend",
]

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
            if first.is_sparse:
                return _combined(op, inputs, params, kernels)
            first = first.read()
        if second.__class__ is not Tensor and isinstance(second, Operators):
            if second.is_sparse:
                return _combined(op, inputs, params, kernels)
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
        kernels, arrays, keys = first.kernels, (first.array,), (first.key,)
    else:
        kernels, arrays, keys = _admit(op, inputs, kernels)
    if kernels.level or OPEN_KEEPERS:
        if (cast := autocast_operands(op, inputs)) is not inputs:
            return evaluate(op, cast, params, kernels)
        kernels, arrays = _at_open_trace(kernels, arrays, keys)

    kernel = kernels.table.get(op) or kernels.resolve(op)
    try:
        result = kernel(*arrays, **params) if params else kernel(*arrays)
    except (TypeError, ValueError, IndexError) as error:
        explain_failure(op, arrays, params, error)

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


def _combined(
    op: Op, inputs: tuple[Any, ...], params: dict[str, Any], kernels: Kernels | None
) -> Any:
    """Return the result for two inputs of which one at least is sparse, sparse if it can be."""
    rows = inputs[0] if getattr(inputs[0], "is_sparse", False) else inputs[1]
    found = rows.combine(op, *inputs)
    if found is not NotImplemented:
        return found
    dense = [x.read() if isinstance(x, Operators) else x for x in inputs]
    return evaluate(op, tuple(dense), params, kernels)


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
    values = [x if x.__class__ is Tensor else read(x) for x in inputs]
    tensors = [value for value in values if value.__class__ is Tensor]
    if tensors:
        first = tensors[0].kernels
        if len(tensors) == len(values) and _all_on(first, tensors):
            return first, tuple([x.array for x in tensors]), tuple([x.key for x in tensors])
        found, lifted = _lift(op, tensors)
    else:
        found, lifted = kernels or kernels_owning(values) or current_kernels(), ()
    rest = iter(lifted)
    arrays, keys = [], []
    for value in values:
        if value.__class__ is Tensor:
            arrays.append(next(rest))
            keys.append(value.key)
        else:
            arrays.append(value if type(value) in SCALARS else _admitted(op, found, value))
            keys.append(0)
    return found, _beside_numbers(op, found, arrays), tuple(keys)


def _all_on(kernels: Kernels, tensors: list[Tensor]) -> bool:
    for each in tensors:  # noqa: SIM110  a generator would take longer
        if each.kernels is not kernels:
            return False
    return True


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
        if value.ndim and not _takes_numpy(kernels) and HOME.get() is None:
            refuse_mixture(op, kernels.backend, load("numpy"))
    elif not kernels.level and (other := kernels_owning([value])):
        refuse_mixture(op, kernels.backend, other.backend)
    return asarray_raw(kernels, value)


def _beside_numbers(op: Op, kernels: Kernels, arrays: list[Any]) -> tuple[Any, ...]:
    """Return operands of which Python's numbers decide the kind, never the width.

    NumPy would lift integers beside a Python float to float64; here they get the default dtype.
    """
    scalars = [a for a in arrays if type(a) in SCALARS]
    alone = len(scalars) == len(arrays)
    if not alone:
        if op in _COMPARISONS or not any(type(scalar) in (float, complex) for scalar in scalars):
            return tuple(arrays)
        dtypes = [as_dtype(a.dtype) for a in arrays if type(a) not in SCALARS]
        if any(is_differentiable(dtype) for dtype in dtypes):
            return tuple(arrays)
    first = 1 if op is WHERE else 0  # its condition stays what it is
    joint = result_type(*(a for a in arrays[first:] if type(a) in SCALARS))
    return tuple(
        asarray_raw(kernels, a) if position < first else _brought(kernels, a, joint)
        for position, a in enumerate(arrays)
    )


def _brought(kernels: Kernels, operand: Any, dtype: DType) -> Any:
    if type(operand) in SCALARS:
        return kernels.backend.asarray(operand, dtype=dtype)
    return kernels.astype(operand, dtype=dtype)


def _at_open_trace(
    kernels: Kernels, arrays: tuple[Any, ...], keys: Sequence[int]
) -> tuple[Kernels, tuple[Any, ...]]:
    """Return arrays as those of the innermost open trace, if that is on a higher level.

    The body of a traced `cond` may compute with nothing but values from outside of it; that belongs
    to the body all the same, and must not run unless the body does. Numbers that somebody follows
    belong to the graph, too; others are computed with now.
    """
    trace = VALUES.get()
    if trace is None or trace.kernels.level <= kernels.level:
        return kernels, arrays
    if not kernels.level and not trace.follows(keys):
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
            refuse_mixture(op, top.backend, tensor.kernels.backend)
    return top, tuple(arrays)


def _level(kernels: Kernels) -> int:
    return kernels.level


# --- the recorded vocabulary: what rules compute in when their result is to be differentiated ----


class Recorded:
    """The vocabulary on tensors, for rules whose work somebody listens to.

    Parameters
    ----------
    kernels : Kernels
        Where to compute if no input decides.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.vocabulary = kernels.vocabulary
        self.level = kernels.level
        self.keeps_zeros = False
        self.complex_dtypes = frozenset((complex64, complex128))
        for name, op in kernels.vocabulary.items():
            setattr(self, name, _recorded(op, kernels))

    @cached_property
    def keeping_zeros(self) -> Recorded:
        """The same namespace, in which rules leave a cotangent of exactly 0 at 0."""
        twin = copy(self)
        twin.keeps_zeros = True
        return twin


def _recorded(op: Op, kernels: Kernels) -> Callable[..., Any]:
    def recorded(*inputs: Any, **params: Any) -> Any:
        return evaluate(op, inputs, params, kernels)

    return recorded


bind_evaluator(evaluate, gathered)
bind_recorded(Recorded)
