"""Jacobians and Hessians of functions: all rows, or columns, at once by `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from distgrad import tree
from distgrad.callables import require_callable
from distgrad.dtypes import is_complex
from distgrad.eager import asarray
from distgrad.errors import DTypeError
from distgrad.ops.shaping.structure import reshape
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.jacobians import Manner, for_units
from distgrad.tensor import Tensor
from distgrad.transforms.functional import ArgNums, fresh_arguments, grad, without_rest


def jacrev(
    f: Callable[..., Any],
    argnums: ArgNums = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian in reverse mode, all rows at once.

    Parameters
    ----------
    f : callable
        Returns a nest of real arrays, or with `has_aux` a pair of it and anything.
    argnums : int or sequence of int
        The positional arguments to differentiate with respect to: nests of real floating values.
    has_aux : bool
        Whether `f` returns a pair.
    chunk_size : int, optional
        How many rows to compute at once; fewer take less memory. All by default.

    Returns
    -------
    callable
        Takes the arguments of `f`. Returns a nest like the result of `f`, in which each output is
        replaced by a nest like the argument (a tuple of them for several `argnums`) of arrays of
        shape ``(*output.shape, *argument.shape)``. With `has_aux` a pair of that and the rest.

    Raises
    ------
    DTypeError
        If an output or argument is complex, or an argument holds integers.

    Notes
    -----
    Cheaper than `jacfwd` where there are fewer outputs than inputs.
    """
    require_callable("jacrev", f)

    @wraps(f)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        fresh, chosen = fresh_arguments("jacrev", argnums, args)
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            result = f(*fresh, **kwargs)
        outputs, treedef = tree.flatten(without_rest("jacrev", result)[0] if has_aux else result)
        targets = [_real("jacrev", asarray(output)) for output in outputs]
        for leaf in tree.flatten(chosen)[0]:
            _real("jacrev", leaf)
        found = tape.jacobian(targets, chosen, unconnected_gradients="zero", chunk_size=chunk_size)
        rows = tree.unflatten(
            treedef, [each[0] if isinstance(argnums, int) else tuple(each) for each in found]
        )
        return (rows, result[1]) if has_aux else rows

    return jacobian


def jacfwd(
    f: Callable[..., Any],
    argnums: ArgNums = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian in forward mode, all columns at once.

    Parameters, result and errors are those of `jacrev`.

    Notes
    -----
    Cheaper than `jacrev` where there are fewer inputs than outputs.
    """
    require_callable("jacfwd", f)

    @wraps(f)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        fresh, chosen = fresh_arguments("jacfwd", argnums, args)
        leaves, treedef = tree.flatten(chosen)
        by_leaf: list[list[Any]] = []
        value: Any = None
        rest: Any = None
        manner = Manner(chunk_size=chunk_size)
        for leaf in leaves:

            def column(unit: Any, leaf: Any = leaf) -> Any:
                nonlocal value, rest
                with ForwardAccumulator(_real("jacfwd", leaf), unit) as accumulator:
                    result = f(*fresh, **kwargs)
                value, rest = without_rest("jacfwd", result) if has_aux else (result, None)
                outputs = [_real("jacfwd", asarray(each)) for each in tree.flatten(value)[0]]
                return accumulator.jvp(outputs, unconnected_gradients="zero")

            columns = for_units(column, leaf, manner, out_axes=-1)
            by_leaf.append([reshape(c, (*c.shape[:-1], *leaf.shape)) for c in columns])

        def of_output(position: int) -> Any:
            found = tree.unflatten(treedef, [columns[position] for columns in by_leaf])
            return found[0] if isinstance(argnums, int) else tuple(found)

        count, result_treedef = len(tree.flatten(value)[0]), tree.flatten(value)[1]
        columns = tree.unflatten(result_treedef, [of_output(place) for place in range(count)])
        return (columns, rest) if has_aux else columns

    return jacobian


def hessian(
    f: Callable[..., Any],
    argnums: ArgNums = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Hessian of a scalar function, all columns at once.

    Parameters
    ----------
    f : callable
        Returns a real scalar, or with `has_aux` a pair of it and anything.
    argnums : int or sequence of int
        The positional arguments to differentiate with respect to.
    has_aux : bool
        Whether the function returns a pair.
    chunk_size : int, optional
        How many columns to compute at once. All by default.

    Returns
    -------
    callable
        Takes the arguments of `f`; returns arrays of shape ``(*argument.shape, *argument.shape)``,
        in a nest like the argument in a nest like the argument. With `has_aux` a pair of that and
        the rest.

    Notes
    -----
    Forward mode over reverse mode.
    """
    require_callable("hessian", f)
    return jacfwd(grad(f, argnums, has_aux), argnums, has_aux, chunk_size=chunk_size)


def _real(operation: str, x: Tensor) -> Tensor:
    if is_complex(x.dtype):
        raise DTypeError(
            f"{operation}: a value is {x.dtype}; expected real arrays: differentiate the real and "
            "imaginary parts"
        )
    return x
