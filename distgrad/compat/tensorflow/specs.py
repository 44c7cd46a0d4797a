"""TensorShape and TensorSpec: shapes and dtypes as TensorFlow prints them."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from distgrad.compat.tensorflow.dtypes import DType, as_dtype, float32


class TensorShape(tuple[Any, ...]):
    """A shape: a tuple of lengths, of which None is an unknown one.

    Parameters
    ----------
    dims : iterable of int or None, or one int
        The lengths.
    """

    __slots__ = ()

    def __new__(cls, dims: int | Iterable[Any] = ()) -> TensorShape:
        """Return a shape of integers and None."""
        lengths = (dims,) if isinstance(dims, int) else dims
        return super().__new__(cls, (None if n is None else int(n) for n in lengths))

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self)

    @property
    def ndims(self) -> int:
        """The number of axes."""
        return len(self)

    def as_list(self) -> list[Any]:
        """Return the lengths as a list."""
        return list(self)

    def num_elements(self) -> int | None:
        """Return how many elements there are; None if a length is unknown."""
        return prod(self) if self.is_fully_defined() else None

    def is_fully_defined(self) -> bool:
        """Return whether every length is known."""
        return None not in self

    def is_compatible_with(self, other: Any) -> bool:
        """Return whether both could be the same shape."""
        theirs = TensorShape(other)
        return len(self) == len(theirs) and all(
            a is None or b is None or a == b for a, b in zip(self, theirs, strict=True)
        )

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return TensorShape(part) if isinstance(key, slice) else part

    def __add__(self, other: Any) -> TensorShape:
        return TensorShape((*self, *other))

    def __radd__(self, other: Any) -> TensorShape:
        return TensorShape((*other, *self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (tuple, list)):
            return tuple(self) == tuple(other)
        return False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __str__(self) -> str:
        return tuple.__repr__(self)

    def __repr__(self) -> str:
        return f"TensorShape({list(self)})"


class TensorSpec:
    """What is known of a tensor before it is there.

    Parameters
    ----------
    shape : iterable of int or None
        The lengths.
    dtype : dtype
        The dtype.
    name : str, optional
        A name.
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, shape: Any, dtype: Any = float32, name: str | None = None) -> None:
        self.shape = TensorShape(shape)
        self.dtype: DType = as_dtype(dtype)
        self.name = name

    @classmethod
    def from_tensor(cls, tensor: Any, name: str | None = None) -> TensorSpec:
        """Return the spec of a tensor."""
        return cls(tensor.shape, tensor.dtype, name)

    def is_compatible_with(self, value: Any) -> bool:
        """Return whether a tensor or another spec is of this shape and dtype."""
        return self.dtype == value.dtype and self.shape.is_compatible_with(value.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSpec) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[Any, ...]:
        return self.shape, self.dtype, self.name

    def __repr__(self) -> str:
        return f"TensorSpec(shape={self.shape}, dtype={self.dtype!r}, name={self.name!r})"
