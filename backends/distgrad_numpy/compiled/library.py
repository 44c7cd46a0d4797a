"""Which libraries of kernels are loaded in this process, and the switch for all of them.

Each is compiled when it is first asked for, once for a machine: about a second.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from pathlib import Path
from typing import Any

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


def from_source(name: str, source: str, *, exact: bool = False) -> ctypes.CDLL | None:
    """Return the library of a source in C++; None where the own kernels have to do.

    Parameters
    ----------
    name : str
        Its name, the same for the same source within a process.
    source : str
        The source; it may include the headers beside this module.
    exact : bool
        Whether a product and a sum are never rounded at once.
    """
    if not _state.on or _state.failed:
        return None
    found = _state.libraries.get(name)
    if found is not None:
        return found
    with _state.lock:
        if name not in _state.libraries and not _state.failed:
            try:
                _state.libraries[name] = compiler.library(name, source, SOURCES, exact)
            except (compiler.CompilerError, CacheError, OSError) as error:
                _state.failed = True
                warnings.warn(
                    f"{error}; until then NumPy computes in several passes what a compiled kernel "
                    f"does in one. {SWITCH}=0 in the environment keeps this quiet",
                    CompilerWarning,
                    stacklevel=2,
                )
    return _state.libraries.get(name)


def from_file(name: str) -> ctypes.CDLL | None:
    """Return the library of a file in the folder of sources; None where there is none."""
    found = _state.libraries.get(name)
    if found is not None:
        return found if _state.on else None
    return from_source(name, (SOURCES / f"{name}.cpp").read_text(encoding="utf-8"))


def address(array: Any) -> int:
    """Return where the memory of a C-contiguous array of NumPy's begins."""
    try:
        return ctypes.addressof(_BYTE(array))  # in half the time of array.ctypes
    except (TypeError, ValueError):  # not to be written to, or empty
        return int(array.ctypes.data)


_BYTE = ctypes.c_char.from_buffer
