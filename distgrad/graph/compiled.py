"""Traced functions: one signature's graph, run as one operation that has a graph for its gradient."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.backends_in_force import depth
from distgrad.core.op import Keep, Kind, Spec
from distgrad.core.seam import LISTENERS
from distgrad.debug import checker_in_force, user_line
from distgrad.dtypes import is_differentiable
from distgrad.eager import current_kernels, emit
from distgrad.errors import TraceError
from distgrad.graph.nodes import Graph, Node, depend_on
from distgrad.graph.passes import at_places, simplify
from distgrad.graph.plan import Plan, replay
from distgrad.graph.trace import Trace, tracing
from distgrad.ops.gathering import Rows
from distgrad.sparse import IndexedSlices, opened
from distgrad.tape.forward import ForwardAccumulator
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tape.handmade import as_cotangents, as_given, to_tensors
from distgrad.tape.packing import HoldingOp, unpacked_residuals
from distgrad.tensor import Tensor
from distgrad.variable import Variable

Forget = Callable[[Any], None]


def trace(
    name: str,
    f: Callable[..., Any],
    leaves: list[Any],
    treedef: Any,
    *,
    followed: Collection[int] = (),
    creates: bool = False,
    forget: Forget | None = None,
) -> Compiled:
    """Run a function on symbols and return what it did.

    Parameters
    ----------
    name : str
        For messages.
    f : callable
        The function.
    leaves, treedef
        Its arguments, a nest ``(args, kwargs)``: tensors, variables and static values.
    followed : collection of int
        The identities of captured tensors that must become inputs; those that somebody who listens
        follows do in any case.
    creates : bool
        Whether it may create variables.
    forget : callable, optional
        Called when a variable that it reads or assigns is no more.

    Raises
    ------
    TraceError
        If the function does what a graph cannot hold, or calls itself without end.
    """
    try:
        with tracing(name, followed=followed, creates=creates) as under_way:
            for leaf in leaves:
                if isinstance(leaf, Tensor):
                    under_way.settle(leaf.kernels)
            symbols = [
                under_way.input(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = tree.unflatten(treedef, symbols)
            outputs, result_treedef = flat(f(*args, **kwargs))
            returned = [under_way.symbol_of(output).node for output in outputs]
            assigned = list(under_way.assigned.values())
    except RecursionError as error:
        raise TraceError(
            f"{name}: it calls itself without end while it is traced: a condition on values does "
            "not stop it, since both branches are traced; take dg.while_loop or dg.scan"
        ) from error
    under_way.graph.outputs = [*returned, *(value.array.node for _, value in assigned)]
    compiled = Compiled(
        under_way, len(returned), result_treedef, [v for v, _ in assigned], forget
    )
    under_way.release()
    return compiled


def flat(nest: Any) -> tuple[list[Any], Any]:
    """Return the leaves of a nest and its structure, with slices taken apart into their tensors."""
    leaves, treedef = tree.flatten(nest)
    return tree.flatten(opened(nest)) if IndexedSlices in map(type, leaves) else (leaves, treedef)


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
    forget : callable, optional
        Called when one of its variables is no more; they are held weakly.

    Attributes
    ----------
    graph : Graph
        The simplified graph.
    notes : Notes
        What simplifying did.
    captured : list of Tensor
        Tensors from outside that are inputs.
    created : list of weak references to Variable
        The variables that were created while tracing.
    """

    def __init__(
        self,
        under_way: Trace,
        returned: int,
        treedef: Any,
        assigned: list[Variable],
        forget: Forget | None = None,
    ) -> None:
        self.kernels: Kernels = under_way.home or current_kernels()
        traced = under_way.graph
        self.graph, self.notes = simplify(traced, self.kernels)
        self.created = under_way.created
        self.captured = [tensor for tensor, _ in under_way.captured.values()]
        variables = [variable for variable, _ in under_way.variables.values()]
        self._variables = [weakref.ref(variable, forget) for variable in variables]
        self._assigned = [weakref.ref(variable, forget) for variable in assigned]
        self._constants = tuple(under_way.met)
        # The order of a call: arguments, captured tensors, variables.
        later = [node for _, node in under_way.captured.values()]
        later += [symbol.node for _, symbol in under_way.variables.values()]
        last = {node.index for node in later}
        order = [node for node in traced.inputs if node.index not in last] + later
        place = {node.index: position for position, node in enumerate(traced.inputs)}
        self.inputs = [self.graph.inputs[place[node.index]] for node in order]
        self._returned = returned
        self._treedef = treedef
        self._is_bare = returned == 1 and treedef.num_nodes == 1
        self.plan = Plan(self.graph, self.inputs, self.graph.outputs, self.kernels)

    @property
    def variables(self) -> list[Variable]:
        """The variables that are read."""
        return [variable for each in self._variables if (variable := each()) is not None]

    @property
    def assigns(self) -> int:
        """How many variables are assigned after a run."""
        return len(self._assigned)

    def followed_constants(self) -> list[int]:
        """Return the identities of constants that somebody who listens follows."""
        return [
            key
            for key in self._constants
            if any(listener.follows(key) for listener in LISTENERS.get())
        ]

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Return the function's result for arguments of its signature."""
        listeners = LISTENERS.get()
        if self._variables or self.captured:
            inputs: list[Any] = [*tensors, *self.captured, *(each() for each in self._variables)]
            values = [each.read() for each in inputs]
        else:
            inputs = values = list(tensors)
        arrays = [value.array for value in values]
        residuals: list[Any] = []
        followed = False
        if listeners:
            followed = any(each.follows(value.key) for each in listeners for value in values)
            if followed and self._derivative.plan is not None:
                read = [variable.read().array for variable in self._derivative.variables]
                found = _run(self._derivative.forward, [*arrays, *read])
                count = len(self.graph.outputs)
                found, residuals = found[:count], found[count:]
            else:
                found = _run(self.plan, arrays)
        else:
            found = self.plan.run(arrays)
        outputs = [Tensor(array, self.kernels) for array in found[: self._returned]]
        if followed and outputs:
            self._announce(inputs, values, outputs, residuals)
        for reference, array in zip(self._assigned, found[self._returned :], strict=True):
            variable = reference()
            if variable is not None:
                variable.assign(Tensor(array, self.kernels))
        return outputs[0] if self._is_bare else tree.unflatten(self._treedef, outputs)

    # --- derivatives ------------------------------------------------------------------------------

    @cached_property
    def _derivative(self) -> Derivative:
        return Derivative(
            self.graph, self.inputs, self.variables, self._returned, self.kernels
        )

    @property
    def derivative(self) -> Derivative | None:
        """The backward graph, if one was asked for by now."""
        return self.__dict__.get("_derivative")

    def _replayed(self, primals: Sequence[Tensor]) -> list[Tensor]:
        """Return what the function returns, by its operations, for the inputs of a call."""
        order = {node.index: place for place, node in enumerate(self.inputs)}
        inputs = [primals[order[node.index]] for node in self.graph.inputs]
        return replay(self.graph, inputs, self.kernels)[: self._returned]

    @cached_property
    def _pullback(self) -> _Traced:
        def pullback(primals: list[Tensor], cotangents: list[Tensor]) -> list[Any]:
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(_differentiable(primals))
                outputs = self._replayed(primals)
            found = iter(
                tape.gradient(_differentiable(outputs), _differentiable(primals), cotangents)
            )
            return [next(found) if is_differentiable(p.dtype) else None for p in primals]

        return _Traced(pullback, f"{self.graph.name}_vjp")

    @cached_property
    def _pushforward(self) -> _Traced:
        def pushforward(primals: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            with ForwardAccumulator(_differentiable(primals), tangents) as accumulator:
                outputs = self._replayed(primals)
            return accumulator.jvp(outputs, unconnected_gradients="zero")

        return _Traced(pushforward, f"{self.graph.name}_jvp")

    def _announce(
        self,
        inputs: list[Any],
        values: list[Tensor],
        outputs: list[Tensor],
        residuals: list[Any],
    ) -> None:
        """Tell those who listen of the call as one operation."""
        single = len(outputs) == 1
        given_arrays = {id(value.array) for value in values}  # held by their tensors anyhow
        own = [place for place, each in enumerate(residuals) if id(each) not in given_arrays]
        held = [residuals[place] for place in own]
        residuals = [None if id(each) not in given_arrays else each for each in residuals]

        def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> list[Any]:
            cotangents, raw = to_tensors(g, outputs)
            given = [
                c for c, o in zip(cotangents, outputs, strict=True) if is_differentiable(o.dtype)
            ]
            if raw:
                read = list(residuals)
                for place, array in zip(
                    own, unpacked_residuals(held, self.graph.name), strict=True
                ):
                    read[place] = array
                return self._derivative.backward(read, [each.array for each in given])
            return as_cotangents(self._pullback(values, given), raw)

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
        op = HoldingOp(
            self.graph.name,
            Kind.OPAQUE,
            lambda *_: specs[0] if single else specs,
            vjp,
            jvp,
            Keep.SPECS,
            outputs=1 if single else None,
        )
        op.hold(held)
        emit(op, inputs, outputs[0] if single else tuple(outputs))


def _differentiable(values: Sequence[Tensor]) -> list[Tensor]:
    return [value for value in values if is_differentiable(value.dtype)]


def _run(plan: Plan, arrays: Sequence[Any], *, is_backward: bool = False) -> list[Any]:
    """Run a plan; where somebody looks for NaNs, so that each operation is looked at."""
    checker = checker_in_force()
    if checker is None:
        return plan.run(arrays)
    # A backward pass was traced once, and is asked for now.
    return plan.run_checked(arrays, checker, user_line() if is_backward else None)


class _Traced:
    """A derivative as a traced function: of tensors alone, so it needs no more than their specs."""

    def __init__(self, f: Callable[..., Any], name: str) -> None:
        self._f = f
        self._name = name
        self._compiled: dict[Any, Compiled] = {}

    def __call__(self, *nests: Any) -> Any:
        """Return what the function returns."""
        leaves, treedef = tree.flatten((nests, {}))
        if depth() or any(leaf.kernels.level for leaf in leaves):
            return self._f(*nests)  # within a transformation, which sees every operation
        key = (treedef, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]))
        compiled = self._compiled.get(key)
        if compiled is None or compiled.followed_constants():
            compiled = self._compiled[key] = trace(self._name, self._f, leaves, treedef)
        return compiled.call(leaves)


