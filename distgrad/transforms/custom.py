"""Gradients that users write themselves, and functions that are computed again instead of kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from distgrad import tree
from distgrad.core.op import Keep, Kind, Op, Spec
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray, emit
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.structure import astype
from distgrad.tape.cutting import detach, stop_gradient
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_given, to_tensors
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable


class _VariablesRead:
    """A listener that notes which trainable variables a function reads."""

    def __init__(self) -> None:
        self.variables: dict[int, Variable] = {}

    def hear_read(self, variable: Variable) -> None:
        """Note a variable."""
        if variable.trainable and is_differentiable(variable.dtype):
            self.variables.setdefault(variable.key, variable)

    def hear(self, *_: Any) -> None:
        """Take no notice of operations."""

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False


@contextmanager
def _listening(listeners: tuple[Any, ...]) -> Any:
    before = LISTENERS.get()
    LISTENERS.set(listeners)
    try:
        yield
    finally:
        LISTENERS.set(before)


class _Call:
    """One call of a function with a rule of its own: its inputs, outputs, and how they are seen."""

    def __init__(self, name: str, args: Sequence[Any]) -> None:
        self.name = name
        flat, self._treedef = tree.flatten(list(args))
        self._slots = [_as_value(leaf) for leaf in flat]
        self.leaves: list[Any] = [slot for slot in self._slots if isinstance(slot, Operators)]
        self.read = _VariablesRead()
        self.captured: list[Variable] = []

    def arguments(self, values: Sequence[Any] | None = None) -> list[Any]:
        """Return the arguments with values in place of the leaves, by default the leaves."""
        rest = iter(self.leaves if values is None else values)
        filled = [next(rest) if isinstance(slot, Operators) else slot for slot in self._slots]
        return tree.unflatten(self._treedef, filled)

    @property
    def inputs(self) -> list[Any]:
        """The leaves of the arguments, then the variables that the function captured."""
        return [*self.leaves, *self.captured]

    def finish(self, result: Any) -> tuple[list[Tensor], Any]:
        """Return the outputs under new identities, and the result's structure."""
        passed = {leaf.key for leaf in self.leaves}
        self.captured = [v for k, v in self.read.variables.items() if k not in passed]
        outputs, treedef = tree.flatten(result)
        return [detach(output) for output in outputs], treedef

    def announce(self, outputs: list[Tensor], treedef: Any, vjp: Any, jvp: Any) -> Any:
        """Tell those who listen of the call as one operation, and return its result."""
        if outputs:
            single = len(outputs) == 1
            op = Op(
                self.name,
                Kind.OPAQUE,
                partial(_as_called, outputs),
                vjp,
                jvp,
                Keep.SPECS,
                outputs=1 if single else None,
            )
            emit(op, self.inputs, outputs[0] if single else tuple(outputs))
        return tree.unflatten(treedef, outputs)


def _as_value(leaf: Any) -> Any:
    """Return an argument's leaf as a tensor or variable; what holds no numbers stays what it is."""
    if isinstance(leaf, Operators):
        return leaf
    try:
        return asarray(leaf)
    except DTypeError:  # the object of a method, a string, a flag of the user's
        return leaf


def _as_called(outputs: list[Tensor], *inputs: Spec) -> Any:
    specs = tuple(Spec(output.shape, output.dtype) for output in outputs)
    return specs[0] if len(specs) == 1 else specs


# --- custom gradients ---------------------------------------------------------------------------


