"""What a backend may offer: to run a traced function's plan its own way, not call by call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

Run = Callable[[Sequence[Any]], list[Any]]


class CompiledPlan(Protocol):
    """What runs one plan; made by `Compiles.compile`, called for every run."""

    @property
    def way(self) -> str:
        """How the plan runs now and, where that is call by call, why; for `Function.explain`."""
        ...

    def __call__(self, run: Run, arrays: Sequence[Any], targets: Mapping[int, Any]) -> list[Any]:
        """Return what the plan gives.

        Parameters
        ----------
        run : callable
            The reference executor: what this computes it computes too, to the same arrays.
        arrays : sequence of array
            What the plan reads: the same shapes and dtypes at every call. Not to be changed, but
            for those among the targets, as nothing that was returned before.
        targets : mapping of int to array
            By the number of a result an array that nobody else refers to, and that nobody will read
            any more: the result may be written into it, and is that array then.
        """
        ...


@runtime_checkable
class Compiles(Protocol):
    """A backend that may run plans its own way: an optional part of the backend's protocol.

    It is offered plans that only compute, which may be run once more to no effect: none with a
    collective, or with a loop or a branch, whose bodies may hold one.
    """

    def compile(self, name: str, lasting: Sequence[int]) -> CompiledPlan | None:
        """Return what runs a plan; None where the executor does.

        Parameters
        ----------
        name : str
            The traced function's, for messages.
        lasting : sequence of int
            Which of the arrays that the plan reads lie in the same memory at most calls: those of
            variables and of captured tensors. Their contents may change in between.
        """
        ...
