"""Dual numbers: run a composition on primals with tangents, so that its JVP needs no rule by hand.

A composition is written against a namespace. Given this one, whose arrays are pairs of a primal and
a tangent, it returns its value and its derivative in the tangents' direction, computed by the JVP
rules of the operations it consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.backend.operators import KernelOperators
from distgrad.core.op import Array, Keep, Namespace, Op
from distgrad.dtypes import as_dtype, is_differentiable


class Dual(KernelOperators):
    """A primal and its tangent, None where that is zero.

    Parameters
    ----------
    primal : array
        In the namespace below.
    tangent : array or None
        Of the primal's shape.
    space : DualSpace
        The namespace that computes with it.
    """

    __slots__ = ("primal", "space", "tangent")

    def __init__(self, primal: Array, tangent: Array | None, space: DualSpace) -> None:
        self.primal = primal
        self.tangent = tangent
        self.space = space

    @property
    def shape(self) -> tuple[int, ...]:
        """The primal's shape."""
        return tuple(self.primal.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.primal.shape)

    @property
    def dtype(self) -> Any:
        """The primal's dtype, as the namespace below spells it."""
        return self.primal.dtype

    def compute(self, name: str, operands: Sequence[Any]) -> Any:
        """Return the result of an operation, by its JVP rule."""
        return self.space.compute(self.space.xp.vocabulary[name], operands, {})

    def __repr__(self) -> str:
        return f"<dual: shape={self.shape}, dtype={self.dtype}>"


class DualSpace:
    """The vocabulary on dual numbers over another namespace.

    Parameters
    ----------
    xp : namespace
        Where primals and tangents are computed.
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        self.vocabulary = xp.vocabulary
        self.complex_dtypes = xp.complex_dtypes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = self.xp.vocabulary.get(name)
        if op is None:
            raise AttributeError(f"the vocabulary has no operation {name!r}")

        def function(*operands: Any, **params: Any) -> Any:
            return self.compute(op, operands, params)

        return function

    def compute(self, op: Op, operands: Sequence[Any], params: dict[str, Any]) -> Any:
        """Return the result of an operation on duals, arrays of the namespace below and scalars."""
        primals = [o.primal if isinstance(o, Dual) else o for o in operands]
        tangents = [o.tangent if isinstance(o, Dual) else None for o in operands]
        y = getattr(self.xp, op.name)(*primals, **params)
        still = all(tangent is None for tangent in tangents)
        if still or op.jvp is None or _is_cast_to_integers(op, y):
            return self._paired(op, y, None)
        return self._paired(op, y, op.jvp(self.xp, tangents, y, tuple(primals), params))

    def _paired(self, op: Op, y: Any, tangent: Any) -> Any:
        if op.outputs == 1:
            return Dual(y, tangent, self)
        tangents = (None,) * len(y) if tangent is None else tangent
        return tuple(Dual(each, t, self) for each, t in zip(y, tangents, strict=True))


def _is_cast_to_integers(op: Op, y: Any) -> bool:
    # Where the dtype changes, specs are kept.
    return op.keep is Keep.SPECS and not is_differentiable(as_dtype(y.dtype))


def derivative(
    compose: Callable[..., Any],
    xp: Namespace,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    params: dict[str, Any],
) -> Any:
    """Return the tangent of a composition's result, or the tuple of them.

    Parameters
    ----------
    compose : callable
        ``compose(xp, *arrays, **params)``.
    xp : namespace
        Where to compute.
    primals : sequence of array
        The arguments.
    tangents : sequence of array or None
        Their tangents; None where zero.
    params : dict
        The metadata.
    """
    space = DualSpace(xp)
    pairs = [Dual(p, t, space) for p, t in zip(primals, tangents, strict=True)]
    result = compose(space, *pairs, **params)
    if isinstance(result, tuple):
        return tuple(_tangent(xp, each) for each in result)
    return _tangent(xp, result)


def _tangent(xp: Namespace, result: Any) -> Any:
    if not isinstance(result, Dual):
        return xp.zeros_like(result)
    return xp.zeros_like(result.primal) if result.tangent is None else result.tangent
