"""Elementwise kernels in one pass: the C++ of operations, pullbacks and steps of optimizers.

The code follows from the operation's own declaration, see `distgrad.backend.scalar_code`. Arrays of
other dtypes, broadcast ones, and formulas of functions that no vector code is there for are left to
NumPy.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.pullbacks import Pullbacks
from distgrad.backend.scalar_code import C_TYPES, Formula, NoScalarCode, forward
from distgrad.core.op import Op
from distgrad.ops import VOCABULARY
from distgrad_numpy.compiled import crew, library
from distgrad_numpy.compiled import vector_functions as functions
from distgrad_numpy.compiled.offers import dense

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]

_FEW = 1 << 12  # elements; below, NumPy has less overhead
PIECE = 1 << 16  # elements that a thread takes at once


class Source(NamedTuple):
    """A formula as a function ``run`` in C++, over a range of elements.

    Attributes
    ----------
    name : str
        Of its library.
    text : str
        The source. ``run`` takes the range, the numbers, and the addresses of inputs and outputs.
    scalar : type
        What ctypes calls a number.
    pointers : tuple of str
        The C types of what the addresses point to.
    """

    name: str
    text: str
    scalar: Any
    pointers: tuple[str, ...]


def source_of(formula: Formula, numbers: Iterable[str] = ()) -> Source | None:
    """Return a formula in C++; None where NumPy has to do.

    Parameters
    ----------
    formula : Formula
        What to compute. Outputs may be inputs' own memory.
    numbers : iterable of str
        The inputs that are one number for all elements, beside those that the formula names.
    """
    numbers = formula.numbers.union(numbers)
    floating = {dtype.name for _, dtype in formula.inputs + formula.outputs if dtype.kind != "b"}
    if not floating or not functions.are_there(formula):
        return None
    text = _text(formula, numbers)
    arrays = [dtype for name, dtype in formula.inputs if name not in numbers]
    pointers = [f"const {stored_type(dtype)}*" for dtype in arrays]
    pointers += [f"{C_TYPES[dtype.name]}*" for _, dtype in formula.outputs]
    scalar = ctypes.c_float if floating == {"float32"} else ctypes.c_double
    name = f"{formula.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return Source(name, text, scalar, tuple(pointers))


def compiled(formula: Formula, *, exact: bool = False) -> Kernel | None:
    """Return ``kernel(inputs, outputs, *numbers)`` for a formula; None where NumPy has to do.

    Parameters
    ----------
    formula : Formula
        What to compute.
    exact : bool
        Round each operation by itself, as NumPy does, and never a product and a sum at once.

    Returns
    -------
    callable or None
        It takes C-contiguous arrays of one size and of the formula's dtypes, and the numbers that
        the formula names.
    """
    source = source_of(formula)
    if source is None:
        return None
    given = [source.scalar] * len(formula.numbers) + [ctypes.c_void_p] * len(source.pointers)
    types = [ctypes.c_longlong] * 2 + given
    ready: list[Any] = []

    def kernel(inputs: Sequence[Array], outputs: Sequence[Array], *numbers: float) -> bool:
        if not ready:
            found = library.from_source(
                source.name, source.text, exact=exact, further=functions.options()
            )
            if found is None:
                return False
            found.run.argtypes, found.run.restype = types, None
            # At once: other threads may be here, too.
            ready[:] = (found.run, crew.shared_of(found, "run", types[2:]))
        run, run_shared = ready
        places = [library.address(each) for each in (*inputs, *outputs)]
        size = outputs[0].size
        if size <= PIECE:
            run(0, size, *numbers, *places)
        else:
            run_shared(size, PIECE, *numbers, *places)
        return True

    return kernel


def stored_type(dtype: Any) -> str:
    """Return the C++ type of an input's elements in memory."""
    return "unsigned char" if dtype.kind == "b" else C_TYPES[dtype.name]


def reading(name: str, dtype: Any, element: str) -> str:
    """Return C++ that reads an element of an input.

    What loads a bool is not made vector code by gcc; what compares a number with 0 is.
    """
    if dtype.kind == "b":
        return f"const int {name}_byte = {element}; const bool {name} = {name}_byte != 0;"
    return f"const {C_TYPES[dtype.name]} {name} = {element};"


