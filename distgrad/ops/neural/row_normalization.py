"""Layer norm and RMS norm, over the last axis in one piece.

Their pullback computes the moments again while a row is in the cache: of each, nothing but the
input is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Array, Keep, Kind, Namespace, Op, Spec
from distgrad.dtypes import as_dtype
from distgrad.errors import ShapeError
from distgrad.ops.neural.normalization import widened
from distgrad.ops.rules import batching
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import quotient


def _row_norm(name: str, centred: bool) -> tuple[Op, Op]:
    """Return the norm over the last axis, and the operation that pulls cotangents back through it.

    With c = x - mean(x), or x itself, r = 1 / sqrt(mean(c^2) + epsilon) and h = c r, the output is
    h scale + shift. Of its cotangent g, with k = g scale, the input gets
    r (k - mean(k) - h mean(k h)), without mean(k) where nothing is subtracted.
    """
    pulling = f"{name}_vjp"

    def standardized(xp: Namespace, x: Array, epsilon: float) -> tuple[Array, Array]:
        deviation = x - xp.mean(x, axis=-1, keepdims=True) if centred else x
        square = xp.mean(deviation * deviation, axis=-1, keepdims=True)
        inverse = 1 / xp.sqrt(square + epsilon)
        return deviation * inverse, inverse

    def compose(xp: Namespace, x: Array, *affine: Array, epsilon: float) -> Array:
        y, _ = standardized(xp, widened(xp, x), epsilon)
        if affine:
            y = y * affine[0]
        if len(affine) > 1:
            y = y + affine[1]
        return _narrowed(xp, y, x)

    def spec(x: Spec, *affine: Spec, epsilon: float) -> Spec:
        shape = tuple(x.shape)
        if not shape:
            raise ShapeError(f"{name}: x has no axes; expected one at least")
        for each, what in zip(affine, ("scale", "shift"), strict=False):
            if tuple(each.shape) != shape[-1:]:
                raise ShapeError(
                    f"{name}: {what} has shape {tuple(each.shape)}; expected {shape[-1:]}, the "
                    f"length of the last axis of x, whose shape is {shape}"
                )
        return Spec(shape, quotient(x))

    def vjp(
        xp: Namespace, g: Array, y: Array, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array]:
        x, *affine = xs
        # What is shifted by does not matter; how many operands there are does.
        scale = tuple(affine[:1]) * len(affine)
        return tuple(getattr(xp, pulling)(g, x, *scale, **params))

    def jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Array, xs: Any, params: dict[str, Any]
    ) -> Array:
        moved: Array = derivative(compose, xp, xs, tangents, params)
        return moved

    def pull_compose(
        xp: Namespace, g: Array, x: Array, *affine: Array, epsilon: float
    ) -> tuple[Array, ...]:
        h, inverse = standardized(xp, widened(xp, x), epsilon)
        wide = widened(xp, g)
        k = wide * affine[0] if affine else wide
        within = k - h * xp.mean(k * h, axis=-1, keepdims=True)
        if centred:
            within = within - xp.mean(k, axis=-1, keepdims=True)
        lead = tuple(range(len(x.shape) - 1))
        pulled = [_narrowed(xp, within * inverse, x)]
        for each, terms in zip(affine, (wide * h, wide) if affine else (), strict=False):
            pulled.append(_narrowed(xp, xp.sum(terms, axis=lead), each))
        return tuple(pulled)

    def pull_spec(g: Spec, x: Spec, *affine: Spec, epsilon: float) -> tuple[Spec, ...]:
        return tuple(Spec(tuple(each.shape), quotient(each)) for each in (x, *affine))

    def pull_vjp(
        xp: Namespace, a: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        # As of a fused operation: <a, J^T g> = <g, J a>, and second derivatives commute.
        x, *affine = xs[1:]
        to_g = derivative(compose, xp, (x, *affine), tuple(a), params) if needs[0] else None
        along = (None, a[0], *(a[1:2] if affine else ()), *(None for _ in affine[1:]))
        to_x, *to_affine = derivative(pull_compose, xp, xs, along, params)
        return to_g, to_x, *to_affine[:1], *(xp.zeros_like(each) for each in affine[1:])

    def pull_jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
    ) -> tuple[Array, ...]:
        moved: tuple[Array, ...] = derivative(pull_compose, xp, xs, tangents, params)
        return moved

    batch, batch_pull = _row_batching(name)
    keep = Keep.INPUTS
    return (
        Op(name, Kind.OPAQUE, spec, vjp, jvp, keep, compose, batch),
        Op(
            pulling,
            Kind.OPAQUE,
            pull_spec,
            pull_vjp,
            pull_jvp,
            keep,
            pull_compose,
            batch_pull,
            outputs=None,
        ),
    )


def _row_batching(name: str) -> tuple[Any, Any]:
    """Return the batching rules of a norm over rows and of its pullback."""
    pulling = f"{name}_vjp"

    def batch(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> Array:
        x = batching.with_batch(xp, size, arrays[0], batched[0])
        if not any(batched[1:]):
            return getattr(xp, name)(x, *arrays[1:], **params)
        y = getattr(xp, name)(x, **params)
        parts = zip(arrays[1:], batched[1:], strict=True)
        scale, *shift = (batching.with_rank(xp, *part, len(x.shape) - 1) for part in parts)
        return y * scale + shift[0] if shift else y * scale

    def batch_pull(
        xp: Namespace, size: int, batched: Sequence[bool], arrays: Sequence[Array], params: Any
    ) -> tuple[Array, ...]:
        g, x = (
            batching.with_batch(xp, size, a, b)
            for a, b in zip(arrays[:2], batched[:2], strict=True)
        )
        if len(arrays) == 2:
            return tuple(getattr(xp, pulling)(g, x, **params))
        # Each example's scale has a cotangent of its own: the sum leaves out the batch axis.
        scale = batching.with_rank(xp, arrays[2], batched[2], len(x.shape) - 1)
        (to_x,) = getattr(xp, pulling)(g * scale, x, **params)
        own = tuple(range(1, len(x.shape) - 1))
        to_scale = xp.sum(g * getattr(xp, name)(x, **params), axis=own)
        return (to_x, to_scale, xp.sum(g, axis=own))[: len(arrays) - 1]

    return batch, batch_pull


def _narrowed(xp: Namespace, y: Array, like: Array) -> Array:
    """Return y in the dtype of an operand, if that was widened to compute it."""
    dtype = as_dtype(like.dtype)
    return xp.astype(y, dtype=dtype) if dtype.kind not in "biu" and dtype.itemsize < 4 else y


LAYER_NORM, LAYER_NORM_VJP = _row_norm("layer_norm", centred=True)
RMS_NORM, RMS_NORM_VJP = _row_norm("rms_norm", centred=False)

OPS = (LAYER_NORM, LAYER_NORM_VJP, RMS_NORM, RMS_NORM_VJP)
