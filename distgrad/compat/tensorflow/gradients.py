"""Gradients that users write themselves, in functions of TensorFlow's tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper, wraps
from typing import Any

import distgrad as dg
from distgrad.callables import pair, require_callable
from distgrad.compat.tensorflow.values import (
    Tensor,
    convert_to_tensor,
    on_native,
    unwrap_nest,
    wrap_nest,
)


class custom_gradient:
    """Give a function a gradient of its user's own; a decorator, also of methods.

    Parameters
    ----------
    f : callable
        ``f(*args, **kwargs) -> (result, grad_fn)``, as for `distgrad.custom_gradient`.

    Raises
    ------
    ValueError
        If ``grad_fn`` returns another number of gradients than there are arguments, or variables.
    TypeError
        If `f` returns no such pair, or reads variables and ``grad_fn`` does not take the keyword
        argument ``variables``.

    Examples
    --------
    >>> import distgrad.compat.tensorflow as tf
    >>> @tf.custom_gradient
    ... def doubled(x):
    ...     return x, lambda upstream: 2.0 * upstream
    >>> x = tf.constant(1.0)
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = doubled(x)
    >>> print(tape.gradient(y, x))
    tf.Tensor(2.0, shape=(), dtype=float32)
    """

    def __new__(cls, f: Callable[..., Any] | None = None) -> Any:
        """Return the decorated function; without one, the decorator."""
        return cls if f is None else super().__new__(cls)

    def __init__(self, f: Callable[..., Any]) -> None:
        self._function = f
        update_wrapper(self, f)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return custom_gradient(wraps(self._function)(partial(self._function, instance)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the function, which tapes differentiate by its gradient."""

        def native(*inner: Any, **options: Any) -> Any:
            found = self._function(*wrap_nest(list(inner)), **options)
            result, grad_fn = pair("custom_gradient", found, "a pair (result, grad_fn)")
            require_callable("custom_gradient", grad_fn, "grad_fn, the second value returned,")
            return unwrap_nest(result), on_native(grad_fn)

        native.__name__ = getattr(self._function, "__name__", "custom_gradient")
        return wrap_nest(dg.custom_gradient(native)(*unwrap_nest(list(args)), **kwargs))


def recompute_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with only its arguments kept; the backward pass runs it again.

    Derivatives of any order and forward mode go through, which TensorFlow's does not allow.
    """
    again = dg.recompute_grad(on_native(f))

    @wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return wrap_nest(again(*unwrap_nest(list(args)), **kwargs))

    return wrapper


def grad_pass_through(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the gradient of the identity (the straight-through estimator)."""
    through = dg.grad_pass_through(on_native(f))

    @wraps(f)
    def wrapper(x: Any) -> Any:
        return wrap_nest(through(convert_to_tensor(x).read()))

    return wrapper


def stop_gradient(input: Any, name: str | None = None) -> Tensor:
    """Return the same values with no path back to where they came from."""
    return Tensor(dg.stop_gradient(convert_to_tensor(input).read()))
