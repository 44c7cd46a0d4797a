"""Control flow that depends on values: cond, while_loop and scan, also inside a traced function.

On numbers they are Python's own ``if`` and loops, and a tape records what ran. While a function is
traced the bodies become graphs, and the whole is one operation that runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from distgrad import tree
from distgrad.core.op import Keep, Kind, Op, Spec
from distgrad.core.seam import LISTENERS, VALUES, apply
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray
from distgrad.errors import ShapeError, TraceError
from distgrad.graph.nodes import Graph
from distgrad.graph.plan import replay
from distgrad.graph.trace import tracing
from distgrad.ops.structure import stack
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_given, to_tensors
from distgrad.tensor import Tensor


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
        Take the operands; in a traced function they must return nests of one structure, with equal
        shapes and dtypes.
    *operands : nests of arrays
        What is passed on.

    Raises
    ------
    TraceError
        If the two results differ in structure, shape or dtype, or a branch assigns a variable
        (only while tracing).

    Examples
    --------
    >>> import distgrad as dg
    >>> f = dg.function(lambda x: dg.cond(x > 0, dg.sqrt, dg.negative, x))
    >>> print(f(dg.asarray(4.0)), f(dg.asarray(-4.0)))
    dg.Tensor(2.0, shape=(), dtype=float32) dg.Tensor(4.0, shape=(), dtype=float32)
    """
    if not _is_symbolic(predicate):
        return true_fn(*operands) if bool(predicate) else false_fn(*operands)
    bodies = [_Body(f, operands) for f in (true_fn, false_fn)]
    _refuse_difference("cond", "true_fn", bodies[0], "false_fn", bodies[1])

    def choose(holds: Tensor, *values: Tensor) -> list[Tensor]:
        first, second = bodies[0].split(values[len(bodies[0].leaves) :])
        body, external = (bodies[0], first) if bool(holds) else (bodies[1], second)
        return body.run([*values[: len(body.leaves)], *external])

    externals = [*bodies[0].externals, *bodies[1].externals]
    results = _call("cond", choose, bodies[0].specs, [predicate, *bodies[0].leaves, *externals])
    return tree.unflatten(bodies[0].treedef, results)


