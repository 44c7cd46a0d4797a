"""Functions that a user hands over: what is no function is refused before it is called."""

from __future__ import annotations

from typing import Any


def require_callable(operation: str, f: Any, argument: str = "the first argument") -> None:
    """Refuse what cannot be called, most often the result of a function in the function's place.

    Parameters
    ----------
    operation : str
        Who was asked, for the message.
    f : object
        What was given.
    argument : str
        Which argument it is.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    if not callable(f):
        raise TypeError(
            f"{operation}: {argument} is of type {type(f).__name__}; expected a function: pass f "
            "itself, and not what f(x) returns"
        )


def pair(operation: str, result: Any, what: str) -> tuple[Any, Any]:
    """Return the two parts of what a function returned.

    Parameters
    ----------
    operation : str
        Who called the function, for the message.
    result : tuple or list of two
        What it returned. A tensor of length 2 is no pair: taken apart it would pass for one.
    what : str
        What the function has to return.

    Raises
    ------
    TypeError
        If it is no tuple or list of two.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        several = isinstance(result, (tuple, list))
        given = f"{len(result)} values" if several else f"a {type(result).__name__}"
        raise TypeError(f"{operation}: the function returned {given}; expected {what}")
    return result[0], result[1]
