"""Adapters: kernels that a module of the array API standard spells otherwise, or has in parts.

One file a family of operations. Each is ``adapter(backend, *arrays, **params)`` and computes with
``backend.module``; a backend's own kernels take precedence. What it cannot adapt for a module, it
lacks: then the operation's composition serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ADAPTERS: dict[str, Callable[..., Any]] = {}
