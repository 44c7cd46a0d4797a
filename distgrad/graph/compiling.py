"""What a backend may offer for traced functions: to fuse operations, to run a plan its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from distgrad.backend.scalar_code import Formula

Run = Callable[[Sequence[Any]], list[Any]]
Shape = tuple[int, ...]


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


MOST_LOOPS = 3


def loops_of(shape: Shape, shapes: Iterable[Shape]) -> list[tuple[int, tuple[bool, ...]]]:
    """Return the loops over a shape that arrays need which broadcast against it.

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    shapes : iterable of tuple of int
        Of the arrays.

    Returns
    -------
    list of (int, tuple of bool)
        For each loop, the outermost first, its length and which arrays move along it.
    """
    whole = [(1,) * (len(shape) - len(each)) + each for each in shapes]
    loops: list[tuple[int, tuple[bool, ...]]] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        moving = tuple([each[axis] == length for each in whole])
        if loops and loops[-1][1] == moving:
            loops[-1] = (loops[-1][0] * length, moving)
        else:
            loops.append((length, moving))
    return loops


class Region(NamedTuple):
    """Elementwise operations that are to be computed in one pass over memory.

    Attributes
    ----------
    formula : Formula
        What is computed for each element; in one floating dtype, with bools.
    shape : tuple of int
        Of all results that are no totals.
    shapes : tuple of tuple of int
        Of the formula's inputs, which broadcast against it by `MOST_LOOPS` loops at most.
    totals : tuple of (str, shape) or None
        For each of the formula's outputs None, or ``"sum"`` or ``"mean"`` where that of all its
        elements is wanted in its place, and of what shape.
    """

    formula: Formula
    shape: Shape
    shapes: tuple[Shape, ...]
    totals: tuple[tuple[str, Shape] | None, ...]


@runtime_checkable
class Fuses(Protocol):
    """What a backend may have as ``fusion``: an optional part of the backend's protocol.

    Attributes
    ----------
    fewest : int
        Of so many elements on a region is worth a kernel.
    reduces : bool
        Whether regions may have totals.
    """

    fewest: int
    reduces: bool

    def takes(self, formula: Formula) -> bool:
        """Return whether there is a kernel for a formula, as far as is known without making it."""
        ...

    def kernels(self, name: str, regions: Sequence[Region]) -> Sequence[Callable[..., Any]] | None:
        """Return the kernels of a plan's regions, made at once; None where there can be none.

        A kernel takes the arrays of the region's inputs, and returns the array of its result, or a
        tuple of the arrays of its results if they are several.

        Parameters
        ----------
        name : str
            The traced function's, for messages.
        regions : sequence of Region
            The regions.
        """
        ...
