"""What layers are told when they are made: numbers and functions, checked there and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.shapes import integer


def count(layer: str, argument: str, value: Any) -> int:
    """Return how many there are to be of something.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is less than 0.
    """
    number = integer(layer, argument, value)
    if number < 0:
        raise ValueError(f"{layer}: {argument} is {number}; expected 0 or more")
    return number


def function_or_none(layer: str, argument: str, value: Any) -> Callable[[Any], Any] | None:
    """Return a function that a layer applies, or None.

    Raises
    ------
    TypeError
        If it is neither, such as the name of a function.
    """
    if value is not None and not callable(value):
        raise TypeError(
            f"{layer}: {argument} is {value!r}; expected a function, such as dg.nn.relu, or None"
        )
    return value


def functions(container: str, layers: tuple[Any, ...]) -> list[Any]:
    """Return the layers of a container.

    Raises
    ------
    TypeError
        If one cannot be called: a list of layers, or a name.
    """
    for place, layer in enumerate(layers):
        if isinstance(layer, (list, tuple)):
            raise TypeError(
                f"{container}: layer {place} is a {type(layer).__name__}; expected layers one by "
                f"one: {container}(*layers)"
            )
        function_or_none(container, f"layer {place}", layer)
        if layer is None:
            raise TypeError(f"{container}: layer {place} is None; expected a layer or a function")
    return list(layers)


def share(layer: str, argument: str, value: Any) -> float:
    """Return a probability.

    Raises
    ------
    ValueError
        If it is no number from 0 to 1.
    """
    try:
        fits = bool(0 <= value <= 1)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{layer}: {argument} is {value!r}; expected a probability from 0 to 1")
    return value
