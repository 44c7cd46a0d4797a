"""Gradients as functions of functions (`tensorflow.python.eager.backprop`).

`GradientTape` is what programs should use; these are here for code that was written on them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from distgrad import tree
from distgrad.compat.tensorflow.autodiff import GradientTape
from distgrad.compat.tensorflow.elementwise import identity
from distgrad.compat.tensorflow.values import convert_to_tensor


def implicit_val_and_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the value of `f` and its gradients for the variables it reads.

    Parameters
    ----------
    f : callable
        Returns a nest of tensors, which are summed.

    Returns
    -------
    callable
        Takes the arguments of `f`; returns its value and a list of pairs (gradient, variable), in
        the order in which the variables were created.

    Raises
    ------
    ValueError
        On a call, if `f` returns None or reads no trainable variable.
    """

    def value_and_gradients(*args: Any, **kwargs: Any) -> Any:
        with GradientTape() as tape:
            value = _returned(f, f(*args, **kwargs))
        variables = tape.watched_variables()
        if not variables:
            raise ValueError(
                "No trainable variables were accessed while the function was being computed; read "
                "a tf.Variable in it, or use gradients_function for gradients in its arguments"
            )
        gradients = tape.gradient(value, list(variables))
        return value, list(zip(gradients, variables, strict=True))

    return value_and_gradients


def implicit_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the gradients of `f` for the variables it reads, as pairs.

    See `implicit_val_and_grad`, whose value it leaves out.
    """
    both = implicit_val_and_grad(f)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def make_vjp(
    f: Callable[..., Any],
    params: Sequence[int] | Sequence[str] | None = None,
    persistent: bool = True,
) -> Callable[..., Any]:
    """Return a function that gives the value of `f` and the function that pulls cotangents back.

    Parameters
    ----------
    f : callable
        Takes tensors, or what can be converted to them; returns a nest of tensors.
    params : list of int or of str, optional
        The positions or the names of the arguments to differentiate in; all by default.
    persistent : bool
        Whether the second function may be called more than once.

    Returns
    -------
    callable
        Takes the arguments of `f`; returns its value and ``vjp(dy=None)``, which gives a list with
        a gradient for each of `params`. Without `dy` the value's elements are summed.

    Raises
    ------
    ValueError
        On a call, if `f` returns None or is called with keyword arguments, or if `params` are
        neither all names nor all positions.
    """

    def value_and_vjp(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise ValueError(
                "Functions to be differentiated cannot receive keyword arguments; got "
                f"{sorted(kwargs)}: pass them by position"
            )
        positions = _positions(f, params, len(args))
        given = list(args)
        for position in positions:
            tensor = convert_to_tensor(given[position])
            # An identity of its own: the same tensor passed twice is two arguments.
            given[position] = tensor if tensor is not args[position] else identity(tensor)
        sources = [given[position] for position in positions]
        tape = GradientTape(persistent=persistent)
        with tape:
            tape.watch(sources)
            value = tree.map(identity, _returned(f, f(*given)))

        def vjp(dy: Any = None) -> list[Any]:
            targets = tree.flatten(value)[0]
            seeds = None
            if dy is not None:
                seeds = [convert_to_tensor(each) for each in _flat(dy, len(targets))]
            return list(tape.gradient(targets, sources, seeds))

        return value, vjp

    return value_and_vjp


def val_and_grad_function(
    f: Callable[..., Any], params: Sequence[int] | Sequence[str] | None = None
) -> Callable[..., Any]:
    """Return a function that gives the value of `f` and its gradients in its arguments.

    Parameters
    ----------
    f, params
        See `make_vjp`.

    Returns
    -------
    callable
        Takes the arguments of `f` and, by name only, `dy`: what to weigh its result with.
    """

    def value_and_gradients(*args: Any, dy: Any = None, **kwargs: Any) -> Any:
        value, vjp = make_vjp(f, params)(*args, **kwargs)
        return value, vjp(dy=dy)

    return value_and_gradients


def gradients_function(
    f: Callable[..., Any], params: Sequence[int] | Sequence[str] | None = None
) -> Callable[..., Any]:
    """Return a function that gives the gradients of `f` in its arguments, as a list.

    See `val_and_grad_function`, whose value it leaves out.

    Examples
    --------
    >>> from distgrad.compat.tensorflow import backprop
    >>> (slope,) = backprop.gradients_function(lambda x: x**3)(2.0)
    >>> print(slope)
    tf.Tensor(12.0, shape=(), dtype=float32)
    """
    both = val_and_grad_function(f, params)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def _returned(f: Callable[..., Any], value: Any) -> Any:
    if value is None:
        raise ValueError(
            "Cannot differentiate a function that returns None; did you forget to return a value "
            f"from {getattr(f, '__name__', f)}?"
        )
    return value


def _flat(dy: Any, count: int) -> list[Any]:
    flat = list(tree.flatten(dy)[0])
    if count == 1 and len(flat) != 1:  # numbers in lists are one cotangent
        return [dy]
    if len(flat) != count:
        raise ValueError(
            f"vjp: dy has {len(flat)} leaves; expected one for each of the {count} outputs"
        )
    return flat


def _positions(
    f: Callable[..., Any], params: Sequence[int] | Sequence[str] | None, given: int
) -> Sequence[int]:
    """Return the positions of the arguments to differentiate in."""
    if params is None:
        return range(given)
    if all(isinstance(each, int) for each in params):
        return [each for each in params if isinstance(each, int)]
    if not all(isinstance(each, str) for each in params):
        raise ValueError(f"params must be all strings or all integers; got {params}.")
    names = list(inspect.signature(f).parameters)
    unknown = [each for each in params if each not in names]
    if unknown:
        raise ValueError(f"params: {unknown} are no arguments of {f}; its arguments are {names}")
    return [names.index(str(each)) for each in params]


__all__ = [
    "gradients_function",
    "implicit_grad",
    "implicit_val_and_grad",
    "make_vjp",
    "val_and_grad_function",
]
