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
import numpy as np

from distgrad.backend.scalar_code import Formula, NoScalarCode, forward, pullback
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


class Pullbacks:
    """Cotangents of elementwise operations in one launch each, where nothing was broadcast."""

    def __init__(self) -> None:
        self._known: dict[Any, _Compiled | None] = {}

    def __call__(
        self, op: Op, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[Any]
    ) -> Any:
        """Return an operation's cotangents; None where its rule has to compute them.

        Parameters
        ----------
        op, g, y, xs, params, needs
            What an operation's VJP takes, see `distgrad.core.op.Op`; raw arrays.
        """
        reads = () if xs is None else xs
        if y is None and not reads:
            return None  # the cotangent itself, or its negative
        shape = g.shape
        arrays = [g] if y is None else [g, y]
        signature: list[Any] = [op, y is None, tuple([bool(need) for need in needs])]
        for x in reads:
            if x is not None and not isinstance(x, cupy.ndarray):
                return None  # shapes to sum to, specs, Python numbers
            signature.append(None if x is None else x.dtype)
            if x is not None:
                arrays.append(x)
        if any(array.shape != shape for array in arrays):
            return None
        key = (*signature, g.dtype, *params.items())
        if key not in self._known:
            self._known[key] = _pullback(op, g, y, reads, params, needs)
        own = self._known[key]
        if own is None:
            return None
        found = own(*arrays)
        ends = iter(found if isinstance(found, tuple) else (found,))
        return [next(ends) if need else None for need in needs]


def _pullback(
    op: Op, g: Any, y: Any, xs: Sequence[Any], params: dict[str, Any], needs: Sequence[Any]
) -> _Compiled | None:
    reads = [None if x is None else np.dtype(x.dtype) for x in xs]
    output = None if y is None else np.dtype(y.dtype)
    try:
        formula = pullback(op, VOCABULARY, reads, output, np.dtype(g.dtype), params, needs)
    except NoScalarCode:
        return None
    if len(formula.outputs) != sum(map(bool, needs)):
        return None
    return compiled(formula)
