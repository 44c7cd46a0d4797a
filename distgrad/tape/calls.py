"""Announce a call that has rules of its own, so that whoever listens heeds them, at every level.

A tape around `vmap` hears what happens underneath the batch, and a tape around `function` hears the
graph that the trace left; both would see the inside of the call and differentiate that. So the call
ends with one operation that hands its results through and has the rules: under a batch it becomes
such an operation for the whole batch, and in a graph it is a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distgrad import tree
from distgrad.batching import vmap
from distgrad.core.op import Composed, Kind, Op
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.dtypes import is_differentiable
from distgrad.eager import emit, evaluate
from distgrad.errors import TraceError
from distgrad.ops.elementwise.arithmetic import POSITIVE
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules.batching import with_batch
from distgrad.ops.shaping.structure import broadcast_to
from distgrad.tape.cutting import detach
from distgrad.tape.handmade import as_cotangents, as_given
from distgrad.tensor import Tensor

Values = list[Any]  # tensors, with None where there is none


class Rules(NamedTuple):
    """The rules of one call, on tensors of any sort.

    Attributes
    ----------
    name : str
        Of the function that was called.
    pull : callable
        ``pull(primals, cotangents, needs) -> cotangents``: one for each input, None for zero, and
        anything where `needs` is false.
    push : callable
        ``push(primals, tangents) -> tangents``: one for each output, None for zero; so are those
        of inputs.
    reads : bool
        Whether they read the primals; otherwise these are None, and tapes do not keep them.
    again : Rules or None
        The rules to use outside of the transformation in which the call was made, if they differ:
        these must do without any value from inside the call.
    functions : tuple of callable
        The user's, which must not hold on to values of that transformation.
    """

    name: str
    pull: Callable[[Values, Values, Sequence[Any]], Values]
    push: Callable[[Values, Values], Values]
    reads: bool = True
    again: Rules | None = None
    functions: tuple[Callable[..., Any], ...] = ()


def announce(rules: Rules, inputs: Sequence[Any], outputs: Sequence[Tensor]) -> list[Tensor]:
    """Tell those who listen of a call as one operation, and return its results.

    Parameters
    ----------
    rules : Rules
        Its rules.
    inputs : sequence of Tensor or Variable
        What it was computed from.
    outputs : sequence of Tensor
        What it computed.

    Returns
    -------
    list of Tensor
        The same values, under identities of their own.
    """
    if not outputs:
        return []
    single = len(outputs) == 1
    level = max(each.read().kernels.level for each in (*inputs, *outputs))
    if not level:
        fresh = [detach(output) for output in outputs]
        op = _operation(rules, len(inputs), fresh, len(inputs), level)
        _lead_back(inputs, outputs, fresh)
        emit(op, inputs, fresh[0] if single else tuple(fresh))
        return fresh
    trace = VALUES.get()
    traced = trace is not None and level <= trace.kernels.level
    if traced and rules.again is not None:
        rules = rules.again  # the graph outlives what the call computed
    op = _operation(rules, len(inputs), outputs, len(inputs) + len(outputs), level, traced)
    result = evaluate(op, (*inputs, *outputs), {})
    return [result] if single else list(result)


def _lead_back(inputs: Sequence[Any], outputs: Sequence[Tensor], fresh: Sequence[Tensor]) -> None:
    """Tell those who follow no input of a call that its results are what it computed inside.

    The rules say nothing to them, but they may follow a value that the function holds: a rule that
    is such a call itself holds the arguments of the outer one.
    """
    for listener in LISTENERS.get():
        if not any(listener.follows(each.key) for each in inputs):
            for output, result in zip(outputs, fresh, strict=True):
                keys, arrays = (output.key,), (output.array,)
                listener.hear(POSITIVE, keys, arrays, {}, result, output.kernels)


def _operation(
    rules: Rules,
    count: int,
    outputs: Sequence[Tensor],
    operands: int,
    level: int,
    traced: bool = False,
) -> Op:
    """Return a call as an operation.

    Parameters
    ----------
    rules : Rules
        Its rules.
    count : int
        How many inputs the call has.
    outputs : sequence of Tensor
        What it computed.
    operands : int
        How many operands the operation has: the inputs, or these and what was computed from them.
    level : int
        Of the transformation in which the call was made; 0 outside of all.
    traced : bool
        Whether the operation becomes a node of a graph.
    """
    single = len(outputs) == 1
    moving = tuple(is_differentiable(output.dtype) for output in outputs)
    read = tuple(range(count)) if rules.reads else ()
    keep = tuple(read if place < count else () for place in range(operands))

    def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Sequence[int]) -> Values:
        if not any(needs[:count]):  # what is wanted is a value that the function holds
            return [*(None for _ in range(count)), *([g] if single else g)]
        if traced:
            _refuse_symbols(rules)
        given, raw = _as_tensors(xp, [g] if single else g)
        primals = _primals(xp, xs, raw) if rules.reads else [None] * count
        return as_cotangents(rules.pull(primals, given, needs[:count]), raw)

    def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
        if all(tangent is None for tangent in tangents[:count]):
            return tangents[count] if single else tangents[count:]
        if traced:
            _refuse_symbols(rules)
        given, raw = _as_tensors(xp, tangents[:count])
        primals = _primals(xp, xs, raw) if rules.reads else [None] * count
        pushed = rules.push(primals, given)
        pushed = [tangent if moves else None for tangent, moves in zip(pushed, moving, strict=True)]
        found = as_given(pushed, raw)
        for place, (tangent, each) in enumerate(zip(found, [y] if single else y, strict=True)):
            if tangent is None and moving[place]:
                found[place] = xp.zeros_like(each)
        return found[0] if single else found

    def _primals(xp: Any, xs: Any, raw: bool) -> Values:
        return [_tensor(xp, x) for x in xs[:count]] if raw else list(xs[:count])

    def spec(*specs: Any) -> Any:
        found = specs[-len(moving) :]
        return found[0] if single else tuple(found)

    def compose(xp: Any, *arrays: Any) -> Any:
        return arrays[-1] if single else arrays[count:]

    def batch(
        xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: Any
    ) -> Any:
        flags = tuple(batched[:count])
        whole = [
            with_batch(xp, size, each, is_batched)
            for each, is_batched in zip(arrays[count:], batched[count:], strict=True)
        ]
        lower = _over_batch(rules.again or rules, flags, size, level)
        found = announce(lower, arrays[:count], whole)
        return found[0] if single else tuple(found)

    differentiable = any(moving)
    return Composed(
        rules.name,
        Kind.OPAQUE,
        spec,
        vjp if differentiable else None,
        jvp if differentiable else None,
        keep,
        compose,
        batch,
        outputs=1 if single else None,
    )


def _as_tensors(xp: Any, values: Sequence[Any]) -> tuple[Values, bool]:
    """Return values as tensors, and whether they were raw arrays."""
    if any(isinstance(value, Tensor) for value in values):
        return list(values), False
    return [None if value is None else _tensor(xp, value) for value in values], True


def _tensor(xp: Any, array: Any) -> Tensor:
    """Return a raw array as a tensor; at a transformation's level it may be one of numbers."""
    return Tensor(xp.backend.asarray(array) if xp.level else array, xp)