def _text(formula: Formula, numbers: frozenset[str]) -> str:
    def typed(dtype: Any) -> str:
        return C_TYPES[dtype.name]

    parameters = [
        *(f"{typed(dtype)} {name}" for name, dtype in formula.inputs if name in numbers),
        *(
            f"const {stored_type(dtype)}* from_{name}"
            for name, dtype in formula.inputs
            if name not in numbers
        ),
        *(f"{typed(dtype)}* to_{name}" for name, dtype in formula.outputs),
    ]
    lines = [
        *(
            reading(name, dtype, f"from_{name}[i]")
            for name, dtype in formula.inputs
            if name not in numbers
        ),
        *(f"{typed(dtype)} {name};" for name, dtype in formula.outputs),
        formula.body,
        *(f"to_{name}[i] = {name};" for name, _ in formula.outputs),
    ]
    return (
        functions.head()
        + f"KERNEL void run(index_t begin, index_t end, {', '.join(parameters)}) {{\n"
        "#pragma omp simd\nfor (index_t i = begin; i < end; ++i) {\n"
        + "\n".join(lines)
        + "\n}\n}\nSHARED(run)\n"
    )


def preferred(kernels: Mapping[str, Kernel]) -> dict[str, Kernel]:
    """Return kernels of composed elementwise operations that compute large arrays compiled.

    Parameters
    ----------
    kernels : mapping of str to callable
        The own kernels by their operations' names.
    """
    return {name: _asking(VOCABULARY[name], own) for name, own in kernels.items()}


def _asking(op: Op, own: Kernel) -> Kernel:
    known: dict[Any, Any] = {}

    def kernel(*operands: Any, **params: Any) -> Any:
        first = operands[0]
        if first.__class__ is not np.ndarray or first.size < _FEW or not library.is_on():
            return own(*operands, **params)
        if not _alike(operands, first.shape):
            if first.ndim > 1 and _turned(operands):
                return kernel(*[each.T for each in operands], **params).T
            operands = tuple(
                [dense(each) if each.__class__ is np.ndarray else each for each in operands]
            )
            if not _alike(operands, first.shape):
                return own(*operands, **params)
        arrays, numbers = operands, tuple[float, ...]()
        kinds = tuple([getattr(each, "dtype", float) for each in operands])
        if any(each is float for each in kinds):  # a dtype may be equal to it
            arrays = tuple([each for each in operands if each.__class__ is np.ndarray])
            numbers = tuple([float(each) for each in operands if each.__class__ is not np.ndarray])
        signature = (kinds, *params.items())
        try:
            found = known[signature]
        except KeyError:
            found = known[signature] = _forward(op, kinds, params)
        if found is None:
            return own(*operands, **params)
        run, dtype = found
        out = np.empty(first.shape, dtype)
        return out if run(arrays, (out,), *numbers) else own(*operands, **params)

    return kernel


def _alike(operands: Sequence[Any], shape: tuple[int, ...]) -> bool:
    return all(
        each.shape == shape and each.flags.c_contiguous
        if each.__class__ is np.ndarray
        else each.__class__ in (float, int)
        for each in operands
    )


def _turned(arrays: Sequence[Any]) -> bool:
    """Return whether all are transposed, so that their elements lie in one line."""
    return all(
        isinstance(each, np.ndarray) and each.flags.f_contiguous and not each.flags.c_contiguous
        for each in arrays
    )


def _forward(op: Op, kinds: Sequence[Any], params: dict[str, Any]) -> tuple[Kernel, Any] | None:
    try:
        formula = forward(op, VOCABULARY, kinds, params)
    except NoScalarCode:
        return None
    made = compiled(formula)
    return None if made is None else (made, formula.outputs[0][1])


# --- pullbacks ------------------------------------------------------------------------------------


def pullbacks(others: Mapping[str, Callable[..., Any]]) -> Pullbacks:
    """Return what computes cotangents of elementwise operations in one pass over large arrays.

    Parameters
    ----------
    others : mapping of str to callable
        For other operations, see `distgrad.backend.pullbacks.Pullbacks`.
    """
    return Pullbacks(VOCABULARY, np.ndarray, _pulling, _FEW, others)


def _pulling(formula: Formula) -> Kernel | None:
    # A product for each output is what NumPy computes in one pass as well.
    if formula.body.count("const ") - len(formula.inputs) <= len(formula.outputs):
        return None
    dtypes = [dtype for _, dtype in formula.outputs]
    ready: list[Kernel | None] = []

    def kernel(*arrays: Array) -> list[Array] | None:
        if not library.is_on():
            return None
        if not ready:  # what is there is found out by compiling
            ready.append(compiled(formula, exact=True))
        made = ready[0]
        if made is None:
            return None
        arrays = (dense(arrays[0]), *arrays[1:])
        if not all(each.flags.c_contiguous for each in arrays):
            return None
        ends = [np.empty(arrays[0].shape, dtype) for dtype in dtypes]
        return ends if made(arrays, ends) else None

    return kernel
