"""recompute_grad: functions that are computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from distgrad import tree
from distgrad.autocasting import Autocasting
from distgrad.batching import Batched
from distgrad.callables import require_callable
from distgrad.core.op import Composed, Kind
from distgrad.core.seam import AUTOCAST, LISTENERS, VALUES, apply
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import TraceError, UnsupportedOptionError
from distgrad.graph.bodies import Body
from distgrad.graph.interpreted import distinct
from distgrad.tape.calls import Rules
from distgrad.tape.captured import CapturedTensors
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Operators, Tensor
from distgrad.transforms.calling import Call, VariablesRead, bystanders, listening, name_of
from distgrad.variable import Variable

Values = list[Any]


def recompute_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with only its arguments kept; the backward pass runs it again.

    Parameters
    ----------
    f : callable
        A function of nests of tensors, positional or by keyword, that gives the same result when
        it is run again: random numbers must come from a generator or key among the arguments.
        Variables that it reads and tensors that it captures get gradients as well; where these are
        of a batch of `vmap`, the function is traced, as by `function`.

    Notes
    -----
    Memory falls to that of the arguments, time grows by one forward pass [1]_ [2]_. Derivatives of
    any order and forward mode go through, which TensorFlow's does not allow. It nests: a
    recomputed part of a recomputed function is computed once more.

    A block of `autocast` around the call holds for the second run, too; one around the backward
    pass does not.

    What `f` does besides computing, such as printing or assigning variables, it does again. A
    variable that was assigned meanwhile has its new value then.

    In a traced `function` the backward graph computes the part again as well, from its arguments
    alone.

    References
    ----------
    .. [1] Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000).
    .. [2] Chen et al., "Training deep nets with sublinear memory cost", 2016, arXiv:1604.06174.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([1.0, 2.0])
    >>> with dg.GradientTape() as tape:
    ...     y = dg.recompute_grad(lambda x: dg.sum(dg.exp(dg.sin(x))))(x)
    >>> tape.summary().records
    1
    """
    require_callable("recompute_grad", f)

    @wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = Call(name_of(f, "recompute_grad"), args, kwargs, converts=False)
        read, narrow = VariablesRead(), AUTOCAST.get()
        # Under identities of their own: what is an argument may be captured as well.
        given = [_anew(each) if each.__class__ is Tensor else each for each in call.inputs]
        held = CapturedTensors(LISTENERS.get(), given)
        with listening((*bystanders(), read, held)):
            positional, named = call.arguments(given)
            result = f(*positional, **named)
        for output in tree.flatten(result)[0]:
            if isinstance(output, Tensor):
                held.meet(output)
        if held.of_batch and (body := _traced(call, f, required=bool(held.tensors))):
            call.pass_also(body.externals)

            def run(primals: Values) -> list[Tensor]:
                with Autocasting(narrow):
                    return body.run(primals)

            return call.announce(_rules(call, run, functions=()), result)
        call.capture(read.variables)
        call.hold(held.tensors)

        def again(primals: Values) -> list[Tensor]:
            positional, named = call.arguments(primals)
            with Autocasting(narrow):  # that of the first time, wherever the backward pass runs
                outputs = tree.flatten(f(*positional, **named))[0]
            return [
                each.read() if isinstance(each, Operators) else asarray(each) for each in outputs
            ]

        return call.announce(_rules(call, again, functions=(f,)), result)

    return wrapper


