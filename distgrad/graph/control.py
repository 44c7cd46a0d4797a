"""Control flow that depends on values: cond, while_loop and scan, also traced and over batches.

On numbers they are Python's own ``if`` and loops, and a tape records what ran. While a function is
traced, and where examples of a batch may go different ways, the bodies become graphs, and the whole
is one operation that runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.batching import Batched
from distgrad.callables import pair, require_callable
from distgrad.core.op import Spec
from distgrad.core.seam import VALUES
from distgrad.eager import asarray
from distgrad.errors import ShapeError
from distgrad.graph.bodies import Body, refuse_difference
from distgrad.graph.interpreted import Flags, Form, Interpreted, merged
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import sum as sum_
from distgrad.ops.shaping.structure import astype, broadcast_to, concat, stack
from distgrad.shapes import Shape
from distgrad.tensor import Operators, Tensor
from distgrad.vectorizing import vmap


def cond(
    predicate: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    *operands: Any,
) -> Any:
    """Return the result of one of two functions, as a condition says.

    Parameters
    ----------
    predicate : Tensor, Variable or bool
        A scalar.
    true_fn, false_fn : callable
        Take the operands. In a traced function, and where the predicate differs from example to
        example of `vmap`, they must return nests of one structure, with equal shapes and dtypes.
    *operands : nests of arrays
        What is passed on.

    Raises
    ------
    ShapeError
        If the predicate is no scalar.
    TraceError
        If the two results differ in structure, shape or dtype, or a branch assigns a variable
        (only while tracing, or over a batch).

    Notes
    -----
    Over a batch each branch runs, for all of its examples at once, on those examples alone that
    take it. So a branch never meets values that it was not made for, and the derivative has no NaN
    from the branch not taken; JAX computes both branches for all examples and selects, PyTorch
    refuses.

    Examples
    --------
    >>> import distgrad as dg
    >>> f = dg.function(lambda x: dg.cond(x > 0, dg.sqrt, dg.negative, x))
    >>> print(f(dg.asarray(4.0)), f(dg.asarray(-4.0)))
    dg.Tensor(2.0, shape=(), dtype=float32) dg.Tensor(4.0, shape=(), dtype=float32)
    >>> dg.vmap(lambda x: dg.cond(x > 0, dg.sqrt, dg.negative, x))(dg.asarray([4.0, -4.0])).tolist()
    [2.0, 4.0]
    """
    require_callable("cond", true_fn, "true_fn, the second argument,")
    require_callable("cond", false_fn, "false_fn, the third argument,")
    if not _is_unknown(predicate):
        return true_fn(*operands) if bool(predicate) else false_fn(*operands)
    _refuse_no_scalar("cond: predicate", predicate)
    first, second = Body(true_fn, operands), Body(false_fn, operands)
    refuse_difference("cond", "true_fn", first, "false_fn", second)
    branches = _Branches(first, second)
    operation = Interpreted("cond", branches.choose, first.specs, branches.apart)
    results = operation(predicate, *first.leaves, *first.externals, *second.externals)
    return tree.unflatten(first.treedef, results)


class _Branches:
    """The branches of a condition, of which values take one each.

    Its methods find each other by the object: functions that refer to themselves would be cycles,
    and hold the constants of the bodies until a collector comes.
    """

    def __init__(self, first: Body, second: Body) -> None:
        self._both = (first, second)
        self._count = len(first.leaves)

    def choose(self, holds: Tensor, *values: Tensor) -> list[Tensor]:
        """Return the results of the branch that all take."""
        chosen = 0 if bool(_host(holds).all()) else 1
        return self._both[chosen].run(self._of_branch(chosen, values))

    def apart(self, size: int, flags: Flags) -> Form | None:
        """Return the form for a batch of which some examples take one branch, some the other."""
        if not flags[0]:
            return None

        def sort(holds: Tensor, *values: Tensor) -> list[Tensor]:
            taken = _host(holds).reshape(size)
            groups = []
            for chosen, rows in enumerate((np.flatnonzero(taken), np.flatnonzero(~taken))):
                if len(rows) or (chosen and not size):
                    batched = self._of_branch(chosen, flags[1:])
                    given = _rows(self._of_branch(chosen, values), batched, rows, size)
                    groups.append((rows, _together(self._both[chosen], given, batched, len(rows))))
            return _joined(groups)

        specs = [Spec((size, *spec.shape), spec.dtype) for spec in self._both[0].specs]
        return Form(Interpreted("cond", sort, specs, merged(self.apart, size, flags)), flags)

    def _of_branch(self, chosen: int, values: Sequence[Any]) -> list[Any]:
        """Return of the operands without the predicate those of one branch."""
        count = self._count
        return [*values[:count], *self._both[0].split(values[count:])[chosen]]


def while_loop(cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], initial: Any) -> Any:
    """Return what is left of a value when a body has changed it until a condition no longer holds.

    Parameters
    ----------
    cond_fn : callable
        Takes the value, returns whether to go on: a scalar.
    body_fn : callable
        Takes the value, returns the next one; in a traced function, and where the condition differs
        from example to example of `vmap`, of the same structure, shapes and dtypes.
    initial : nest of arrays
        The first value.

    Raises
    ------
    ShapeError
        If the condition is no scalar.
    TraceError
        If the body returns another structure, shape or dtype, or assigns a variable (only while
        tracing, or over a batch).

    Notes
    -----
    All steps are differentiated, in both modes and to any order, however many there turn out to be.
    In a traced function the backward pass runs the loop again and keeps the values of each step;
    elsewhere the tape has kept them the first time. JAX refuses to differentiate such a loop in
    reverse mode.

    Over a batch the loop goes on for those examples alone whose condition holds; the others keep
    their values.
    """
    value = _at_start(cond_fn, body_fn, initial)
    if not _tracing():
        while not _is_unknown(holds := cond_fn(value)):
            if not bool(holds):
                return value
            value = body_fn(value)
    test, body = Body(cond_fn, (value,)), Body(body_fn, (value,))
    _refuse_no_scalar("while_loop: cond_fn's result", *test.specs)
    refuse_difference("while_loop", "initial", body.leaves, "body_fn", body)
    steps = _Steps(test, body)
    operation = Interpreted("while_loop", steps.run, body.specs, steps.apart)
    results = operation(*body.leaves, *test.externals, *body.externals)
    return tree.unflatten(body.treedef, results)


class _Steps:
    """The steps of a loop, as many as its condition asks for; methods as in `_Branches`."""

    def __init__(self, test: Body, body: Body) -> None:
        self._test, self._body = test, body
        self._count = len(body.leaves)

    def run(self, *values: Tensor) -> list[Tensor]:
        """Return the values after the last step, which is the same for all."""
        test, body = self._test, self._body
        state = list(values[: self._count])
        of_test, of_body = test.split(values[self._count :])
        goes_on = test.plan_for([*state, *of_test])
        step = body.plan_for([*state, *of_body])
        if goes_on is not None and step is not None:  # no tensor for each step's values
            kernels, to_host = state[0].kernels, state[0].kernels.backend.to_host
            arrays = [each.array for each in state]
            for_test, for_body = [each.array for each in of_test], [each.array for each in of_body]
            while to_host(goes_on.execute([*arrays, *for_test])[0]).all():
                arrays = step.execute([*arrays, *for_body])
            return [Tensor(array, kernels) for array in arrays]
        while bool(_host(test.run([*state, *of_test])[0]).all()):
            state = body.run([*state, *of_body])
        return state

    def apart(self, size: int, flags: Flags) -> Form | None:
        """Return the form for a batch whose examples take steps of different numbers."""
        if not any(flags):
            return None
        test, body, count = self._test, self._body, self._count
        wanted = (*(True for _ in body.leaves), *flags[count:])

        def until_all_are_done(*values: Tensor) -> list[Tensor]:
            state, externals = list(values[:count]), list(values[count:])
            rows, finished = np.arange(size), []
            while size:
                of_test = [*state, *test.split(externals)[0]]
                batched = [*wanted[:count], *test.split(wanted[count:])[0]]
                found = _together(test, of_test, batched, len(rows))[0]
                holds = _host(found).reshape(len(rows))
                if not holds.all():
                    done, on = np.flatnonzero(~holds), np.flatnonzero(holds)
                    every = [True] * count
                    finished.append((rows[done], _rows(state, every, done, len(rows))))
                    if not len(on):
                        break
                    state = _rows(state, every, on, len(rows))
                    externals = _rows(externals, wanted[count:], on, len(rows))
                    rows = rows[on]
                of_body = [*state, *test.split(externals)[1]]
                batched = [*wanted[:count], *test.split(wanted[count:])[1]]
                state = _together(body, of_body, batched, len(rows))
            return _joined(finished) if size else state

        specs = [Spec((size, *spec.shape), spec.dtype) for spec in body.specs]
        ways = merged(self.apart, size, wanted)
        return Form(Interpreted("while_loop", until_all_are_done, specs, ways), wanted)


def _at_start(cond_fn: Any, body_fn: Any, initial: Any) -> Any:
    """Return the first value of a loop, as tensors."""
    require_callable("while_loop", cond_fn, "cond_fn, the first argument,")
    require_callable("while_loop", body_fn, "body_fn, the second argument,")
    return tree.map(asarray, initial)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], initial: Any, xs: Any, *, reverse: bool = False
) -> tuple[Any, Any]:
    """Run a function along the first axis of arrays, handing a value from step to step.

    Parameters
    ----------
    f : callable
        ``f(carry, x) -> (carry, y)``, for one slice of each array in `xs`.
    initial : nest of arrays
        The first carry.
    xs : nest of arrays
        Of one length along the first axis. If that is 0, no step runs: `f` is traced for the
        shapes of what it returns, and the carry stays the first one.
    reverse : bool
        Whether to run from the last slice to the first; results keep their places.

    Returns
    -------
    carry, ys : nests of Tensor
        The last carry, and what each step returned, stacked along a new first axis.

    Raises
    ------
    ShapeError
        If the arrays differ in length, or there is none.
    TypeError
        If `f` returns no pair.
    """
    require_callable("scan", f)

    def step_of_two(carry: Any, x: Any) -> tuple[Any, Any]:
        return pair("scan", f(carry, x), "(carry, y)")

    carry = tree.map(asarray, initial)
    sequences, xs_treedef = tree.flatten(tree.map(asarray, xs))
    length = _common_length(sequences)

    def steps(
        run: Callable[[Any, list[Tensor]], tuple[Any, Any]], state: Any, along: Sequence[Tensor]
    ) -> tuple[Any, list[Any]]:
        ys: list[Any] = [None] * length
        for i in range(length - 1, -1, -1) if reverse else range(length):
            state, ys[i] = run(state, [sequence[i] for sequence in along])
        return state, ys

    if not (_tracing() or length == 0):
        last, rows = steps(
            lambda c, x: step_of_two(c, tree.unflatten(xs_treedef, x)), carry, sequences
        )
        return last, tree.map(lambda *each: stack([asarray(y) for y in each]), *rows)

    one = [
        each[0] if length else _zeros_beside(each, each.shape[1:], each.dtype) for each in sequences
    ]
    body = Body(step_of_two, (carry, tree.unflatten(xs_treedef, one)))
    carried = len(tree.flatten(carry)[0])
    refuse_difference("scan", "initial", body.leaves[:carried], "carry", body.specs[:carried])
    if length == 0:
        nothing = [
            _zeros_beside(sequences[0], (0, *s.shape), s.dtype) for s in body.specs[carried:]
        ]
        last, ys = tree.unflatten(body.treedef, [*body.leaves[:carried], *nothing])
        return last, ys

    def loop(*values: Tensor) -> list[Tensor]:
        along = values[carried : carried + len(sequences)]
        externals = values[carried + len(sequences) :]

        def step(state: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            found = body.run([*state, *x, *externals])
            return found[:carried], found[carried:]

        state, ys = steps(step, list(values[:carried]), along)
        return [*state, *(stack(column) for column in zip(*ys, strict=True))]

    specs = [
        *body.specs[:carried],
        *(Spec((length, *spec.shape), spec.dtype) for spec in body.specs[carried:]),
    ]
    operands = [*body.leaves[:carried], *sequences, *body.externals]
    return tree.unflatten(body.treedef, Interpreted("scan", loop, specs)(*operands))


def _zeros_beside(x: Tensor, shape: Shape, dtype: Any) -> Any:
    """Return zeros beside an array without elements, be that traced or batched."""
    return broadcast_to(astype(sum_(x), dtype), shape)


def _common_length(sequences: list[Tensor]) -> int:
    lengths = {sequence.shape[0] if sequence.shape else -1 for sequence in sequences}
    if len(lengths) != 1 or -1 in lengths:
        shapes = ", ".join(str(sequence.shape) for sequence in sequences)
        raise ShapeError(
            f"scan: xs has shapes {shapes or 'of no array'}; expected one length along the first "
            "axis of each"
        )
    return int(lengths.pop())


# --- conditions ---------------------------------------------------------------------------------


def _is_unknown(predicate: Any) -> bool:
    """Return whether a condition has no value now, or one for each example of a batch."""
    if not isinstance(predicate, Operators):
        return False
    tensor = predicate.read()
    while isinstance(tensor.array, Batched):
        if tensor.array.is_batched:
            return True
        tensor = tensor.array.value
    return tensor.kernels.level > 0


def _refuse_no_scalar(what: str, *values: Any) -> None:
    if len(values) != 1 or prod(values[0].shape) != 1:
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        raise ShapeError(f"{what} has shape {shapes}; expected a scalar: take dg.any or dg.all")


def _tracing() -> bool:
    return VALUES.get() is not None


def _host(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the truth of values on the host; what a batch shares has one."""
    return np.asarray(tensor.kernels.backend.to_host(tensor.array)).astype(np.bool_)


