"""Derivatives of functions, by the names of JAX and torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import index
from typing import Any

from distgrad import tree
from distgrad.callables import pair, require_callable
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.elementwise.arithmetic import positive
from distgrad.sparse import densified
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Operators, Tensor

ArgNums = int | Sequence[int]


def grad(f: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that computes the gradient of a function with a scalar result.

    Parameters
    ----------
    f : callable
        Returns a real scalar, or with `has_aux` a pair of it and anything.
    argnums : int or sequence of int
        The positional arguments to differentiate with respect to: nests of floating values.
    has_aux : bool
        Whether `f` returns a pair.

    Returns
    -------
    callable
        Takes the arguments of `f`; returns the gradient in the structure of the argument (a tuple
        of them for several `argnums`), or with `has_aux` a pair of it and the rest. Always tensors:
        a tape alone gives `IndexedSlices`.

    Raises
    ------
    ShapeError
        If the result is no scalar.
    DTypeError
        If an argument holds integers, or the result does or is complex.

    Examples
    --------
    >>> import distgrad as dg
    >>> print(dg.grad(lambda x: x**3)(2.0))
    dg.Tensor(12.0, shape=(), dtype=float32)
    """
    both = _value_and_grad("grad", f, argnums, has_aux)

    @wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def value_and_grad(
    f: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that computes both the value and the gradient; see `grad`."""
    return _value_and_grad("value_and_grad", f, argnums, has_aux)


def _value_and_grad(
    operation: str, f: Callable[..., Any], argnums: ArgNums, has_aux: bool
) -> Callable[..., Any]:
    require_callable(operation, f)

    @wraps(f)
    def both(*args: Any, **kwargs: Any) -> Any:
        fresh, chosen = fresh_arguments(operation, argnums, args)
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            result = f(*fresh, **kwargs)
            target = _scalar(without_rest(operation, result)[0] if has_aux else result)
        found = tape.gradient(target, chosen, unconnected_gradients="zero")
        gradients = tree.map(densified, found)
        return result, gradients[0] if isinstance(argnums, int) else tuple(gradients)

    return both


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Return the value of a function and its vector-Jacobian product.

    Parameters
    ----------
    f : callable
        Returns a nest of values, or with `has_aux` a pair of it and anything.
    *primals : nests of floating values
        The arguments of `f`.
    has_aux : bool
        Whether `f` returns a pair.

    Returns
    -------
    value : nest of Tensor
        What `f` returns.
    pullback : callable
        Takes a cotangent in the structure of `value`; returns a tuple with the cotangent of each
        primal. It can be called again and again.
    aux
        With `has_aux`, the rest of what `f` returned.
    """
    require_callable("vjp", f)
    fresh = [_fresh("vjp", primal, place) for place, primal in enumerate(primals)]
    with GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(fresh)
        result = f(*fresh)
    value = tree.map(_as_value, without_rest("vjp", result)[0] if has_aux else result)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        """Return the cotangents of the primals from that of the value."""
        pulled = tape.gradient(value, fresh, cotangent, unconnected_gradients="zero")
        return tuple(tree.map(densified, pulled))

    return (value, pullback, result[1]) if has_aux else (value, pullback)


def jvp(
    f: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Return the value of a function and its Jacobian-vector product, in forward mode.

    Parameters
    ----------
    f : callable
        Returns a nest of values, or with `has_aux` a pair of it and anything.
    primals : sequence of nests of floating values
        The arguments of `f`.
    tangents : sequence like `primals`
        The direction.
    has_aux : bool
        Whether `f` returns a pair.

    Returns
    -------
    value, tangent : nests of Tensor
        In the structure that `f` returns; the tangent is zero where nothing depends on a primal.
    aux
        With `has_aux`, the rest of what `f` returned.
    """
    require_callable("jvp", f)
    _require_sequences("jvp", primals, tangents)
    fresh = [_fresh("jvp", primal, place) for place, primal in enumerate(primals)]
    with ForwardAccumulator(fresh, list(tangents)) as accumulator:
        result = f(*fresh)
    value = tree.map(asarray, without_rest("jvp", result)[0] if has_aux else result)
    tangent = accumulator.jvp(value, unconnected_gradients="zero")
    return (value, tangent, result[1]) if has_aux else (value, tangent)


def hvp(
    f: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Return the gradient of a scalar function and its Hessian-vector product.

    Parameters
    ----------
    f : callable
        Returns a real scalar, or with `has_aux` a pair of it and anything.
    primals, tangents : sequence of nests of floating values
        The arguments of `f`, and the direction.
    has_aux : bool
        Whether the function returns a pair.

    Returns
    -------
    gradient, product : tuple of nests of Tensor
        For each primal the gradient, and the Hessian times the direction.
    rest : object
        With `has_aux`, the rest of what `f` returned.

    Notes
    -----
    Forward mode over reverse mode: about the cost of two gradients, and no Hessian in memory.
    """
    require_callable("hvp", f)
    _require_sequences("hvp", primals, tangents)
    gradient = grad(f, tuple(range(len(primals))), has_aux)
    return jvp(gradient, primals, tangents, has_aux)


def fresh_arguments(
    operation: str, argnums: ArgNums, args: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Return the arguments with the chosen ones as tensors of their own identity, and the chosen.

    Raises
    ------
    TypeError
        If `argnums` names an argument that is not there.
    DTypeError
        If a chosen argument holds integers.
    """
    places = _places(operation, argnums, len(args))
    fresh = list(args)
    for place in places:
        fresh[place] = _fresh(operation, args[place], place)
    return fresh, [fresh[place] for place in places]


def _places(operation: str, argnums: ArgNums, count: int) -> tuple[int, ...]:
    try:
        given = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        places = tuple(index(place) for place in given)
    except TypeError as error:
        raise TypeError(
            f"{operation}: argnums is {argnums!r}; expected the position of an argument, counted "
            "from 0, or a tuple of positions"
        ) from error
    for place in places:
        if not -count <= place < count:
            raise TypeError(
                f"{operation}: argnums names argument {place}, but the function was called with "
                f"{count} positional arguments"
            )
    return tuple(place % count for place in places)


def _require_sequences(operation: str, primals: Any, tangents: Any) -> None:
    """Refuse a bare array, which would be taken apart along its first axis."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise TypeError(
                f"{operation}: {name} is a {type(given).__name__}; expected a tuple or list with "
                f"one for each argument of the function, such as (x,)"
            )
    if len(primals) != len(tangents):
        raise ValueError(
            f"{operation}: there are {len(primals)} primals and {len(tangents)} tangents; expected "
            "one tangent for each"
        )


def without_rest(operation: str, result: Any) -> tuple[Any, Any]:
    """Return what a function with ``has_aux`` returned: its value, and the rest.

    Raises
    ------
    TypeError
        If it returned no pair.
    """
    return pair(operation, result, "with has_aux=True a pair, of the value and anything")


def _fresh(operation: str, argument: Any, place: int) -> Any:
    """Return an argument as tensors of their own identity: passed twice, it is two arguments."""

    def convert(leaf: Any) -> Tensor:
        tensor = asarray(leaf)
        if not is_differentiable(tensor.dtype):
            raise DTypeError(
                f"{operation}: argument {place} has dtype {tensor.dtype}, which has no derivative; "
                "expected floating values (write 2.0 for 2)"
            )
        return positive(tensor)

    return tree.map(convert, argument)


def _as_value(result: Any) -> Any:
    """Return a result as it is where it is a tensor: a number has no derivative, but a value."""
    return result if isinstance(result, Operators) else asarray(result)


def _scalar(result: Any) -> Any:
    if not isinstance(result, Operators):
        raise TypeError(
            f"grad: the function returned a {type(result).__name__}; expected a scalar Tensor, or "
            "with has_aux=True a pair that begins with one"
        )
    if result.shape != ():
        raise ShapeError(
            f"grad: the function returned shape {result.shape}; expected a scalar: take dg.sum or "
            "dg.mean of it, or use dg.vjp"
        )
    if not is_differentiable(result.dtype):
        raise DTypeError(
            f"grad: the function returned {result.dtype}, which has no derivative; expected a "
            "floating scalar"
        )
    if is_complex(result.dtype):
        raise DTypeError(
            f"grad: the function returned {result.dtype}; expected a real scalar: take its real "
            "part or absolute value"
        )
    return result
