"""Inputs to test operations with: a call and its variants, values that meet no kink, layouts.

Values are fixed by seeds and spaced evenly in a random order, so that no two are equal. Sizes are
odd and unequal (3, 4, 5), so that a transposed axis cannot hide.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from distgrad.core.op import Op
from distgrad.dtypes import DType, complex128, float64, int64, is_differentiable
from distgrad.ops import VOCABULARY
from distgrad.shapes import Shape

HostArray: TypeAlias = np.ndarray[Any, Any]
Interval: TypeAlias = tuple[float, float]

ANY: Interval = (-2.1, 2.0)  # both signs, no 0
SHIFTED: Interval = (-1.9, 2.15)  # like ANY, with no value in common

Invariants: TypeAlias = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of an operation.

    Attributes
    ----------
    operation : str
        The operation's name in the vocabulary.
    variant : str
        What is particular to this call: a layout, an axis, a kind of index.
    operands : tuple
        Read-only NumPy arrays (float64 where floating), and Python scalars.
    params : dict
        The metadata.
    is_static : bool
        Whether the output's shape follows from the operands' shapes alone.
    takes_complex : bool, optional
        Whether there is a derivative at complex operands too; None: as its family says.
    invariants : callable, optional
        ``invariants(module, *outputs) -> tuple`` in the names that NumPy and distgrad share: what
        of the results is not left to the kernel's choice, such as the phases of eigenvectors.
        Where it is given, results and differences are compared in these alone.
    scale : float
        The size of the numbers whose differences the results are, where these vanish: two
        kernels agree up to rounding of this size.
    """

    operation: str
    variant: str
    operands: tuple[Any, ...]
    params: dict[str, Any] = field(default_factory=dict)
    is_static: bool = True
    takes_complex: bool | None = None
    invariants: Invariants | None = None
    scale: float = 0.0

    def __str__(self) -> str:
        return f"{self.operation}-{self.variant}"

    @property
    def op(self) -> Op:
        """The operation."""
        return VOCABULARY[self.operation]

    @property
    def sources(self) -> tuple[int, ...]:
        """The positions of the operands with respect to which there are derivatives."""
        if self.op.vjp is None:
            return ()
        return tuple(
            position
            for position, operand in enumerate(self.operands)
            if isinstance(operand, np.ndarray) and is_differentiable(operand.dtype)
        )

    def cast(self, dtype: DType) -> Sample:
        """Return the same call with floating arrays of another dtype."""
        return replace(self, operands=tuple(_cast(operand, dtype) for operand in self.operands))

    def rotated(self, dtype: DType = complex128) -> Sample:
        """Return the same call with complex arrays: the sample's, turned by angles up to 50°."""
        return replace(
            self,
            operands=tuple(
                _turned(operand, position, dtype) for position, operand in enumerate(self.operands)
            ),
        )


# --- values -------------------------------------------------------------------------------------


def values(shape: Shape, low: float, high: float, seed: int = 0) -> HostArray:
    """Return evenly spaced values within an interval, in a random order, read-only."""
    size = int(np.prod(shape, dtype=np.int64))
    # Off the middle, so that a single value is not the interval's centre, often a kink.
    line = low + (high - low) * (np.arange(size) + 0.7) / max(size, 1)
    generator = np.random.default_rng(zlib.crc32(repr((shape, low, high, seed)).encode()))
    return frozen(generator.permutation(line).reshape(shape))


def frozen(array: HostArray) -> HostArray:
    """Return an array that no kernel can change unnoticed."""
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def _cast(operand: Any, dtype: DType) -> Any:
    if isinstance(operand, np.ndarray) and is_differentiable(operand.dtype):
        return frozen(operand.astype(dtype))
    return operand


def _turned(operand: Any, position: int, dtype: DType) -> Any:
    # By an angle and not by a step aside: the distance from 0 stays, and from most branch points.
    if isinstance(operand, np.ndarray) and operand.dtype == float64:
        angles = values(operand.shape, 0.4, 0.9, seed=7 + position)
        return frozen((operand * np.exp(1j * angles)).astype(dtype))
    return operand


def layouts(interval: Interval) -> Iterator[tuple[str, HostArray]]:
    """Return one array in every shape and memory layout that could make a difference."""
    low, high = interval
    yield "matrix", values((3, 4), low, high)
    yield "no-axes", values((), low, high)
    yield "empty", values((0, 3), low, high)
    yield "ones", values((1, 3, 1), low, high)
    yield "fortran", frozen(np.asfortranarray(values((4, 5), low, high)))
    yield "backwards", values((6, 5), low, high)[::-2, ::-1]


def pairs(first: Interval, second: Interval) -> Iterator[tuple[str, Any, Any]]:
    """Return two operands in every way in which they may meet."""
    yield "same", values((3, 4), *first), values((3, 4), *second, seed=1)
    yield "outer", values((3, 1), *first), values((4,), *second)
    yield "raised", values((4,), *first), values((5, 1, 4), *second)
    yield "scalar-right", values((3, 4), *first), _middle(second)
    yield "scalar-left", _middle(first), values((3, 4), *second)
    yield "integer-right", values((5,), *first), 2
    yield "no-axes", values((), *first), values((3,), *second)
    yield "none-at-all", values((), *first), values((), *second, seed=1)
    yield "empty", values((0, 3), *first), values((3,), *second)
    yield "stretched-to-empty", values((1, 3), *first), values((0, 3), *second)
    yield "ones", values((1,), *first), values((3, 1), *second)
    fortran = frozen(np.asfortranarray(values((4, 5), *first)))
    yield "strided", fortran, values((8, 5), *second)[::-2, ::-1]


def _middle(interval: Interval) -> float:
    """Return a plain number of an interval, to stand for a Python scalar."""
    return round(0.4 * interval[0] + 0.6 * interval[1], 2)


def integers(shape: Shape, low: int, high: int, dtype: DType = int64) -> HostArray:
    """Return random integers from low up to, but without, high; read-only."""
    generator = np.random.default_rng(11)
    return frozen(generator.integers(low, high, size=shape).astype(dtype))
