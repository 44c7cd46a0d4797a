"""Backends in force: on which one new arrays are made, and the vocabulary on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from distgrad import backend as backends
from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.ops import VOCABULARY

_kernels: dict[int, Kernels] = {}  # by the backend's id; the kernels keep the backend alive
_process_default: Backend | None = None
_in_force: ContextVar[Backend | None] = ContextVar("distgrad_backend", default=None)


def load(backend: str | Backend) -> Backend:
    """Return a backend from its name, or the backend itself."""
    return backends.load(backend) if isinstance(backend, str) else backend


def kernels_of(backend: str | Backend) -> Kernels:
    """Return the vocabulary on a backend's arrays."""
    loaded = load(backend)
    kernels = _kernels.get(id(loaded)) or getattr(loaded, "kernels", None)  # a trace has its own
    if kernels is None:
        # Of two threads that come first, both get the same ones.
        kernels = _kernels.setdefault(id(loaded), make_kernels(loaded))
    return kernels


def make_kernels(backend: Backend) -> Kernels:
    """Return the vocabulary on a backend's arrays, made anew."""
    kernels = Kernels(backend, VOCABULARY)
    kernels.recorded = _record_on(kernels)
    return kernels


def _unbound(kernels: Kernels) -> Any:
    raise RuntimeError(f"{kernels}: no evaluator is bound; import distgrad, not a part of it")


_record_on: Callable[[Kernels], Any] = _unbound


def bind_recorded(record_on: Callable[[Kernels], Any]) -> None:
    """Say who makes the recorded vocabulary on a backend; done once, by `distgrad.eager`."""
    global _record_on  # noqa: PLW0603  late, like the seam's: the evaluator stands on this module
    _record_on = record_on


# How many transformations this code stands in: the level of the innermost one.
_depth: ContextVar[int] = ContextVar("distgrad_depth", default=0)


@contextmanager
def deeper() -> Iterator[int]:
    """Enter a transformation for a ``with`` block; its level is higher than those around it."""
    level = _depth.get() + 1
    token = _depth.set(level)
    try:
        yield level
    finally:
        _depth.reset(token)


def depth() -> int:
    """Return how many transformations this code stands in."""
    return _depth.get()


def current_kernels() -> Kernels:
    """Return the vocabulary on the backend in force."""
    chosen = _in_force.get() or _process_default
    return kernels_of(chosen or os.environ.get("DISTGRAD_BACKEND") or "numpy")


def set_backend(backend: str | Backend) -> None:
    """Set the backend on which new arrays are made.

    Parameters
    ----------
    backend : str or Backend
        A name (see `list_backends`) or a backend object.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        If there is no such backend, or it does not work here.
    """
    global _process_default  # noqa: PLW0603  one of the library's few settings
    _process_default = load(backend)


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[Backend]:
    """Make new arrays on a backend within a ``with`` block."""
    chosen = load(backend)
    token = _in_force.set(chosen)
    try:
        yield chosen
    finally:
        _in_force.reset(token)


def list_backends() -> tuple[str, ...]:
    """Return the names of the installed backends; `distgrad.backend.status` says which work."""
    return backends.known()


def kernels_in_use() -> tuple[Kernels, ...]:
    """Return the vocabularies made so far; the one chosen for new arrays, if any, goes first."""
    chosen = _in_force.get() or _process_default
    return (*((kernels_of(chosen),) if chosen else ()), *_kernels.values())
