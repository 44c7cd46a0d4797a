"""Elementwise kernels on the device: one launch where a composition would take several.

The C++ of a kernel follows from the operation's own declaration, see
`distgrad.backend.scalar_code`; NVRTC compiles it at the first call for some dtypes, and CuPy keeps
the result in the user's own cache folder. Arrays of one shape that lie in one line each are read
and written 16 bytes at a time (`distgrad_cupy.contiguous`), others by a kernel of CuPy's, which
broadcasts. Python numbers travel as a kernel's arguments. Other operands (integers, complex
numbers, mixed widths) run the composition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cupy
import numpy as np

from distgrad.backend.powers import is_product
from distgrad.backend.pullbacks import Pullbacks
from distgrad.backend.scalar_code import C_TYPES, Formula, NoScalarCode, forward
from distgrad.backend.templates import TEMPLATES
from distgrad.core.op import Kind, Op
from distgrad.ops import VOCABULARY
from distgrad_cupy.contiguous import Contiguous
from distgrad_cupy.running import HALVES, Runner, is_bfloat16, name_of

_Compiled = Callable[..., Any]

# Elements from which an operation that CuPy has goes to a kernel with wide loads. Below, the launch
# is all the time, and a second kernel would only be compiled.
_MANY_FOR_WIDE_LOADS = 1 << 18


def compiled(run: Runner, formula: Formula) -> _Compiled:
    """Return a formula as a kernel, which broadcasts its arguments.

    Parameters
    ----------
    run : Runner
        What starts the kernel for contiguous arrays.
    formula : Formula
        What to compute; each of its inputs is read under its own name.
    """
    return Contiguous(run, formula, broadcasting(formula))


def broadcasting(formula: Formula) -> _Compiled:
    """Return a formula as a kernel of CuPy, compiled when it is first called.

    Parameters
    ----------
    formula : Formula
        What to compute.
    """
    inputs = ", ".join(f"{dtype.name} {name}" for name, dtype in formula.inputs)
    outputs = ", ".join(f"{dtype.name} {name}" for name, dtype in formula.outputs)
    kernel: _Compiled = cupy.ElementwiseKernel(
        inputs, outputs, formula.body, f"distgrad_{formula.name}"
    )
    return kernel


def fused(op: Op, run: Runner) -> _Compiled:
    """Return the kernel of an elementwise operation, by its formula.

    Parameters
    ----------
    op : Op
        The operation.
    run : Runner
        What starts kernels; its vocabulary is for arguments that have no scalar code. Where some of
        these are of bfloat16 the kernel returns `NotImplemented`, see `distgrad.backend.widening`.
    """
    by_formula = ByFormula(op, run)
    compose: Any = op.compose

    def kernel(*operands: Any, **params: Any) -> Any:
        found = by_formula(*operands, **params)
        if found is not NotImplemented or any(map(is_bfloat16, operands)):
            return found
        return compose(run.namespace(), *operands, **params)

    return kernel


class ByFormula:
    """The formulas of an operation for arguments of some dtypes, compiled at the first call each.

    Parameters
    ----------
    op : Op
        An elementwise operation.
    run : Runner
        What starts kernels.
    broadcasts : bool
        Whether to take arrays that are not of one shape and in one line each, too.
    """

    def __init__(self, op: Op, run: Runner, *, broadcasts: bool = True) -> None:
        self._op, self._run, self._broadcasts = op, run, broadcasts
        self._known: dict[Any, _Compiled | None] = {}

    def __call__(self, *operands: Any, **params: Any) -> Any:
        """Return what the formula makes of the operands; `NotImplemented` where it takes none."""
        kinds = tuple([_kind_of(self._op.name, each) for each in operands])
        signature = (kinds, *[(name, _exact(value)) for name, value in params.items()])
        try:
            own = self._known[signature]
        except KeyError:
            own = self._known[signature] = self._compiled(kinds, params)
        return NotImplemented if own is None else own(*operands)

    def _compiled(self, kinds: Sequence[Any], params: dict[str, Any]) -> _Compiled | None:
        if any(each is bool or each is None for each in kinds):  # NumPy's bool equals Python's
            return None
        try:
            formula = forward(self._op, VOCABULARY, kinds, params)
        except NoScalarCode:
            return None
        kernel = Contiguous(
            self._run, formula, broadcasting(formula) if self._broadcasts else _refuse
        )
        has_numbers = not all(isinstance(each, np.dtype) for each in kinds)
        return _numbered(kernel, kinds) if has_numbers else kernel


def _exact(value: Any) -> Any:
    """Return metadata by which kernels are told apart: zeros have a sign."""
    return value.hex() if value.__class__ is float else value


def _refuse(*_: Any) -> Any:
    return NotImplemented


def _kind_of(name: str, operand: Any) -> Any:
    """Return what of an operand its formula depends on: a dtype, or a class of numbers."""
    dtype = getattr(operand, "dtype", None)
    if dtype is not None:
        return np.dtype(dtype)
    # These powers are products; each number has a kernel of its own, so no others.
    if name == "pow" and is_product(operand):
        return operand
    return next((kind for kind in (bool, int, float) if isinstance(operand, kind)), None)


def _numbered(kernel: _Compiled, kinds: Sequence[Any]) -> _Compiled:
    """Return a kernel that takes Python numbers, in the dtype in which its formula computes."""
    own = next(each for each in kinds if isinstance(each, np.dtype) and each.kind != "b")
    # As arrays would have them, numbers beside float16 are rounded to it first; those beside
    # bfloat16, which the host widens, are not.
    exact = np.float64 if own == np.float64 else np.float32
    rounded = np.float16 if own == np.float16 else exact

    def with_numbers(*operands: Any) -> Any:
        given = [
            exact(rounded(operand)) if isinstance(kind, type) else operand
            for operand, kind in zip(operands, kinds, strict=True)
            if isinstance(kind, (type, np.dtype))
        ]
        return kernel(*given)

    return with_numbers


def operations(has: Callable[[str], bool]) -> tuple[Op, ...]:
    """Return the elementwise operations for which `fused` makes a kernel.

    Parameters
    ----------
    has : callable
        Whether there is a kernel of a name already.
    """
    composed = (op for op in VOCABULARY.values() if op.compose is not None)
    return tuple(op for op in composed if op.kind is Kind.ELEMENTWISE and not has(op.name))


def large(run: Runner, own: Callable[[str], _Compiled | None]) -> dict[str, _Compiled]:
    """Return kernels of operations that CuPy has, with wide loads for large arrays.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    own : callable
        Returns CuPy's kernel of a name, for all other arguments; None where it has none.
    """
    found = {op: own(op.name) for op in VOCABULARY.values() if _is_plain(op)}
    return {
        op.name: partial(_large, ByFormula(op, run, broadcasts=False), otherwise)
        for op, otherwise in found.items()
        if otherwise is not None
    }


def _is_plain(op: Op) -> bool:
    return op.kind is Kind.ELEMENTWISE and op.name in TEMPLATES and op.compose is None


def _large(by_formula: ByFormula, otherwise: _Compiled, *operands: Any, **params: Any) -> Any:
    if not params and max([getattr(each, "size", 0) for each in operands]) >= _MANY_FOR_WIDE_LOADS:
        found = by_formula(*operands)
        if found is not NotImplemented:
            return found
    return otherwise(*operands, **params)


def casting(run: Runner, otherwise: _Compiled) -> _Compiled:
    """Return the kernel ``astype(x, dtype=...)``, with wide loads for large arrays.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    otherwise : callable
        CuPy's kernel, for dtypes that are not floating ones of 32 bits at most.
    """
    known: dict[Any, _Compiled] = {}

    def kernel(x: Any, dtype: Any) -> Any:
        if x.size < _MANY_FOR_WIDE_LOADS or x.dtype == dtype:
            return otherwise(x, dtype)
        pair = x.dtype, np.dtype(dtype)
        if pair not in known:
            cast = partial(otherwise, dtype=dtype)
            fits = all(name_of(each) in (*HALVES, "float32") for each in pair)
            known[pair] = Contiguous(run, _cast(*pair), cast) if fits else cast
        return known[pair](x)

    return kernel


def _cast(given: Any, made: Any) -> Formula:
    name = f"{given.name}_to_{made.name}"
    return Formula(name, (("x", given),), (("y", made),), f"y = ({C_TYPES[made.name]})(float)x;")


def pullbacks(run: Runner, others: Mapping[str, Callable[..., Any]]) -> Pullbacks:
    """Return what computes cotangents of elementwise operations in one launch each.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    others : mapping of str to callable
        The pullbacks of other operations, see `distgrad.backend.pullbacks.Pullbacks`.
    """
    return Pullbacks(VOCABULARY, run.module.ndarray, partial(_pulling, run), others=others)


def _pulling(run: Runner, formula: Formula) -> _Compiled:
    kernel = compiled(run, formula)
    if len(formula.outputs) > 1:
        return kernel
    return lambda *arrays: (kernel(*arrays),)
