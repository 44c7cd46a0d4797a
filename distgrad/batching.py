"""The backend whose arrays hide a batch axis: operations on them go by their batching rules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any

from distgrad.backend.kernels import Kernels
from distgrad.backend.operators import KernelOperators
from distgrad.backend.protocol import API_VERSION, Backend
from distgrad.core.op import Op
from distgrad.core.seam import apply
from distgrad.dtypes import DType
from distgrad.eager import asarray, evaluate, kernels_of
from distgrad.errors import DistgradError
from distgrad.ops import VOCABULARY
from distgrad.ops.rules.batching import rule_of
from distgrad.ops.shaping.structure import TRANSFER, astype, stack
from distgrad.tensor import Tensor

SCALARS = (bool, int, float, complex)


class BatchedValueError(DistgradError, TypeError):
    """Python code inside `vmap` asked for a value, which differs from example to example.

    Control flow and conversion to NumPy need one value; take `dg.where` or `dg.cond` in place of
    ``if``. Also raised where a value moves to another backend inside.
    """


class Batched(KernelOperators):
    """A tensor with a hidden batch axis in front, or one that is the same for the whole batch.

    Parameters
    ----------
    value : Tensor
        On the backend below; the batch axis, if it has one, is its first.
    is_batched : bool
        Whether it has one.
    backend : BatchBackend
        Whose array this is.
    """

    __slots__ = ("__weakref__", "backend", "is_batched", "value")

    def __init__(self, value: Tensor, is_batched: bool, backend: BatchBackend) -> None:
        self.value = value
        self.is_batched = is_batched
        self.backend = backend

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that one example has."""
        return self.value.shape[1:] if self.is_batched else self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes that one example has."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """The dtype."""
        return self.value.dtype

    def compute(self, name: str, operands: Sequence[Any]) -> Batched:
        """Return the result of an operation, by its batching rule."""
        return self.backend.compute(VOCABULARY[name], operands, {})

    def __repr__(self) -> str:
        return f"<batched: shape={self.shape}, dtype={self.dtype}>"


class BatchBackend:
    """The backend that applies batching rules.

    Parameters
    ----------
    level : int
        How deep in nested `vmap` calls: operands of lower levels are lifted to the highest.
    """

    name = "batch"
    api_version = API_VERSION

    def __init__(self, level: int) -> None:
        self.level = level

    def asarray(self, value: Any, *, dtype: DType | None = None, copy: bool = False) -> Batched:
        """Return a value as one that is the same for the whole batch."""
        if isinstance(value, Batched) and value.backend is self:
            if dtype is None or dtype == value.dtype:
                return value
            return Batched(astype(value.value, dtype), value.is_batched, self)
        home = _HOMES.get().get(self.level)
        return Batched(asarray(value, dtype=dtype, backend=home), False, self)

    def lift(self, tensor: Tensor) -> Batched:
        """Return a tensor of a lower level as an array of this one."""
        return Batched(tensor, False, self)

    def owns(self, value: Any) -> bool:
        """Return whether a value is an array of this level."""
        return isinstance(value, Batched) and value.backend is self

    def kernel(self, name: str) -> Callable[..., Any]:
        """Return the kernel of an operation of the vocabulary."""
        return self.interpret(VOCABULARY[name])

    def interpret(self, op: Op) -> Callable[..., Any]:
        """Return the kernel of any operation: its batching rule."""

        def kernel(*operands: Any, **params: Any) -> Any:
            return self.compute(op, operands, params)

        return kernel

    def compute(self, op: Op, operands: Sequence[Any], params: dict[str, Any]) -> Any:
        """Return the result of an operation on arrays of this level, lower arrays and scalars."""
        if op is TRANSFER:
            raise BatchedValueError(
                "vmap: a value moves to another backend in the mapped function, which runs on one; "
                "move values before the call or after"
            )
        values: list[Any] = []
        batched: list[bool] = []
        for operand in operands:
            if isinstance(operand, Batched) and operand.backend is self:
                values.append(operand.value)
                batched.append(operand.is_batched)
            else:
                values.append(operand if type(operand) in SCALARS else asarray(operand))
                batched.append(False)
        if True not in batched:
            home = _HOMES.get().get(self.level)
            result = evaluate(op, tuple(values), params, kernels_of(home) if home else None)
            if op.outputs == 1:
                return Batched(result, False, self)
            return tuple(Batched(each, False, self) for each in result)
        first = values[batched.index(True)]
        size = first.shape[0]
        rule = rule_of(op)
        xp = first.kernels.recorded
        result = rule(xp, size, batched, values, params) if rule else NotImplemented
        if result is NotImplemented and op.compose is not None:
            # What it is composed of has batching rules.
            own = (o if type(o) in SCALARS else self.asarray(o) for o in operands)
            return op.compose(kernels_at(self.level), *own, **params)
        if result is NotImplemented:
            result = _one_by_one(op, size, values, batched, params)
        if op.outputs == 1:
            return Batched(result, True, self)
        return tuple(Batched(each, True, self) for each in result)

    def to_host(self, array: Batched) -> Any:
        """Return what all examples share; refuse where there is a value for each example."""
        if not array.is_batched:
            return array.value.kernels.backend.to_host(array.value.array)
        raise BatchedValueError(
            "vmap: the code asks for the value of an array that differs from example to example; "
            "take dg.where in place of `if`, dg.asarray(a)[i] in place of a[i] where a is NumPy's, "
            "and keep print and numpy() outside of vmap"
        )

    def device(self, array: Batched) -> str:
        """Return where the array lives."""
        return array.value.device

    def synchronize(self) -> None:
        """Return at once: the work is the lower backend's."""


# Where the arrays of each `vmap` under way lie, by its level: there numbers and lists go, too.
_HOMES: ContextVar[Mapping[int, Backend]] = ContextVar(
    "distgrad_batch_homes", default=MappingProxyType({})
)


@contextmanager
def at_home(level: int, backend: Backend) -> Iterator[None]:
    """Let numbers and lists go to a backend within a ``with`` block, where they meet a level."""
    token = _HOMES.set({**_HOMES.get(), level: backend})
    try:
        yield
    finally:
        _HOMES.reset(token)


# Of what the outermost `vmap` under way has warned already.
_SLOW: ContextVar[set[str]] = ContextVar("distgrad_slow")


def _one_by_one(
    op: Op, size: int, values: Sequence[Any], batched: Sequence[bool], params: dict[str, Any]
) -> Any:
    slow = _SLOW.get()
    if op.name not in slow:
        slow.add(op.name)
        warnings.warn(
            f"vmap: {op.name} has no batching rule for these arguments; the {size} examples are "
            "computed one by one, which is slow",
            stacklevel=2,
        )
    results = [
        apply(op, *(v[i] if b else v for v, b in zip(values, batched, strict=True)), **params)
        for i in range(size)
    ]
    if op.outputs == 1:
        return stack(results)
    return tuple(stack(each) for each in zip(*results, strict=True))


@contextmanager
def warning_once() -> Iterator[None]:
    """Within a ``with`` block warn of each slow operation once."""
    if _SLOW.get(None) is not None:
        yield
        return
    token = _SLOW.set(set())
    try:
        yield
    finally:
        _SLOW.reset(token)


@cache
def kernels_at(level: int) -> Kernels:
    """Return the kernels on arrays of a level, how deep in nested `vmap` calls."""
    return kernels_of(BatchBackend(level))
