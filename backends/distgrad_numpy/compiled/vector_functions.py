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
from distgrad.errors import CacheError
from distgrad_numpy.compiled import compiler
from distgrad_numpy.compiled.library import SOURCES

_EXACT = frozenset(("fabs", "sqrt", "floor", "ceil", "trunc", "rint", "copysign", "fmax"))
_OWN = {
    "float32": _EXACT | {"exp", "expm1", "log", "erf"},
    "float64": _EXACT | {"exp"},
}
# Own ones as well, than which the library's are quicker or more precise.
_OTHERWISE = {
    "float32": frozenset(("log1p", "tanh")),
    "float64": frozenset(("expm1", "log", "log1p", "tanh", "erf")),
}

_LIBRARY = "libmvec.so.1"
_OF_ONE = (
    *"exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan".split(),
    *"sinh cosh tanh asinh acosh atanh erf erfc cbrt".split(),
)
_OF_TWO = ("pow", "atan2", "hypot")
_CALL = re.compile(r"\b([a-z]\w*)\(")


def are_there(formula: Formula) -> bool:
    """Return whether all of a formula is vector code: its dtype's, and the functions it calls."""
    dtypes = {dtype.name for _, dtype in formula.inputs + formula.outputs if dtype.kind != "b"}
    if len(dtypes) > 1 or not dtypes <= _OWN.keys():
        return False
    called = set(_CALL.findall(formula.body))
    return all(called <= available(each) for each in dtypes)


@cache
def available(dtype: str) -> frozenset[str]:
    """Return the functions that are vector code in the name of a dtype."""
    return _OWN[dtype] | _OTHERWISE[dtype] | _of_the_library(dtype)


def head() -> str:
    """Return the C++ before that of formulas: what declares their functions."""
    return (
        f'#include "crew.hpp"\n#include "region.hpp"\n{_declarations()}using namespace distgrad;\n'
    )


def options() -> tuple[str, ...]:
    """Return what the compiler is told where the library's functions are called."""
    if not any(map(_of_the_library, _OWN)):
        return ()
    # A sine and a cosine of one number would become one call, of which there is no vector code.
    apart = (f"-fno-builtin-{name}{suffix}" for name in ("sin", "cos") for suffix in ("", "f"))
    return (*apart, f"-l:{_LIBRARY}")


@cache
def _declarations() -> str:
    """Return C++ that declares functions that `vector.hpp` has not, by the formulas' names."""
    lines = []
    for dtype, c_type, suffix in (("float64", "double", ""), ("float32", "float", "f")):
        found = _of_the_library(dtype) - _OWN[dtype]
        for name in sorted(found):
            lines.append(_declaration(name, c_type, suffix))
            if suffix:  # an overload; the other one has the name itself
                parameters, both = _parameters(name, c_type)
                call = f"::{name}{suffix}({both})"
                lines.append(f"INLINED {c_type} {name}({parameters}) {{ return {call}; }}")
        lines += [
            f"using distgrad::otherwise::{name};" for name in sorted(_OTHERWISE[dtype] - found)
        ]
    return "\n".join([*lines, ""])


def _declaration(name: str, c_type: str, suffix: str) -> str:
    parameters, _ = _parameters(name, c_type)
    return (
        'extern "C" __attribute__((const, simd("notinbranch"))) '
        f"{c_type} {name}{suffix}({parameters}) noexcept;"
    )


def _parameters(name: str, c_type: str) -> tuple[str, str]:
    names = "xy"[: 1 + (name in _OF_TWO)]
    return ", ".join(f"{c_type} {each}" for each in names), ", ".join(names)


@cache
def _of_the_library(dtype: str) -> frozenset[str]:
    if platform.machine() not in ("x86_64", "AMD64") or not _links():
        return frozenset()
    found = ctypes.CDLL(_LIBRARY)
    # The names of its functions of 128 bits, as the vector ABI for x86-64 makes them.
    lanes, suffix = (2, "") if dtype == "float64" else (4, "f")
    return frozenset(
        name
        for name in (*_OF_ONE, *_OF_TWO)
        if hasattr(found, f"_ZGVbN{lanes}{'vv' if name in _OF_TWO else 'v'}_{name}{suffix}")
    )


@cache
def _links() -> bool:
    """Return whether the compiler makes vector calls, and finds the library that has them."""
    source = f"""
#include "vector.hpp"
{_declaration("exp", "double", "")}
KERNEL void run(index_t n, double* x) {{
#pragma omp simd
    for (index_t i = 0; i < n; ++i) x[i] = ::exp(x[i]);
}}
"""
    try:
        if "clang" in compiler.compiler_name():  # which makes a call for each number
            return False
        ctypes.CDLL(_LIBRARY)
        # Compilers with a C library of their own, as conda's, may not have it.
        compiler.library("vector", source, SOURCES, True, (f"-l:{_LIBRARY}",))
    except (compiler.CompilerError, CacheError, OSError):
        return False
    return True
