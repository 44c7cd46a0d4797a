"""Bad input is answered by an error of the right type that says what, expected, given."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, PositionError, ShapeError

A = dg.asarray(np.ones((3, 4)))
B = dg.asarray(np.ones((5, 2)))
LINE = dg.asarray(np.ones(5))

# call, error, and what its message says: the operation, what was given, what was expected
CASES = {
    "add": (lambda: A + B, ShapeError, ["add", "(3, 4)", "(5, 2)", "equal lengths, or 1"]),
    "where": (lambda: dg.where(A > 0, A, B), ShapeError, ["where", "(3, 4)", "(5, 2)"]),
    "matmul-inner": (lambda: A @ A, ShapeError, ["matmul", "(3, 4) @ (3, 4)", "4 is not 3"]),
    "matmul-scalar": (lambda: A @ 2.0, ShapeError, ["matmul", "one axis or more", "multiply"]),
    "matmul-stacks": (
        lambda: dg.zeros((2, 3, 4)) @ dg.zeros((3, 4, 5)),
        ShapeError,
        ["matmul", "(2,)", "(3,)"],
    ),
    "tensordot": (lambda: dg.tensordot(A, B, axes=1), ShapeError, ["tensordot", "(4,)", "(5,)"]),
    "reshape": (lambda: dg.reshape(A, (5, -1)), ShapeError, ["reshape", "(3, 4)", "12", "(5, -1)"]),
    "reshape-two-unknown": (
        lambda: dg.reshape(A, (-1, -1)),
        ShapeError,
        ["reshape", "(-1, -1)", "one of them may be -1"],
    ),
    "broadcast_to": (
        lambda: dg.broadcast_to(A, (3, 5)),
        ShapeError,
        ["broadcast_to", "(3, 4)", "(3, 5)"],
    ),
    "sum-axis": (lambda: dg.sum(A, axis=2), ShapeError, ["sum", "axis is 2", "-2 to 1"]),
    "concat-of-scalars": (
        lambda: dg.concat([dg.asarray(1.0)]),
        ShapeError,
        ["concat", "axis is 0", "zero-dimensional"],
    ),
    "mean-twice": (lambda: dg.mean(A, axis=(0, -2)), ShapeError, ["mean", "(0, -2)", "twice"]),
    "max-axis": (lambda: dg.max(A, axis=-3), ShapeError, ["max", "axis is -3", "-2 to 1"]),
    "argmax-axis": (lambda: dg.argmax(A, axis=5), ShapeError, ["argmax", "axis is 5", "-2 to 1"]),
    "softmax-axis": (lambda: dg.softmax(A, axis=2), ShapeError, ["softmax", "axis is 2"]),
    "cumulative_sum": (
        lambda: dg.cumulative_sum(A),
        ShapeError,
        ["cumulative_sum", "2 axes", "give axis="],
    ),
    "flip-axis": (lambda: dg.flip(A, axis=2), ShapeError, ["flip", "axis is 2"]),
    "permute_dims": (lambda: dg.permute_dims(A, (0,)), ShapeError, ["permute_dims", "(0,)", "2"]),
    "matrix_transpose": (
        lambda: dg.matrix_transpose(LINE),
        ShapeError,
        ["matrix_transpose", "two axes", "(5,)"],
    ),
    "squeeze": (lambda: dg.squeeze(A, axis=0), ShapeError, ["squeeze", "axis 0", "(3, 4)", "3"]),
    "expand_dims": (lambda: dg.expand_dims(A, axis=4), ShapeError, ["expand_dims", "axis is 4"]),
    "concat": (lambda: dg.concat([A, B]), ShapeError, ["concat", "array 1", "(5, 2)", "(3, 4)"]),
    "concat-nothing": (lambda: dg.concat([]), ShapeError, ["concat", "empty", "one array"]),
    "concat-scalar": (lambda: dg.concat([LINE, 2.0]), ShapeError, ["concat", "array 1", "()"]),
    "take-axis": (lambda: dg.take(A, [0]), ShapeError, ["take", "2 axes", "give axis="]),
    "max-of-nothing": (
        lambda: dg.max(dg.zeros((0, 3)), axis=0),
        ShapeError,
        ["max", "(0, 3)", "expected lengths of 1 or more"],
    ),
    "argmin-of-nothing": (lambda: dg.argmin(dg.zeros((0,))), ShapeError, ["argmin", "(0,)"]),
    "max-of-nothing-of-nothing": (
        lambda: dg.max(dg.zeros((0, 0)), axis=0),
        ShapeError,
        ["max", "(0, 0)", "1 or more"],
    ),
    "index": (lambda: LINE[7], PositionError, ["getitem", "7", "(5,)", "-n to n - 1"]),
    "index-array": (
        lambda: LINE[dg.asarray([0, 9])],
        PositionError,
        ["getitem", "9", "(5,)", "-n to n - 1"],
    ),
    "take-out-of-range": (lambda: dg.take(LINE, [-6]), PositionError, ["getitem", "-6", "(5,)"]),
    "too-many-indices": (lambda: A[0, 0, 0], PositionError, ["getitem", "too many", "(3, 4)"]),
    "mask": (
        lambda: A[dg.asarray([True, False])],
        PositionError,
        ["getitem", "axis is 3", "axis is 2"],
    ),
    "label": (
        lambda: dg.softmax_cross_entropy(labels=[0, 4, 9], logits=A),
        PositionError,
        ["softmax_cross_entropy", "label 4", "expected 0 to 3"],
    ),
    "negative-label": (
        lambda: dg.softmax_cross_entropy(labels=[0, -1, 1], logits=A),
        PositionError,
        ["softmax_cross_entropy", "label -1", "expected 0 to 3"],
    ),
    "label-shape": (
        lambda: dg.softmax_cross_entropy(labels=[0, 1], logits=A),
        ShapeError,
        ["softmax_cross_entropy", "(3,)", "(3, 4)", "got (2,)"],
    ),
    "label-axis": (
        lambda: dg.softmax_cross_entropy(labels=[0, 1, 2, 1], logits=A, axis=0),
        ShapeError,
        ["softmax_cross_entropy", "axis is 0", "last axis"],
    ),
    "label-bool": (
        lambda: dg.softmax_cross_entropy(labels=[True, False, True], logits=A),
        DTypeError,
        ["softmax_cross_entropy", "bool", "integers or floating"],
    ),
    "ragged": (lambda: dg.asarray([[1.0], [1.0, 2.0]]), DTypeError, ["asarray", "equal lengths"]),
    "ragged-operand": (lambda: LINE + [[1.0], [1.0, 2.0]], DTypeError, ["equal lengths"]),
    "text": (lambda: dg.asarray(["one"]), DTypeError, ["asarray", "no numbers"]),
    "object": (lambda: dg.asarray(object()), DTypeError, ["asarray", "object", "number"]),
    "dtype-name": (lambda: dg.astype(A, "float31"), DTypeError, ["float31", "float32"]),
    "arange-step": (lambda: dg.arange(0, 5, 0), ValueError, ["arange", "step is 0"]),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_with_what_was_expected(name):
    call, error, parts = CASES[name]

    with pytest.raises(error) as caught:
        call()

    assert [part for part in parts if part not in str(caught.value)] == []
    assert len(str(caught.value).splitlines()) <= 2


def test_position_errors_are_index_errors_and_shape_errors():
    with pytest.raises(IndexError):
        LINE[7]
    with pytest.raises(ValueError, match="out of bounds"):
        LINE[7]


def test_a_failed_operation_leaves_the_tape_as_it_was():
    x = dg.Variable(np.ones((3, 4)))

    with dg.GradientTape() as tape:
        y = x * 2
        with pytest.raises(ShapeError):
            y + B
        z = dg.sum(y)

    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), np.full((3, 4), 2.0))
