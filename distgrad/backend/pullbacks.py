"""Cotangents of operations in one piece, where a backend compiles scalar code, or has a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import Formula, NoScalarCode, pullback
from distgrad.core.op import Kind, Op

Kernel = Callable[..., Any]


class Pullbacks:
    """What a backend has as ``pullback``: cotangents in one pass, where nothing was broadcast.

    Those of elementwise operations follow from their rules.

    Parameters
    ----------
    vocabulary : mapping of str to Op
        The operations.
    array_type : type
        Of the backend's arrays.
    compiled : callable
        ``compiled(formula)`` returns a kernel ``kernel(*arrays) -> arrays``, the outputs of the
        formula in a sequence, or None where there is none.
    fewest : int
        Elements below which rules compute; the walk back does not ask then.
    others : mapping of str to callable, optional
        For names of operations that are not elementwise, and have one output: ``pullback(g, y, xs,
        params, needs)`` returns the cotangents, or None where the rule has to compute them.

    Attributes
    ----------
    operations : frozenset of Op
        Those of which it may be asked.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, Op],
        array_type: Any,
        compiled: Callable[[Formula], Kernel | None],
        fewest: int = 0,
        others: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._array_type = array_type
        self._compiled = compiled
        self.fewest = fewest
        self._others = {} if others is None else {vocabulary[name]: f for name, f in others.items()}
        elementwise = {op for op in vocabulary.values() if op.kind is Kind.ELEMENTWISE}
        self.operations = frozenset(elementwise.union(self._others))
        self._known: dict[Any, Kernel | None] = {}

    def __call__(
        self, op: Op, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[Any]
    ) -> Any:
        """Return an operation's cotangents; None where its rule has to compute them.

        Parameters
        ----------
        op, g, y, xs, params, needs
            What an operation's VJP takes, see `distgrad.core.op.Op`; raw arrays.
        """
        if g.size < self.fewest:
            return None
        if op in self._others:
            return self._others[op](g, y, xs, params, needs)
        reads = () if xs is None else xs
        if y is None and not reads:
            return None  # the cotangent itself, or its negative
        if y is not None and not isinstance(y, self._array_type):
            return None  # a residual that lies elsewhere, on disk for one
        arrays = [g] if y is None else [g, y]
        signature: list[Any] = [op, y is None, tuple([bool(need) for need in needs])]
        for x in reads:
            if x is not None and not isinstance(x, self._array_type):
                return None  # shapes to sum to, specs, Python numbers
            signature.append(None if x is None else x.dtype)
            if x is not None:
                arrays.append(x)
        shape = g.shape
        if any(array.shape != shape for array in arrays):
            return None
        key = (*signature, g.dtype, *params.items())
        try:
            own = self._known[key]
        except KeyError:
            own = self._known[key] = self._kernel(op, g, y, reads, params, needs)
        found = None if own is None else own(*arrays)
        if found is None:
            return None
        ends = iter(found)
        return [next(ends) if need else None for need in needs]

    def _kernel(
        self,
        op: Op,
        g: Any,
        y: Any,
        xs: Sequence[Any],
        params: dict[str, Any],
        needs: Sequence[Any],
    ) -> Kernel | None:
        reads = [None if x is None else np.dtype(x.dtype) for x in xs]
        output = None if y is None else np.dtype(y.dtype)
        try:
            formula = pullback(
                op, self._vocabulary, reads, output, np.dtype(g.dtype), params, needs
            )
        except NoScalarCode:
            return None
        if len(formula.outputs) != sum(map(bool, needs)):
            return None
        return self._compiled(formula)
