"""Samples of the operations that make arrays from nothing."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.dtypes import complex64, float32, float64, int64
from distgrad.testing.inputs import (
    Sample,
)


def _creation() -> Iterator[Sample]:
    full = {"shape": (3, 4), "fill_value": 2.5}
    yield Sample("full", "floating", (), {**full, "dtype": float32})
    yield Sample("full", "complex", (), {**full, "dtype": complex64})
    yield Sample("full", "no-axes", (), {"shape": (), "fill_value": 7, "dtype": int64})
    yield Sample("arange", "up", (), {"start": 0, "stop": 5, "step": 1, "dtype": int64})
    yield Sample("arange", "down", (), {"start": 5, "stop": 0, "step": -2, "dtype": int64})
    yield Sample("arange", "floating", (), {"start": 0.5, "stop": 2, "step": 0.4, "dtype": float32})
    yield Sample("arange", "empty", (), {"start": 3, "stop": 1, "step": 1, "dtype": float64})
    line = {"start": -1.0, "stop": 2.0, "dtype": float64}
    yield Sample("linspace", "closed", (), {**line, "num": 5, "endpoint": True})
    yield Sample("linspace", "open", (), {**line, "num": 5, "endpoint": False})
    yield Sample("linspace", "one", (), {**line, "num": 1, "endpoint": True})
    yield Sample("eye", "above", (), {"n_rows": 3, "n_cols": 4, "k": 1, "dtype": float32})
    yield Sample("eye", "below", (), {"n_rows": 4, "n_cols": 3, "k": -2, "dtype": int64})


FAMILIES = (_creation,)
TAKE_COMPLEX: frozenset[str] = frozenset()