# --- over a batch -------------------------------------------------------------------------------


def _over_batch(rules: Rules, flags: tuple[bool, ...], size: int, level: int) -> Rules:
    """Return the rules of a call for all examples of a batch, each with its own cotangents.

    Parameters
    ----------
    rules : Rules
        For one example.
    flags : tuple of bool
        Which inputs have a batch axis in front. All outputs have.
    size : int
        The length of the batch.
    level : int
        Of the `vmap` in which the call was made.
    """

    def merged(whole: Values, some: Values, batched: Sequence[bool]) -> Values:
        rest = iter(some)
        return [next(rest) if b else each for each, b in zip(whole, batched, strict=True)]

    def pull(primals: Values, cotangents: Values, needs: Sequence[Any]) -> Values:
        found: list[int] = []
        batched = _have_axis(primals, flags)

        def one(some: Values, given: Values) -> Values:
            _refuse_strangers(rules, level, given)
            pulled = rules.pull(merged(primals, some, batched), given, needs)
            found[:] = [i for i, each in enumerate(pulled) if each is not None and needs[i]]
            return [pulled[i] for i in found]

        results = vmap(one)(_where(primals, batched), cotangents)
        whole: Values = [None] * len(flags)
        for place, result in zip(found, results, strict=True):
            # What all examples share gets the sum of what each gives it.
            whole[place] = result if flags[place] else sum_over(result, axis=0)
        return whole

    def push(primals: Values, tangents: Values) -> Values:
        there: list[bool] = []
        batched, move = _have_axis(primals, flags), _have_axis(tangents, flags)

        def one(some: Values, directions: Values) -> Values:
            _refuse_strangers(rules, level, [*some, *directions])
            whole = merged(tangents, directions, move)
            pushed = rules.push(merged(primals, some, batched), whole)
            there[:] = [each is not None for each in pushed]
            return [each for each in pushed if each is not None]

        some, directions = _where(primals, batched), _where(tangents, move)
        if some or directions:
            results = iter(vmap(one)(some, directions))
            return [next(results) if is_there else None for is_there in there]
        return [  # all examples are one
            None if each is None else broadcast_to(each, (size, *each.shape))
            for each in rules.push(primals, tangents)
        ]

    return Rules(rules.name, pull, push, rules.reads, None, rules.functions)


def _have_axis(values: Values, flags: Sequence[bool]) -> list[bool]:
    return [flag and value is not None for value, flag in zip(values, flags, strict=True)]


def _where(values: Values, flags: Sequence[bool]) -> Values:
    return [value for value, flag in zip(values, flags, strict=True) if flag]


def _refuse_strangers(rules: Rules, level: int, own: Sequence[Any]) -> None:
    """Raise if the user's function holds on to values of the batch in which it was called.

    The batch in which its rule runs now is another one if it is at another level: the two must not
    be taken for one.
    """
    if own[0].kernels.level != level:
        _refuse_held(rules, "vmap", lambda tensor: bool(tensor.kernels.level == level))


def _refuse_symbols(rules: Rules) -> None:
    """Raise if the user's function holds on to symbols of a trace that has ended."""

    def ended(tensor: Tensor) -> bool:
        trace = getattr(tensor.array, "trace", None)
        return trace is not None and not trace.is_open

    _refuse_held(rules, "traced function", ended)


def _refuse_held(rules: Rules, where: str, refused: Callable[[Tensor], bool]) -> None:
    for function in rules.functions:
        for cell in getattr(function, "__closure__", None) or ():
            try:
                leaves = tree.flatten(cell.cell_contents)[0]
            except ValueError:  # a name that has no value yet
                continue
            if any(isinstance(leaf, Tensor) and refused(leaf) for leaf in leaves):
                raise TraceError(
                    f"{rules.name}: the function holds on to a value of the {where} in which it "
                    "was called, and is differentiated from outside of it; pass the value as an "
                    "argument"
                )