class Derivative:
    """The backward graph of a graph, cut from the forward one at what must be kept.

    One joint graph is traced from arguments and cotangents to gradients. What the function itself
    computes belongs to the forward pass; of that, what the rest reads is kept.

    Parameters
    ----------
    graph : Graph
        The graph.
    inputs : list of Node
        Its inputs, in the order of `Compiled.call`; those of variables are the last.
    known : list of Variable
        These variables.
    returned : int
        How many outputs are differentiated.
    kernels : Kernels
        Where it runs.

    Attributes
    ----------
    forward, plan : Plan
        The forward pass that returns the graph's outputs and what is kept, and the backward pass,
        which takes what is kept and the cotangents; None where nothing has a gradient.
    residuals : list of Node
        What is kept.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: list[Node],
        known: list[Variable],
        returned: int,
        kernels: Kernels,
    ) -> None:
        with tracing(f"{graph.name}_vjp") as under_way:
            under_way.home = kernels
            primals = {n.index: under_way.input(n.shape, n.dtype) for n in inputs}
            for variable, node in zip(known, inputs[len(inputs) - len(known) :], strict=True):
                under_way.variables[variable.key] = (variable, primals[node.index].array)
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
        parts, self._treedef = flat(gradients)
        wanted = [under_way.symbol_of(part).node for part in parts]
        further = list(under_way.variables.values())[len(known) :]
        self._variables = [weakref.ref(variable) for variable, _ in further]
        self.plan = None
        if not wanted:
            under_way.release()
            return
        given = [primals[node.index].array.node for node in inputs]
        given += [symbol.node for _, symbol in further]
        made = [under_way.symbol_of(output).node for output in all_outputs]
        # Simplified, the inputs and outputs are found again by their places.
        joint.outputs = [*made, *wanted]
        simple, self.notes = simplify(joint, kernels)
        seeds, given = at_places(joint, simple, seeds), at_places(joint, simple, given)
        made, wanted = simple.outputs[: len(made)], simple.outputs[len(made) :]
        self.residuals = _residuals(simple, seeds, wanted)
        self.forward = Plan(simple, given, [*made, *self.residuals], kernels)
        self.plan = Plan(simple, [*self.residuals, *seeds], wanted, kernels)
        under_way.release()

    @property
    def variables(self) -> list[Variable]:
        """Those that only a rule of the user's own reads; further inputs of `forward`."""
        return [variable for each in self._variables if (variable := each()) is not None]

    def backward(self, residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        """Return the raw cotangent of each input, None where it has none."""
        found: list[Any] = []
        if self.plan is not None:
            found = _run(self.plan, [*residuals, *cotangents], is_backward=True)
        gradients: list[Any] = tree.unflatten(self._treedef, found)
        return [
            Rows(g.values, g.indices, g.dense_shape) if isinstance(g, IndexedSlices) else g
            for g in gradients
        ]


def _residuals(joint: Graph, seeds: list[Node], wanted: list[Node]) -> list[Node]:
    """Return the nodes of the forward pass that the backward pass reads.

    What rules compute, such as the cosine for a sine, is the backward pass's even where it depends
    on no cotangent: kept is what the rule reads, which others read as well and inputs hold anyhow.
    """
    late = depend_on(joint.nodes, seeds)
    late.update(node.index for node in joint.nodes if node.gradient_of is not None)
    read = {
        x.index: x
        for node in joint.needed_for(wanted)
        if node.index in late
        for x in node.operands
        if isinstance(x, Node) and x.index not in late
    }
    read.update({node.index: node for node in wanted if node.index not in late})
    return [node for node in read.values() if node.value is None]
