"""References: tensors and variables as keys of a dict, by identity."""

from __future__ import annotations

from typing import Any


class Reference:
    """A hashable reference to a tensor or variable, see `Tensor.ref`."""

    __slots__ = ("_referent",)

    def __init__(self, referent: Any) -> None:
        self._referent = referent

    def deref(self) -> Any:
        """Return the object that is referred to."""
        return self._referent

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self._referent is other._referent

    def __hash__(self) -> int:
        return id(self._referent)

    def __repr__(self) -> str:
        return f"<Reference wrapping {self._referent!r}>"