def _rules(
    call: Call, again: Callable[[Values], list[Tensor]], functions: tuple[Callable[..., Any], ...]
) -> Rules:
    """Return the rules of a call that differentiate what computes its outputs again."""
    taken = [*(each.key for each in call.held), *(v.key for v in call.passed.values())]

    def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
        primals = _held_back(distinct(primals, taken), cotangents)
        with call.again(primals) as sources, _passed(call, primals) as read:
            wanted = [
                (place, source)
                for place, source in (*enumerate(sources), *read)
                if needs[place] and is_differentiable(source.dtype)
            ]
            asked = [source for _, source in wanted]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(asked)
                targets = again(primals)
            pairs = [
                (target, cotangent)
                for target, cotangent in zip(targets, cotangents, strict=True)
                if is_differentiable(target.dtype)
            ]
            found = tape.gradient([t for t, _ in pairs], asked, [c for _, c in pairs])
        gradients: Values = [None] * len(sources)
        for (place, _), gradient in zip(wanted, found, strict=True):
            other = gradients[place]
            if other is None or gradient is None:
                gradients[place] = gradient if other is None else other
            else:
                gradients[place] = other + gradient
        return gradients

    def push(primals: Values, tangents: Values) -> Values:
        primals = distinct(primals, taken)
        with call.again(primals) as sources, _passed(call, primals) as read:
            moving = [
                (source, tangents[place])
                for place, source in (*enumerate(sources), *read)
                if tangents[place] is not None
            ]
            with ForwardAccumulator([s for s, _ in moving], [t for _, t in moving]) as pushed:
                targets = again(primals)
        return list(pushed.jvp(targets))

    return Rules(call.name, pull, push, functions=functions)


@contextmanager
def _passed(call: Call, primals: Values) -> Iterator[list[tuple[int, Variable]]]:
    """Let the function read variables that are arguments by themselves as well in a ``with`` block.

    Yields
    ------
    list of (int, Variable)
        Those that tapes know under their own identity in the block, behind their place.
    """
    keeper = VALUES.get()
    if keeper is None:
        yield list(call.passed.items())
        return
    values = {each.key: (each, primals[place]) for place, each in call.passed.items()}
    with keeper.bound(values):
        yield []


def _traced(call: Call, f: Callable[..., Any], *, required: bool) -> Body | None:
    """Return a function as a graph, which has what it captures as inputs.

    What it holds on to of a batch belongs to another batch, or to none, when it runs again.

    Parameters
    ----------
    call : Call
        Whose arguments the function takes.
    f : callable
        The function.
    required : bool
        Whether it is an error if it cannot be traced; otherwise that gives None.
    """

    def of_inputs(*inputs: Any) -> Any:
        positional, named = call.arguments(inputs)
        return f(*positional, **named)

    try:
        return Body(of_inputs, tuple(call.inputs))
    except TraceError as error:
        if not required:
            return None
        raise UnsupportedOptionError(
            f"{call.name}: within vmap the function holds on to a tensor of the batch that is "
            f"differentiated, and cannot be traced ({error}); pass the tensor as an argument"
        ) from error


def _anew(tensor: Tensor) -> Tensor:
    """Return a value under an identity of its own, and of its own below in a batch."""
    array = tensor.array
    if isinstance(array, Batched):
        array = Batched(_anew(array.value), array.is_batched, array.backend)
    return Tensor(array, tensor.kernels)


def _held_back(primals: Values, cotangents: Values) -> Values:
    """Return the primals, while tracing as values that a graph has in its backward pass alone.

    Otherwise what is computed again would be what was computed before, and kept.
    """
    if VALUES.get() is None:
        return primals
    return [apply(_HELD_BACK, primal, cotangents[0]) for primal in primals]


def _pull_held_back(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Values:
    return [g, None]


def _push_held_back(xp: Any, tangents: Any, y: Any, xs: Any, params: Any) -> Any:
    return xp.zeros_like(xs[0]) if tangents[0] is None else tangents[0]


def _batch_held_back(xp: Any, size: int, batched: Any, arrays: Any, params: Any) -> Any:
    held = apply(_HELD_BACK, *arrays)
    return held if batched[0] else xp.broadcast_to(held, shape=(size, *held.shape))


_HELD_BACK = Composed(
    "held_back",
    Kind.OPAQUE,
    lambda x, cotangent: x,
    _pull_held_back,
    _push_held_back,
    ((), ()),
    lambda xp, x, cotangent: x,
    _batch_held_back,
)
