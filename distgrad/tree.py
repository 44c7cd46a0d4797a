"""Nests of values: lists, tuples, dicts, dataclasses, flattened to leaves and rebuilt.

The traversal is optree's; None is an empty nest, and a dict's leaves come in the order of its
sorted keys, so that every rank of a job sees the same order.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any, TypeAlias

import optree

Tree: TypeAlias = Any
TreeDef: TypeAlias = optree.PyTreeSpec

_NAMESPACE = "distgrad"
_registered: set[type] = set()
_leaf_classes: set[type] = set()  # seen to be neither containers nor dataclasses
_values: set[type] = set()  # seen to be leaves by optree


@cache
def _list_of(count: int) -> TreeDef:
    values: Tree = [0] * count
    return optree.tree_structure(values, namespace=_NAMESPACE)


_VALUE = _list_of(1).child(0)


def flatten(nest: Tree) -> tuple[list[Any], TreeDef]:
    """Return the leaves of a nest in a fixed order, and its structure.

    Raises
    ------
    ValueError
        If it has hundreds of levels, as one that holds itself has.
    """
    if nest.__class__ in _values:
        return [nest], _VALUE
    if nest.__class__ is list:  # of variables, as every step of a training passes
        for child in nest:
            if child.__class__ not in _values:
                break
        else:
            return list(nest), _list_of(len(nest))
    try:
        _register_dataclasses(nest)
        leaves, treedef = optree.tree_flatten(nest, namespace=_NAMESPACE)
    except RecursionError as error:
        raise _explained(nest, error) from error
    for leaf in leaves:
        _values.add(leaf.__class__)
    return leaves, treedef


def flatten_like(treedef: TreeDef, nest: Tree) -> list[Any]:
    """Return what stands in a nest at the leaves of a structure, None included.

    Raises
    ------
    ValueError
        If the nest has another structure.
    """
    found: list[Any] = treedef.flatten_up_to(nest)
    return found


def spread(prefix: Tree, treedef: TreeDef) -> list[Any]:
    """Return for each leaf of a structure what a prefix says of the part in which the leaf is.

    A prefix has the structure from the top down to some depth, not the same everywhere; what stands
    at its ends, None included, holds for all that is below.

    Raises
    ------
    ValueError
        If the prefix has another structure.
    """
    nest = unflatten(treedef, ["*"] * treedef.num_leaves)
    said = optree.broadcast_prefix(prefix, nest, none_is_leaf=True, namespace=_NAMESPACE)
    whole = optree.tree_leaves(nest, none_is_leaf=True, namespace=_NAMESPACE)
    return [each for each, leaf in zip(said, whole, strict=True) if leaf is not None]


def unflatten(treedef: TreeDef, leaves: list[Any]) -> Tree:
    """Return a nest of the given structure with the given leaves."""
    return optree.tree_unflatten(treedef, leaves)


def map(function: Callable[..., Any], nest: Tree, *rest: Tree) -> Tree:
    """Return a nest of the same structure, with a function applied leaf by leaf."""
    try:
        _register_dataclasses(nest)
        return optree.tree_map(function, nest, *rest, namespace=_NAMESPACE)
    except RecursionError as error:
        raise _explained(nest, error) from error


def register(
    cls: type,
    flatten: Callable[[Any], tuple[tuple[Any, ...], Any, tuple[str, ...]]],
    unflatten: Callable[[Any, Any], Any],
) -> None:
    """Make a class a node of nests.

    Parameters
    ----------
    cls : type
        The class.
    flatten : callable
        ``flatten(node) -> (children, rest, names)``; the rest is hashable, and names are those of
        the children in paths.
    unflatten : callable
        ``unflatten(rest, children)``: what takes the node's place where a nest is rebuilt.
    """
    optree.register_pytree_node(cls, flatten, unflatten, namespace=_NAMESPACE)
    _values.discard(cls)


def paths(nest: Tree) -> list[str]:
    """Return a readable path for each leaf, such as ``encoder/0/kernel``, in `flatten`'s order."""
    try:
        _register_dataclasses(nest)
        accessors = optree.tree_accessors(nest, namespace=_NAMESPACE)
    except RecursionError as error:
        raise _explained(nest, error) from error
    return ["/".join(_label(entry) for entry in accessor) for accessor in accessors]


def _label(entry: Any) -> str:
    """Return the name of a step into a nest: a named tuple's field, a key, a position."""
    return str(getattr(entry, "field", getattr(entry, "entry", entry)))


def _register_dataclasses(nest: Tree) -> None:
    """Teach optree the dataclasses in a nest, on first sight."""
    if nest.__class__ in _leaf_classes:
        return
    if isinstance(nest, (list, tuple)):
        for child in nest:
            if child.__class__ not in _leaf_classes:  # as most are
                _register_dataclasses(child)
    elif isinstance(nest, dict):
        for child in nest.values():
            if child.__class__ not in _leaf_classes:
                _register_dataclasses(child)
    elif dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        if type(nest) not in _registered:
            _register_dataclass(type(nest))
        for field in dataclasses.fields(nest):
            _register_dataclasses(getattr(nest, field.name))
    elif not isinstance(nest, type):
        _leaf_classes.add(nest.__class__)


def _register_dataclass(cls: type) -> None:
    names = tuple(field.name for field in dataclasses.fields(cls))

    def flatten_fields(value: Any) -> tuple[list[Any], None, tuple[str, ...]]:
        return [getattr(value, name) for name in names], None, names

    def unflatten_fields(_: Any, children: Any) -> Any:
        # Around __init__: a structure may hold gradients or None where fields are validated.
        value: Any = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    optree.register_pytree_node(cls, flatten_fields, unflatten_fields, namespace=_NAMESPACE)
    _registered.add(cls)


# --- nests that are too deep --------------------------------------------------------------------

_LEVELS = 300  # of calls, Python has about a thousand, some of them the user's


def _explained(nest: Tree, error: RecursionError) -> Exception:
    """Return an error that names the argument of a public function whose nest is too deep."""
    if not _is_deep(nest):
        return error
    return ValueError(
        f"{_argument()} has more than {_LEVELS} levels of lists, tuples, dicts and dataclasses; "
        "expected fewer: does a list or dict in it hold itself?"
    )


def _is_deep(nest: Tree) -> bool:
    """Return whether a nest has too many levels, found without a call for each of them."""
    waiting = [(nest, 0)]
    while waiting:
        node, level = waiting.pop()
        if level > _LEVELS:
            return True
        if isinstance(node, dict):
            waiting += [(child, level + 1) for child in node.values()]
        elif isinstance(node, (list, tuple)):
            waiting += [(child, level + 1) for child in node]
        elif dataclasses.is_dataclass(node) and not isinstance(node, type):
            fields = dataclasses.fields(node)
            waiting += [(getattr(node, field.name), level + 1) for field in fields]
    return False


def _argument() -> str:
    """Return which argument of the library's function that was called is too deep."""
    frame = caller = sys._getframe(1)
    while caller.f_back is not None and _module(caller.f_back).startswith("distgrad."):
        caller = caller.f_back
        if _module(caller) != "distgrad.core.spans":  # which wraps others for a timeline
            frame = caller
    code = frame.f_code
    names = code.co_qualname.partition(".<locals>")[0].split(".")
    function = names[-2] if names[-1].startswith("__") else names[-1]
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]:
        value = frame.f_locals.get(name)
        if name == "args" and isinstance(value, tuple):
            for position, each in enumerate(value):
                if _is_deep(each):
                    return f"{function}: argument {position}"
        elif name != "self" and _is_deep(value):
            return f"{function}: {name}"
    return f"{function}: a nest"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
