"""Find what modules hold: variables and other modules, by paths, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from distgrad.errors import DTypeError, ShapeError
from distgrad.variable import Variable

Steps = Iterator[tuple[str, Any]]


class ModuleRecord:
    """What a module knows about itself, beside its user's attributes.

    Attributes
    ----------
    name : str or None
        How paths begin where the module is the outermost one.
    path : str or None
        Its place below the outermost module; None before that is called for the first time.
    seed : int
        Of the generator from which initial values come.
    trainable : bool
        Whether variables that are created later are to be trained.
    frozen : list of Variable
        Those that became untrainable with the module.
    lends : bool
        Whether this is a copy for one call with given values, which creates nothing.
    """

    __slots__ = ("frozen", "lends", "name", "path", "seed", "trainable")

    def __init__(self) -> None:
        self.name: str | None = None
        self.path: str | None = None
        self.seed = 0
        self.trainable = True
        self.frozen: list[Variable] = []
        self.lends = False


# Of attributes that hold neither variables nor modules: most of them.
_PLAIN = frozenset(
    (bool, int, float, str, type(None), FunctionType, BuiltinFunctionType, ModuleRecord)
)


def is_module(value: Any) -> bool:
    """Return whether a value is a module."""
    return isinstance(getattr(value, "_module", None), ModuleRecord)


def items_below(value: Any) -> Steps:
    """Yield (path, item) for the modules and variables that a value holds, not those below them."""
    if isinstance(value, Variable) or is_module(value):
        yield "", value
        return
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    for key, child in pairs:
        for path, item in items_below(child):
            yield join(str(key), path), item


def own_items(module: Any) -> Steps:
    """Yield (path, item) for the modules and variables in a module's attributes, in their order."""
    for name, value in module._attributes():
        for path, item in items_below(value):
            yield join(name, path), item


def walk(module: Any, path: str) -> Steps:
    """Yield (path, item) for a module and all that is below it, each once, parents first."""
    yield from _walk(module, path, set())


def _walk(item: Any, path: str, seen: set[int]) -> Steps:
    if id(item) in seen:
        return
    seen.add(id(item))
    yield path, item
    if is_module(item):
        for step, child in own_items(item):
            yield from _walk(child, join(path, step), seen)


def variables_of(module: Any) -> list[Variable]:
    """Return the variables at and below a module in the order of `walk`, without their paths.

    Every step of a training asks, so it makes no text and no generators.
    """
    found: list[Variable] = []
    _collect((module,), found, set())
    return found


def _collect(values: Iterable[Any], found: list[Variable], seen: set[int]) -> None:
    for value in values:
        if value.__class__ in _PLAIN:
            continue
        if isinstance(value, Variable):
            if id(value) not in seen:
                seen.add(id(value))
                found.append(value)
        elif is_module(value):
            if id(value) not in seen:
                seen.add(id(value))
                _collect(value._held(), found, seen)
        elif isinstance(value, dict):
            _collect(value.values(), found, seen)
        elif isinstance(value, (list, tuple)):
            _collect(value, found, seen)


def join(path: str, step: str) -> str:
    """Return a path with one more step."""
    return f"{path}/{step}" if path and step else path or step


def flat(nest: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) of nested dicts and lists of values; a list of numbers is a value."""
    if isinstance(nest, dict):
        for key, child in nest.items():
            yield from flat(child, join(path, str(key)))
    elif isinstance(nest, (list, tuple)) and not _is_numbers(nest):
        for place, child in enumerate(nest):
            yield from flat(child, join(path, str(place)))
    else:
        yield path, nest


def _is_numbers(value: Any) -> bool:
    """Return whether a value is a number of Python's, or nested lists of them."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_numbers(each) for each in value)
    return isinstance(value, (bool, int, float, complex))


def check_paths(
    function: str, expected: Iterable[str], given: Iterable[str], *, partial: bool = False
) -> None:
    """Raise unless the same paths are given as are expected, or with `partial` some of them.

    Raises
    ------
    ValueError
        With the paths that are missing and those that nobody expects.
    """
    there, came = list(expected), list(given)
    missing = [] if partial else [path for path in there if path not in set(came)]
    extra = [path for path in came if path not in set(there)]
    if missing or extra:
        parts = [f"missing {_some(missing)}"] * bool(missing) + [f"extra {_some(extra)}"] * bool(
            extra
        )
        hint = (
            "; was the state written for another configuration?"
            if there
            else "; the module has no variables yet: call it once, or module.build(example)"
        )
        raise ValueError(f"{function}: {', '.join(parts)}{hint}")


def check_like(function: str, path: str, variable: Variable, value: Any) -> None:
    """Raise unless a value can take the place of a variable's.

    Raises
    ------
    ShapeError, DTypeError
        If the shape is another, or the dtype of another kind.
    """
    shape = tuple(np.shape(value))
    if shape != variable.shape:
        raise ShapeError(f"{function}: {path} has shape {variable.shape}, the value {shape}")
    dtype = getattr(value, "dtype", None)
    if dtype is not None and not np.can_cast(dtype, variable.dtype, "same_kind"):
        raise DTypeError(
            f"{function}: {path} has dtype {variable.dtype}, the value {dtype}; expected the same "
            "kind of number"
        )


def _some(paths: list[str]) -> str:
    """Return a few paths, and how many there are."""
    shown = ", ".join(paths[:4])
    return f"{shown}, ... ({len(paths)} in all)" if len(paths) > 4 else shown
