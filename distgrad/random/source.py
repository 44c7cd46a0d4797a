"""What draws ask of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.tensor import Tensor

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
