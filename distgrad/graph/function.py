"""dg.function: trace a function once for each signature, and run it as one operation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial, update_wrapper
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.core.op import Keep, Kind, Op, Spec
from distgrad.core.seam import LISTENERS, VALUES
from distgrad.dtypes import is_differentiable
from distgrad.eager import asarray, current_kernels, emit
from distgrad.graph.nodes import Graph, Node, depend_on
from distgrad.graph.plan import Plan, replay
from distgrad.graph.trace import Trace, tracing
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_given, to_tensors
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

_TRACES_BEFORE_WARNING = 3


def function(f: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
    """Make a function run as a graph: traced once for each signature, then replayed.

    Parameters
    ----------
    f : callable
        A function of nests of arrays, variables and static values.
    name : str, optional
        Its name in messages and printed graphs; the function's own by default.

    Returns
    -------
    Function
        To be called like `f`.

    Examples
    --------
    >>> import distgrad as dg
    >>> @dg.function
    ... def f(x):
    ...     return dg.sin(x) + dg.sin(x)
    >>> print(f(dg.asarray(0.0)))
    dg.Tensor(0.0, shape=(), dtype=float32)
    >>> print(f.graph(dg.asarray(0.0)))
    f(%0: float32[])
      %1: float32[] = sin(%0)
      %2: float32[] = add(%1, %1)
      return %2
    """
    if f is None:
        return partial(function, name=name)
    return Function(f, name)


class Function:
    """A function that runs as a graph; made by `function`.

    The Python function runs once for each signature: the nest's structure, shapes, dtypes and
    backends of arrays, and the values of everything else, Python numbers among them. What it does
    besides computing (printing, appending to lists) happens at that time only. Variables that it
    reads become inputs, assignments take place after each run, other arrays are constants.

    Notes
    -----
    On a tape a call is one operation, whose VJP is a graph as well.
    """

    def __init__(self, f: Callable[..., Any], name: str | None = None) -> None:
        self._f = f
        self._name: str = name or str(getattr(f, "__name__", "function"))
        self._compiled: dict[Any, Compiled] = {}
        self._last_signature: list[str] = []
        # Names and docstring only: f's own attributes may be those of another Function.
        update_wrapper(self, f, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else partial(self.__call__, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns, by its graph."""
        leaves, treedef = _leaves(args, kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if VALUES.get() is not None or any(tensor.kernels.level for tensor in tensors):
            return self._f(*args, **kwargs)  # within a transformation, which sees every operation
        compiled = self._of_signature(leaves, treedef, args, kwargs)
        return compiled.call(tensors)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """Return the graph of a call with these arguments; print it, or take its `graphviz`."""
        leaves, treedef = _leaves(args, kwargs)
        return self._of_signature(leaves, treedef, args, kwargs).graph

    def _of_signature(
        self, leaves: list[Any], treedef: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Compiled:
        key = (treedef, tuple([_signature(self._name, leaf) for leaf in leaves]))
        compiled = self._compiled.get(key)
        if compiled is None:
            self._say_why(leaves, args, kwargs)
            compiled = self._compiled[key] = trace(self._name, self._f, leaves, treedef)
        return compiled

    def _say_why(self, leaves: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Warn from the third trace on, and name what changed since the last one."""
        shown = [_shown(leaf) for leaf in leaves]
        if len(self._compiled) + 1 >= _TRACES_BEFORE_WARNING:
            places = tree.paths((args, kwargs))
            changes = [
                f"{place}: {before} became {now}"
                for place, before, now in zip(places, self._last_signature, shown, strict=False)
                if before != now
            ]
            warnings.warn(
                f"function: {self._name!r} is traced for the {len(self._compiled) + 1}. time "
                f"({'; '.join(changes) or 'another structure of arguments'}); pass numbers that "
                "change as arrays, and pad arrays to few shapes",
                stacklevel=4,
            )
        self._last_signature = shown


def _leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
    leaves, treedef = tree.flatten((args, kwargs))
    return [asarray(x) if isinstance(x, np.ndarray) else x for x in leaves], treedef


def _signature(name: str, leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.dtype, id(leaf.kernels))
    if isinstance(leaf, Variable):
        return ("variable", leaf.key)
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"function: {name!r} got a {type(leaf).__name__}, which is neither an array nor "
            "hashable; expected arrays, variables, and static values that can be compared"
        ) from None
    return (type(leaf), leaf)


def _shown(leaf: Any) -> str:
    if isinstance(leaf, Operators):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return repr(leaf)


def trace(name: str, f: Callable[..., Any], leaves: list[Any], treedef: Any) -> Compiled:
    """Run a function on symbols and return what it did."""
    with tracing(name) as under_way:
        symbols = [
            under_way.input(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        for leaf in leaves:
            if isinstance(leaf, Tensor) and under_way.home is None:
                under_way.home = leaf.kernels
        args, kwargs = tree.unflatten(treedef, symbols)
        result = f(*args, **kwargs)
        outputs, result_treedef = tree.flatten(result)
        returned = [under_way.symbol_of(output).node for output in outputs]
        assigned = [(variable, value.array.node) for variable, value in under_way.assigned.values()]
    under_way.graph.outputs = [*returned, *(node for _, node in assigned)]
    return Compiled(under_way, len(returned), result_treedef, [v for v, _ in assigned])


class Compiled:
    """A function traced for one signature.

    Parameters
    ----------
    under_way : Trace
        The trace, which has ended.
    returned : int
        How many of the graph's outputs the function returns; the rest are assigned.
    treedef
        The structure of what it returns.
    assigned : list of Variable
        The variables that are assigned, in the order of the rest of the outputs.
    """

    def __init__(
        self, under_way: Trace, returned: int, treedef: Any, assigned: list[Variable]
    ) -> None:
        self.graph = under_way.graph
        self.kernels: Kernels = under_way.home or current_kernels()
        self._variables = [variable for variable, _ in under_way.variables.values()]
        self._inputs = _with_variables_last(under_way)
        self._returned = returned
        self._treedef = treedef
        self._assigned = assigned
        self._plan = Plan(self.graph, self._inputs, self.graph.outputs, self.kernels)

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Return the function's result for arguments of its signature."""
        inputs = [*tensors, *self._variables]
        values = [each.read() for each in inputs]
        arrays = [value.array for value in values]
        listeners = LISTENERS.get()
        followed = any(each.follows(value.key) for each in listeners for value in values)
        residuals: list[Any] = []
        if followed and self._derivative.plan is not None:
            found = self._derivative.forward.run(arrays)
            found, residuals = found[: len(self.graph.outputs)], found[len(self.graph.outputs) :]
        else:
            found = self._plan.run(arrays)
        outputs = [Tensor(array, self.kernels) for array in found[: self._returned]]
        if followed and outputs:
            self._announce(inputs, values, outputs, residuals)
        for variable, array in zip(self._assigned, found[self._returned :], strict=True):
            variable.assign(Tensor(array, self.kernels))
        return tree.unflatten(self._treedef, outputs)

    # --- derivatives ------------------------------------------------------------------------------

    @cached_property
    def _derivative(self) -> Derivative:
        return Derivative(self.graph, self._inputs, self._returned, self.kernels)

    def _replayed(self, primals: Sequence[Tensor]) -> list[Tensor]:
        """Return what the function returns, by its operations, for arguments and variables."""
        order = {node.index: place for place, node in enumerate(self._inputs)}
        inputs = [primals[order[node.index]] for node in self.graph.inputs]
        return replay(self.graph, inputs, self.kernels)[: self._returned]

    @cached_property
    def _pullback(self) -> Function:
        def pullback(primals: list[Tensor], cotangents: list[Tensor]) -> list[Tensor | None]:
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(_differentiable(primals))
                outputs = self._replayed(primals)
            found = iter(
                tape.gradient(_differentiable(outputs), _differentiable(primals), cotangents)
            )
            return [next(found) if is_differentiable(p.dtype) else None for p in primals]

        return Function(pullback, f"{self.graph.name}_vjp")

    @cached_property
    def _pushforward(self) -> Function:
        def pushforward(primals: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            with ForwardAccumulator(_differentiable(primals), tangents) as accumulator:
                outputs = self._replayed(primals)
            return accumulator.jvp(outputs, unconnected_gradients="zero")

        return Function(pushforward, f"{self.graph.name}_jvp")

    def _announce(
        self,
        inputs: list[Any],
        values: list[Tensor],
        outputs: list[Tensor],
        residuals: list[Any],
    ) -> None:
        """Tell those who listen of the call as one operation."""
        single = len(outputs) == 1

        def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> list[Any]:
            cotangents, raw = to_tensors(g, outputs)
            given = [
                c for c, o in zip(cotangents, outputs, strict=True) if is_differentiable(o.dtype)
            ]
            if raw:
                return self._derivative.backward(residuals, [each.array for each in given])
            return self._pullback(values, given)

        def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
            given, raw = to_tensors(list(tangents), values)
            moving = [
                Tensor(v.kernels.zeros_like(v.array), v.kernels) if t is None else t
                for v, t in zip(values, given, strict=True)
                if is_differentiable(v.dtype)
            ]
            pushed = as_given(self._pushforward(values, moving), raw)
            return pushed[0] if single else pushed

        specs = tuple(Spec(output.shape, output.dtype) for output in outputs)
        op = Op(
            self.graph.name,
            Kind.OPAQUE,
            lambda *_: specs[0] if single else specs,
            vjp,
            jvp,
            Keep.SPECS,
            outputs=1 if single else None,
        )
        emit(op, inputs, outputs[0] if single else tuple(outputs))


def _with_variables_last(under_way: Trace) -> list[Node]:
    """Return the inputs of a graph: first the arguments, then the captured variables."""
    captured = [symbol.node for _, symbol in under_way.variables.values()]
    indices = {node.index for node in captured}
    return [n for n in under_way.graph.inputs if n.index not in indices] + captured


def _differentiable(values: Sequence[Tensor]) -> list[Tensor]:
    return [value for value in values if is_differentiable(value.dtype)]


class Derivative:
    """The backward graph of a graph, cut from the forward one at what must be kept.

    One joint graph is traced from arguments and cotangents to gradients. What in it depends on no
    cotangent belongs to the forward pass; of that, what the rest reads is kept.
    """

    def __init__(self, graph: Graph, inputs: list[Node], returned: int, kernels: Kernels) -> None:
        with tracing(f"{graph.name}_vjp") as under_way:
            under_way.home = kernels
            primals = {n.index: under_way.input(n.shape, n.dtype) for n in inputs}
            moving = [primals[n.index] for n in inputs if is_differentiable(n.dtype)]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moving)
                all_outputs = replay(graph, [primals[n.index] for n in graph.inputs], kernels)
            outputs = _differentiable(all_outputs[:returned])
            cotangents = [under_way.input(output.shape, output.dtype) for output in outputs]
            found = iter(tape.gradient(outputs, moving, cotangents))
        gradients = [next(found) if is_differentiable(n.dtype) else None for n in inputs]
        joint = under_way.graph
        seeds = [cotangent.array.node for cotangent in cotangents]
        wanted = [g.array.node for g in gradients if g is not None]
        self._is_found = [g is not None for g in gradients]
        self.plan = None
        if not wanted:
            return
        residuals = _residuals(joint, seeds, wanted)
        given = [primals[node.index].array.node for node in inputs]
        made = [under_way.symbol_of(output).node for output in all_outputs]
        self.forward = Plan(joint, given, [*made, *residuals], kernels)
        self.plan = Plan(joint, [*residuals, *seeds], wanted, kernels)

    def backward(self, residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        """Return the raw cotangent of each input, None where it has none."""
        if self.plan is None:
            return [None for _ in self._is_found]
        found = iter(self.plan.run([*residuals, *cotangents]))
        return [next(found) if is_found else None for is_found in self._is_found]


def _residuals(joint: Graph, seeds: list[Node], wanted: list[Node]) -> list[Node]:
    """Return the nodes of the forward pass that the backward pass reads."""
    late = depend_on(joint.nodes, seeds)
    read = {
        x.index: x
        for node in joint.needed_for(wanted)
        if node.index in late
        for x in node.operands
        if isinstance(x, Node) and x.index not in late
    }
    read.update({node.index: node for node in wanted if node.index not in late})
    return [node for node in read.values() if node.value is None]
