"""Variables whose next value is on its way: whoever looks at one waits for it."""

from __future__ import annotations

from typing import Any, Protocol

from distgrad.dtypes import DType, as_dtype
from distgrad.tensor import Tensor
from distgrad.variable import Variable

# Where a variable keeps its value, past the property by which an awaited one shows it.
_SLOT: Any = vars(Variable)["_value"]


class Step(Protocol):
    """What brings the next value."""

    def complete(self, variable: Variable) -> None:
        """Make an ordinary variable of it, with its next value; or give up, and raise."""
        ...


class Awaited:
    """What stands in a variable in place of its value: the present one, and who has the next."""

    __slots__ = ("present", "step")

    def __init__(self, present: Tensor, step: Step) -> None:
        self.present: Tensor | None = present
        self.step = step


class AwaitedVariable(Variable):
    """What a `Variable` is while its next value is on its way.

    Shape and dtype are known. To read the value, or to assign one, waits, and the variable is an
    ordinary one again.
    """

    __slots__ = ()

    @property
    def _value(self) -> Any:  # a slot of every other variable
        held = _SLOT.__get__(self)
        if held.__class__ is Awaited:
            held.step.complete(self)
        return _SLOT.__get__(self)

    @_value.setter
    def _value(self, tensor: Tensor) -> None:
        held = _SLOT.__get__(self)
        if held.__class__ is Awaited:
            held.step.complete(self)
        _SLOT.__set__(self, tensor)

    def _spec(self) -> Any:
        held = _SLOT.__get__(self)
        return held.present if held.__class__ is Awaited else held

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis; fixed."""
        return tuple(self._spec().array.shape)

    @property
    def dtype(self) -> DType:
        """The dtype; fixed."""
        return as_dtype(self._spec().array.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes; fixed."""
        return len(self._spec().array.shape)

    @property
    def backend(self) -> Any:
        """The backend whose array holds the value."""
        return self._spec().kernels.backend

    @property
    def kernels(self) -> Any:
        """The vocabulary on the variable's backend."""
        return self._spec().kernels

    @property
    def device(self) -> str:
        """Where the array lives."""
        device: str = self._spec().device
        return device


def can_wait(variable: Variable) -> bool:
    """Return whether a variable is an ordinary one, so that it can be made to wait."""
    return variable.__class__ is Variable


def await_value(variable: Variable, step: Step) -> None:
    """Have whoever looks at a variable from now on wait for a step."""
    _SLOT.__set__(variable, Awaited(_SLOT.__get__(variable), step))
    variable.__class__ = AwaitedVariable


def release(variable: Variable) -> None:
    """Make an ordinary variable of one, with the value that it had."""
    held = _SLOT.__get__(variable)
    if held.__class__ is Awaited:
        present, held.present = held.present, None  # nobody else may hold it, see `_is_alone`
        _SLOT.__set__(variable, present)
    own: Any = variable
    if type(variable) is AwaitedVariable:
        own.__class__ = Variable
