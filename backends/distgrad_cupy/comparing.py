"""Whether a CUDA graph gives the numbers that its executor gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.dtypes import is_complex, is_real_floating

Array = Any

# How far a graph's results may be from the executor's, of the greatest: products may be added up in
# another order.
_TOLERANCES = {2: 5e-2, 4: 1e-3, 8: 1e-8}


def alike(module: Any, one: Array, other: Array) -> bool:
    """Return whether two arrays hold the same numbers, but for rounding.

    Parameters
    ----------
    module : module
        CuPy.
    one, other : array
        What a graph gives, and what its executor does.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    if not (is_real_floating(one.dtype) or is_complex(one.dtype)):
        return bool(same.all())
    if not one.size:
        return True
    same |= module.isnan(one) & module.isnan(other)
    width = np.dtype(other.real.dtype).itemsize
    sizes = module.where(module.isfinite(other), abs(other), 0)
    bound = _TOLERANCES.get(width, 5e-2) * float(sizes.max())
    return bool((same | (abs(one - other) <= bound)).all())
