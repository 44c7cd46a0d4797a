"""Sample inputs for every operation of the vocabulary: all tests of its rules follow from them.

To cover a new operation, add one line to the table of its family; where it has a derivative at
complex operands, add its name to the list at the end. Intervals keep away from kinks and poles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distgrad.backend.discovery import load
from distgrad.dtypes import complex64, complex128, float32, float64, int64
from distgrad.ops.indexing import encode
from distgrad.shapes import Shape
from distgrad.testing.inputs import Interval, Sample, frozen, integers, layouts, pairs, values


def samples(operation: str | None = None) -> tuple[Sample, ...]:
    """Return the samples of one operation, or of all."""
    if operation is None:
        return _SAMPLES
    return tuple(sample for sample in _SAMPLES if sample.operation == operation)


# --- elementwise operations of one argument ------------------------------------------------------

_ANY = (-2.1, 2.0)  # both signs, no 0
_UNARY: dict[str, Interval] = {
    **dict.fromkeys("negative positive conj real imag square".split(), _ANY),
    **dict.fromkeys("abs sign".split(), (-21.0, 20.0)),  # their slope grows as 1/|x|
    **dict.fromkeys("floor ceil round isnan isinf isfinite zeros_like ones_like".split(), _ANY),
    **dict.fromkeys("exp expm1 sin cos sinh cosh tanh asinh atan".split(), _ANY),
    **dict.fromkeys("relu sigmoid softplus".split(), _ANY),
    "tan": (-0.9, 0.95),
    "log": (0.4, 3.0),
    "log1p": (-0.5, 2.0),
    "sqrt": (0.4, 3.0),
    "asin": (-0.8, 0.75),
    "acos": (-0.8, 0.75),
    "atanh": (-0.8, 0.75),
    "acosh": (1.3, 3.0),
}


def _unary() -> Iterator[Sample]:
    for name, interval in _UNARY.items():
        for layout, x in layouts(interval):
            yield Sample(name, layout, (x,))
    for layout, x in layouts(_ANY):
        yield Sample("logical_not", layout, (frozen(x > 0),))


# --- elementwise operations of two arguments -----------------------------------------------------

_SHIFTED = (-1.9, 2.15)  # like _ANY, with no value in common
_BINARY: dict[str, tuple[Interval, Interval]] = {
    **dict.fromkeys("add subtract multiply maximum minimum logaddexp".split(), (_ANY, _SHIFTED)),
    **dict.fromkeys("equal not_equal less less_equal greater greater_equal".split(), (_ANY, _ANY)),
    "divide": (_ANY, (0.5, 2.0)),
    "pow": ((0.5, 2.0), _ANY),
    "remainder": ((-5.0, 5.0), (1.1, 2.3)),
    "floor_divide": ((-5.0, 5.0), (1.1, 2.3)),
    "atan2": ((0.3, 2.0), _ANY),
}


def _binary() -> Iterator[Sample]:
    for name, intervals in _BINARY.items():
        for variant, a, b in pairs(*intervals):
            yield Sample(name, variant, (a, b))
    for name in ("equal", "less_equal", "greater_equal"):
        steps = frozen(np.floor(values((3, 4), *_ANY)))
        yield Sample(name, "ties", (steps, frozen(steps[:1].copy())))
    for exponent in (2, 0, 1, -1.5, 3):
        yield Sample("pow", f"exponent-{exponent}", (values((3, 4), 0.5, 2.0), exponent))
    negative_base = values((3, 4), -2.0, -0.5)
    yield Sample("pow", "negative-base", (negative_base, 3))
    yield Sample("pow", "integer-exponents", (negative_base, integers((3, 4), 0, 4)))
    for name in ("logical_and", "logical_or", "logical_xor"):
        for variant, a, b in pairs(_ANY, _SHIFTED):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                yield Sample(name, variant, (frozen(a > 0), frozen(b > 0)))


# --- reductions ----------------------------------------------------------------------------------

_REDUCTIONS: dict[str, Interval] = {
    **dict.fromkeys("sum mean max min logsumexp".split(), _ANY),
    "prod": (0.6, 1.5),  # so that 60 factors make a number of order 1
}
_AXES: dict[str, dict[str, Any]] = {
    "all-axes": {"axis": None},
    "by-default": {},
    "first": {"axis": 0},
    "last": {"axis": -1},
    "two": {"axis": (0, 2)},
    "two-backwards": {"axis": (-1, 0)},
    "kept": {"axis": 1, "keepdims": True},
    "all-kept": {"keepdims": True},
    "kept-two": {"axis": (2, 0), "keepdims": True},
    "no-axis": {"axis": ()},
}


def _reductions() -> Iterator[Sample]:
    for name, interval in _REDUCTIONS.items():
        for variant, params in _AXES.items():
            yield Sample(name, variant, (values((3, 4, 5), *interval),), params)
        for layout, x in layouts(interval):
            if layout != "empty":
                yield Sample(name, layout, (x,))
        yield Sample(name, "of-no-rows", (values((0, 3), *interval),), {"axis": 1})
    for name in ("sum", "prod"):
        yield Sample(name, "of-nothing", (values((0, 3), *_ANY),), {"axis": 0})
    for zeros in (1, 2, 3):
        line = values((4, 5), *_ANY).copy()
        line[1, :zeros] = 0
        yield Sample("prod", f"zeros-{zeros}", (frozen(line),), {"axis": 1})
    for name in ("all", "any"):
        for variant, params in _AXES.items():
            yield Sample(name, variant, (frozen(values((3, 4, 5), *_ANY) > 0),), params)
        yield Sample(name, "of-nothing", (frozen(values((0, 3), *_ANY) > 0),), {"axis": 0})
    for name in ("argmax", "argmin"):
        for variant in ("all-axes", "by-default", "first", "last", "kept", "all-kept"):
            yield Sample(name, variant, (values((3, 4, 5), *_ANY),), _AXES[variant])
        tied = frozen(np.floor(values((3, 4), *_ANY)))
        yield Sample(name, "ties", (tied,), {"axis": 1})
    for axis in (0, 1, -1):
        yield Sample("cumulative_sum", f"axis{axis}", (values((3, 4), *_ANY),), {"axis": axis})
    yield Sample("cumulative_sum", "line", (values((5,), *_ANY),))
    yield Sample("cumulative_sum", "empty", (values((0, 3), *_ANY),), {"axis": 0})
    yield Sample("cumulative_sum", "backwards", (values((6, 5), *_ANY)[::-2, ::-1],), {"axis": 0})


# --- contractions --------------------------------------------------------------------------------

_FACTORS: dict[str, tuple[Shape, Shape]] = {
    "matrices": ((3, 4), (4, 5)),
    "vectors": ((4,), (4,)),
    "matrix-vector": ((3, 4), (4,)),
    "vector-matrix": ((4,), (4, 5)),
    "square": ((3, 3), (3, 3)),
    "square-vector": ((3, 3), (3,)),
    "vector-square": ((3,), (3, 3)),
    "stack": ((2, 3, 4), (2, 4, 5)),
    "stack-matrix": ((2, 3, 4), (4, 5)),
    "matrix-stack": ((3, 4), (2, 4, 5)),
    "stack-vector": ((2, 3, 4), (4,)),
    "vector-stack": ((4,), (2, 4, 3)),
    "broadcast-stacks": ((2, 1, 3, 4), (5, 4, 2)),
    "stretched-stack": ((1, 3, 4), (2, 4, 5)),
    "ones": ((1, 1), (1, 1)),
    "no-rows": ((0, 3), (3, 2)),
    "nothing-to-sum": ((2, 0), (0, 3)),
}


def _contractions() -> Iterator[Sample]:
    for variant, (left, right) in _FACTORS.items():
        yield Sample("matmul", variant, (values(left, *_ANY), values(right, *_SHIFTED)))
    fortran = frozen(np.asfortranarray(values((3, 4), *_ANY)))
    yield Sample("matmul", "strided", (fortran, values((5, 8), *_SHIFTED)[::-1, ::2].T))


# --- structure -----------------------------------------------------------------------------------

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
        yield Sample(name, variant, (values(shape, *_ANY),), params)
    for name, params in (("reshape", {"shape": (-1,)}), ("flip", {"axis": 0})):
        for layout, x in layouts(_ANY):
            if layout in ("fortran", "backwards"):
                yield Sample(name, layout, (x,), params)
    for variant, (shapes, axis) in _JOINED.items():
        arrays = (values(shape, *_ANY, seed=place) for place, shape in enumerate(shapes))
        yield Sample("concat", variant, tuple(arrays), {"axis": axis})
    host = load("numpy")
    yield Sample("transfer", "home", (values((3, 4), *_ANY),), {"source": host, "backend": host})


# --- indexing ------------------------------------------------------------------------------------

_MASK = frozen(values((4, 5), -1.0, 1.0) > 0)
_KEYS: dict[str, tuple[Shape, Any]] = {
    "integer": ((4, 5), 2),
    "negative-integer": ((4, 5), (-1, 3)),
    "to-no-axes": ((4,), 1),
    "slice": ((4, 5), np.s_[1:3]),
    "steps": ((5, 4), np.s_[::2, 1::2]),
    "negative-steps": ((5, 4), np.s_[::-2, ::-1]),
    "empty-slice": ((4, 5), np.s_[3:1]),
    "ellipsis": ((3, 4, 5), np.s_[..., 1]),
    "new-axes": ((3, 4), np.s_[None, :, None, 1]),
    "everything": ((3, 4), np.s_[...]),
    "of-no-axes": ((), ()),
    "array": ((4, 5), np.array([3, 0])),
    "repeats": ((4, 5), np.array([1, 1, 3, 1])),
    "negative-array": ((4, 5), np.array([-1, 3, -4])),
    "table": ((4, 5), np.array([[0, 2, 2], [1, 0, 3]])),
    "no-positions": ((4, 5), np.array([], dtype=np.int64)),
    "small-integers": ((4, 5), np.array([3, 1, 1], dtype=np.uint8)),
    "two-arrays": ((4, 5), (np.array([0, 1, 0]), np.array([2, 4, 2]))),
    "arrays-that-broadcast": ((4, 5), (np.array([[0], [3]]), np.array([1, 1, 2]))),
    "array-after-slice": ((4, 5), (slice(None, None, 2), np.array([1, 1, 4]))),
    "arrays-apart": ((3, 4, 5), (np.array([0, 2, 2]), slice(1, 3), np.array([4, 0, 0]))),
    "array-and-integer": ((3, 4, 5), (1, slice(None), np.array([0, 0, 3]))),
    "array-and-new-axis": ((3, 4), (np.array([0, 2, 0]), None, slice(None, None, -1))),
    "mask": ((4, 5), _MASK),
    "row-mask": ((4, 5), np.array([True, False, True, True])),
    "mask-and-slice": ((4, 5), (np.array([True, False, True, True]), np.s_[::2])),
    "mask-and-array": ((3, 5), (np.array([True, False, True]), np.array([4, 4]))),
    "empty-mask": ((4, 5), np.zeros(4, dtype=bool)),
}


def _indexing() -> Iterator[Sample]:
    for variant, (shape, key) in _KEYS.items():
        x = values(shape, *_ANY)
        index, arrays = encode(key)
        for array in arrays:
            frozen(array)
        is_static = not any(array.dtype == bool for array in arrays)
        yield Sample("getitem", variant, (x, *arrays), {"index": index}, is_static)
        cotangent = values(np.shape(x[key]), *_SHIFTED)
        params = {"index": index, "shape": shape}
        yield Sample("scatter_add", variant, (cotangent, *arrays), params)
    for layout, x in layouts(_ANY):
        if layout in ("fortran", "backwards"):
            index, arrays = encode((slice(None, None, -1), frozen(np.array([0, 2, 2]))))
            yield Sample("getitem", layout, (x, *arrays), {"index": index})


# --- selection and neural networks ---------------------------------------------------------------


def _selection() -> Iterator[Sample]:
    condition = frozen(values((3, 4), -1.0, 1.0) > 0)
    for variant, a, b in pairs(_ANY, _SHIFTED):
        shape = np.broadcast_shapes(np.shape(a), np.shape(b))
        yield Sample("where", variant, (frozen(values(shape, -1.0, 1.0) > 0), a, b))
    row, column = values((4,), *_ANY), values((3, 1), *_SHIFTED)
    yield Sample("where", "condition-widest", (condition, row, column))
    yield Sample("where", "condition-narrow", (frozen(condition[:, :1].copy()), row, column))
    yield Sample("where", "condition-of-no-axes", (frozen(np.array(True)), row, column))


def _neural() -> Iterator[Sample]:
    for name in ("softmax", "log_softmax"):
        for axis in (0, 1, -1):
            yield Sample(name, f"axis{axis}", (values((3, 4, 5), *_ANY),), {"axis": axis})
        yield Sample(name, "line", (values((5,), *_ANY),), {"axis": -1})
        yield Sample(name, "one-class", (values((3, 1), *_ANY),), {"axis": -1})
        yield Sample(name, "empty", (values((0, 3), *_ANY),), {"axis": -1})
        yield Sample(name, "backwards", (values((6, 5), *_ANY)[::-2, ::-1],), {"axis": 0})
    for dtype in ("int64", "int32", "uint8"):
        labels = integers((3, 4), 0, 5, np.dtype(dtype))
        yield Sample("label_cross_entropy", dtype, (values((3, 4, 5), *_ANY), labels))
        yield Sample("one_hot", dtype, (labels,), {"classes": 5, "dtype": float32})
    one, none = integers((), 0, 5), integers((0,), 0, 5)
    yield Sample("label_cross_entropy", "one-example", (values((5,), *_ANY), one))
    yield Sample("label_cross_entropy", "no-example", (values((0, 5), *_ANY), none))
    yield Sample("one_hot", "no-axes", (one,), {"classes": 5, "dtype": float64})
    yield Sample("one_hot", "empty", (none,), {"classes": 5, "dtype": int64})
    yield Sample("one_hot", "outside", (integers((5,), -3, 9),), {"classes": 4, "dtype": float32})
    wide = frozen(np.arange(5, dtype=np.uint8))
    yield Sample("one_hot", "many-classes", (wide,), {"classes": 300, "dtype": float32})


# --- creation ------------------------------------------------------------------------------------


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


_FAMILIES = (_unary, _binary, _reductions, _contractions, _structure, _indexing) + (
    _selection,
    _neural,
    _creation,
)
# Where a complex operand has a derivative; the rest compare, round or order numbers.
_COMPLEX = frozenset(
    "negative positive conj real imag square abs sign exp expm1 log log1p sqrt sin cos tan asin "
    "acos atan sinh cosh tanh asinh acosh atanh sigmoid add subtract multiply divide pow sum mean "
    "prod cumulative_sum matmul reshape broadcast_to expand_dims squeeze permute_dims "
    "matrix_transpose flip astype concat transfer getitem scatter_add where".split()
)


def _takes_complex(sample: Sample) -> bool:
    loses_imaginary_part = sample.operation == "astype" and sample.params["dtype"] == float64
    return sample.operation in _COMPLEX and not loses_imaginary_part


_SAMPLES = tuple(
    replace(sample, takes_complex=_takes_complex(sample)) for make in _FAMILIES for sample in make()
)
