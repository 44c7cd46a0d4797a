"""What of a call's arguments tells one trace of a function from another, and how it is said."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.eager import asarray
from distgrad.errors import DistgradError
from distgrad.graph.nodes import exact
from distgrad.tensor import Operators
from distgrad.variable import Variable


def parameters_of(f: Callable[..., Any]) -> inspect.Signature | None:
    """Return a function's parameters; None where it does not tell them."""
    try:
        return inspect.signature(f)
    except (TypeError, ValueError):  # a function written in C may have none
        return None


def count_of_plain(signature: inspect.Signature | None) -> int:
    """Return how many arguments a call has that names none and leaves none out; -1 if it varies."""
    if signature is None:
        return -1
    parameters = signature.parameters.values()
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return len(parameters) if plain else -1


def entered(leaf: Any) -> Any:
    """Return an array of any library as a tensor; anything else as it is."""
    if isinstance(leaf, Variable):  # also of a class derived from it
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic)) or hasattr(leaf, "__array_namespace__"):
        return asarray(leaf)
    if not hasattr(leaf, "__dlpack__"):
        return leaf
    try:
        return asarray(leaf)
    except DistgradError:
        return leaf


def static(name: str, leaf: Any) -> Any:
    """Return what tells a leaf that is no array from others: a variable, or a static value.

    Parameters
    ----------
    name : str
        The function's, for messages.
    leaf : object
        Of the arguments.

    Raises
    ------
    TypeError
        If it cannot be hashed.
    """
    if isinstance(leaf, Variable):
        return ("variable", leaf.key)
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"function: {name!r} got a {type(leaf).__name__}, which is neither an array nor "
            "hashable; expected arrays, variables, and static values that can be compared"
        ) from None
    return exact(leaf)


def shown_leaf(leaf: Any) -> str:
    """Return a leaf in words: dtype and shape of arrays, and the name of a variable."""
    if isinstance(leaf, Variable):
        return f"variable {leaf.name!r} {leaf.dtype}{list(leaf.shape)}"
    if isinstance(leaf, Operators):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return repr(leaf)


def place_of(path: str, parameters: inspect.Signature | None) -> str:
    """Return the name of a place in the arguments, such as ``batch/x``.

    Parameters
    ----------
    path : str
        In the nest ``(args, kwargs)``, such as ``0/1/x``.
    parameters : inspect.Signature or None
        The function's, if it tells them.
    """
    kind, _, rest = path.partition("/")
    if kind != "0" or parameters is None:
        return rest
    first, _, inner = rest.partition("/")
    positional = [
        p.name
        for p in parameters.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    name = positional[int(first)] if int(first) < len(positional) else first
    return f"{name}/{inner}" if inner else name