# --- examples of a batch that go one way ----------------------------------------------------------


def _together(
    body: Body, values: Sequence[Tensor], batched: Sequence[bool], size: int
) -> list[Tensor]:
    """Return a body's outputs for all examples at once."""
    if not any(batched):
        one = body.run(values)
        return [broadcast_to(y, (size, *y.shape)) for y in one]
    axes = tuple(0 if flag else None for flag in batched)
    found: list[Tensor] = vmap(lambda *each: body.run(each), in_axes=axes)(*values)
    return found


def _rows(
    values: Sequence[Tensor], batched: Sequence[bool], rows: np.ndarray[Any, Any], size: int
) -> list[Tensor]:
    """Return values of some examples; what all share stays as it is."""
    if len(rows) == size:
        return list(values)
    return [
        getitem(value, _positions(rows, value)) if flag else value
        for value, flag in zip(values, batched, strict=True)
    ]


def _joined(groups: Sequence[tuple[np.ndarray[Any, Any], Sequence[Tensor]]]) -> list[Tensor]:
    """Return the results of groups of examples in the examples' order."""
    if len(groups) == 1:
        return list(groups[0][1])
    order = np.argsort(np.concatenate([rows for rows, _ in groups]))
    columns = zip(*(results for _, results in groups), strict=True)
    return [getitem(concat(column), _positions(order, column[0])) for column in columns]


def _positions(rows: np.ndarray[Any, Any], beside: Tensor) -> Tensor:
    """Return positions as a tensor of numbers on the backend that computes a value."""
    while isinstance(beside.array, Batched):
        beside = beside.array.value
    return asarray(rows, backend=beside.kernels.backend)
