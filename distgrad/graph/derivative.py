"""Backward graphs: the gradient of a graph as a graph, which reads what the forward pass keeps."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.debug import checker_in_force, user_line
from distgrad.dtypes import is_differentiable
from distgrad.graph.nodes import Graph, Node, depend_on
from distgrad.graph.passes import at_places, simplify
from distgrad.graph.plan import Plan, replay
from distgrad.graph.trace import tracing
from distgrad.ops.picking.gathering import Rows
from distgrad.sparse import IndexedSlices, opened
from distgrad.tape.gradient_tape import GradientTape
from distgrad.tensor import Tensor
from distgrad.variable import Variable


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
    compiled : bool
        Whether the backend may run the plans its own way.
    lasting : int
        The first of the inputs that lie in the same memory at most calls.

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
        compiled: bool,
        lasting: int,
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
            outputs = differentiable(all_outputs[:returned])
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
        if compiled:
            held = given[lasting:]
            self.forward.compile({node.index for node in held})
            self.plan.compile({node.index for node in held})
        under_way.release()

    @property
    def variables(self) -> list[Variable]:
        """Those that only a rule of the user's own reads; further inputs of `forward`."""
        return [variable for each in self._variables if (variable := each()) is not None]

    def backward(self, residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        """Return the raw cotangent of each input, None where it has none."""
        found: list[Any] = []
        if self.plan is not None:
            found = run_plan(self.plan, [*residuals, *cotangents], is_backward=True)
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


def run_plan(plan: Plan, arrays: Sequence[Any], *, is_backward: bool = False) -> list[Any]:
    """Run a plan; where somebody looks for NaNs, so that each operation is looked at."""
    checker = checker_in_force()
    if checker is None:
        return plan.execute(arrays)
    # A backward pass was traced once, and is asked for now.
    return plan.run_checked(arrays, checker, user_line() if is_backward else None)


def differentiable(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that have derivatives."""
    return [value for value in values if is_differentiable(value.dtype)]


def flat(nest: Any) -> tuple[list[Any], Any]:
    """Return the leaves of a nest and its structure, with slices taken apart into their tensors."""
    leaves, treedef = tree.flatten(nest)
    return tree.flatten(opened(nest)) if IndexedSlices in map(type, leaves) else (leaves, treedef)
