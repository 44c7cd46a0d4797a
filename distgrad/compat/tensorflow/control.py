"""Control flow, traced functions, mapping over a batch, and printing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import tree
from distgrad.compat.tensorflow.conversion import native
from distgrad.compat.tensorflow.values import convert_to_tensor, on_native, unwrap_nest, wrap_nest
from distgrad.tensor import Operators


def cond(
    pred: Any,
    true_fn: Callable[[], Any] | None = None,
    false_fn: Callable[[], Any] | None = None,
    name: str | None = None,
) -> Any:
    """Return what one of two functions gives; only the one that was chosen runs.

    Raises
    ------
    TypeError
        If one of them is missing.
    """
    if not callable(true_fn) or not callable(false_fn):
        raise TypeError("'true_fn' and 'false_fn' must be callable, with no arguments")
    chosen = dg.cond(native(pred), on_native(true_fn), on_native(false_fn))
    return wrap_nest(chosen)


def while_loop(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    shape_invariants: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    maximum_iterations: int | None = None,
    name: str | None = None,
) -> Any:
    """Return the values of a loop's variables once its condition fails.

    Parameters
    ----------
    cond : callable
        ``cond(*loop_vars)`` returns whether to go on.
    body : callable
        ``body(*loop_vars)`` returns the next values, in the same structure.
    loop_vars : list or tuple
        The first values.
    maximum_iterations : int, optional
        How many times the body runs at most.
    shape_invariants, parallel_iterations, back_prop, swap_memory
        TensorFlow's hints to its graphs; they change nothing here.

    Raises
    ------
    ValueError
        If there are no loop variables.
    """
    if not loop_vars:
        raise ValueError("'loop_vars' must be provided; got none")
    kind = type(loop_vars) if type(loop_vars) in (list, tuple) else list
    limit = None if maximum_iterations is None else int(maximum_iterations)

    def goes_on(state: Any) -> Any:
        done, values = state
        holds = native(cond(*wrap_nest(values)))
        return holds if limit is None else dg.logical_and(dg.less(done, limit), holds)

    def step(state: Any) -> Any:
        done, values = state
        found = body(*wrap_nest(values))
        packed = found if isinstance(found, (list, tuple)) else [found]
        return [done + 1, unwrap_nest(tree.map(convert_to_tensor, list(packed)))]

    first = unwrap_nest(tree.map(convert_to_tensor, list(loop_vars)))
    _, values = dg.while_loop(goes_on, step, [dg.asarray(0), first])
    return kind(wrap_nest(values))


class Function:
    """A function that runs as a graph; made by `function`.

    The Python function runs once for each signature of its arguments: what it does besides
    computing happens at that time only.

    Parameters
    ----------
    python_function : callable
        Takes and returns nests of tensors.
    name : str, optional
        Its name in messages.
    """

    def __init__(self, python_function: Callable[..., Any], name: str | None = None) -> None:
        self.python_function = python_function
        self._traced = dg.function(on_native(python_function), name=name)
        update_wrapper(self, python_function, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else partial(self.__call__, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, by its graph."""
        return wrap_nest(self._traced(*_entering(args), **_entering(kwargs)))

    def graph(self, *args: Any, **kwargs: Any) -> Any:
        """Return the graph of a call with these arguments, to be printed."""
        return self._traced.graph(*_entering(args), **_entering(kwargs))


def _entering(arguments: Any) -> Any:
    # TensorFlow takes arrays for tensors here; they are copied in, as everywhere.
    return tree.map(
        lambda leaf: native(convert_to_tensor(leaf)) if isinstance(leaf, np.ndarray) else leaf,
        unwrap_nest(list(arguments) if isinstance(arguments, tuple) else arguments),
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
    input_signature, autograph, jit_compile, reduce_retracing, experimental_...
        TensorFlow's advice to its compiler; it changes nothing here. Python's ``if`` and ``while``
        on a tensor's value are refused with an error: use `cond` and `while_loop`.
    """
    return Function if func is None else Function(func)


def vectorized_map(
    fn: Callable[[Any], Any],
    elems: Any,
    fallback_to_while_loop: bool = True,
    warn: bool = True,
) -> Any:
    """Return what a function gives for each element of a batch, all at once.

    Parameters
    ----------
    fn : callable
        Takes one element: a nest like `elems` without the first axis.
    elems : nest of Tensor
        The batch, along the first axis of each.
    fallback_to_while_loop, warn : bool
        TensorFlow's; what cannot be vectorised is computed one by one with a warning in any case.
    """
    mapped = dg.vmap(on_native(fn))
    return wrap_nest(mapped(unwrap_nest(elems)))


# --- printing -----------------------------------------------------------------------------------


def print(
    *inputs: Any,
    output_stream: Any = None,
    summarize: int = 3,
    sep: str = " ",
    end: str = "\n",
    name: str | None = None,
) -> None:
    """Print values the way TensorFlow's operation does: numbers bare, long axes abridged.

    Parameters
    ----------
    *inputs : Tensor, Variable, or anything
        What to print.
    output_stream : stream or str, optional
        Where to: standard error by default; ``"file://path"`` appends to a file.
    summarize : int
        How many elements to show at both ends of an axis; -1 for all.
    sep, end : str
        Between the values, and after the last.
    """
    text = sep.join(_shown(each, summarize) for each in inputs) + end
    if isinstance(output_stream, str) and output_stream.startswith("file://"):
        with open(output_stream.removeprefix("file://"), "a", encoding="utf-8") as file:
            file.write(text)
        return
    stream = sys.stderr if output_stream is None else output_stream
    stream.write(text)
    stream.flush()


def _shown(value: Any, summarize: int) -> str:
    if isinstance(value, Operators):
        return _array(np.asarray(value.numpy()), summarize, 1)
    if isinstance(value, np.ndarray):
        return _array(value, summarize, 1)
    if isinstance(value, (bool, str)) or value is None:
        return str(int(value)) if isinstance(value, bool) else str(value)
    if isinstance(value, (int, float)):
        return _number(np.float32(value) if isinstance(value, float) else value)
    if isinstance(value, dict):
        pairs = (f"{key!r}: {_shown(each, summarize)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_shown(each, summarize) for each in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return str(value)


def _array(values: np.ndarray[Any, Any], summarize: int, depth: int) -> str:
    if values.ndim == 0:
        return _number(values[()])
    count = len(values)
    abridged = summarize >= 0 and count > 2 * summarize
    places = [*range(summarize), *range(count - summarize, count)] if abridged else range(count)
    parts = [_array(values[i], summarize, depth + 1) for i in places]
    if abridged:
        parts.insert(summarize, "...")
    between = " " if values.ndim == 1 else "\n" * (values.ndim - 1) + " " * depth
    return "[" + between.join(parts) + "]"


def _number(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return str(value)[:-2] if str(value).endswith(".0") else str(value)
    return str(value)
