"""Announce a call that has rules of its own, so that whoever listens heeds them, at every level.

A tape around `vmap` hears what happens underneath the batch, and a tape around `function` hears the
graph that the trace left; both would see the inside of the call and differentiate that. So the call
ends with one operation that hands its results through and has the rules: under a batch it becomes
such an operation for the whole batch, and in a graph it is a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from distgrad import tree
from distgrad.core.op import Composed, Kind, Op, Spec
from distgrad.core.seam import VALUES
from distgrad.dtypes import is_differentiable
from distgrad.eager import emit, evaluate
from distgrad.errors import TraceError
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.rules.batching import with_batch
from distgrad.ops.shaping.structure import broadcast_to
from distgrad.tape.captured import Captured, CapturedPath, is_of_ended_trace
from distgrad.tape.cutting import detach
from distgrad.tape.handmade import as_cotangents, as_given, without_imaginary
from distgrad.tensor import Tensor
from distgrad.vectorizing import vmap

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


def announce(
    rules: Rules,
    inputs: Sequence[Any],
    outputs: Sequence[Tensor],
    path: CapturedPath | None = None,
) -> list[Tensor]:
    """Tell those who listen of a call as one operation, and return its results.

    Parameters
    ----------
    rules : Rules
        Its rules.
    inputs : sequence of Tensor or Variable
        What it was computed from.
    outputs : sequence of Tensor
        What it computed.
    path : CapturedPath, optional
        What it heard of captured values while the function ran.

    Returns
    -------
    list of Tensor
        The same values, under identities of their own.
    """
    if not outputs:
        return []
    single = len(outputs) == 1
    level = max(each.read().kernels.level for each in (*inputs, *outputs))
    captured = path.to(outputs) if path is not None else None
    operands = [*inputs, *(captured.values if captured else ())]
    trace = VALUES.get()
    if not level and trace is not None and trace.follows([each.read().key for each in operands]):
        level = trace.kernels.level  # of numbers alone, but inputs of the graph
    if not level:
        fresh = [detach(output) for output in outputs]
        op = _Announced(rules, len(inputs), fresh, level, captured, path).operation()
        emit(op, operands, fresh[0] if single else tuple(fresh))
        return fresh
    traced = trace is not None and level <= trace.kernels.level
    if traced and rules.again is not None:
        rules = rules.again  # the graph outlives what the call computed
    operands.extend(outputs)
    op = _Announced(rules, len(inputs), outputs, level, captured, path, traced).operation()
    result = evaluate(op, tuple(operands), {})
    return [result] if single else list(result)


class _Announced:
    """One call as an operation.

    Its operands are the inputs, the captured values, and within a transformation the outputs: there
    the operation hands them through.

    Parameters
    ----------
    rules : Rules
        Its rules.
    count : int
        How many inputs the call has.
    outputs : sequence of Tensor
        What it computed.
    level : int
        Of the transformation in which the call was made; 0 outside of all.
    captured : Captured or None
        What the outputs depend on besides the inputs.
    path : CapturedPath or None
        Who knows the same for the levels below.
    traced : bool
        Whether the operation becomes a node of a graph.
    """

    def __init__(
        self,
        rules: Rules,
        count: int,
        outputs: Sequence[Tensor],
        level: int,
        captured: Captured | None,
        path: CapturedPath | None,
        traced: bool = False,
    ) -> None:
        self._rules = rules
        self._count = count
        self._single = len(outputs) == 1
        self._specs = tuple(Spec(output.shape, output.dtype) for output in outputs)
        self._moving = tuple(is_differentiable(spec.dtype) for spec in self._specs)
        self._level = level
        self._captured = captured
        self._beside = count + (len(captured.values) if captured else 0)
        self._path = path
        self._traced = traced

    def operation(self) -> Op:
        """Return the operation."""
        differentiable = any(self._moving)
        read = tuple(range(self._count)) if self._rules.reads else ()
        operands = self._beside + (len(self._moving) if self._level else 0)
        return Composed(
            self._rules.name,
            Kind.OPAQUE,
            self._spec,
            self._vjp if differentiable else None,
            self._jvp if differentiable else None,
            tuple(read if place < self._count else () for place in range(operands)),
            self._compose,
            self._batch,
            outputs=1 if self._single else None,
        )

    def _vjp(self, xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Sequence[int]) -> Values:
        cotangents = without_imaginary(xp, [g] if self._single else g, self._specs)
        if not any(needs[: self._count if self._traced else self._beside]):
            return [*(None for _ in range(self._beside)), *cotangents]
        given, raw = _as_tensors(xp, cotangents)
        found: Values = [None] * self._count
        if any(needs[: self._count]):
            if self._traced:
                _refuse_symbols(self._rules)
            primals = self._primals(xp, xs, raw)
            pulled = self._rules.pull(primals, given, needs[: self._count])
            found = as_cotangents(pulled, raw)
        if self._captured is not None:
            asked = needs[self._count : self._beside]
            found += self._captured.pull(xp.level, cotangents, asked)
        return found

    def _jvp(self, xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
        asked = tangents[: self._count if self._traced else self._beside]
        if all(tangent is None for tangent in asked):
            return tangents[self._beside] if self._single else tangents[self._beside :]
        given, raw = _as_tensors(xp, tangents[: self._beside])
        outputs = [y] if self._single else y
        pushed: Values = [None] * len(self._moving)
        if any(tangent is not None for tangent in given[: self._count]):
            if self._traced:
                _refuse_symbols(self._rules)
            pushed = self._rules.push(self._primals(xp, xs, raw), given[: self._count])
        if any(tangent is not None for tangent in given[self._count :]) and self._captured:
            made = [each if isinstance(each, Tensor) else _tensor(xp, each) for each in outputs]
            terms = self._captured.push(xp.level, given[self._count :], made)
            pushed = [_sum(one, other) for one, other in zip(pushed, terms, strict=True)]
        moved = zip(pushed, self._moving, strict=True)
        found = as_given([tangent if moves else None for tangent, moves in moved], raw)
        for place, (tangent, each) in enumerate(zip(found, outputs, strict=True)):
            if tangent is None and self._moving[place]:
                found[place] = xp.zeros_like(each)
        return found[0] if self._single else found

    def _primals(self, xp: Any, xs: Any, raw: bool) -> Values:
        if not self._rules.reads:
            return [None] * self._count
        own = xs[: self._count]
        return [_tensor(xp, x) for x in own] if raw else list(own)

    def _spec(self, *specs: Any) -> Any:
        return self._compose(None, *specs)

    def _compose(self, xp: Any, *arrays: Any) -> Any:
        return arrays[-1] if self._single else arrays[self._beside :]

    def _batch(
        self, xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: Any
    ) -> Any:
        flags = tuple(batched[: self._count])
        outputs = zip(arrays[self._beside :], batched[self._beside :], strict=True)
        with nullcontext() if self._path is None else self._path.hearing():
            whole = [with_batch(xp, size, each, is_batched) for each, is_batched in outputs]
        lower = _over_batch(self._rules.again or self._rules, flags, size, self._level)
        found = announce(lower, arrays[: self._count], whole, self._path)
        return found[0] if self._single else tuple(found)


def _sum(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other


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
    _refuse_held(rules, "traced function", is_of_ended_trace)


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
