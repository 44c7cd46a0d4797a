"""What draws ask of a generator, and those who drew, of the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.errors import MixedBackendError
from distgrad.tensor import Operators, Tensor

Rows = int | slice | Sequence[int] | None


class Source(Protocol):
    """A generator, as the functions that draw from it see it."""

    def _next(self) -> Tensor:
        """Return the stream of this draw, and count it."""
        ...

    def _draw(self, op: Op, shape: int | Sequence[int], rows: Rows, **params: Any) -> Tensor:
        """Return the numbers of an operation under the stream of this draw."""
        ...

    def _home(self, value: Any) -> Backend | None:
        """Return where an argument that is no tensor goes: to the numbers."""
        ...


def numbers_for(function: str, x: Any, numbers: Tensor) -> Tensor:
    """Return numbers that were drawn to meet an array.

    Raises
    ------
    MixedBackendError
        If they cannot: their generator is another backend's.
    """
    if isinstance(x, Operators):
        own, other = x.read().kernels, numbers.kernels
        if own is not other and not (own.level or other.level):
            raise MixedBackendError(
                f"{function}: the operand is on the backend {own.backend.name!r}, the generator on "
                f"{other.backend.name!r}; expected one of the operand's, such as "
                f"dg.random.Generator(seed, backend={own.backend.name!r}), which gives the same "
                "numbers"
            )
    return numbers
