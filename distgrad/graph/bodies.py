"""Bodies of control flow as graphs, with what they capture from outside as more inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad import tree
from distgrad.backend.kernels import Kernels
from distgrad.core.op import Spec
from distgrad.core.seam import LISTENERS
from distgrad.eager import asarray, current_kernels
from distgrad.errors import TraceError
from distgrad.graph.nodes import Graph
from distgrad.graph.plan import Plan, replay
from distgrad.graph.trace import tracing
from distgrad.tensor import Operators, Tensor


class Body:
    """A function traced for given operands.

    Parameters
    ----------
    f : callable
        The function.
    operands : tuple of nests
        Its arguments.

    Attributes
    ----------
    leaves : list of Tensor
        The operands.
    externals : list of Tensor
        What it captured: variables, and values that a transformation or a tape outside cares for.
    specs : list of Spec
        What it returns.
    treedef
        The structure of that.

    Raises
    ------
    TraceError
        If it assigns a variable.
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
        self._home: Kernels | None = under_way.home
        self._plans: dict[int, Plan] = {}
        # The graph's inputs after the operands, in the order in which they were met.
        outside: dict[int, Operators] = {n.index: v for v, n in under_way.captured.values()}
        outside |= {s.node.index: v for v, s in under_way.variables.values()}
        later = self.graph.inputs[len(self.leaves) :]
        self.externals = [outside[node.index].read() for node in later]
        self.specs = [Spec(node.shape, node.dtype) for node in self.graph.outputs]
        under_way.release()

    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for operands and what was captured."""
        kernels = self._home or (values[0].kernels if values else current_kernels())
        plan = self.plan_for(values)
        if plan is None:
            return replay(self.graph, values, kernels)
        return [Tensor(array, kernels) for array in plan.execute([value.array for value in values])]

    def plan_for(self, values: Sequence[Tensor]) -> Plan | None:
        """Return what runs on the raw arrays of values like these; None where somebody listens."""
        kernels = self._home or (values[0].kernels if values else current_kernels())
        if kernels.level or LISTENERS.get() or any(v.kernels is not kernels for v in values):
            return None
        plan = self._plans.get(id(kernels))
        if plan is None:
            plan = Plan(self.graph, self.graph.inputs, self.graph.outputs, kernels).fuse()
            self._plans[id(kernels)] = plan
        return plan

    def split(self, externals: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return of what was captured this body's part, and the rest."""
        return externals[: len(self.externals)], externals[len(self.externals) :]


def refuse_difference(operation: str, one: str, first: Any, other: str, second: Any) -> None:
    """Raise if two lists of values differ in number, shape or dtype.

    Raises
    ------
    TraceError
        If they do, naming both.
    """
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
