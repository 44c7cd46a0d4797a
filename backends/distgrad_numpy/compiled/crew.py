"""Threads that wait in compiled code for pieces of a kernel, and the kernels that share them out.

What `threads.run` hands out from Python takes turns at the interpreter's lock, once for each
piece, and a thread that sleeps takes longer to wake than many a kernel to run. A crew's helpers are
threads of Python's, too, but stay in compiled code, see sources/crew.hpp: pieces are taken by
counting. Handing out two pieces took 4 microseconds, and 60 to 90 from Python.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from distgrad_numpy import threads
from distgrad_numpy.compiled import library

# How long a helper looks for work before it sleeps: kernels of one step follow each other after
# some ten microseconds of Python, and a wake takes 30 to 60.
_PATIENCE = 100_000  # nanoseconds
_LINE = 64  # bytes of a line of the cache

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_longlong


class _Crew:
    """Memory that threads look at for work, and these."""

    def __init__(self, found: ctypes.CDLL, helpers: int) -> None:
        found.room_for.restype, found.room_for.argtypes = _NUMBER, (_NUMBER,)
        found.found.restype, found.found.argtypes = None, (_POINTER, _NUMBER)
        found.help.restype, found.help.argtypes = None, (_POINTER, _NUMBER, _NUMBER)
        found.end.restype, found.end.argtypes = None, (_POINTER,)
        self._end = found.end
        self._memory = ctypes.create_string_buffer(found.room_for(helpers) + _LINE)
        start = ctypes.addressof(self._memory)
        self.place = start + -start % _LINE
        found.found(self.place, helpers)
        self._threads = [
            threading.Thread(
                target=found.help,
                args=(self.place, number, _PATIENCE),
                name=f"distgrad-crew-{number}",
                daemon=True,
            )
            for number in range(1, helpers + 1)
        ]
        for each in self._threads:
            each.start()

    def end(self) -> None:
        self._end(self.place)
        for each in self._threads:
            each.join()


class _Crews:
    """The crews of this process, by their numbers of helpers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[int, _Crew | None] = {}
        self.ended = False


_crews = _Crews()


def place() -> int | None:
    """Return the crew for a kernel that is called now; None where it has this thread alone."""
    workers = threads.for_kernels()
    if workers <= 1:
        return None
    try:
        crew = _crews.known[workers - 1]
    except KeyError:
        crew = _made(workers - 1)
    return None if crew is None else crew.place


def workers() -> int:
    """Return how many threads at most do the pieces of a kernel that is called now."""
    return threads.for_kernels()


def _made(helpers: int) -> _Crew | None:
    found = library.from_file("crew")
    if found is None:
        return None
    with _crews.lock:
        if helpers not in _crews.known:
            _crews.known[helpers] = None if _crews.ended else _Crew(found, helpers)
        return _crews.known[helpers]


def _end() -> None:
    """Let all helpers go before the interpreter does."""
    with _crews.lock:
        ended, _crews.ended = list(_crews.known.values()), True
        _crews.known = dict.fromkeys(_crews.known)
    for each in ended:
        if each is not None:
            each.end()


def _forget() -> None:
    """Start anew in a forked child, where there are no helpers; their memory is left as it is."""
    _left_behind.append(dict(_crews.known))
    _crews.__init__()  # type: ignore[misc]  # the crews of the process, as at first


_left_behind: list[Any] = []
atexit.register(_end)
os.register_at_fork(after_in_child=_forget)


# --- kernels --------------------------------------------------------------------------------------


def shared(
    file: str, name: str, arguments: Sequence[Any], real: str = "float"
) -> Callable[..., None] | None:
    """Return a function of a source file that a crew does in pieces; None without a compiler.

    Parameters
    ----------
    file : str
        The name of the file in the folder of sources, without its ending.
    name : str
        Of the function, which the source says is ``SHARED``.
    arguments : sequence
        The types of its arguments, of `ctypes`, but for the piece.
    real : {"float", "double"}, optional
        The numbers of a source that is written for both.

    Returns
    -------
    callable or None
        Called as ``run(count, each, *arguments)``: parts of the range of that length, the last one
        possibly shorter. That length must follow from shapes alone, for results that do not depend
        on the number of threads.
    """
    found = library.from_file(file, real)
    return None if found is None else shared_of(found, name, arguments)


def shared_of(found: ctypes.CDLL, name: str, arguments: Sequence[Any]) -> Callable[..., None]:
    """Return a function of a library as `shared` does."""
    key = f"{name}_in_pieces"
    known = found.__dict__
    if key not in known:
        kind = ctypes.CFUNCTYPE(None, _POINTER, _NUMBER, _NUMBER, *arguments)
        call = ctypes.cast(ctypes.c_void_p.in_dll(found, f"{name}_shared"), kind)

        def run(count: int, each: int, *given: Any) -> None:
            call(place() if count > each else None, count, each, *given)

        known[key] = run
    run_known: Callable[..., None] = known[key]
    return run_known
