"""Which functions of single elements compilers turn into vector code here.

Those of `sources/vector.hpp` everywhere, and those of the C library's vector mathematics where gcc
calls it: glibc's libmvec, whose results are off by up to 4 units in the last place.
"""

from __future__ import annotations

import ctypes
import platform
import re
from functools import cache

from distgrad.backend.scalar_code import Formula
from distgrad_numpy.compiled.compiler import CompilerError, compiler_name

_EXACT = frozenset(("fabs", "sqrt", "floor", "ceil", "trunc", "rint", "copysign", "fmax"))
OWN = {
    "float32": _EXACT | {"exp", "expm1", "log", "log1p", "tanh", "erf"},
    "float64": _EXACT,
}

_LIBRARY = "libmvec.so.1"
_OF_ONE = (
    *"exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan".split(),
    *"sinh cosh tanh asinh acosh atanh erf erfc cbrt".split(),
)
_OF_TWO = ("pow", "atan2", "hypot")
_CALL = re.compile(r"\b([a-z]\w*)\(")


def called(formula: Formula) -> set[str]:
    """Return the functions that a formula calls."""
    return set(_CALL.findall(formula.body))


def available(dtype: str) -> frozenset[str]:
    """Return the functions that are vector code in the name of a dtype."""
    return OWN.get(dtype, frozenset()) | _of_the_library(dtype)


def calls_in_a_branch(formula: Formula) -> bool:
    """Return whether a formula calls the C library in a branch, where it has no vector code."""
    return any(
        not set(_CALL.findall(line)).isdisjoint(_others(dtype))
        for line in formula.body.splitlines()
        if "?" in line
        for dtype in OWN
    )


def options() -> tuple[str, ...]:
    """Return what the compiler is told where the library's functions are called."""
    if not declarations():
        return ()
    # A sine and a cosine of one number would become one call, of which there is no vector code.
    apart = (f"-fno-builtin-{name}{suffix}" for name in ("sin", "cos") for suffix in ("", "f"))
    return (*apart, f"-l:{_LIBRARY}")


@cache
def declarations() -> str:
    """Return C++ that declares the library's functions, for the formulas' names."""
    lines = []
    for dtype, c_type, suffix in (("float64", "double", ""), ("float32", "float", "f")):
        for name in sorted(_others(dtype)):
            parameters = [f"{c_type} x", f"{c_type} y"][: 1 + (name in _OF_TWO)]
            typed, both = ", ".join(parameters), ", ".join("xy"[: len(parameters)])
            lines.append(
                'extern "C" __attribute__((const, simd("notinbranch"))) '
                f"{c_type} {name}{suffix}({typed}) noexcept;"
            )
            if suffix:  # an overload; the other one has the name itself
                call = f"{name}{suffix}({both})"
                lines.append(f"inline {c_type} {name}({typed}) {{ return ::{call}; }}")
    return "\n".join([*lines, ""])


def _others(dtype: str) -> frozenset[str]:
    return _of_the_library(dtype) - OWN[dtype] if dtype in OWN else frozenset()


@cache
def _of_the_library(dtype: str) -> frozenset[str]:
    if platform.machine() not in ("x86_64", "AMD64") or dtype not in OWN:
        return frozenset()
    try:
        if "clang" in compiler_name():  # which makes a call for each number
            return frozenset()
        found = ctypes.CDLL(_LIBRARY)
    except (CompilerError, OSError):
        return frozenset()
    # The names of its functions of 128 bits, as the vector ABI for x86-64 makes them.
    lanes, suffix = (2, "") if dtype == "float64" else (4, "f")
    return frozenset(
        name
        for name in (*_OF_ONE, *_OF_TWO)
        if hasattr(found, f"_ZGVbN{lanes}{'vv' if name in _OF_TWO else 'v'}_{name}{suffix}")
    )
