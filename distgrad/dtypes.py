"""The dtypes: their names, which can be differentiated, and the default one.

A dtype is a `numpy.dtype`, whatever the backend. Promotion between arrays is NumPy's (NEP 50),
which contains the array API standard's; a Python scalar never widens an array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from distgrad.errors import DTypeError

DType: TypeAlias = np.dtype[Any]
DTypeLike: TypeAlias = Any  # a dtype, its name, or a Python or NumPy scalar type

bool_ = np.dtype("bool")
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{bits}") for bits in (16, 32, 64))
complex64, complex128 = np.dtype("complex64"), np.dtype("complex128")

NAMES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]

_KNOWN = {np.dtype(name) for name in NAMES}  # and bfloat16, from when it is first named
_awaiting_bfloat16: list[Callable[[], None]] = []

_default: DType = float32


def default_dtype() -> DType:
    """Return the dtype of floating values that bring none of their own; float32 unless set."""
    return _default


def set_default_dtype(dtype: DTypeLike) -> None:
    """Set the dtype of floating values that bring none of their own.

    Parameters
    ----------
    dtype : dtype or str
        A real floating dtype, such as ``"float64"``.

    Raises
    ------
    DTypeError
        If `dtype` is no real floating dtype.
    """
    global _default  # noqa: PLW0603  one of the library's few settings (docs: architecture)
    chosen = as_dtype(dtype)
    if not is_real_floating(chosen):
        raise DTypeError(
            f"set_default_dtype: dtype is {chosen}; expected a real floating dtype, "
            "such as 'float32' or 'float64'"
        )
    _default = chosen


@cache
def _named(name: str) -> DType:
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise DTypeError(
                "dtype 'bfloat16' needs the package ml_dtypes: pip install ml_dtypes"
            ) from error
        bfloat16 = np.dtype(ml_dtypes.bfloat16)
        _KNOWN.add(bfloat16)  # first: whoever is told asks for it, and nobody is told twice
        awaiting = _awaiting_bfloat16.copy()
        _awaiting_bfloat16.clear()
        for prepare in awaiting:
            prepare()
        return bfloat16
    if name not in NAMES:
        name = _abbreviated(name)
    return np.dtype(name)


def _abbreviated(code: str) -> str:
    """Return the name of the dtype for which NumPy has a code, such as ``"f4"`` or ``"<i8"``."""
    try:
        # Python's float is the default dtype here, and no number of bits: its name says too little.
        name = "" if code in ("float", "complex") else np.dtype(code).name
    except TypeError:
        name = ""
    if name not in NAMES:
        raise DTypeError(f"dtype {code!r} is unknown; expected one of {', '.join(NAMES)}, bfloat16")
    return name


def as_dtype(dtype: DTypeLike) -> DType:
    """Return a dtype from a dtype, its name or NumPy's code for it, or a scalar type.

    Python's ``float`` means the default dtype and ``complex`` the complex dtype of that precision.

    Raises
    ------
    DTypeError
        If there is no such dtype, or distgrad has no arithmetic for it (strings, objects, dates).
    """
    if isinstance(dtype, np.dtype) and dtype in _KNOWN:  # first: a dtype's name takes NumPy 5 us
        return dtype
    if dtype is float:
        return _default
    if dtype is complex:
        return complex_of(_default)
    if isinstance(dtype, str):
        return _named(dtype)
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        # Another array library's dtype: its last word is the name, as in `torch.float32`.
        return _named(str(dtype).rpartition(".")[2])
    if resolved.name not in NAMES and resolved.name != "bfloat16":
        raise DTypeError(
            f"dtype {resolved} has no arithmetic here; expected one of {', '.join(NAMES)}, bfloat16"
        )
    if resolved.name == "bfloat16":
        return _named("bfloat16")
    # In the machine's byte order: kernels, compiled ones first of all, read no other.
    return resolved if resolved.isnative else resolved.newbyteorder("=")


def is_numpys_real(dtype: Any) -> bool:
    """Return whether an array's dtype is a real floating one of NumPy's own, as most are."""
    return getattr(dtype, "kind", "") == "f"


def when_bfloat16_is_named(prepare: Callable[[], None]) -> None:
    """Call a function when bfloat16 is first named, or now if it was: else nobody pays for it."""
    if len(_KNOWN) > len(NAMES):
        prepare()
    else:
        _awaiting_bfloat16.append(prepare)


def complex_of(dtype: DType) -> DType:
    """Return the complex dtype whose parts have the precision of a real floating dtype."""
    return complex128 if dtype == float64 else complex64


def is_real_floating(dtype: DType) -> bool:
    """Return whether a dtype holds real floating numbers (bfloat16 included)."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_complex(dtype: DType) -> bool:
    """Return whether a dtype holds complex numbers."""
    return dtype.kind == "c"


def is_differentiable(dtype: DType) -> bool:
    """Return whether values of a dtype have derivatives: floating and complex ones do."""
    return dtype.kind in "fc" or dtype.name == "bfloat16"


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is of numbers or truth values (bfloat16 included)."""
    return dtype.kind in "biufc" or dtype.name == "bfloat16"


def result_type(*operands: Any) -> DType:
    """Return the dtype that an operation on dtypes and Python scalars computes in.

    Parameters
    ----------
    *operands : dtype or Python scalar
        A Python scalar adapts to the dtypes: it decides the kind, never the
        width; where it lifts integers to floating numbers, these get the default dtype.
        Scalars alone count as bool, int64, the default dtype or its complex one.
    """
    dtypes = [as_dtype(o) for o in operands if not isinstance(o, (bool, int, float, complex))]
    joint = _joint(dtypes) if dtypes else bool_
    scalars = [o for o in operands if isinstance(o, (bool, int, float, complex))]
    for scalar in scalars:
        joint = _with_scalar(joint, scalar)
    return joint


def _joint(dtypes: list[DType]) -> DType:
    try:
        return np.result_type(*dtypes)
    except TypeError:  # ml_dtypes says nothing of bfloat16 beside integers or float16
        narrow = [each for each in dtypes if each.name == "bfloat16"]
        if not narrow:
            raise
        # As wide beside integers as float16 is; float16 and bfloat16 both go into float32 alone.
        joint = np.result_type(*(float16 if each.name == "bfloat16" else each for each in dtypes))
        if joint != float16:
            return joint
        return float32 if float16 in dtypes else narrow[0]


def _with_scalar(joint: DType, scalar: bool | int | float | complex) -> DType:
    if isinstance(scalar, complex) and not is_complex(joint):
        return complex_of(joint if is_real_floating(joint) else _default)
    if isinstance(scalar, float) and not is_differentiable(joint):
        return _default
    if type(scalar) is int and joint == bool_:
        return int64
    return joint
