"""Affine maps of rows: the product with a matrix, a bias and relu, in one operation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.core.seam import apply
from distgrad.errors import ShapeError
from distgrad.ops.rules.families import conjugate, expand_to, joint, shape_of, sum_of
from distgrad.shapes import shape_given


def _linear_spec(x: Spec, kernel: Spec, *bias: Spec) -> Spec:
    shape, given = shape_of(x), shape_of(kernel)
    _check(shape, given, shape_of(bias[0]) if bias else None)
    return Spec((*shape[:-1], given[1]), joint(x, kernel, *bias))


def _check(x: tuple[int, ...], kernel: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    if not x or len(kernel) != 2 or x[-1] != kernel[0]:
        raise ShapeError(
            f"linear: x (..., inputs) and a kernel (inputs, outputs) expected, got {x} and "
            f"{kernel}; transpose the kernel?"
        )
    if bias is not None and bias != kernel[1:]:
        raise ShapeError(
            f"linear: a bias of shape {kernel[1:]} expected, as the kernel's is {kernel}, got "
            f"{bias}; add another one yourself"
        )


def _as_rows(xp: Namespace, x: Array) -> Array:
    """Return x as a matrix of its last axis; a line stays one."""
    shape = tuple(x.shape)
    return x if len(shape) < 3 else xp.reshape(x, shape=(prod(shape[:-1]), shape[-1]))


def _linear_compose(xp: Namespace, x: Array, kernel: Array, *bias: Array) -> Array:
    y = xp.matmul(_as_rows(xp, x), kernel)
    if bias:
        y = y + bias[0]
    lead = tuple(x.shape[:-1])
    return y if len(lead) < 2 else xp.reshape(y, shape=(*lead, kernel.shape[1]))


def _linear_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Sequence[int]
) -> Sequence[Array | None]:
    # A factor whose values no cotangent reads is a Spec, or None.
    x, kernel = xs[0], xs[1]
    lead = tuple(g.shape[:-1])
    rows = _as_rows(xp, g)
    to_x = to_kernel = to_bias = None
    if needs[0]:
        to_x = xp.matmul(rows, xp.matrix_transpose(conjugate(xp, kernel)))
        if len(lead) > 1:
            to_x = xp.reshape(to_x, shape=(*lead, kernel.shape[0]))
    if needs[1]:
        given = _as_rows(xp, conjugate(xp, x))
        if lead:
            to_kernel = xp.matmul(xp.matrix_transpose(given), rows)
        else:
            to_kernel = xp.expand_dims(given, axis=-1) * xp.expand_dims(g, axis=-2)
    if len(needs) > 2 and needs[2]:
        to_bias = xp.sum(rows, axis=0) if lead else g
    return (to_x, to_kernel, to_bias)[: len(needs)]


def _linear_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: Any
) -> Array:
    x, kernel = xs[0], xs[1]
    terms = []
    if tangents[0] is not None:
        terms.append(xp.linear(tangents[0], kernel))
    if tangents[1] is not None:
        terms.append(xp.linear(x, tangents[1]))
    if len(tangents) > 2 and tangents[2] is not None:
        terms.append(tangents[2])
    return expand_to(xp, sum_of(terms), y)


def _linear_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Any:
    if any(batched[1:]):  # a product for each example
        return NotImplemented
    return xp.linear(*arrays)


LINEAR = Op(
    "linear",
    Kind.CONTRACTION,
    _linear_spec,
    _linear_vjp,
    _linear_jvp,
    ((1,), (0,), ()),
    _linear_compose,
    _linear_batch,
)


# --- with relu: one pass less over the rows, and one record less on a tape ------------------------


def _rectified_compose(xp: Namespace, *operands: Array) -> Array:
    return xp.relu(xp.linear(*operands))


def _rectified_vjp(
    xp: Namespace, g: Array, y: Array, xs: Any, params: Any, needs: Sequence[int]
) -> Sequence[Array | None]:
    return _linear_vjp(xp, xp.relu_vjp(g, y), y, xs, params, needs)


def _rectified_jvp(
    xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: Any
) -> Array:
    return xp.relu_vjp(_linear_jvp(xp, tangents, y, xs, params), y)


def _rectified_batch(
    xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
) -> Any:
    if any(batched[1:]):
        return NotImplemented
    return xp.linear_relu(*arrays)


LINEAR_RELU = Op(
    "linear_relu",
    Kind.CONTRACTION,
    _linear_spec,
    _rectified_vjp,
    _rectified_jvp,
    Keep.BOTH,
    _rectified_compose,
    _rectified_batch,
)


def linear(
    x: Any, kernel: Any, bias: Any = None, /, *, activation: Literal["relu"] | None = None
) -> Any:
    """Return ``x kernel + bias``, the affine map of every row.

    Parameters
    ----------
    x : Tensor, Variable or array, shape (..., inputs)
        The rows.
    kernel : Tensor, Variable or array, shape (inputs, outputs)
        As in Keras; the ``weight`` of ``torch.nn.functional.linear`` is transposed, of shape
        (outputs, inputs).
    bias : Tensor, Variable or array, shape (outputs,), optional
        Added to every row.
    activation : "relu", optional
        Applied to the sum, as `relu` is; its derivative at 0 is 0.

    Returns
    -------
    Tensor, shape (..., outputs)
        What ``x @ kernel + bias`` is, up to rounding; with relu what is above 0 of it.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    ValueError
        If the activation is another one.

    Notes
    -----
    Of the cotangent g of the result, with all leading axes as rows, `x` gets ``g kernel^H``, the
    kernel ``x^H g``, and the bias the sum of the rows: each product is one, however many leading
    axes there are.

    Examples
    --------
    >>> import distgrad as dg
    >>> x, bias = dg.asarray([[1.0, 2.0]]), dg.asarray([0.0, 1.0, 2.0])
    >>> dg.nn.linear(x, dg.ones((2, 3)), bias).tolist()
    [[3.0, 4.0, 5.0]]
    """
    if activation is not None and activation != "relu":
        raise ValueError(
            f"linear: activation is {activation!r}; expected None or 'relu'; apply another to the "
            "result"
        )
    operands = (x, kernel) if bias is None else (x, kernel, bias)
    _check(shape_given(x), shape_given(kernel), None if bias is None else shape_given(bias))
    return apply(LINEAR if activation is None else LINEAR_RELU, *operands)


OPS = (LINEAR, LINEAR_RELU)
