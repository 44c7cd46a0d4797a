"""Debugging: which line of the user's each value comes from, and where the first NaN was made."""

from __future__ import annotations

import cmath
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
from distgrad.tensor import Tensor

_PACKAGE = os.path.dirname(__file__) + os.sep


class Lines:
    """A listener that notes for each value the line of the user's code that computed it.

    Attributes
    ----------
    by_key : dict of int to str
        The line, as ``file:number: code``, by the identity of the value.
    """

    def __init__(self) -> None:
        self.by_key: dict[int, str] = {}

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
        """Take no notice of a variable that is about to be read (called by the seam)."""

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False


class _NonFinite(Lines):
    """A listener that raises at the first operation that makes a NaN or an infinity."""

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
        super().hear(op, keys, arrays, params, output, kernels)
        if kernels.level:
            return  # a transformation's arrays have no values; what it computes below is heard
        nan = infinite = False
        for each in output if isinstance(output, tuple) else (output,):
            found = _faults(each.array, each.kernels)
            nan, infinite = nan or found[0], infinite or found[1]
        if not (nan or infinite):
            return
        given = [_faults(array, kernels) for array in arrays]
        # What was not finite before is passed on, not made: masks use infinities on purpose.
        if (nan and not any(n for n, _ in given)) or not any(n or i for n, i in given):
            each = self.by_key[(output[0] if isinstance(output, tuple) else output).key]
            raise NonFiniteError(op.name, "a NaN" if nan else "an infinity", each)


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
def debug_nans() -> Iterator[None]:
    """Raise at the first operation of a ``with`` block that makes a NaN or an infinity.

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

    Inside `distgrad.function` a graph is one operation.

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
    with np.errstate(all="ignore"), _listening(_NonFinite()):
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


@contextmanager
def _listening(lines: Lines) -> Iterator[None]:
    # First of all, so that a forward accumulator lets it hear how tangents are computed.
    LISTENERS.set((lines, *LISTENERS.get()))
    try:
        yield
    finally:
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not lines))


def user_line() -> str:
    """Return the innermost line of code outside of the library, as ``file:number: code``."""
    name, number = _user_place()
    code = linecache.getline(name, number).strip()
    return f"{os.path.basename(name)}:{number}" + (f": {code}" if code else "")


def user_place() -> str:
    """Return where the innermost line outside of the library stands, as ``file:number``."""
    name, number = _user_place()
    return f"{os.path.basename(name)}:{number}"


def _user_place() -> tuple[str, int]:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
