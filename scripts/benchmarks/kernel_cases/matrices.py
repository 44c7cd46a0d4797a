"""Linear algebra of stacks of small matrices, as of strains, poses and filters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import Steps, draw, steps_of

COUNT = 2000
SIZES = (3, 4, 8)
NAMES = ("det", "inv", "solve", "cholesky", "slogdet")


def _function(module: Any, name: str, *arrays: Any) -> Any:
    found = getattr(module.linalg, name)(*arrays)
    return found[1] if name == "slogdet" else found


def _steps(name: str, size: int, library: str) -> Steps | None:
    """Return what to measure of definite matrices, and as many right sides; oneDNN has no part."""
    if library in ("onednn", "blas"):
        return None
    root = draw(COUNT, size, size)
    definite = root @ np.swapaxes(root, 1, 2) + size * np.eye(size, dtype=root.dtype)
    arrays = (definite, root) if name == "solve" else (definite,)
    return steps_of(library, lambda module, *given: _function(module, name, *given), arrays)


CASES: dict[str, Callable[[str], Steps | None]] = {
    f"{name} of {COUNT} {size}x{size}": partial(_steps, name, size)
    for name in NAMES
    for size in SIZES
}
