"""Call a module with given values in place of its variables, as a pure function."""

from __future__ import annotations

from typing import Any

from distgrad.eager import asarray
from distgrad.nn.module import Module
from distgrad.nn.module_tree import ModuleRecord, check_like, check_paths, flat, is_module, walk
from distgrad.variable import Variable


def functional_call(module: Module, values: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Return what a module computes with given values in place of those of its variables.

    Parameters
    ----------
    module : Module
        Called or built before, so that its variables exist; it is not changed.
    values : dict
        By path, as `Module.state` gives them, or nested. Variables that are not named keep their
        own values.
    *args, **kwargs
        The call's.

    Raises
    ------
    ValueError
        If a path is none of the module's.
    ShapeError, DTypeError
        If a value does not fit in its variable's place.

    Notes
    -----
    A copy of the module is called, of which only the attributes are copied; so calls with other
    values may run in other threads. What is assigned to a variable whose value was given, such as
    running statistics while training, is given up with the copy.

    Examples
    --------
    Gradients for each example of a batch:

    >>> import distgrad as dg
    >>> model = dg.nn.Dense(1).build(dg.ones((3, 2)))
    >>> def loss(values, x, y):
    ...     return dg.sum((dg.nn.functional_call(model, values, x) - y) ** 2)
    >>> x, y = dg.ones((3, 2)), dg.zeros((3, 1))
    >>> each = dg.vmap(dg.grad(loss), in_axes=(None, 0, 0))(model.state(), x, y)
    >>> each["kernel"].shape
    (3, 2, 1)
    """
    given = dict(flat(values))
    variables = {path: item for path, item in walk(module, "") if isinstance(item, Variable)}
    check_paths("functional_call", variables, given, partial=True)
    places: dict[int, Any] = {}
    for path, value in given.items():
        check_like("functional_call", path, variables[path], value)
        places[id(variables[path])] = asarray(value)
    if module._module.path is None:
        module.build()
    return _lent(module, places)(*args, **kwargs)


def _lent(item: Any, places: dict[int, Any]) -> Any:
    """Return a copy of a module or container, with values in place of what has these identities.

    A part that is held twice is copied once.
    """
    if id(item) in places:
        return places[id(item)]
    if is_module(item):
        made = object.__new__(type(item))
        places[id(item)] = made  # before what is below it, which may refer to it
        for name, value in vars(item).items():
            vars(made)[name] = _lent(value, places)
        vars(made)["_module"] = _lending(item._module)
        return made
    if isinstance(item, dict):
        made = {key: _lent(value, places) for key, value in item.items()}
        return made if type(item) is dict else _same_type(item, made)
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(_lent(value, places) for value in item))
    if isinstance(item, (list, tuple)):
        return type(item)(_lent(value, places) for value in item)
    return item


def _same_type(item: Any, made: dict[Any, Any]) -> Any:
    """Return a copy of a dict of a class of its own, with other values."""
    copied = item.copy()
    copied.update(made)
    return copied


def _lending(record: ModuleRecord) -> ModuleRecord:
    lending = ModuleRecord()
    lending.name, lending.path, lending.seed = record.name, record.path, record.seed
    lending.trainable, lending.lends = record.trainable, True
    return lending
