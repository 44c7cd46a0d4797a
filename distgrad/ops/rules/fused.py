"""The family of fused operations: a forward and a backward kernel, and all rules from compositions.

Attention or a recurrent network is a composition of the vocabulary, but one that a backend computes
much better in a piece. Such an operation states its composition and, as a second composition, its
pullback; a backend may have kernels of both. Derivatives of every order follow:

- The VJP is the second operation, ``<name>_vjp``, which may read what the first left as outputs.
- The JVP of either is its composition on dual numbers.
- The VJP of the second needs no third kernel. With F(x, g) = J(x)^T g, the cotangent a of F gives
  <a, F(x, g)> = <g, J(x) a>. So the cotangent of g is the JVP of the first operation along a; and
  as second derivatives commute, that of x is the JVP of F in x along a.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.core.op import Array, BatchRule, Keep, Kind, Namespace, Op, Spec, SpecRule
from distgrad.dtypes import as_dtype, is_differentiable
from distgrad.ops.rules.dual import derivative
from distgrad.ops.rules.families import real_cotangent


def fused(
    name: str,
    spec: SpecRule,
    compose: Callable[..., tuple[Array, ...]],
    pull: Callable[..., tuple[Array, ...]],
    *,
    outputs: int,
    batch: BatchRule | None = None,
    batch_pull: BatchRule | None = None,
) -> tuple[Op, Op]:
    """Return a fused operation of real floating arrays, and the operation that pulls back.

    Parameters
    ----------
    name : str
        The operation's name; the second one's is ``<name>_vjp``.
    spec : callable
        See `Op`; a tuple of `Spec`, one for each output.
    compose : callable
        ``compose(xp, *inputs, **params) -> outputs``.
    pull : callable
        ``pull(xp, inputs, cotangents, **params) -> cotangents of the inputs``, each of its input's
        shape (None for an input that is not floating).
    outputs : int
        How many outputs.
    batch, batch_pull : callable, optional
        See `Op`.

    Notes
    -----
    A kernel of the second operation is called with the inputs, the outputs and the cotangents of
    the outputs, and returns zeros of no particular meaning for inputs that are not floating. Its
    results may depend on the outputs only as on functions of the inputs.
    """

    def split(arrays: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        count = len(arrays) - 2 * outputs
        return arrays[:count], arrays[count : count + outputs], arrays[count + outputs :]

    def vjp(
        xp: Namespace, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        seeds = [real_cotangent(xp, each) for each in g]
        return tuple(getattr(xp, pullback.name)(*xs, *y, *seeds, **params))

    def jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
    ) -> tuple[Array, ...]:
        return tuple(derivative(compose, xp, xs, tangents, params))

    def pull_spec(*specs: Any, **params: Any) -> tuple[Spec, ...]:
        return tuple(Spec(tuple(s.shape), s.dtype) for s in split(specs)[0])

    def pull_compose(xp: Namespace, *arrays: Array, **params: Any) -> tuple[Array, ...]:
        inputs, _, cotangents = split(arrays)
        pulled = pull(xp, inputs, cotangents, **params)
        return tuple(
            xp.zeros_like(x) if p is None else p for x, p in zip(inputs, pulled, strict=True)
        )

    def pull_jvp(
        xp: Namespace, tangents: Sequence[Array | None], y: Any, xs: Any, params: dict[str, Any]
    ) -> tuple[Array, ...]:
        # What the first operation left is a function of its inputs: its tangents add nothing.
        count = len(xs) - 2 * outputs
        hidden = [*tangents[:count], *(None,) * outputs, *tangents[count + outputs :]]
        return tuple(derivative(pull_compose, xp, xs, hidden, params))

    def pull_vjp(
        xp: Namespace, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> Sequence[Array | None]:
        inputs, left, _ = split(xs)
        along = [
            real_cotangent(xp, a) if is_differentiable(as_dtype(x.dtype)) else None
            for a, x in zip(g, inputs, strict=True)
        ]
        still = (None,) * outputs
        to_cotangents = derivative(compose, xp, inputs, along, params)
        to_inputs = derivative(pull_compose, xp, xs, (*along, *still, *still), params)
        return (*to_inputs, *(None for _ in left), *to_cotangents)

    forward = Op(name, Kind.OPAQUE, spec, vjp, jvp, Keep.BOTH, compose, batch, outputs)
    pullback = Op(
        f"{name}_vjp",
        Kind.OPAQUE,
        pull_spec,
        pull_vjp,
        pull_jvp,
        Keep.INPUTS,
        pull_compose,
        batch_pull,
        None,
    )
    return forward, pullback
