"""tf.function: a function that runs as a graph, or step by step where a graph cannot hold it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper, wraps
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import tree
from distgrad.compat.tensorflow.conversion import native
from distgrad.compat.tensorflow.specs import TensorSpec
from distgrad.compat.tensorflow.values import (
    convert_to_tensor,
    on_native,
    unwrap_nest,
    wrap_nest,
)
from distgrad.core.seam import VALUES
from distgrad.errors import UnknownValueError
from distgrad.tensor import Operators


class Function:
    """A function that runs as a graph; made by `function`.

    The Python function runs once for each signature of its arguments: what it does besides
    computing happens at that time only. If its way depends on the value of a tensor, as in
    ``if x > 0``, it warns once, and runs step by step from then on.

    Parameters
    ----------
    python_function : callable
        Takes and returns nests of tensors.
    name : str, optional
        Its name in messages.
    input_signature : sequence of TensorSpec or nests of them, optional
        What the positional arguments have to be; see `function`.
    autograph : bool
        Whether it may run step by step. If not, the value of a tensor is refused with an error.
    """

    def __init__(
        self,
        python_function: Callable[..., Any],
        name: str | None = None,
        input_signature: Sequence[Any] | None = None,
        autograph: bool = True,
    ) -> None:
        self.python_function = python_function
        self.input_signature = input_signature
        self._computed = _giving_tensors(python_function)
        self._traced = dg.function(on_native(self._computed), name=name)
        self._may_step = autograph
        self._steps = False
        update_wrapper(self, python_function, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else partial(self._call, (instance,))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, by its graph."""
        return self._call((), *args, **kwargs)

    def _call(self, instance: tuple[Any, ...], *args: Any, **kwargs: Any) -> Any:
        signed = self.input_signature
        if signed is not None:
            bound = inspect.signature(self.python_function).bind(*instance, *args, **kwargs)
            args, kwargs = _as_signed(signed, bound.args[len(instance) :]), bound.kwargs
        if not self._steps:
            try:
                found = self._traced(*instance, *_entering(args), **_entering(kwargs))
                return wrap_nest(found)
            except UnknownValueError as error:
                if not self._may_step or VALUES.get() is not None:  # within another's trace
                    raise
                self._steps = True
                name = getattr(self.python_function, "__name__", "the function")
                warnings.warn(
                    f"tf.function: {name} runs step by step from now on, which is slower: {error}",
                    stacklevel=3,
                )
        return self._computed(*instance, *_as_tensors(args), **_as_tensors(kwargs))

    def graph(self, *args: Any, **kwargs: Any) -> Any:
        """Return the graph of a call with these arguments, to be printed."""
        return self._traced.graph(*_entering(args), **_entering(kwargs))


def _giving_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose results are tensors where they are numbers or arrays."""

    @wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Any:
        return tree.map(
            lambda leaf: convert_to_tensor(leaf) if isinstance(leaf, _NUMBERS) else leaf,
            function(*args, **kwargs),
        )

    return computed


_NUMBERS = (bool, int, float, complex, np.ndarray, np.generic)


def _as_signed(signed: Sequence[Any], args: Sequence[Any]) -> tuple[Any, ...]:
    if len(args) != len(signed):
        raise TypeError(
            f"Binding inputs to tf.function failed: input_signature has {len(signed)} entries, the "
            f"call {len(args)} arguments; expected one for each"
        )
    return tuple(_conforming(spec, given) for spec, given in zip(signed, args, strict=True))


def _conforming(spec: Any, given: Any) -> Any:
    """Return an argument as a tensor that a signature allows, or a nest of them.

    Raises
    ------
    TypeError
        If it has another dtype or shape.
    """
    if isinstance(spec, dict):
        return {key: _conforming(each, given[key]) for key, each in spec.items()}
    if not isinstance(spec, TensorSpec):
        return type(spec)(_conforming(*each) for each in zip(spec, given, strict=True))
    is_ours = isinstance(given, Operators)
    tensor = given if is_ours else convert_to_tensor(given, spec.dtype)
    if not spec.is_compatible_with(tensor):
        raise TypeError(
            f"Binding inputs to tf.function failed due to `Can not cast "
            f"{TensorSpec.from_tensor(tensor)!r} to {spec!r}`; use tf.cast or tf.reshape"
        )
    return tensor


def _entering(arguments: Any) -> Any:
    # TensorFlow takes arrays for tensors here; they are copied in, as everywhere.
    return tree.map(
        lambda leaf: native(convert_to_tensor(leaf)) if isinstance(leaf, np.ndarray) else leaf,
        unwrap_nest(list(arguments) if isinstance(arguments, tuple) else arguments),
    )


def _as_tensors(arguments: Any) -> Any:
    return tree.map(
        lambda leaf: convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf,
        list(arguments) if isinstance(arguments, tuple) else arguments,
    )


def function(
    func: Callable[..., Any] | None = None,
    input_signature: Any = None,
    autograph: bool = True,
    jit_compile: bool | None = None,
    reduce_retracing: bool = False,
    experimental_implements: str | None = None,
    experimental_autograph_options: Any = None,
    experimental_attributes: Any = None,
    experimental_relax_shapes: bool | None = None,
    experimental_compile: bool | None = None,
    experimental_follow_type_hints: bool | None = None,
) -> Any:
    """Make a function run as a graph: traced once for each signature, then replayed.

    Parameters
    ----------
    func : callable, optional
        The function; left out, a decorator is returned.
    input_signature : sequence of TensorSpec or nests of them, optional
        What the arguments have to be; numbers, lists and arrays are converted. Shapes with None are
        traced for each length that comes.
    autograph : bool
        Whether Python's ``if`` and ``while`` on a tensor's value are allowed. TensorFlow rewrites
        them; here the function warns once and then runs step by step, which gives the same numbers
        and derivatives. `cond` and `while_loop` stand in graphs. Without it they raise.
    jit_compile, reduce_retracing, experimental_...
        TensorFlow's advice to its compiler; it changes nothing here.

    Raises
    ------
    TypeError
        If an argument does not conform to `input_signature`.
    """
    made = partial(Function, input_signature=input_signature, autograph=autograph)
    return made if func is None else made(func)
