"""Control flow, mapping over a batch, and printing."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
