"""Elementwise kernels on the device: one launch where a composition would take several.

The C++ of a kernel follows from the operation's own declaration, see
`distgrad.backend.scalar_code`; NVRTC compiles it at the first call for some dtypes, and CuPy keeps
the result in the user's own cache folder. Arrays of one shape that lie in one line each are read
and written 16 bytes at a time (`distgrad_cupy.contiguous`), others by a kernel of CuPy's, which
broadcasts. Arguments of other kinds (integers, complex numbers, mixed widths) run the composition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cupy

from distgrad.backend.pullbacks import Pullbacks
from distgrad.backend.scalar_code import Formula, NoScalarCode, forward
from distgrad.backend.templates import TEMPLATES
from distgrad.core.op import Kind, Op
from distgrad.ops import VOCABULARY
from distgrad_cupy.contiguous import Contiguous
from distgrad_cupy.running import Runner

_Compiled = Callable[..., Any]

# Elements from which an operation that CuPy has goes to a kernel with wide loads. Below, the launch
# is all the time, and a second kernel would only be compiled.
_MANY = 1 << 18


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
    """Return the kernel of a composed elementwise operation.

    Parameters
    ----------
    op : Op
        The operation.
    run : Runner
        What starts kernels; its vocabulary is for arguments that have no scalar code.
    """
    known: dict[Any, _Compiled | None] = {}
    compose: Any = op.compose

    def kernel(*operands: Any, **params: Any) -> Any:
        signature = (tuple([getattr(o, "dtype", None) for o in operands]), *params.items())
        try:
            own = known[signature]
        except KeyError:
            own = known[signature] = _forward(run, op, signature[0], params)
        if own is None:
            return compose(run.namespace(), *operands, **params)
        return own(*operands)

    return kernel


def _forward(
    run: Runner, op: Op, dtypes: Sequence[Any], params: dict[str, Any]
) -> _Compiled | None:
    if None in dtypes:  # a Python number, which may differ from call to call
        return None
    formula = _formula(op, dtypes, params)
    return None if formula is None else compiled(run, formula)


def _formula(op: Op, dtypes: Sequence[Any], params: dict[str, Any]) -> Formula | None:
    try:
        return forward(op, VOCABULARY, dtypes, params)
    except NoScalarCode:
        return None


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
    found = {op.name: own(op.name) for op in VOCABULARY.values() if _is_plain(op)}
    return {
        name: partial(_large, run, VOCABULARY[name], {}, otherwise)
        for name, otherwise in found.items()
        if otherwise is not None
    }


def _is_plain(op: Op) -> bool:
    return op.kind is Kind.ELEMENTWISE and op.name in TEMPLATES and op.compose is None


def _large(
    run: Runner,
    op: Op,
    known: dict[Any, _Compiled | None],
    otherwise: _Compiled,
    *operands: Any,
    **params: Any,
) -> Any:
    first = operands[0]
    if params or getattr(first, "size", 0) < _MANY:
        return otherwise(*operands, **params)
    dtypes = tuple([getattr(each, "dtype", None) for each in operands])
    try:
        kernel = known[dtypes]
    except KeyError:
        formula = None if None in dtypes else _formula(op, dtypes, {})
        kernel = None if formula is None else Contiguous(run, formula, otherwise)
        known[dtypes] = kernel
    return otherwise(*operands) if kernel is None else kernel(*operands)


def pullbacks(run: Runner) -> Pullbacks:
    """Return what computes cotangents of elementwise operations in one launch each.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    """
    return Pullbacks(VOCABULARY, run.module.ndarray, partial(_pulling, run))


def _pulling(run: Runner, formula: Formula) -> _Compiled:
    kernel = compiled(run, formula)
    if len(formula.outputs) > 1:
        return kernel
    return lambda *arrays: (kernel(*arrays),)
