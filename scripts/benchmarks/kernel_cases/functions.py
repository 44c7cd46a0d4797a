"""Functions of single elements, as NumPy programs call them, over long arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import Steps, steps_of

LENGTH = 1_000_000
DTYPES = ("float32", "float64")

# By each library's own name, where it differs.
_NAMES = {
    "exp": {},
    "log": {},
    "tanh": {},
    "sin": {},
    "sigmoid": {"distgrad": "nn.sigmoid"},
    "erf": {"distgrad": "special.erf", "tensorflow": "math.erf"},
    "erfc": {"distgrad": "special.erfc", "torch": "special.erfc", "tensorflow": "math.erfc"},
    "logit": {"distgrad": "special.logit", "tensorflow": None},
    "hypot": {"tensorflow": None},
    "logaddexp": {"tensorflow": None},
}
_OF_TWO = ("hypot", "logaddexp")


def _function(library: Any, path: str) -> Callable[..., Any]:
    for name in path.split("."):
        library = getattr(library, name)
    return library


def _steps(name: str, dtype: str, library: str) -> Steps | None:
    own = "distgrad" if library in ("numpy", "compiled") else library
    path = _NAMES[name].get(own, f"math.{name}" if own == "tensorflow" else name)
    if path is None or own not in ("distgrad", "torch", "tensorflow"):
        return None
    numbers = np.random.default_rng(0).uniform(0.01, 0.99, (1 + (name in _OF_TWO), LENGTH))
    return steps_of(
        library,
        lambda module, *arrays: _function(module, path)(*arrays),
        tuple(numbers.astype(dtype)),
    )


CASES: dict[str, Callable[[str], Steps | None]] = {
    f"{name} {LENGTH} {dtype}": partial(_steps, name, dtype) for name in _NAMES for dtype in DTYPES
}