def while_loop(cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], initial: Any) -> Any:
    """Return what is left of a value when a body has changed it until a condition no longer holds.

    Parameters
    ----------
    cond_fn : callable
        Takes the value, returns whether to go on: a scalar.
    body_fn : callable
        Takes the value, returns the next one, in a traced function of the same structure, shapes
        and dtypes.
    initial : nest of arrays
        The first value.

    Notes
    -----
    All steps are differentiated, also in a traced function: its backward pass runs the loop again
    and keeps the values of each step.
    """
    value = tree.map(asarray, initial)
    if not _tracing():
        while bool(cond_fn(value)):
            value = body_fn(value)
        return value
    test, body = _Body(cond_fn, (value,)), _Body(body_fn, (value,))
    _refuse_difference("while_loop", "initial", body.leaves, "body_fn", body)
    count = len(body.leaves)

    def loop(*values: Tensor) -> list[Tensor]:
        state, externals = list(values[:count]), values[count:]
        of_test, of_body = test.split(externals)
        while bool(test.run([*state, *of_test])[0]):
            state = body.run([*state, *of_body])
        return state

    externals = [*test.externals, *body.externals]
    return tree.unflatten(
        body.treedef, _call("while_loop", loop, body.specs, [*body.leaves, *externals])
    )


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
        Of one length along the first axis, which is not 0.
    reverse : bool
        Whether to run from the last slice to the first; results keep their places.

    Returns
    -------
    carry, ys : nests of Tensor
        The last carry, and what each step returned, stacked along a new first axis.

    Raises
    ------
    ShapeError
        If the arrays differ in length, or are empty.
    """
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

    if not _tracing():
        last, rows = steps(lambda c, x: f(c, tree.unflatten(xs_treedef, x)), carry, sequences)
        return last, tree.map(lambda *each: stack([asarray(y) for y in each]), *rows)

    one = [sequence[0] for sequence in sequences]
    body = _Body(f, (carry, tree.unflatten(xs_treedef, one)))
    carried = len(tree.flatten(carry)[0])
    _refuse_difference("scan", "initial", body.leaves[:carried], "carry", body.specs[:carried])

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
    return tree.unflatten(body.treedef, _call("scan", loop, specs, operands))


def _common_length(sequences: list[Tensor]) -> int:
    lengths = {sequence.shape[0] if sequence.shape else 0 for sequence in sequences}
    if len(lengths) != 1 or 0 in lengths:
        shapes = ", ".join(str(sequence.shape) for sequence in sequences)
        raise ShapeError(
            f"scan: xs has shapes {shapes or 'of no array'}; expected one length, not 0, along the "
            "first axis of each"
        )
    return int(lengths.pop())


# --- bodies as graphs ---------------------------------------------------------------------------


class _Body:
    """A function traced for given operands, with what it captured from outside as more inputs.

    Parameters
    ----------
    f : callable
        The function.
    operands : tuple of nests
        Its arguments.
    """

    def __init__(self, f: Callable[..., Any], operands: tuple[Any, ...]) -> None:
        flat, treedef = tree.flatten(operands)
        self.leaves = [asarray(leaf) for leaf in flat]
        name = getattr(f, "__name__", "body")
        with tracing(name, captures=True) as under_way:
            symbols = [under_way.input(leaf.shape, leaf.dtype) for leaf in self.leaves]
            result = f(*tree.unflatten(treedef, symbols))
            outputs, self.treedef = tree.flatten(result)
            self.graph: Graph = under_way.graph
            self.graph.outputs = [under_way.symbol_of(output).node for output in outputs]
        if under_way.assigned:
            names = ", ".join(repr(v.name) for v, _ in under_way.assigned.values())
            raise TraceError(
                f"{name}: the body assigns {names}; return the new value and assign outside"
            )
        self._kernels = under_way.home
        # The graph's inputs after the operands, in the order in which they were met.
        outside = {node.index: value for value, node in under_way.captured.values()}
        outside |= {s.node.index: v for v, s in under_way.variables.values()}
        later = self.graph.inputs[len(self.leaves) :]
        self.externals = [outside[node.index].read() for node in later]
        self.specs = [Spec(node.shape, node.dtype) for node in self.graph.outputs]

    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for operands and what was captured."""
        return replay(self.graph, values, self._kernels or values[0].kernels)

    def split(self, externals: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the captured values that are this body's, and the rest."""
        return externals[: len(self.externals)], externals[len(self.externals) :]


def _refuse_difference(operation: str, one: str, first: Any, other: str, second: Any) -> None:
    """Raise if two lists of values differ in number, shape or dtype."""
    specs = [
        [(tuple(each.shape), each.dtype) for each in getattr(values, "specs", values)]
        for values in (first, second)
    ]
    if specs[0] != specs[1]:
        shown = [", ".join(f"{d}{list(s)}" for s, d in side) for side in specs]
        raise TraceError(
            f"{operation}: {one} is ({shown[0]}), {other} is ({shown[1]}); expected equal "
            "structure, shapes and dtypes: convert with astype or broadcast_to"
        )


def _is_symbolic(predicate: Any) -> bool:
    value = getattr(predicate, "read", None)
    return value is not None and value().kernels.level > 0


def _tracing() -> bool:
    return VALUES.get() is not None


# --- operations that run Python on tensors ------------------------------------------------------


def _call(
    name: str,
    f: Callable[..., list[Tensor]],
    specs: Sequence[Spec],
    operands: Sequence[Any],
) -> list[Tensor]:
    """Return the results of a function of tensors as one operation on them."""
    results = apply(_Interpreted(name, f, tuple(specs)).op, *operands)
    return list(results)


class _Interpreted:
    """An operation that runs a Python function of tensors; its derivatives are of the same sort.

    Parameters
    ----------
    name : str
        Its name in printed graphs.
    f : callable
        Takes tensors that hold numbers, returns a list of such.
    specs : tuple of Spec
        What it returns.
    """

    def __init__(self, name: str, f: Callable[..., list[Tensor]], specs: tuple[Spec, ...]) -> None:
        self._name = name
        self._f = f
        self._specs = specs
        self._pull: _Interpreted | None = None
        self._push: _Interpreted | None = None
        self.op = Op(
            name,
            Kind.OPAQUE,
            self._spec,
            self._vjp,
            self._jvp,
            Keep.INPUTS,
            self._compose,
            outputs=None,
        )

    def _spec(self, *_: Any) -> tuple[Spec, ...]:
        return self._specs

    def _compose(self, xp: Any, *arrays: Any) -> tuple[Any, ...]:
        listeners = LISTENERS.get()
        LISTENERS.set(())
        token = VALUES.set(None)
        try:
            results = self._f(*(Tensor(array, xp) for array in arrays))
        finally:
            VALUES.reset(token)
            LISTENERS.set(listeners)
        return tuple(asarray(result).array for result in results)

    @cached_property
    def _moving_outputs(self) -> list[int]:
        return [i for i, spec in enumerate(self._specs) if is_differentiable(spec.dtype)]

    def _vjp(self, xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> list[Any]:
        raw = not any(isinstance(each, Tensor) for each in g)
        primals = [Tensor(x, xp) if raw else asarray(x) for x in xs]
        cotangents = [Tensor(g[i], xp) if raw else g[i] for i in self._moving_outputs]
        moving = [i for i, p in enumerate(primals) if is_differentiable(p.dtype)]
        if self._pull is None:
            specs = tuple(Spec(primals[i].shape, primals[i].dtype) for i in moving)
            self._pull = _Interpreted(f"{self._name}_vjp", self._pullback(len(primals)), specs)
        pulled = as_given(apply(self._pull.op, *primals, *cotangents), raw)
        found = dict(zip(moving, pulled, strict=True))
        return [found.get(i) for i in range(len(primals))]

    def _pullback(self, count: int) -> Callable[..., list[Tensor]]:
        def pullback(*values: Tensor) -> list[Tensor]:
            primals, cotangents = values[:count], values[count:]
            moving = [p for p in primals if is_differentiable(p.dtype)]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moving)
                outputs = self._f(*primals)
            targets = [outputs[i] for i in self._moving_outputs]
            found: list[Tensor] = tape.gradient(
                targets, moving, list(cotangents), unconnected_gradients="zero"
            )
            return found

        return pullback

    def _jvp(self, xp: Any, tangents: Any, y: Any, xs: Any, params: Any) -> list[Any]:
        raw = not any(isinstance(each, Tensor) for each in tangents)
        primals = [Tensor(x, xp) if raw else asarray(x) for x in xs]
        given, _ = to_tensors(list(tangents), primals)
        moving = [
            Tensor(p.kernels.zeros_like(p.array), p.kernels) if t is None else t
            for p, t in zip(primals, given, strict=True)
            if is_differentiable(p.dtype)
        ]
        if self._push is None:
            self._push = _Interpreted(
                f"{self._name}_jvp", self._pushforward(len(primals)), self._specs
            )
        return as_given(apply(self._push.op, *primals, *moving), raw)

    def _pushforward(self, count: int) -> Callable[..., list[Tensor]]:
        def pushforward(*values: Tensor) -> list[Tensor]:
            primals, tangents = values[:count], values[count:]
            moving = [p for p in primals if is_differentiable(p.dtype)]
            with ForwardAccumulator(moving, list(tangents)) as accumulator:
                outputs = self._f(*primals)
            found: list[Tensor] = accumulator.jvp(outputs, unconnected_gradients="zero")
            return found

        return pushforward
