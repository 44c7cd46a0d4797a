"""Adapters: kernels that a module of the array API standard spells otherwise, or has in parts.

One file a family of operations. Each is ``adapter(backend, *arrays, **params)`` and computes with
``backend.module``; a backend's own kernels take precedence. What it cannot adapt for a module, it
lacks: then the operation's composition serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.backend.adapters.conventions import CONVENTIONS
from distgrad.backend.adapters.elementwise import ELEMENTWISE
from distgrad.backend.adapters.fourier import FOURIER
from distgrad.backend.adapters.indexing import INDEXING
from distgrad.backend.adapters.linalg import LINALG
from distgrad.backend.adapters.ordering import ORDERING
from distgrad.backend.adapters.random import RANDOM
from distgrad.backend.adapters.special import SPECIAL

ADAPTERS: dict[str, Callable[..., Any]] = {
    **CONVENTIONS,
    **ELEMENTWISE,
    **INDEXING,
    **ORDERING,
    **RANDOM,
    **LINALG,
    **FOURIER,
    **SPECIAL,
}
