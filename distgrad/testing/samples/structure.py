"""Samples of what moves elements and computes nothing: reshape, transpose, join, convert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distgrad.backend.discovery import load
from distgrad.dtypes import complex128, float64
from distgrad.shapes import Shape
from distgrad.testing.inputs import (
    ANY,
    Sample,
    layouts,
    values,
)

_STRUCTURE: tuple[tuple[str, str, Shape, dict[str, Any]], ...] = (
    ("reshape", "merged", (3, 4), {"shape": (2, 6)}),
    ("reshape", "flat", (3, 4), {"shape": (-1,)}),
    ("reshape", "split", (3, 4), {"shape": (3, 2, -1)}),
    ("reshape", "from-no-axes", (), {"shape": (1, 1)}),
    ("reshape", "to-no-axes", (1, 1), {"shape": ()}),
    ("reshape", "empty", (0, 3), {"shape": (3, 0)}),
    ("broadcast_to", "rows", (4,), {"shape": (3, 4)}),
    ("broadcast_to", "columns", (3, 1), {"shape": (3, 4)}),
    ("broadcast_to", "from-no-axes", (), {"shape": (3, 4)}),
    ("broadcast_to", "unchanged", (3, 4), {"shape": (3, 4)}),
    ("broadcast_to", "to-empty", (1, 3), {"shape": (0, 3)}),
    ("expand_dims", "front", (3, 4), {"axis": 0}),
    ("expand_dims", "middle", (3, 4), {"axis": 1}),
    ("expand_dims", "back", (3, 4), {"axis": -1}),
    ("expand_dims", "no-axes", (), {"axis": 0}),
    ("squeeze", "one", (3, 1, 4), {"axis": 1}),
    ("squeeze", "negative", (3, 4, 1), {"axis": -1}),
    ("squeeze", "two", (1, 3, 1), {"axis": (0, 2)}),
    ("squeeze", "none", (3, 4), {"axis": ()}),
    ("permute_dims", "matrix", (3, 4), {"axes": (1, 0)}),
    ("permute_dims", "cycle", (3, 4, 5), {"axes": (1, 2, 0)}),
    ("permute_dims", "negative", (3, 4, 5), {"axes": (-1, 0, 1)}),
    ("permute_dims", "no-axes", (), {"axes": ()}),
    ("matrix_transpose", "matrix", (3, 4), {}),
    ("matrix_transpose", "stack", (2, 3, 4), {}),
    ("matrix_transpose", "empty", (0, 3), {}),
    ("flip", "all-axes", (3, 4), {}),
    ("flip", "first", (3, 4), {"axis": 0}),
    ("flip", "negative", (3, 4), {"axis": -1}),
    ("flip", "two", (3, 4, 5), {"axis": (0, 2)}),
    ("flip", "no-axes", (), {}),
    ("roll", "rows", (3, 4), {"shift": (1,), "axis": (0,)}),
    ("roll", "negative", (3, 4), {"shift": (-5,), "axis": (-1,)}),
    ("roll", "two", (3, 4, 2), {"shift": (1, -2), "axis": (0, 1)}),
    ("roll", "one-axis-twice", (3, 4), {"shift": (1, 1), "axis": (1, 1)}),
    ("roll", "empty", (0, 3), {"shift": (1,), "axis": (0,)}),
    ("tril", "matrix", (3, 4), {"k": 0}),
    ("tril", "stack", (2, 4, 3), {"k": -1}),
    ("triu", "matrix", (3, 4), {"k": 1}),
    ("triu", "stack", (2, 4, 3), {"k": 0}),
    ("unstack", "rows", (3, 4), {"axis": 0}),
    ("unstack", "columns", (3, 4), {"axis": -1}),
    ("unstack", "middle", (2, 3, 4), {"axis": 1}),
    ("unstack", "line", (3,), {"axis": 0}),
    ("to_device", "home", (3, 4), {"source": "cpu", "device": "cpu"}),
    ("astype", "wider", (3, 4), {"dtype": float64}),
    ("astype", "complex", (3, 4), {"dtype": complex128}),
    ("astype", "no-axes", (), {"dtype": complex128}),
)
_JOINED: dict[str, tuple[Sequence[Shape], int]] = {
    "rows": (((3, 4), (2, 4)), 0),
    "columns": (((3, 4), (3, 1), (3, 5)), 1),
    "negative": (((3, 4), (3, 5)), -1),
    "one": (((3, 4),), 0),
    "same-shape": (((3, 4), (3, 4)), 0),
    "with-empty": (((3,), (0,)), 0),
    "all-empty": (((0, 3), (0, 3)), 0),
    "lines": (((3,), (4,), (5,)), 0),
}


def _structure() -> Iterator[Sample]:
    for name, variant, shape, params in _STRUCTURE:
        # To a real dtype the imaginary part is lost.
        takes_complex = False if params.get("dtype") == float64 else None
        operands = (values(shape, *ANY),)
        yield Sample(name, variant, operands, params, takes_complex=takes_complex)
    for name, params in (("reshape", {"shape": (-1,)}), ("flip", {"axis": 0})):
        for layout, x in layouts(ANY):
            if layout in ("fortran", "backwards"):
                yield Sample(name, layout, (x,), params)
    for variant, (shapes, axis) in _JOINED.items():
        arrays = (values(shape, *ANY, seed=place) for place, shape in enumerate(shapes))
        yield Sample("concat", variant, tuple(arrays), {"axis": axis})
    host = load("numpy")
    yield Sample("transfer", "home", (values((3, 4), *ANY),), {"source": host, "backend": host})


FAMILIES = (_structure,)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset(
    (
        "roll tril triu unstack to_device "
        "reshape broadcast_to expand_dims squeeze permute_dims matrix_transpose flip astype concat "
        "transfer "
    ).split()
)
