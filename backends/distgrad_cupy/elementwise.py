"""Elementwise kernels on the device: one launch where a composition would take several.

The C++ of a kernel follows from the operation's own declaration, see
`distgrad.backend.scalar_code`; NVRTC compiles it at the first call for some dtypes, and CuPy keeps
the result in the user's own cache folder. Arguments of other kinds (integers, complex numbers,
mixed widths) run the composition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cupy

from distgrad.backend.pullbacks import Pullbacks
from distgrad.backend.scalar_code import Formula, NoScalarCode, forward
from distgrad.core.op import Kind, Op
from distgrad.ops import VOCABULARY

_Compiled = Callable[..., Any]


def compiled(formula: Formula) -> _Compiled:
    """Return a formula as a kernel of CuPy, which broadcasts its arguments.

    Parameters
    ----------
    formula : Formula
        What to compute; each of its inputs is read under its own name.
    """
    inputs = ", ".join(f"{dtype.name} {name}" for name, dtype in formula.inputs)
    outputs = ", ".join(f"{dtype.name} {name}" for name, dtype in formula.outputs)
    kernel: _Compiled = cupy.ElementwiseKernel(
        inputs, outputs, formula.body, f"distgrad_{formula.name}"
    )
    return kernel


def fused(op: Op, namespace: Callable[[], Any]) -> _Compiled:
    """Return the kernel of a composed elementwise operation.

    Parameters
    ----------
    op : Op
        The operation.
    namespace : callable
        Returns the vocabulary on CuPy's arrays, for arguments that have no scalar code.
    """
    known: dict[Any, _Compiled | None] = {}
    compose: Any = op.compose

    def kernel(*operands: Any, **params: Any) -> Any:
        signature = (tuple([getattr(o, "dtype", None) for o in operands]), *params.items())
        try:
            own = known[signature]
        except KeyError:
            own = known[signature] = _forward(op, signature[0], params)
        if own is None:
            return compose(namespace(), *operands, **params)
        return own(*operands)

    return kernel


def _forward(op: Op, dtypes: Sequence[Any], params: dict[str, Any]) -> _Compiled | None:
    if None in dtypes:  # a Python number, which may differ from call to call
        return None
    try:
        return compiled(forward(op, VOCABULARY, dtypes, params))
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


def pullbacks() -> Pullbacks:
    """Return what computes cotangents of elementwise operations in one launch each."""
    return Pullbacks(VOCABULARY, cupy.ndarray, _pulling)


def _pulling(formula: Formula) -> _Compiled:
    kernel = compiled(formula)
    if len(formula.outputs) > 1:
        return kernel
    return lambda *arrays: (kernel(*arrays),)
