"""Dropout's arithmetic: keep some elements, scaled, and make the others 0."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Spec
from distgrad.core.seam import apply
from distgrad.errors import ShapeError
from distgrad.ops.rules.families import linear, quotient
from distgrad.shapes import broadcast


def _dropout_spec(x: Spec, kept: Spec, *, scale: float) -> Spec:
    shape = broadcast("dropout", tuple(x.shape), tuple(kept.shape))
    if shape != tuple(x.shape):
        raise ShapeError(
            f"dropout: choices of shape {tuple(kept.shape)} do not broadcast to the shape of x, "
            f"{tuple(x.shape)}"
        )
    return Spec(shape, quotient(x))


def _dropout_transpose(
    xp: Namespace, g: Array, primal: Spec, kept: Array, *, scale: float
) -> Array:
    return xp.dropout(g, kept, scale=scale)


def _dropout_compose(xp: Namespace, x: Array, kept: Array, *, scale: float) -> Array:
    return xp.where(kept, x * scale, 0)


DROPOUT = linear(
    "dropout",
    _dropout_transpose,
    _dropout_spec,
    kind=Kind.ELEMENTWISE,
    keep=Keep.REST,
    compose=_dropout_compose,
)


def keep_some(x: Any, kept: Any, /, *, scale: float) -> Any:
    """Return scale x where `kept` is true and 0 elsewhere; of it a tape keeps one byte an element.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real floating.
    kept : Tensor or array of bool
        Of a shape that broadcasts to that of `x`.
    scale : float
        The factor.
    """
    return apply(DROPOUT, x, kept, scale=float(scale))


OPS = (DROPOUT,)
