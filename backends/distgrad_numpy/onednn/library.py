"""oneDNN's library: find it, switch it, and keep the primitives that were made.

A primitive, oneDNN's compiled code for one set of shapes, is made once and kept; the least recently
used go when there are too many. It is run with memory of each call's own, so threads may share it.
The library's OpenMP threads do not survive a fork: a child of a process that has used it falls back
on the own kernels, where it would hang otherwise.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from distgrad_numpy.threads import available

Handle = ctypes.c_void_p

SWITCH = "DISTGRAD_ONEDNN"
_PRIMITIVES = 256  # kept at most

# Values of oneDNN's enumerations, from dnnl_types.h of version 3.
_CPU, _IN_ORDER, _USER_SCRATCHPAD = 1, 1, 1


class Failed(Exception):
    """oneDNN does not do what it was asked for."""


class Key(Protocol):
    """What the code of a primitive depends on; hashable."""

    def make(self, library: Library) -> Any:
        """Return the primitive.

        Raises
        ------
        Failed
            If oneDNN has none that is quick.
        """


def _places() -> Iterable[Path]:
    """Yield where the library may be: as the environment says, or where its wheel puts it."""
    given = os.environ.get(SWITCH, "")
    if "/" in given:
        yield Path(given)
        return
    yield Path(sys.prefix) / "lib" / "libdnnl.so.3"
    from importlib.metadata import PackageNotFoundError, files

    try:
        for file in files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                yield Path(str(file.locate()))
    except PackageNotFoundError:
        return


class Library:
    """The library, its engine, and the primitives that were made."""

    def __init__(self, path: Path) -> None:
        self.calls = ctypes.CDLL(str(path))
        self.calls.dnnl_primitive_desc_query_md.restype = Handle
        self.calls.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.calls.dnnl_memory_desc_get_size.argtypes = (Handle,)
        self.calls.dnnl_memory_desc_equal.argtypes = (Handle, Handle)
        self.openmp = ctypes.CDLL("libgomp.so.1")
        self.engine = self.made("dnnl_engine_create", _CPU, ctypes.c_size_t(0))
        self.attributes = self.made("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", self.attributes, _USER_SCRATCHPAD)
        self.primitives: OrderedDict[Key, Any] = OrderedDict()
        self.lock = threading.Lock()
        self.local = threading.local()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library."""
        if status := getattr(self.calls, name)(*arguments):
            raise Failed(f"{name} returned {status}")

    def made(self, name: str, *arguments: Any) -> Handle:
        """Return what a function of the library makes."""
        handle = Handle()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle

    def stream(self) -> Handle:
        """Return this thread's stream of work."""
        stream: Handle | None = getattr(self.local, "stream", None)
        if stream is None:
            stream = self.local.stream = self.made("dnnl_stream_create", self.engine, _IN_ORDER)
        return stream

    def primitive(self, key: Key) -> Any:
        """Return the primitive of a key; None if oneDNN has none that is quick."""
        with self.lock:
            if key in self.primitives:
                self.primitives.move_to_end(key)
                return self.primitives[key]
        try:
            made = key.make(self)
        except Failed:
            made = None
        with self.lock:
            self.primitives[key] = made
            while len(self.primitives) > _PRIMITIVES:
                self.primitives.popitem(last=False)
        return made


class _Switch:
    """Whether oneDNN computes in this process."""

    on = True
    forked = False


def _leave() -> None:
    _Switch.forked = _Switch.forked or loaded.cache_info().currsize > 0


os.register_at_fork(after_in_child=_leave)


@cache
def loaded() -> Library | None:
    """Return the library; None where there is none, or it is switched off by the environment."""
    if os.environ.get(SWITCH) == "0" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    for path in _places():
        if path.is_file():
            try:
                return Library(path)
            except (OSError, AttributeError, Failed) as error:
                warnings.warn(
                    f"oneDNN at {path} does not load ({error}); NumPy's kernels compute "
                    f"instead. {SWITCH}=0 in the environment keeps this quiet",
                    stacklevel=2,
                )
    return None


def is_available() -> bool:
    """Return whether kernels in single precision are oneDNN's in this process."""
    return _Switch.on and not _Switch.forked and loaded() is not None


def switch(on: bool) -> bool:
    """Turn oneDNN on or off for this process, and return what it was before.

    For tests and measurements of the two sets of kernels side by side; ``DISTGRAD_ONEDNN=0`` in the
    environment is the switch for everything else.
    """
    before, _Switch.on = _Switch.on, on
    return before


def ready() -> tuple[Library, int] | None:
    """Return the library and how many threads it is to use, or None if the own kernels compute."""
    if not _Switch.on or _Switch.forked:
        return None
    library = loaded()
    if library is None:
        return None
    threads = available()
    library.openmp.omp_set_num_threads(threads)
    return library, threads
