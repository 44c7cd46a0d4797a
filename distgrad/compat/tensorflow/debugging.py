"""tf.debugging: stop at the operation that makes a NaN or an infinity."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.elementwise import identity
from distgrad.compat.tensorflow.errors import CheckNumericsError, InvalidArgumentError
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.values import Tensor, convert_to_tensor

__getattr__ = refusal("debugging")

# The check that is on in this context, as in TensorFlow in this thread alone.
_guard: ContextVar[ExitStack | None] = ContextVar("distgrad_check_numerics", default=None)


def enable_check_numerics(stack_height_limit: int = 30, path_length_limit: int = 50) -> None:
    """Raise from now on at the first operation that makes a NaN or an infinity.

    Parameters
    ----------
    stack_height_limit, path_length_limit : int
        TensorFlow's limits on its messages; those here name one operation and one line.

    Raises
    ------
    CheckNumericsError
        Later, by the operation, forward or in a backward pass: an `InvalidArgumentError` and a
        `distgrad.errors.NonFiniteError`. See `distgrad.debug_nans`, which checks one block alone.

    Notes
    -----
    Until it is disabled it holds the line of every value computed.
    """
    if _guard.get() is None:
        stack = ExitStack()
        stack.enter_context(dg.debug_nans(CheckNumericsError))
        _guard.set(stack)


def disable_check_numerics() -> None:
    """Undo `enable_check_numerics`; without it, nothing happens."""
    stack = _guard.get()
    if stack is not None:
        _guard.set(None)
        stack.close()


def check_numerics(tensor: Any, message: str, name: str | None = None) -> Tensor:
    """Return a tensor's values, if all of them are finite.

    Parameters
    ----------
    tensor : Tensor, Variable or array
        Floating or complex.
    message : str
        The beginning of the error's text.

    Raises
    ------
    InvalidArgumentError
        If a value is a NaN or an infinity.
    """
    checked = convert_to_tensor(tensor)
    values = np.asarray(checked.numpy())
    faults = [
        word
        for word, found in (("Inf", np.isinf(values)), ("NaN", np.isnan(values)))
        if found.any()
    ]
    if faults:
        raise InvalidArgumentError(
            f"{message} : Tensor had {' and '.join(faults)} values; "
            "tf.debugging.enable_check_numerics() finds the operation that made them"
        )
    return identity(checked)


__all__ = ["check_numerics", "disable_check_numerics", "enable_check_numerics"]
