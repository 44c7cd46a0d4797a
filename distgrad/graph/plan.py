"""Plans: a graph as a straight-line program of kernels that lets go of each array after its use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Op
from distgrad.core.seam import apply
from distgrad.errors import MissingKernelError
from distgrad.graph.nodes import OUTPUT_OF, Graph, Node
from distgrad.tensor import Tensor


class Plan:
    """Run the part of a graph between given nodes and wanted ones, on raw arrays.

    This executor runs on every backend; it is also the reference for those that compile.

    Parameters
    ----------
    graph : Graph
        The program.
    given : sequence of Node
        Whose arrays are passed to `run`; what they depend on is not computed again.
    wanted : sequence of Node
        Whose arrays `run` returns.
    kernels : Kernels
        On which backend.
    """

    def __init__(
        self, graph: Graph, given: Sequence[Node], wanted: Sequence[Node], kernels: Kernels
    ) -> None:
        self._given = [node.index for node in given]
        self._wanted = [node.index for node in wanted]
        self._asarray = kernels.backend.asarray
        self._array_type = kernels.array_type
        self._constants: list[tuple[int, Any]] = []
        self._steps: list[tuple[Any, list[tuple[bool, Any]], dict[str, Any], int, list[int]]] = []
        self._size = len(graph.nodes)
        calls = self._calls(graph)
        last_use: dict[int, int] = {}
        for place, node in enumerate(calls):
            for operand in node.operands:
                if isinstance(operand, Node):
                    last_use[operand.index] = place
        kept = set(self._wanted)
        for place, node in enumerate(calls):
            assert node.op is not None  # noqa: S101  for the type checker: a call has one
            operands = [(isinstance(x, Node), getattr(x, "index", x)) for x in node.operands]
            done = [
                index
                for is_node, index in operands
                if is_node and last_use[index] == place and index not in kept
            ]
            self._steps.append(
                (_kernel(kernels, node.op), operands, node.params, node.index, sorted(set(done)))
            )

    def _calls(self, graph: Graph) -> list[Node]:
        given = set(self._given)
        needed = set(self._wanted)
        calls = []
        for node in reversed(graph.nodes):
            if node.index not in needed or node.index in given:
                continue
            if node.op is None:
                if node.value is None:
                    raise ValueError(f"plan: {node} is an input that is not given")
                self._constants.append((node.index, node.value))
                continue
            calls.append(node)
            needed.update(x.index for x in node.operands if isinstance(x, Node))
        return calls[::-1]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the wanted arrays from the given ones."""
        values: list[Any] = [None] * self._size
        for index, array in zip(self._given, arrays, strict=True):
            values[index] = array
        for index, array in self._constants:
            values[index] = array
        for kernel, operands, params, index, done in self._steps:
            values[index] = kernel(
                *[values[x] if is_node else x for is_node, x in operands], **params
            )
            for dead in done:
                values[dead] = None
        array_type, asarray = self._array_type, self._asarray
        wanted = [values[index] for index in self._wanted]
        return [array if array.__class__ is array_type else asarray(array) for array in wanted]


def _kernel(kernels: Kernels, op: Op) -> Callable[..., Any]:
    """Return an operation's kernel; one outside of the vocabulary is composed, not looked up."""
    if op in kernels.table:
        return kernels.table[op]
    if op.compose is None:
        raise MissingKernelError(f"{op.name}: the operation has no kernel and no composition")
    return partial(op.compose, kernels)


def replay(graph: Graph, inputs: Sequence[Any], kernels: Kernels) -> list[Tensor]:
    """Return the outputs of a graph by applying its operations to tensors, heard by all.

    Parameters
    ----------
    graph : Graph
        The program.
    inputs : sequence of Tensor
        Of any backend or transformation.
    kernels : Kernels
        The backend of the graph's constants.
    """
    values: dict[int, Any] = {
        node.index: tensor for node, tensor in zip(graph.inputs, inputs, strict=True)
    }
    for node in graph.needed_for(graph.outputs):
        if node.op is OUTPUT_OF:
            values[node.index] = values[node.operands[0].index][node.params["position"]]
        elif node.op is not None:
            operands = [values[x.index] if isinstance(x, Node) else x for x in node.operands]
            values[node.index] = apply(node.op, *operands, **node.params)
        elif node.value is not None:
            values[node.index] = Tensor(node.value, kernels)
    return [values[node.index] for node in graph.outputs]
