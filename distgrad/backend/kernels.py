"""The vocabulary on one backend's raw arrays: `kernels.sin(array)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from distgrad.backend.protocol import Backend
from distgrad.backend.widening import widening
from distgrad.core.op import Composed, Kind, Op
from distgrad.dtypes import complex64, complex128, when_bfloat16_is_named
from distgrad.errors import MissingKernelError


class Kernels:
    """The namespace in which rules compute on raw arrays: an attribute for each operation.

    A kernel that the backend lacks is composed of others.

    Parameters
    ----------
    backend : Backend
        Whose arrays.
    vocabulary : mapping of str to Op
        Every operation by its name.

    Attributes
    ----------
    array_type : type
        The class of the backend's arrays.
    level : int
        0 for a backend of numbers; higher for a transformation, to whose arrays those of lower
        levels are lifted where they meet (its backend has a method ``lift(tensor)`` for that).
    complex_dtypes : frozenset
        The complex dtypes as the backend's arrays spell them.
    table : dict of Op to callable
        The kernel of each operation.
    pullback : callable or None
        ``pullback(op, g, y, xs, params, needs)``: the cotangents of an operation with one output,
        as a backend computes them in one piece, or None where the operation's rule has to. Backends
        may have one; it takes what rules take.
    pulled : frozenset of Op
        The operations of which it is asked: what it says itself as `operations`, or else those that
        are elementwise.
    fewest : int
        The elements of a cotangent below which it is not asked: what it says itself as `fewest`.
    recorded : namespace
        The same vocabulary as recorded operations on tensors; set by the evaluator.
    keeps_zeros : bool
        Whether rules that compute here leave a cotangent of exactly 0 at 0 where a derivative is
        infinite; see `keeping_zeros`.
    """

    keeps_zeros = False

    def __init__(self, backend: Backend, vocabulary: Mapping[str, Op]) -> None:
        self.backend = backend
        self.vocabulary = vocabulary
        self.level: int = getattr(backend, "level", 0)
        self.array_type: type = type(backend.asarray(0.0))
        self.complex_dtypes: frozenset[Any] = frozenset(
            backend.asarray(0.0, dtype=dtype).dtype for dtype in (complex64, complex128)
        )
        self.pullback: Callable[..., Any] | None = getattr(backend, "pullback", None)
        self.pulled = self._pulled()
        self.fewest: int = getattr(self.pullback, "fewest", 0)
        self.recorded: Any = None
        self.table: dict[Op, Callable[..., Any]] = {}
        # All at once, and no __getattr__, which would slow each of the rules' look-ups.
        for name, op in vocabulary.items():
            setattr(self, name, self.resolve(op))
        # A module with dtypes of its own has none for bfloat16.
        if not self.level and isinstance(backend.asarray(0.0).dtype, np.dtype):
            when_bfloat16_is_named(self._widen)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    def __repr__(self) -> str:
        return f"<kernels of {self.backend.name}>"

    @cached_property
    def keeping_zeros(self) -> Kernels:
        """The same namespace, in which rules leave a cotangent of exactly 0 at 0."""
        twin = copy(self)
        twin.keeps_zeros = True
        return twin

    def resolve(self, op: Op) -> Callable[..., Any]:
        """Return an operation's kernel, its composition, or for want of both one that raises."""
        interpret = getattr(self.backend, "interpret", None)  # a transformation takes any operation
        if isinstance(op, Composed) and op.compose is not None:
            composed: Callable[..., Any] = interpret(op) if interpret else partial(op.compose, self)
            return composed
        kernel = interpret(op) if interpret else self.backend.kernel(op.name)
        if kernel is None:
            kernel = partial(self._missing, op) if op.compose is None else partial(op.compose, self)
        self.table[op] = kernel
        return kernel

    def _pulled(self) -> frozenset[Op]:
        if self.pullback is None:
            return frozenset()
        told: frozenset[Op] | None = getattr(self.pullback, "operations", None)
        of_elements = (op for op in self.vocabulary.values() if op.kind is Kind.ELEMENTWISE)
        return frozenset(of_elements) if told is None else told

    def _widen(self) -> None:
        """Let every kernel compute bfloat16 in float32, but those that a backend has for it."""
        astype = self.backend.kernel("astype")
        if astype is None:
            return
        self.__dict__.pop("keeping_zeros", None)
        narrow = getattr(self.backend, "bfloat16_kernels", {})
        for name, op in self.vocabulary.items():
            self.table[op] = widening(op, self.table[op], astype, narrow.get(name))
            setattr(self, name, self.table[op])

    def _missing(self, op: Op, *arrays: Any, **params: Any) -> NoReturn:
        raise MissingKernelError(
            f"{op.name}: the backend {self.backend.name!r} has no kernel of this name, and the "
            "operation is not composed of others"
        )
