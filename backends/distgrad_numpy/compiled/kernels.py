"""All compiled kernels that stand in front of others, by their operations' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distgrad_numpy.compiled import (
    attention,
    columns,
    offers,
    pooling,
    recurrent,
    reducing,
    rows,
    running,
    small_matrices,
)

OFFERS: dict[str, Callable[..., Any]] = {
    **rows.OFFERS,
    **columns.OFFERS,
    **pooling.OFFERS,
    **attention.OFFERS,
    **recurrent.OFFERS,
    **reducing.OFFERS,
    **running.OFFERS,
    **small_matrices.OFFERS,
}

PULLBACKS = running.PULLBACKS
RUNNING = ("cumulative_sum", "cumulative_prod")
MATRICES = tuple(small_matrices.OFFERS)


def preferred(kernels: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return kernels of which some are compiled, where that goes and is worth it."""
    return offers.preferred(kernels, OFFERS)
