"""Which libraries of kernels are loaded in this process, and the switch for all of them.

Each is compiled when it is first asked for, once for a machine: about a second.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.errors import CacheError
from distgrad_numpy.compiled import compiler

SWITCH = "DISTGRAD_C_KERNELS"
SOURCES = Path(__file__).parent / "sources"


class CompilerWarning(UserWarning):
    """Kernels could not be compiled; NumPy computes in several passes what they would in one."""


class _State:
    """What this process has loaded."""

    def __init__(self) -> None:
        self.on = os.environ.get(SWITCH) != "0"
        self.failed = False
        self.refused: set[str] = set()
        self.libraries: dict[str, ctypes.CDLL] = {}
        self.lock = threading.Lock()


_state = _State()


def is_on() -> bool:
    """Return whether kernels are compiled here, as far as is known."""
    return _state.on and not _state.failed


def switch(on: bool) -> bool:
    """Turn compiled kernels on or off for this process, and return what it was before.

    For tests and measurements of the two sets of kernels side by side; ``DISTGRAD_C_KERNELS=0`` in
    the environment is the switch for everything else.
    """
    before, _state.on = _state.on, on
    return before


def from_source(
    name: str, source: str, *, exact: bool = False, further: Sequence[str] = (), alone: bool = False
) -> ctypes.CDLL | None:
    """Return the library of a source in C++; None where the own kernels have to do.

    Parameters
    ----------
    name : str
        Its name, the same for the same source within a process.
    source : str
        The source; it may include the headers beside this module.
    exact : bool
        Whether a product and a sum are never rounded at once.
    further : sequence of str
        More options for the compiler.
    alone : bool
        Whether a failure says nothing of other sources, which are compiled all the same.
    """
    if not _state.on or _state.failed:
        return None
    found = _state.libraries.get(name)
    if found is not None:
        return found
    with _state.lock:
        if name not in _state.libraries and not _state.failed and name not in _state.refused:
            try:
                _state.libraries[name] = compiler.library(name, source, SOURCES, exact, further)
            except (compiler.CompilerError, CacheError, OSError) as error:
                _state.refused.add(name)
                refused = isinstance(error, compiler.CompilerError)
                found_none = isinstance(error, compiler.NoCompilerError)
                _state.failed = found_none or not (alone and refused)
                warnings.warn(
                    f"{error}; until then NumPy computes in several passes what a compiled kernel "
                    f"does in one. {SWITCH}=0 in the environment keeps this quiet",
                    CompilerWarning,
                    stacklevel=2,
                )
    return _state.libraries.get(name)


def from_file(name: str, real: str = "float") -> ctypes.CDLL | None:
    """Return the library of a file in the folder of sources; None where there is none.

    Parameters
    ----------
    name : str
        The file's, without its ending.
    real : {"float", "double"}, optional
        The numbers of a source that is written for both, see sources/real.hpp.
    """
    key, further = (name, ()) if real == "float" else (f"{name}-{real}", (f"-DREAL={real}",))
    found = _state.libraries.get(key)
    if found is not None:
        return found if _state.on else None
    source = (SOURCES / f"{name}.cpp").read_text(encoding="utf-8")
    return from_source(key, source, further=further)


def _read(array: Any) -> int:
    """Return where the memory of a C-contiguous array of NumPy's begins."""
    # NumPy's binary interface fixes that this address follows the head of the object; extensions
    # read it so, too. It takes a sixth of the time of array.ctypes, of which a step of training
    # would ask for dozens.
    place: int = _POINTER(id(array) + _HEAD).value
    return place


def _ask(array: Any) -> int:
    """Return where the memory of a C-contiguous array of NumPy's begins."""
    return int(array.ctypes.data)


_POINTER: Any = ctypes.c_void_p.from_address
_HEAD = object.__basicsize__


def _is_laid_out_so() -> bool:
    """Return whether this interpreter has arrays where `_read` looks for them."""
    if sys.implementation.name != "cpython":
        return False
    line = np.zeros(8)
    return all(_read(each) == _ask(each) for each in (line, line[3:], np.zeros((2, 3), np.int8)))


def table_of(arrays: Sequence[Any]) -> tuple[Any, int]:
    """Return an array of ctypes for C-contiguous arrays of NumPy's, and where to look for memory.

    Returns
    -------
    table : ctypes.Array
        For each array a pointer; it is to live as long as the call, and so are the arrays.
    head : int
        If not 0, the pointers are to objects, and the address of the memory stands so many bytes
        behind: what is looked up in compiled code need not be looked up from Python.
    """
    if address is _read:
        return (ctypes.c_void_p * len(arrays))(*map(id, arrays)), _HEAD
    return (ctypes.c_void_p * len(arrays))(*map(_ask, arrays)), 0


address = _read if _is_laid_out_so() else _ask
