"""Scaled dot-product attention, by blocks of query rows: the whole score matrix is never built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.core.op import Array, Namespace, Slice, Spec
from distgrad.core.seam import apply, operands
from distgrad.dtypes import as_dtype, bool_, int64, is_differentiable, result_type
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.products.contractions import matmul
from distgrad.ops.rules import batching
from distgrad.ops.rules.families import fit
from distgrad.ops.rules.fused import fused
from distgrad.ops.shaping.structure import astype, broadcast_to, matrix_transpose, reshape
from distgrad.promotion import finfo
from distgrad.shapes import Shape, broadcast, shape_given

# How many scores the composition holds at once: 2^20 of float32 are 4 MiB.
_SCORES = 1 << 20
_EVERYTHING = Slice(None, None, None)


def row_blocks(rows: int, row_scores: int, most: int) -> Iterator[tuple[int, int]]:
    """Return the bounds of blocks of rows that together cover all.

    Parameters
    ----------
    rows : int
        How many query rows.
    row_scores : int
        The number of scores in a row.
    most : int
        How many scores a block may have; a block has at least one row.
    """
    step = max(1, most // max(row_scores, 1))
    for start in range(0, max(rows, 1), step):  # one empty block where there is no row
        yield start, min(rows, start + step)


def _attention_spec(query: Spec, key: Spec, value: Spec, *mask: Spec, **params: Any) -> Any:
    dtype = result_type(query.dtype, key.dtype, value.dtype)
    lead, rows = tuple(query.shape[:-2]), query.shape[-2]
    return Spec((*lead, rows, value.shape[-1]), dtype), Spec((*lead, rows), dtype)


def _rows(xp: Namespace, x: Array, start: int, stop: int) -> Array:
    """Return some rows, on the last axis but one; all of them where there is only one."""
    if (start, stop) == (0, x.shape[-2]) or x.shape[-2] == 1:
        return x
    return xp.getitem(x, index=(Ellipsis, Slice(start, stop, None), _EVERYTHING))


def _is_floating(x: Array) -> bool:
    return is_differentiable(as_dtype(x.dtype))


def _probabilities(
    xp: Namespace,
    query: Array,
    key: Array,
    mask: Sequence[Array],
    rows: tuple[int, int],
    scale: float,
    offset: int | None,
) -> tuple[Array, Array]:
    """Return the attention weights of some query rows, and the logarithms of their sums."""
    start, stop = rows
    scores = xp.matmul(_rows(xp, query, start, stop), xp.matrix_transpose(key)) * scale
    allowed = None
    if mask:
        part = _rows(xp, mask[0], start, stop)
        if _is_floating(part):
            scores = scores + part
        else:
            allowed = part
    if offset is not None:
        ends = xp.arange(start=start + offset, stop=stop + offset, step=1, dtype=int64)
        places = xp.arange(start=0, stop=key.shape[-2], step=1, dtype=int64)
        past = xp.less_equal(places, xp.expand_dims(ends, axis=-1))
        allowed = past if allowed is None else xp.logical_and(allowed, past)
    if allowed is None:
        return xp.softmax(scores, axis=-1), xp.logsumexp(scores, axis=-1)
    # A number and not -inf, of which a row that attends to nothing would make NaN.
    lowest = finfo(scores.dtype).min / 2
    scores = xp.where(allowed, scores, lowest)
    weights = xp.where(allowed, xp.softmax(scores, axis=-1), 0)
    sees = xp.any(xp.broadcast_to(allowed, shape=tuple(scores.shape)), axis=-1)
    return weights, xp.where(sees, xp.logsumexp(scores, axis=-1), 0)


def _attention_compose(
    xp: Namespace,
    query: Array,
    key: Array,
    value: Array,
    *mask: Array,
    scale: float,
    offset: int | None,
) -> tuple[Array, Array]:
    outputs, sums = [], []
    for rows in row_blocks(query.shape[-2], _row_scores(query, key), _SCORES):
        weights, total = _probabilities(xp, query, key, mask, rows, scale, offset)
        outputs.append(xp.matmul(weights, value))
        sums.append(total)
    return _joined(xp, outputs, -2), _joined(xp, sums, -1)


def _attention_pull(
    xp: Namespace,
    inputs: Sequence[Array],
    cotangents: Sequence[Array],
    *,
    scale: float,
    offset: int | None,
) -> tuple[Array | None, ...]:
    query, key, value, *mask = inputs
    g, g_sums = cotangents
    to_query: list[Array] = []
    to_mask: list[Array] = []
    to_key = to_value = to_shared_mask = None
    wants_mask = bool(mask) and _is_floating(mask[0])
    for rows in row_blocks(query.shape[-2], _row_scores(query, key), _SCORES):
        weights, _ = _probabilities(xp, query, key, mask, rows, scale, offset)
        g_rows = _rows(xp, g, *rows)
        to_weights = xp.matmul(g_rows, xp.matrix_transpose(value))
        mean = xp.sum(to_weights * weights, axis=-1, keepdims=True)
        g_total = xp.expand_dims(g_sums, axis=-1)
        to_scores = weights * (to_weights - mean + _rows(xp, g_total, *rows))
        to_query.append(xp.matmul(to_scores, key) * scale)
        from_key = xp.matmul(xp.matrix_transpose(to_scores), _rows(xp, query, *rows)) * scale
        from_value = xp.matmul(xp.matrix_transpose(weights), g_rows)
        to_key = from_key if to_key is None else to_key + from_key
        to_value = from_value if to_value is None else to_value + from_value
        if wants_mask:
            part = _rows(xp, mask[0], *rows)
            fitted = fit(xp, to_scores, part)
            if mask[0].shape[-2] == 1:
                to_shared_mask = fitted if to_shared_mask is None else to_shared_mask + fitted
            else:
                to_mask.append(fitted)
    pulled = (_joined(xp, to_query, -2), to_key, to_value)
    if not mask:
        return pulled
    return *pulled, (_joined(xp, to_mask, -2) if to_mask else to_shared_mask)


def _row_scores(query: Array, key: Array) -> int:
    return math.prod(query.shape[:-2]) * key.shape[-2]


def _joined(xp: Namespace, parts: Sequence[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(*parts, axis=axis)


ATTENTION, ATTENTION_VJP = fused(
    "attention",
    _attention_spec,
    _attention_compose,
    _attention_pull,
    outputs=2,
    batch=batching.trailing("attention"),
    batch_pull=batching.trailing("attention_vjp"),
)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    /,
    *,
    mask: Any = None,
    causal: bool = False,
    query_offset: int = 0,
    scale: float | None = None,
) -> Any:
    """Return softmax(query key^T scale + mask) value, without ever building the score matrix.

    Parameters
    ----------
    query : Tensor, Variable or array, shape (..., T, D)
        Real floating.
    key : Tensor, Variable or array, shape (..., S, D)
        Its leading axes broadcast with the query's: with heads on the axis before T, one key head
        may serve several query heads (multi-query and grouped-query attention).
    value : Tensor, Variable or array, shape (..., S, E)
        Likewise.
    mask : Tensor or array, shape broadcast with (..., T, S), optional
        Either bool, True where a query may attend to a key; or floating, added to the scores.
    causal : bool
        Whether query i attends to keys 0 ... i + `query_offset` only.
    query_offset : int
        With `causal`, the position of the first query among the keys: the number of keys that were
        there before, when one decodes with a cache.
    scale : float, optional
        ``1 / sqrt(D)`` unless given.

    Returns
    -------
    Tensor, shape (..., T, E)
        A query that may attend to no key gets zeros.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DTypeError
        If an operand is not real floating, or the mask neither bool nor that.

    Notes
    -----
    Blocks of query rows are computed one after the other, forward and backward; of a block only
    the logarithm of the sum of its exponentials is kept, so memory grows with T and not with T S.
    Masked keys of a causal block are not computed at all.

    References
    ----------
    Vaswani et al. (2017), Attention is all you need. Rabe and Staats (2021), Self-attention does
    not need O(n^2) memory. Dao et al. (2022), FlashAttention.
    """
    arrays = _of_one_rank(*operands(query, key, value, mask))
    if not shape_given(key)[-2]:
        scores = matmul(arrays[0], matrix_transpose(arrays[1]))  # none, of which a sum is zeros
        return matmul(scores, arrays[2])
    width = arrays[0].shape[-1]
    factor = 1 / math.sqrt(width) if scale is None and width else 1.0 if scale is None else scale
    offset = int(query_offset) if causal else None
    return apply(ATTENTION, *arrays, scale=float(factor), offset=offset)[0]


def _of_one_rank(query: Any, key: Any, value: Any, mask: Any) -> list[Any]:
    """Return the operands with the same leading axes, and of one dtype."""
    shapes = [shape_given(each) for each in (query, key, value)]
    _check_shapes(shapes, None if mask is None else shape_given(mask))
    dtypes = [_real_dtype(name, each) for name, each in _named(query, key, value)]
    joint = result_type(*dtypes)
    lead = broadcast("scaled_dot_product_attention", *(shape[:-2] for shape in shapes))
    arrays = []
    for each, shape, dtype in zip((query, key, value), shapes, dtypes, strict=True):
        same = each if dtype == joint else astype(each, joint)
        full = (*lead, *shape[-2:])
        arrays.append(same if shape == full else broadcast_to(same, full))
    if mask is None:
        return arrays
    shape = shape_given(mask)
    rank = len(lead) + 2
    filled = mask if len(shape) == rank else reshape(mask, (1,) * (rank - len(shape)) + shape)
    dtype = _mask_dtype(mask)
    if dtype not in (bool_, joint):
        filled = astype(filled, joint)
    return [*arrays, filled]


def _named(query: Any, key: Any, value: Any) -> Sequence[tuple[str, Any]]:
    return (("query", query), ("key", key), ("value", value))


def _check_shapes(shapes: Sequence[Shape], mask: Shape | None) -> None:
    for name, shape in zip(("query", "key", "value"), shapes, strict=True):
        if len(shape) < 2:
            raise ShapeError(
                f"scaled_dot_product_attention: {name} has shape {shape}; expected (..., length, "
                "width)"
            )
    query, key, value = shapes
    if query[-1] != key[-1]:
        raise ShapeError(
            f"scaled_dot_product_attention: query has width {query[-1]} and key {key[-1]}; "
            "expected the same last length"
        )
    if key[-2] != value[-2]:
        raise ShapeError(
            f"scaled_dot_product_attention: key has length {key[-2]} and value {value[-2]}; "
            "expected a value for each key"
        )
    if mask is None:
        return
    scores = (*broadcast("scaled_dot_product_attention", *(s[:-2] for s in shapes)), query[-2])
    full = (*scores, key[-2])
    fits = len(mask) <= len(full) and all(
        mine in (1, whole) for mine, whole in zip(mask[::-1], full[::-1], strict=False)
    )
    if not fits:
        raise ShapeError(
            f"scaled_dot_product_attention: mask has shape {mask}; expected one that broadcasts "
            f"to the scores' shape {full}"
        )


def _real_dtype(name: str, operand: Any) -> Any:
    dtype = as_dtype(operand.dtype if hasattr(operand, "dtype") else np.asarray(operand).dtype)
    if dtype.kind != "f" and not (is_differentiable(dtype) and dtype.kind != "c"):
        raise DTypeError(
            f"scaled_dot_product_attention: {name} has dtype {dtype}; expected a real floating one"
        )
    return dtype


def _mask_dtype(mask: Any) -> Any:
    dtype = as_dtype(mask.dtype if hasattr(mask, "dtype") else np.asarray(mask).dtype)
    return dtype if dtype == bool_ else _real_dtype("mask", mask)


OPS = (ATTENTION, ATTENTION_VJP)
