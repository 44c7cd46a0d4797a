"""Debugging: which line of the user's each value comes from, and where the first NaN was made."""

from __future__ import annotations

import cmath
import contextlib
import functools
import linecache
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.errors import NonFiniteError
from distgrad.tensor import Tensor, new_key

# Whose frames are not the user's: the library's, and those that call on its behalf.
_PACKAGE = os.path.dirname(__file__) + os.sep
_NUMPY = os.path.dirname(np.__file__) + os.sep
_PASSED = (_PACKAGE, _NUMPY, functools.__file__, contextlib.__file__)


class Lines:
    """A listener that notes for each value the line of the user's code that computed it.

    Attributes
    ----------
    by_key : dict of int to str
        The line, as ``file:number: code``, by the identity of the value.
    reads : dict of int to (int, str)
        For each variable, by its identity, when it was last read, and on which line: times are
        identities, which grow.
    """

    def __init__(self) -> None:
        self.by_key: dict[int, str] = {}
        self.reads: dict[int, tuple[int, str]] = {}

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Note the line of one operation (called by the seam)."""
        line = user_line()
        for each in output if isinstance(output, tuple) else (output,):
            self.by_key[each.key] = line

    def hear_read(self, variable: Any) -> None:
        """Note where a variable is read (called by the seam)."""
        self.reads[variable.key] = (new_key(), user_line())

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False


class _NonFinite(Lines):
    """A listener that raises at the first operation that makes a NaN or an infinity."""

    def __init__(self, error: type[NonFiniteError]) -> None:
        super().__init__()
        self._error = error
        self.place: str | None = None  # the line of an operation that a graph runs

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Check the result of one operation (called by the seam)."""
        outputs = output if isinstance(output, tuple) else (output,)
        line = user_line() if self.place is None else self.place
        for each in outputs:
            self.by_key[each.key] = line
        if not kernels.level:  # a transformation's arrays have no values; those below are heard
            home = outputs[0].kernels if outputs else kernels
            self.check(op.name, arrays, [each.array for each in outputs], home, line, kernels)

    def check(
        self,
        name: str,
        arrays: Sequence[Any],
        results: Sequence[Any],
        kernels: Any,
        line: str,
        given_on: Any = None,
    ) -> None:
        """Raise if an operation made a NaN or an infinity.

        Parameters
        ----------
        name : str
            The operation's.
        arrays, results : sequence of array
            What it was computed from, and its results.
        kernels : Kernels
            The vocabulary on the results' backend.
        line : str
            The user's line.
        given_on : Kernels, optional
            The vocabulary on the backend of `arrays`, if it is another.
        """
        nan = infinite = False
        for each in results:
            found = _faults(each, kernels)
            nan, infinite = nan or found[0], infinite or found[1]
        if not (nan or infinite):
            return
        given = [_faults(array, given_on or kernels) for array in arrays]
        # What was not finite before is passed on, not made: masks use infinities on purpose.
        if (nan and not any(n for n, _ in given)) or not any(n or i for n, i in given):
            raise self._error(name, "a NaN" if nan else "an infinity", line)


def _faults(array: Any, kernels: Any) -> tuple[bool, bool]:
    """Return whether an array or number holds a NaN, and whether it holds an infinity."""
    if isinstance(array, (bool, int)):
        return False, False
    if isinstance(array, (float, complex)):
        return cmath.isnan(array), cmath.isinf(array)
    tensor = Tensor(array, kernels)
    if not is_differentiable(tensor.dtype):
        return False, False
    host = kernels.backend.to_host
    if bool(host(kernels.all(kernels.isfinite(array)))):
        return False, False
    return (
        bool(host(kernels.any(kernels.isnan(array)))),
        bool(host(kernels.any(kernels.isinf(array)))),
    )


@contextmanager
def debug_nans(error: type[NonFiniteError] = NonFiniteError) -> Iterator[None]:
    """Raise at the first operation of a ``with`` block that makes a NaN or an infinity.

    Parameters
    ----------
    error : type
        What to raise: `NonFiniteError`, or a class of yours derived from it.

    Raises
    ------
    NonFiniteError
        In the block, naming the operation and the user's line; in a backward pass also the
        operation whose gradient was being computed, and its line.

    Notes
    -----
    Every result is looked at and every line noted, which is slow and holds the lines of all values
    until the block is left; outside of the block nothing is. Not an error is an operation that
    only passes on what was not finite already, such as a mask of infinities. NumPy's own warnings
    of the same faults are off in the block.

    Inside a traced function each operation of the graph is looked at, and the line is that on which
    it was traced.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(0.0)
    >>> with dg.debug_nans(), dg.GradientTape() as tape:
    ...     y = dg.sqrt(x)
    ...     try:
    ...         tape.gradient(y, x)
    ...     except dg.errors.NonFiniteError as error:
    ...         print(error.operation, "in the gradient of", error.gradient_of)
    divide in the gradient of sqrt
    """
    # NumPy's warnings of the same faults say less, and may be errors.
    with np.errstate(all="ignore"), _listening(_NonFinite(error)):
        yield


@contextmanager
def trace_lines() -> Iterator[Lines]:
    """Note the user's line of each operation of a ``with`` block.

    Enter it before a tape's block: `GradientTape.explain` and `GradientTape.graph` of the tape then
    name lines, and `explain` knows which values another thread computed.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable(2.0)
    >>> with dg.debug.trace_lines(), dg.GradientTape() as tape:
    ...     y = dg.floor(x)
    >>> "floor" in str(tape.explain(y, x))
    True
    """
    lines = Lines()
    with _listening(lines):
        yield lines


def lines_in_force() -> Lines | None:
    """Return the innermost listener that notes lines; None where none does."""
    return next((each for each in reversed(LISTENERS.get()) if isinstance(each, Lines)), None)


def checker_in_force() -> _NonFinite | None:
    """Return the innermost listener that looks for NaNs; None where none does."""
    return next((each for each in reversed(LISTENERS.get()) if isinstance(each, _NonFinite)), None)


@contextmanager
def _listening(lines: Lines) -> Iterator[None]:
    # First of all, so that a forward accumulator lets it hear how tangents are computed.
    LISTENERS.set((lines, *LISTENERS.get()))
    try:
        yield
    finally:
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not lines))


def user_stacklevel() -> int:
    """Return the `stacklevel` with which a warning of the caller's names the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED):
        level, frame = level + 1, frame.f_back
    return level


def user_line() -> str:
    """Return the innermost line of code outside of the library, as ``file:number: code``."""
    name, number = _user_place()
    code = linecache.getline(name, number).strip()
    return f"{os.path.basename(name)}:{number}" + (f": {code}" if code else "")


def user_place() -> str:
    """Return where the innermost line outside of the library stands, as ``file:number``."""
    name, number = _user_place()
    return f"{os.path.basename(name)}:{number}"


def output_walked_back() -> int | None:
    """Return the identity of the output whose operation's gradient is being computed, if one is.

    The innermost walk back is found on the stack: it need not say for each record where it is,
    which only who traces wants to know.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "backpropagate" and code.co_filename.startswith(_PACKAGE):
            output = frame.f_locals.get("output")
            return output[0] if isinstance(output, tuple) else output
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return None


def _user_place() -> tuple[str, int]:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