def custom_gradient(f: Callable[..., Any] | None = None) -> Any:
    """Give a function a gradient of its user's own; a decorator.

    Parameters
    ----------
    f : callable
        ``f(*args, **kwargs) -> (result, grad_fn)``. ``grad_fn`` takes the cotangent of each
        output and returns one for each argument. If `f` reads trainable variables that are not
        arguments, ``grad_fn`` must take a keyword argument ``variables``, a list of them, and
        return a pair: the cotangents of the arguments, and a list of those of the variables.

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
    function = f

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call(getattr(function, "__name__", "custom_gradient"), args)
        # Those who listen hear the function at work: higher derivatives pass through its values.
        with _listening((*LISTENERS.get(), call.read)):
            result, grad_fn = function(*call.arguments(), **kwargs)
        outputs, treedef = call.finish(result)
        pull = partial(_pull, call, grad_fn)
        if call.captured:
            _check_takes_variables(grad_fn, call.captured)

        def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Sequence[int]) -> list[Any]:
            cotangents, raw = to_tensors(g, outputs)
            return as_given(pull(cotangents), raw)

        def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
            given, raw = to_tensors(list(tangents), [_tensor(each) for each in call.inputs])
            pushed = as_given(_transpose(pull, given, outputs), raw)
            return pushed[0] if len(outputs) == 1 else pushed

        return call.announce(outputs, treedef, vjp, jvp)

    return wrapper


def _tensor(value: Any) -> Tensor:
    return value.read() if isinstance(value, Variable) else value


def _check_takes_variables(grad_fn: Callable[..., Any], captured: list[Variable]) -> None:
    parameters = inspect.signature(grad_fn).parameters.values()
    if any(p.name == "variables" or p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = ", ".join(variable.name for variable in captured)
    raise TypeError(
        "@custom_gradient grad_fn must accept keyword argument 'variables', since function uses "
        f"variables: {names}; or pass them as arguments"
    )


def _pull(call: _Call, grad_fn: Callable[..., Any], cotangents: list[Tensor]) -> list[Any]:
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
    if len(flat) != len(call.leaves):
        raise ValueError(
            f"custom_gradient function expected to return {len(call.leaves)} gradients, but "
            f"returned {len(flat)} instead."
        )
    return [
        _checked(call.name, place, source, cotangent)
        for place, (source, cotangent) in enumerate(
            zip(call.inputs, [*flat, *of_variables], strict=True)
        )
    ]


def _flat_cotangents(pulled: list[Any]) -> list[Any]:
    """Return cotangents flattened as the arguments are, but with None as a leaf."""
    flat: list[Any] = []
    for each in pulled:
        flat.extend([None] if each is None else tree.flatten(each)[0])
    return flat


def _checked(name: str, place: int, source: Any, cotangent: Any) -> Any:
    if cotangent is None:
        return None
    tensor = asarray(cotangent, backend=source.backend)
    if tensor.shape != source.shape:
        raise ShapeError(
            f"custom_gradient: {name}: gradient {place} has shape {tensor.shape}, its argument "
            f"{source.shape}; expected the same shape"
        )
    if tensor.dtype == source.dtype:
        return tensor
    if not is_differentiable(source.dtype):
        return None
    if tensor.dtype.kind == "c" and source.dtype.kind != "c":
        raise DTypeError(
            f"custom_gradient: {name}: gradient {place} is {tensor.dtype}, its argument "
            f"{source.dtype}; expected a real gradient for a real argument"
        )
    return astype(tensor, source.dtype)


def _transpose(
    pull: Callable[[list[Tensor]], list[Any]], tangents: list[Any], outputs: list[Tensor]
) -> list[Any]:
    """Return the tangents of the outputs: the derivative of <pull(u), tangents> in u."""
    units = [Tensor(output.kernels.zeros_like(output.array), output.kernels) for output in outputs]
    with GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(units)
        pulled = pull(units)
    both = zip(pulled, tangents, strict=True)
    pairs = [(p, t) for p, t in both if p is not None and t is not None]
    if not pairs:
        return units
    targets, directions = [p for p, _ in pairs], [t for _, t in pairs]
    pushed = tape.gradient(targets, units, directions, unconnected_gradients="zero")
    return list(pushed)


def grad_pass_through(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the gradient of the identity (the straight-through estimator).

    Parameters
    ----------
    f : callable
        Takes one argument and returns a result of its shape; variables inside get no gradient.
    """

    @wraps(f)
    def wrapper(x: Any) -> Any:
        tensor = x if isinstance(x, Operators) else asarray(x)
        result = stop_gradient(f(stop_gradient(tensor)))
        return tensor + stop_gradient(result - tensor)

    return wrapper


# --- recomputation ------------------------------------------------------------------------------


def recompute_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with only its arguments kept; the backward pass runs it again.

    Parameters
    ----------
    f : callable
        A function of nests of tensors that gives the same result when it is run again.

    Notes
    -----
    Memory falls to that of the arguments, time grows by one forward pass (Griewank and Walther,
    "Algorithm 799: revolve", 2000; Chen et al., arXiv:1604.06174). Derivatives of any order and
    forward mode go through, which TensorFlow's does not allow.
    """

    @wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call(getattr(f, "__name__", "recompute_grad"), args)
        with _listening((call.read,)):
            result = f(*call.arguments(), **kwargs)
        outputs, treedef = call.finish(result)
        kept = [_tensor(each) for each in call.leaves]

        def again() -> list[Any]:
            return tree.flatten(f(*call.arguments(kept), **kwargs))[0]

        def sources() -> list[Any]:
            return [*kept, *call.captured]

        def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Sequence[int]) -> list[Any]:
            cotangents, raw = to_tensors(g, outputs)
            wanted = [s for s, need in zip(sources(), needs, strict=True) if need]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(wanted)
                targets = again()
            found = iter(tape.gradient(targets, wanted, cotangents))
            return as_given([next(found) if need else None for need in needs], raw)

        def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
            given, raw = to_tensors(list(tangents), [_tensor(each) for each in sources()])
            moving = [(s, t) for s, t in zip(sources(), given, strict=True) if t is not None]
            with ForwardAccumulator([s for s, _ in moving], [t for _, t in moving]) as accumulator:
                targets = again()
            pushed = as_given(accumulator.jvp(targets, unconnected_gradients="zero"), raw)
            return pushed[0] if len(outputs) == 1 else pushed

        return call.announce(outputs, treedef, vjp, jvp)

    return wrapper
