"""Which kernels oneDNN computes, of which arrays, and the own kernel for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from distgrad_numpy.onednn import elementwise, pooling, rows

Kernel = Callable[..., Any]

_FEW = 1 << 14  # elements; below, a call of oneDNN's costs more than it saves

OFFERS: dict[str, Kernel] = {**elementwise.OFFERS, **rows.OFFERS, **pooling.OFFERS}


def preferred(kernels: Mapping[str, Kernel]) -> dict[str, Kernel]:
    """Return kernels of which some ask oneDNN first."""
    return {
        name: _asking(OFFERS[name], kernel) if name in OFFERS else kernel
        for name, kernel in kernels.items()
    }


def _asking(offer: Kernel, own: Kernel) -> Kernel:
    @wraps(own)
    def kernel(first: Any, *others: Any, **params: Any) -> Any:
        if first.size >= _FEW and first.dtype == np.float32:
            result = offer(first, *others, **params)
            if result is not None:
                return result
        return own(first, *others, **params)

    return kernel
