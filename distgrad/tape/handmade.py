"""Rules written on tensors: bring them what is handed over as raw arrays, and back.

A walk passes raw arrays where nobody listens, and tensors where somebody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtypes import is_complex
from distgrad.ops.picking.gathering import Rows
from distgrad.ops.rules.families import real_cotangent
from distgrad.sparse import IndexedSlices, densified
from distgrad.tensor import Tensor


def to_tensors(values: Any, holders: Sequence[Any]) -> tuple[list[Any], bool]:
    """Return cotangents or tangents as tensors, and whether they were raw arrays.

    Parameters
    ----------
    values : array, Tensor, or a sequence of them and None
        What a rule was given.
    holders : sequence of Tensor or Variable
        For each value one of the backend that it belongs to.
    """
    several = values if isinstance(values, (list, tuple)) else [values]
    raw = not any(isinstance(value, Tensor) for value in several)
    tensors = [
        Tensor(value, holder.kernels) if raw and value is not None else value
        for value, holder in zip(several, holders, strict=True)
    ]
    return tensors, raw


def without_imaginary(xp: Any, cotangents: Sequence[Any], holders: Sequence[Any]) -> list[Any]:
    """Return cotangents of which those of real values are real.

    Where a real value met a complex one further on a walk passes complex numbers to it, which the
    functions of users, and tapes within a rule, do not expect.

    Parameters
    ----------
    xp : Kernels
        The vocabulary in which to compute.
    cotangents : sequence
        Arrays or tensors, as the rule was given them, or None.
    holders : sequence
        For each what has the dtype of the value.
    """
    return [
        cotangent
        if cotangent is None or is_complex(holder.dtype)
        else real_cotangent(xp, cotangent)
        for cotangent, holder in zip(cotangents, holders, strict=True)
    ]


def as_given(results: Sequence[Any], raw: bool) -> list[Any]:
    """Return tensors in the form that the rule's caller works on."""
    dense = [densified(r) for r in results]
    return [r.array if raw and isinstance(r, Tensor) else r for r in dense]


def as_cotangents(results: Sequence[Any], raw: bool) -> list[Any]:
    """Return what a VJP found in the form that a walk works on; slices stay sparse."""
    cotangents = []
    for result in results:
        if isinstance(result, IndexedSlices):
            values, indices = as_given((result.values, result.indices), raw)
            cotangents.append(Rows(values, indices, result.dense_shape))
        else:
            cotangents.append(result.array if raw and isinstance(result, Tensor) else result)
    return cotangents
