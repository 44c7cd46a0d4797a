"""Ask about dtypes: to which they promote, which can be cast, of what kind and range they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from distgrad import dtypes
from distgrad.dtypes import DType, DTypeLike, as_dtype, is_real_floating
from distgrad.errors import DTypeError

_SCALARS = (bool, int, float, complex)
_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "c",
    "numeric": "iufc",
}


def result_type(*arrays_and_dtypes: Any) -> DType:
    """Return the dtype to which arrays, dtypes and Python scalars promote.

    Parameters
    ----------
    *arrays_and_dtypes : Tensor, Variable, array, dtype, dtype name or Python scalar
        One or more. A Python scalar decides the kind, never the width: it does not widen an array,
        and where it lifts integers to floating numbers, these get the default dtype.

    Raises
    ------
    ValueError
        If nothing is given.

    Examples
    --------
    >>> import distgrad as dg
    >>> dg.result_type(dg.float32, "float64"), dg.result_type(dg.ones(3), 2.5)
    (dtype('float64'), dtype('float32'))
    """
    if not arrays_and_dtypes:
        raise ValueError("result_type: nothing is given; expected one array or dtype or more")
    return dtypes.result_type(
        *(each if type(each) in _SCALARS else dtype_of(each) for each in arrays_and_dtypes)
    )


def dtype_of(value: Any) -> DType:
    """Return the dtype of an array, or of what names one."""
    own = getattr(value, "dtype", None)
    return as_dtype(value if own is None or isinstance(value, type) else own)


def can_cast(from_: Any, to: DTypeLike, /) -> bool:
    """Return whether a dtype, or that of an array, goes into another one without loss.

    Parameters
    ----------
    from_ : dtype, Tensor, Variable or array
        What would be cast.
    to : dtype
        To what.
    """
    return bool(np.can_cast(dtype_of(from_), as_dtype(to)))


def isdtype(dtype: DTypeLike, kind: DTypeLike | tuple[DTypeLike, ...]) -> bool:
    """Return whether a dtype is of a kind.

    Parameters
    ----------
    dtype : dtype
        What is asked about.
    kind : str, dtype, or tuple of these
        ``"bool"``, ``"signed integer"``, ``"unsigned integer"``, ``"integral"``,
        ``"real floating"``, ``"complex floating"``, ``"numeric"``, or a dtype. Of a tuple one has
        to hold.

    Raises
    ------
    ValueError
        If a string names no kind.
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, each) for each in kind)
    own = as_dtype(dtype)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ValueError(
                f"isdtype: kind is {kind!r}; expected a dtype, or one of {', '.join(_KINDS)}"
            )
        # bfloat16 is of NumPy's kind for foreign types.
        return ("f" if is_real_floating(own) else own.kind) in _KINDS[kind]
    return own == as_dtype(kind)


@dataclass(frozen=True)
class FloatLimits:
    """The limits of a floating dtype, as `finfo` returns them: Python's numbers.

    Attributes
    ----------
    bits : int
        How many bits a number has.
    eps : float
        The distance from 1 to the next larger number.
    max, min : float
        The largest and the smallest finite number.
    smallest_normal : float
        The smallest positive number of full precision.
    dtype : dtype
        The real dtype.
    """

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


def finfo(type: Any, /) -> FloatLimits:
    """Return the limits of a floating dtype.

    Parameters
    ----------
    type : dtype, Tensor, Variable or array
        Floating, real or complex; of complex numbers the limits of their parts.

    Raises
    ------
    DTypeError
        If the dtype is not floating.

    Examples
    --------
    >>> import distgrad as dg
    >>> dg.finfo(dg.float16).max, dg.finfo(dg.complex64).bits
    (65504.0, 32)
    """
    return _limits_of(dtype_of(type))


@cache
def _limits_of(dtype: DType) -> FloatLimits:
    if dtype.name == "bfloat16":
        import ml_dtypes

        limits: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    elif dtype.kind in "fc":
        limits = np.finfo(dtype)
    else:
        raise DTypeError(f"finfo: the dtype is {dtype}; expected a floating one (see iinfo)")
    return FloatLimits(
        bits=int(limits.bits),
        eps=float(limits.eps),
        max=float(limits.max),
        min=float(limits.min),
        smallest_normal=float(limits.smallest_normal),
        dtype=as_dtype(limits.dtype),
    )


def iinfo(type: Any, /) -> Any:
    """Return the limits of an integer dtype.

    Parameters
    ----------
    type : dtype, Tensor, Variable or array
        Of integers.

    Returns
    -------
    numpy.iinfo
        With ``bits``, ``max``, ``min`` and ``dtype``.

    Raises
    ------
    DTypeError
        If the dtype is not one of integers.
    """
    dtype = dtype_of(type)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo: the dtype is {dtype}; expected integers (see finfo)")
    return np.iinfo(dtype)
