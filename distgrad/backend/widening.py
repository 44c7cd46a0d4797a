"""bfloat16: kernels compute such arrays in float32, and round what they return.

Few processors compute in bfloat16, and sums of such numbers stop growing after 256 terms. So
operands are widened, which is exact, products and sums add up in float32, and results are rounded
once. A backend may have kernels that do all this themselves, without the copies. Kernels are
wrapped when bfloat16 is first named: before, nothing asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Kind, Op
from distgrad.dtypes import DType, as_dtype, float32, result_type

_UNTOUCHED = frozenset(("astype", "transfer", "to_device"))
# Real parts of complex numbers, and of these none are narrower than complex64.
_SINGLE = frozenset(("irfft",))


def widening(
    op: Op,
    kernel: Callable[..., Any],
    astype: Callable[..., Any],
    narrow: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Return a kernel that computes bfloat16 operands in float32.

    Parameters
    ----------
    op : Op
        The operation; one that computes nothing keeps its kernel.
    kernel : callable
        Its kernel.
    astype : callable
        The backend's ``astype(array, dtype=...)``.
    narrow : callable, optional
        A kernel that takes bfloat16 itself, or returns `NotImplemented`; asked where no operand is
        of another floating dtype. Beside them may be integers, masks and numbers.
    """
    if op.kind is Kind.VIEW or op.name in _UNTOUCHED:
        return kernel
    bfloat16 = as_dtype("bfloat16")

    def widened(*operands: Any, **params: Any) -> Any:
        for operand in operands:
            if getattr(operand, "dtype", None) == bfloat16:
                break
        else:
            return kernel(*operands, **params)
        dtypes = [getattr(operand, "dtype", None) for operand in operands]
        if narrow is not None and _are_narrow(dtypes):
            result = narrow(*operands, **params)
            if result is not NotImplemented:
                return result
        wide = (
            astype(operand, dtype=float32) if dtype == bfloat16 else operand
            for operand, dtype in zip(operands, dtypes, strict=True)
        )
        result = kernel(*wide, **params)
        if "dtype" in params or not _stays_narrow(op, dtypes):
            return result
        if op.outputs == 1:
            return _rounded(result, bfloat16, astype)
        return tuple(_rounded(each, bfloat16, astype) for each in result)

    return widened


def _stays_narrow(op: Op, dtypes: Sequence[Any]) -> bool:
    """Return whether results of operands of these dtypes, None for Python's numbers, are narrow."""
    found = [as_dtype(dtype) for dtype in dtypes if dtype is not None]
    if op.name in _SINGLE:
        return False
    if op.kind is Kind.ELEMENTWISE:
        return result_type(*found).name == "bfloat16"
    return _are_narrow(found)


def _are_narrow(dtypes: Sequence[Any]) -> bool:
    """Return whether all floating dtypes are narrow; beside them are positions, masks, labels."""
    return not any(dtype is not None and dtype.kind in "fc" for dtype in dtypes)


def _rounded(result: Any, bfloat16: DType, astype: Callable[..., Any]) -> Any:
    return astype(result, dtype=bfloat16) if result.dtype == float32 else result
