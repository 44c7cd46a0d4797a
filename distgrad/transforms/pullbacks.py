"""Functions with a gradient of their user's own: custom_gradient, and the straight-through rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from distgrad import tree
from distgrad.callables import pair, require_callable
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.shaping.structure import astype
from distgrad.tape.calls import Rules
from distgrad.tape.captured import CapturedPath
from distgrad.tape.cutting import stop_gradient
from distgrad.tape.transposition import transposed
from distgrad.tensor import Operators, Tensor
from distgrad.transforms.calling import Call, VariablesRead, listening, name_of
from distgrad.variable import Variable

Values = list[Any]


def custom_gradient(f: Callable[..., Any] | None = None) -> Any:
    """Give a function a gradient of its user's own; a decorator.

    Parameters
    ----------
    f : callable
        ``f(*args, **kwargs) -> (result, grad_fn)``. ``grad_fn`` takes the cotangent of each
        output and returns one for each positional argument. If `f` reads trainable variables that
        are not arguments, ``grad_fn`` must take a keyword argument ``variables``, a list of them,
        and return a pair: the cotangents of the arguments, and a list of those of the variables.
        Keyword arguments get no gradient.

    Returns
    -------
    callable
        Takes the arguments of `f`, returns ``result``.

    Raises
    ------
    ValueError
        If ``grad_fn`` returns another number of cotangents.
    ShapeError, DTypeError
        If one has not the shape of its argument, or is complex for a real one.
    TypeError
        If `f` reads variables and ``grad_fn`` does not take them.

    Notes
    -----
    ``grad_fn`` is itself differentiated for higher derivatives, also through values that `f` has
    computed; forward mode transposes it, as it is linear in the cotangents.

    A tensor that `f` captures, and that somebody differentiates, gets the gradient that `f` has
    without ``grad_fn``, while the arguments are held fixed. So a ``grad_fn`` that is itself such a
    function may hold on to the arguments of the outer one.

    Where the call is differentiated from outside of a `vmap` or a traced `function` in which it
    stands, `f` runs once more for ``grad_fn``: what `f` computed inside is not there any more. In a
    graph that costs nothing, since what is computed twice is computed once.

    Examples
    --------
    >>> import distgrad as dg
    >>> @dg.custom_gradient
    ... def log1pexp(x):
    ...     e = dg.exp(x)
    ...     return dg.log(1 + e), lambda upstream: upstream * (1 - 1 / (1 + e))
    >>> print(dg.grad(log1pexp)(50.0))
    dg.Tensor(1.0, shape=(), dtype=float32)
    """
    if f is None:
        return custom_gradient
    require_callable("custom_gradient", f)
    function = f

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = Call(name_of(function, "custom_gradient"), args, kwargs)
        read = VariablesRead()
        path = CapturedPath(LISTENERS.get(), call.inputs)
        # The function gets values, as in TensorFlow: its rule may hold on to them.
        values = [each.read() if isinstance(each, Variable) else each for each in call.inputs]
        # Those who listen hear the function at work: higher derivatives pass through its values.
        with listening((*LISTENERS.get(), read, path)):
            positional, named = call.arguments(values)
            result, grad_fn = _result_and_rule(function(*positional, **named))
        call.capture(read.variables)
        if call.captured:
            _check_takes_variables(grad_fn, call.captured)
        outputs = [(o.kernels, o.shape, o.dtype) for o in map(_as_tensor, tree.flatten(result)[0])]

        def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
            return _pull(call, grad_fn, cotangents)

        def push(primals: Values, tangents: Values) -> Values:
            units = [
                Tensor(kernels.full(shape=shape, fill_value=0, dtype=dtype), kernels)
                for kernels, shape, dtype in outputs
            ]
            return transposed(lambda given: _pull(call, grad_fn, given), tangents, units)

        def pull_again(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
            with call.again(primals):
                positional, named = call.arguments(primals)
                return _pull(call, function(*positional, **named)[1], cotangents)

        def push_again(primals: Values, tangents: Values) -> Values:
            with call.again(primals):
                positional, named = call.arguments(primals)
                result, fresh = function(*positional, **named)
                units = [
                    Tensor(each.kernels.zeros_like(each.array), each.kernels)
                    for each in map(_as_tensor, tree.flatten(result)[0])
                ]
                return transposed(lambda given: _pull(call, fresh, given), tangents, units)

        again = Rules(call.name, pull_again, push_again, functions=(function,))
        rules = Rules(call.name, pull, push, False, again, (function,))
        try:
            return call.announce(rules, result, path)
        finally:
            path.close()

    return wrapper


def _as_tensor(value: Any) -> Tensor:
    return value.read() if isinstance(value, Operators) else asarray(value)


def _check_takes_variables(grad_fn: Callable[..., Any], captured: list[Variable]) -> None:
    parameters = inspect.signature(grad_fn).parameters.values()
    if any(p.name == "variables" or p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = ", ".join(variable.name for variable in captured)
    raise TypeError(
        "@custom_gradient grad_fn must accept keyword argument 'variables', since function uses "
        f"variables: {names}; or pass them as arguments"
    )


def _pull(call: Call, grad_fn: Callable[..., Any], cotangents: list[Tensor]) -> Values:
    """Return the checked cotangents of a call's inputs, as the user's function gives them."""
    if call.captured:
        pulled, of_variables = grad_fn(*cotangents, variables=call.captured)
        of_variables = list(of_variables)
        if len(of_variables) != len(call.captured):
            raise ValueError(
                "Must return gradient for each variable from @custom_gradient grad_fn: expected "
                f"{len(call.captured)}, got {len(of_variables)}"
            )
    else:
        pulled, of_variables = grad_fn(*cotangents), []
    several = isinstance(pulled, (list, tuple))
    flat = _flat_cotangents(list(pulled) if several else [pulled])
    if len(flat) != call.places:
        raise ValueError(
            f"custom_gradient function expected to return {call.places} gradients, but "
            f"returned {len(flat)} instead."
        )
    named = len(call.specs) - call.places - len(of_variables)
    found = [*flat, *(None for _ in range(named)), *of_variables]
    return [
        _checked(call.name, place, *spec, cotangent)
        for place, (spec, cotangent) in enumerate(zip(call.specs, found, strict=True))
    ]


def _flat_cotangents(pulled: Values) -> Values:
    """Return cotangents flattened as the arguments are, but with None as a leaf."""
    flat: Values = []
    for each in pulled:
        flat.extend([None] if each is None else tree.flatten(each)[0])
    return flat


def _checked(
    name: str, place: int, shape: tuple[int, ...], dtype: Any, backend: Any, cotangent: Any
) -> Any:
    if cotangent is None:
        return None
    # A tensor stays where it is: in a vectorised walk it is of the level of `vmap`.
    given = isinstance(cotangent, Operators)
    tensor = cotangent.read() if given else asarray(cotangent, backend=backend)
    if tensor.shape != shape:
        raise ShapeError(
            f"custom_gradient: {name}: gradient {place} has shape {tensor.shape}, its argument "
            f"{shape}; expected the same shape"
        )
    if tensor.dtype == dtype:
        return tensor
    if not is_differentiable(dtype):
        return None
    if tensor.dtype.kind == "c" and dtype.kind != "c":
        raise DTypeError(
            f"custom_gradient: {name}: gradient {place} is {tensor.dtype}, its argument "
            f"{dtype}; expected a real gradient for a real argument"
        )
    return astype(tensor, dtype)


def _result_and_rule(returned: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the result of a function with a rule of its user's own, and the rule."""
    result, grad_fn = pair(
        "custom_gradient", returned, "a pair (result, grad_fn), grad_fn a function of the cotangent"
    )
    require_callable("custom_gradient", grad_fn, "grad_fn, the second value returned,")
    return result, grad_fn


