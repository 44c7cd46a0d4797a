"""Say when a piece of work began and ended, to whoever records it: to nobody, as a rule.

Timelines (`distgrad.distributed.timeline`) hear what stands in these blocks. Without one a block
costs a few tenths of a microsecond, so blocks stand around tapes, walks and messages, never around
an operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from time import perf_counter_ns
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

# hear(name, lane, begun, ended, facts), with times in nanoseconds of this process's clock.
Hear = Callable[[str, str, int, int, dict[str, Any]], None]

COMPUTE, COMMUNICATION, WAITING, USER = "compute", "communication", "waiting", "user"

_hear: Hear | None = None


class Span(Protocol):
    """A block whose beginning and end are told."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Told:
    __slots__ = ("begun", "facts", "hear", "lane", "name")

    def __init__(self, hear: Hear, name: str, lane: str, facts: dict[str, Any]) -> None:
        self.hear, self.name, self.lane, self.facts = hear, name, lane, facts
        self.begun = perf_counter_ns()

    def __enter__(self) -> object:
        self.begun = perf_counter_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hear(self.name, self.lane, self.begun, perf_counter_ns(), self.facts)


class _Untold:
    __slots__ = ()

    def __enter__(self) -> object:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


_UNTOLD = _Untold()


def span(name: str, lane: str = USER, **facts: Any) -> Span:
    """Return a context manager that tells of its block to the timeline, if there is one.

    Parameters
    ----------
    name : str
        What the block does, in a word or two: blocks of one name are added up.
    lane : str
        The row of the timeline in which it stands.
    **facts : str, int or float
        What else to show with it.

    Examples
    --------
    >>> with span("load batch", source="disk"):
    ...     batch = [1, 2, 3]
    """
    hear = _hear
    return _UNTOLD if hear is None else _Told(hear, name, lane, facts)


def spanned(name: str, lane: str) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Return a decorator: each call of the function is a span."""

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        @wraps(function)
        def spanning(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            if _hear is None:
                return function(*args, **kwargs)
            with span(name, lane):
                return function(*args, **kwargs)

        return spanning

    return decorate


def tell(hear: Hear | None) -> Hear | None:
    """Have all spans of this process told to a function, or to nobody; return who heard before."""
    global _hear
    before, _hear = _hear, hear
    return before
