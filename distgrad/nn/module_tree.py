"""Find what modules hold: variables, generators and other modules, by paths, each once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from hashlib import blake2b
from itertools import islice
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any

import numpy as np

from distgrad.errors import DTypeError, ShapeError
from distgrad.random import Generator
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
    outline : Outline or None
        What was found below it; a copy of the module has to look for itself.
    """

    __slots__ = ("frozen", "lends", "name", "outline", "path", "seed", "trainable")

    def __init__(self) -> None:
        self.name: str | None = None
        self.path: str | None = None
        self.seed = 0
        self.trainable = True
        self.frozen: list[Variable] = []
        self.lends = False
        self.outline: Outline | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies have in common with it."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "outline"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `__getstate__` returned."""
        self.outline = None
        for name, value in state.items():
            setattr(self, name, value)


def is_module(value: Any) -> bool:
    """Return whether a value is a module."""
    return isinstance(getattr(value, "_module", None), ModuleRecord)


def items_below(value: Any) -> Steps:
    """Yield (path, item) for the modules, variables and generators of a value, none from below."""
    if isinstance(value, (Variable, Generator)) or is_module(value):
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
    """Yield (path, item) for what `items_below` finds in a module's attributes, in their order."""
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


class Outline:
    """The variables below a module, for as long as nothing has changed in what was looked at.

    Parameters
    ----------
    module : Module
        Whose it is, or a copy of it with the same attributes. It is not held, nor is its record.
    found : list of Variable
        What was found.
    seen : list of collections
        The values of attributes of the modules below, the lists and the dicts.
    """

    __slots__ = ("_own", "_seen", "found")

    def __init__(self, module: Any, found: list[Variable], seen: list[Collection[Any]]) -> None:
        self.found = found
        self._own = tuple(_attributes(module))
        self._seen = [(values, tuple(values)) for values in seen]

    def holds(self, module: Any) -> bool:
        """Return whether all that was looked at is the same, object by object."""
        own = self._own
        if len(vars(module)) != len(own) + 1 or not all(map(is_, _attributes(module), own)):
            return False
        for values, before in self._seen:
            if len(values) != len(before) or not all(map(is_, values, before)):
                return False
        return True


def _attributes(module: Any) -> Iterator[Any]:
    """Return the values of attributes behind the record, which is the first of them."""
    return islice(vars(module).values(), 1, None)


def variables_of(module: Any) -> list[Variable]:
    """Return the variables at and below a module in the order of `walk`, without their paths.

    Every step of a training asks twice, so that what was found is kept, and seen to be the same.
    """
    record = module._module
    outline: Outline | None = record.outline
    if outline is not None:
        if outline.holds(module):
            return outline.found.copy()
        record.outline = None
    found: list[Variable] = []
    seen: list[Collection[Any]] = []
    is_light = _collect(module._held(), found, seen, {id(module)})
    if is_light and next(iter(vars(module).values())) is record:
        record.outline = Outline(module, found.copy(), seen)
    return found


def _collect(
    values: Iterable[Any], found: list[Variable], seen: list[Collection[Any]], known: set[int]
) -> bool:
    """Find variables, note what was looked at, and return whether an outline may hold on to it."""
    is_light = True
    for value in values:
        role = _roles.get(value.__class__)
        if role is None:
            role = _roles[value.__class__] = _role_of(value)
        if role is _LIGHT:
            continue
        if role is _VARIABLE:
            if id(value) not in known:
                known.add(id(value))
                found.append(value)
        elif role is _MODULE:
            if id(value) not in known:
                known.add(id(value))
                seen.append(vars(value).values())
                is_light &= _collect(value._held(), found, seen, known)
        elif role is _OTHER:
            is_light = False
        else:
            inside = value.values() if role is _MAPPING else value
            seen.append(inside)
            is_light &= _collect(inside, found, seen, known)
    return is_light


# What values of a class are here, once one was seen. An outline keeps what it saw for a step longer
# than the module does, which may be for long where it is an array, and nothing where it is light.
_LIGHT, _OTHER, _VARIABLE, _MODULE, _MAPPING, _SEQUENCE = range(6)
_roles: dict[type, int] = {}
_LIGHT_CLASSES = (
    *(NoneType, bool, int, float, complex, str, bytes, type, np.dtype, partial, ModuleRecord),
    *(FunctionType, BuiltinFunctionType, MethodType),
)


def _role_of(value: Any) -> int:
    if isinstance(value, Variable):
        return _VARIABLE
    if is_module(value):
        return _MODULE
    if isinstance(value, dict):
        return _MAPPING
    if isinstance(value, (list, tuple)):
        return _SEQUENCE
    return _LIGHT if isinstance(value, _LIGHT_CLASSES) else _OTHER


def join(path: str, step: str) -> str:
    """Return a path with one more step."""
    return f"{path}/{step}" if path and step else path or step


def path_hash(path: str) -> int:
    """Return 64 bits of a path, the same in every process: what a generator is folded with."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "little")


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