# --- straight through -----------------------------------------------------------------------------


def grad_pass_through(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the gradient of the identity (the straight-through estimator).

    Parameters
    ----------
    f : callable
        Returns, for each positional argument, a result of its shape: one array for one array, or
        nests with as many leaves. Keyword arguments, and variables inside, get no gradient.

    Raises
    ------
    ShapeError
        If the results do not correspond to the arguments.

    References
    ----------
    .. [1] Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic
       neurons for conditional computation", 2013, arXiv:1308.3432, section 4.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([0.2, 1.7])
    >>> with dg.GradientTape() as tape:
    ...     y = dg.grad_pass_through(dg.round)(x)
    ...     z = 3.0 * y
    >>> y.tolist(), tape.gradient(z, x).tolist()
    ([0.0, 2.0], [3.0, 3.0])
    """
    require_callable("grad_pass_through", f)

    @wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = Call(name_of(f, "grad_pass_through"), args, kwargs)
        positional, named = call.arguments([stop_gradient(each) for each in call.inputs])
        result = tree.map(stop_gradient, f(*positional, **named))
        shapes = [each.shape for each in tree.flatten(result)[0]]
        expected = [shape for shape, _, _ in call.specs[: call.places]]
        if shapes != expected:
            raise ShapeError(
                f"grad_pass_through: {call.name}: the results have shapes {shapes}, the arguments "
                f"{expected}; expected a result of its shape for each argument"
            )

        def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
            found = [
                _checked(call.name, place, *spec, cotangent)
                for place, (spec, cotangent) in enumerate(
                    zip(call.specs[: call.places], cotangents, strict=True)
                )
            ]
            return [*found, *(None for _ in call.specs[call.places :])]

        def push(primals: Values, tangents: Values) -> Values:
            return tangents[: call.places]

        return call.announce(Rules(call.name, pull, push, reads=False), result)

    return wrapper
