"""The seam: the one place through which every operation passes, and who hears it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol

from distgrad.core.op import Op


class Listener(Protocol):
    """Whoever hears each operation after it was computed: a tape, an accumulator, a profiler."""

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Take note of one operation.

        Parameters
        ----------
        op : Op
            The operation.
        keys : sequence of int
            The identity of each input; 0 for a constant that nobody can watch.
        arrays : tuple
            The inputs' raw arrays (Python scalars stay what they are).
        params : dict
            The metadata of the call.
        output : Tensor or tuple of Tensor
            The result.
        kernels : Kernels
            The vocabulary on the raw arrays' backend.
        """
        ...

    def hear_read(self, variable: Any) -> None:
        """Take note that a variable is about to be read by an operation."""
        ...

    def follows(self, key: int) -> bool:
        """Return whether the value with this identity is differentiated by the listener."""
        ...


class ValueKeeper(Protocol):
    """Whoever keeps the values of variables in place of themselves: a trace, while it is open."""

    kernels: Any  # the vocabulary on its symbols

    def lift(self, tensor: Any) -> Any:
        """Return a tensor of a lower level as a symbol."""
        ...

    def read(self, variable: Any) -> Any:
        """Return the value of a variable as a tensor."""
        ...

    def assign(self, variable: Any, value: Any) -> None:
        """Take a tensor as the value of a variable."""
        ...

    def create(self, variable: Any, value: Any) -> Any:
        """Return the first value of a variable that is created, a tensor, as numbers."""
        ...

    def follows(self, keys: Sequence[int]) -> bool:
        """Return whether somebody outside follows one of these values; take note of them."""
        ...

    def bound(self, values: dict[int, tuple[Any, Any]]) -> AbstractContextManager[None]:
        """Let variables have given values within a ``with`` block, by their identity."""
        ...


Evaluator = Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]
Gatherer = Callable[[tuple[Any, ...], bool], tuple[Any, ...]]

# Who listens. A new thread starts with none: a tape hears its own thread.
LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("distgrad_listeners", default=())

# Who keeps the values of variables; None for the variables themselves.
VALUES: ContextVar[ValueKeeper | None] = ContextVar("distgrad_values", default=None)

# The narrow dtype in which a block of `autocast` computes products; None outside.
AUTOCAST: ContextVar[Any] = ContextVar("distgrad_autocast", default=None)

# The keepers, and blocks of `autocast`, at work in any thread: while there is none, no operation
# has to ask for its own.
OPEN_KEEPERS: set[int] = set()


def _unbound(op: Op, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
    raise RuntimeError(f"{op.name}: no evaluator is bound; import distgrad, not a part of it")


def _ungathered(values: tuple[Any, ...], joint: bool) -> tuple[Any, ...]:
    raise RuntimeError("no evaluator is bound; import distgrad, not a part of it")


_evaluate: Evaluator = _unbound
_gather: Gatherer = _ungathered


def bind_evaluator(evaluator: Evaluator, gatherer: Gatherer) -> None:
    """Say who computes operations, and who brings operands together; done once, by `eager`."""
    # The seam's late bindings: operations stand below values.
    global _evaluate, _gather
    _evaluate, _gather = evaluator, gatherer


def apply(op: Op, *inputs: Any, **params: Any) -> Any:
    """Return the result of an operation on tensors, variables, arrays or scalars."""
    return _evaluate(op, inputs, params)


def operands(*values: Any, joint: bool = True) -> tuple[Any, ...]:
    """Return the operands of one function as what has a shape, all on one backend.

    For functions of several operations, the first of which may meet numbers or nested lists alone,
    and would take them to the backend in force.

    Parameters
    ----------
    *values : Tensor, Variable, array, scalar, nested lists or None
        Numbers and lists go where the tensors and arrays among them are, or else to the backend in
        force; None stays None.
    joint : bool
        Whether the operands share a dtype, which a number does not widen; else it has its own.
    """
    for value in values:
        # NumPy's numbers have a shape, too, and no place.
        if value is not None and not (getattr(value, "shape", ()) or hasattr(value, "kernels")):
            return _gather(values, joint)
    return values
