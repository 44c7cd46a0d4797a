"""Samples of selection and of the operations of neural networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distgrad.dtypes import float32, float64, int64
from distgrad.testing.inputs import (
    ANY,
    SHIFTED,
    Sample,
    frozen,
    integers,
    pairs,
    values,
)


def _selection() -> Iterator[Sample]:
    condition = frozen(values((3, 4), -1.0, 1.0) > 0)
    for variant, a, b in pairs(ANY, SHIFTED):
        shape = np.broadcast_shapes(np.shape(a), np.shape(b))
        yield Sample("where", variant, (frozen(values(shape, -1.0, 1.0) > 0), a, b))
    row, column = values((4,), *ANY), values((3, 1), *SHIFTED)
    yield Sample("where", "condition-widest", (condition, row, column))
    yield Sample("where", "condition-narrow", (frozen(condition[:, :1].copy()), row, column))
    yield Sample("where", "condition-of-no-axes", (frozen(np.array(True)), row, column))
    for variant, a, b in pairs(ANY, SHIFTED):
        yield Sample("multiply_no_nan", variant, (a, b))


def _neural() -> Iterator[Sample]:
    for name in ("softmax", "log_softmax"):
        for axis in (0, 1, -1):
            yield Sample(name, f"axis{axis}", (values((3, 4, 5), *ANY),), {"axis": axis})
        yield Sample(name, "line", (values((5,), *ANY),), {"axis": -1})
        yield Sample(name, "one-class", (values((3, 1), *ANY),), {"axis": -1})
        yield Sample(name, "empty", (values((0, 3), *ANY),), {"axis": -1})
        yield Sample(name, "no-class", (values((3, 0), *ANY),), {"axis": -1})
        yield Sample(name, "nothing-at-all", (values((0, 0), *ANY),), {"axis": -1})
        yield Sample(name, "backwards", (values((6, 5), *ANY)[::-2, ::-1],), {"axis": 0})
    for axis in (0, 1, -1):
        operands = (values((3, 4, 5), *SHIFTED), values((3, 4, 5), *ANY))
        yield Sample("softmax_vjp", f"axis{axis}", operands, {"axis": axis})
    for dtype in ("int64", "int32", "uint8"):
        labels = integers((3, 4), 0, 5, np.dtype(dtype))
        yield Sample("label_cross_entropy", dtype, (values((3, 4, 5), *ANY), labels))
        g = values((3, 4), *SHIFTED)
        yield Sample("label_cross_entropy_vjp", dtype, (g, values((3, 4, 5), *ANY), labels))
        yield Sample("one_hot", dtype, (labels,), {"classes": 5, "dtype": float32})
    one, none = integers((), 0, 5), integers((0,), 0, 5)
    yield Sample("label_cross_entropy", "one-example", (values((5,), *ANY), one))
    yield Sample(
        "label_cross_entropy_vjp", "one-example", (values((), *ANY), values((5,), *ANY), one)
    )
    yield Sample("label_cross_entropy", "no-example", (values((0, 5), *ANY), none))
    nothing = values((0, 0), *ANY)
    yield Sample("label_cross_entropy", "no-class", (nothing, none))
    yield Sample("label_cross_entropy_vjp", "no-class", (values((0,), *ANY), nothing, none))
    yield Sample("one_hot", "no-axes", (one,), {"classes": 5, "dtype": float64})
    yield Sample("one_hot", "empty", (none,), {"classes": 5, "dtype": int64})
    yield Sample("one_hot", "outside", (integers((5,), -3, 9),), {"classes": 4, "dtype": float32})
    wide = frozen(np.arange(5, dtype=np.uint8))
    yield Sample("one_hot", "many-classes", (wide,), {"classes": 300, "dtype": float32})


def _sequences() -> Iterator[Sample]:
    """Label sequences: repeats, which need a blank between, unlike lengths, and none."""
    labels = frozen(np.array([[2, 2], [1, 3], [3, 1]]))
    steps, lengths = frozen(np.array([5, 4, 3])), frozen(np.array([2, 2, 1]))
    cases = {
        "repeats": (values((3, 5, 4), -2.1, -0.2), labels, steps, lengths),
        "blanks-alone": (
            values((2, 3, 4), -2.1, -0.2),
            integers((2, 1), 1, 4),
            frozen(np.array([3, 2])),
            frozen(np.array([0, 1])),
        ),
        "no-labels": (
            values((2, 3, 4), -2.1, -0.2),
            frozen(np.zeros((2, 0), np.int64)),
            frozen(np.array([3, 1])),
            frozen(np.array([0, 0])),
        ),
        "one-example": (
            values((4, 3), -2.1, -0.2),
            integers((2,), 1, 3, np.dtype("int32")),
            frozen(np.array(4)),
            frozen(np.array(2)),
        ),
    }
    for variant, (scores, *rest) in cases.items():
        yield Sample("ctc", variant, (scores, *rest), {"blank": 0})
        g = values(scores.shape[:-2], *SHIFTED)
        yield Sample("ctc_vjp", variant, (g, scores, *rest), {"blank": 0})
    last = frozen(np.array([[0, 1], [2, 0], [1, 1]]))
    scores = values((3, 5, 4), -2.1, -0.2, seed=1)
    yield Sample("ctc", "blank-last", (scores, last, steps, lengths), {"blank": 3})


FAMILIES = (_selection, _neural, _sequences)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("where multiply_no_nan".split())
