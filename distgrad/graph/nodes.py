"""Graphs: nodes with shape and dtype, their law, and how they are printed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distgrad.core.op import Kind, Op, Spec
from distgrad.dtypes import DType, as_dtype, bool_


def _output_spec(outputs: tuple[Spec, ...], *, position: int) -> Spec:
    return outputs[position]


def _output(xp: Any, outputs: tuple[Any, ...], *, position: int) -> Any:
    return outputs[position]


# One of the results of an operation that has several.
OUTPUT_OF = Op("output_of", Kind.OPAQUE, _output_spec, compose=_output)


@dataclass(eq=False, slots=True)
class Node:
    """One value of a graph: an input, a constant, or the result of an operation.

    Attributes
    ----------
    index : int
        Its place in the graph; operands come before.
    shape, dtype
        What it will be.
    op : Op or None
        The operation; None for inputs and constants.
    operands : tuple
        Nodes and Python scalars.
    params : dict
        The metadata.
    value : array or None
        The raw array of a constant.
    where : str
        The user's line that computed it, ``file:line: code``.
    outputs : tuple of Spec or None
        What it will be where it has several results, which `OUTPUT_OF` takes apart.
    gradient_of : Node or None
        In a backward pass, the operation whose gradient it helps to compute.
    """

    index: int
    shape: tuple[int, ...]
    dtype: DType
    op: Op | None = None
    operands: tuple[Any, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    where: str = ""
    outputs: tuple[Spec, ...] | None = None
    gradient_of: Node | None = None

    @property
    def is_input(self) -> bool:
        """Whether it is an argument of the graph."""
        return self.op is None and self.value is None

    @property
    def specs(self) -> tuple[Spec, ...]:
        """What it will be: one spec, or several where it has several results."""
        return (Spec(self.shape, self.dtype),) if self.outputs is None else self.outputs

    def __str__(self) -> str:
        return f"%{self.index}"


class Graph:
    """A straight-line program without repetition: what was computed already is not added again.

    Attributes
    ----------
    nodes : list of Node
        In an order in which they can be computed.
    inputs : list of Node
        In the order of the arguments.
    outputs : list of Node
        What is returned.
    merged : list of Node
        For each operation that was not added, because it had been computed already, the node that
        computes it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.inputs: list[Node] = []
        self.outputs: list[Node] = []
        self.merged: list[Node] = []
        self._known: dict[Any, Node] = {}

    def add_input(self, shape: tuple[int, ...], dtype: DType) -> Node:
        """Add an argument."""
        node = self._append(Node(len(self.nodes), shape, dtype))
        self.inputs.append(node)
        return node

    def add_constant(self, value: Any, shape: tuple[int, ...], dtype: DType) -> Node:
        """Add an array whose values are known; the same array is added once."""
        known = self._known.get(id(value))
        if known is None:
            node = Node(len(self.nodes), shape, dtype, value=value)
            known = self._known[id(value)] = self._append(node)
        return known

    def add_call(
        self, op: Op, operands: tuple[Any, ...], params: dict[str, Any], spec: Any, where: str
    ) -> Node:
        """Add an operation, or return the node that has computed the same already."""
        key = _call_key(op, operands, params)
        known = self._known.get(key)
        if known is None:
            several = None if op.outputs == 1 else tuple(spec)
            shape, dtype = ((), bool_) if several is not None else (tuple(spec.shape), spec.dtype)
            node = Node(len(self.nodes), shape, dtype, op, operands, params, None, where, several)
            known = self._known[key] = self._append(node)
        elif op is not OUTPUT_OF:
            self.merged.append(known)
        return known

    def _append(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def holds(self, node: Node) -> bool:
        """Return whether a node is one of this graph."""
        return node.index < len(self.nodes) and self.nodes[node.index] is node

    def needed_for(self, outputs: Iterable[Node], known: Collection[int] = ()) -> list[Node]:
        """Return the nodes that outputs depend on, themselves among them, in order.

        Parameters
        ----------
        outputs : iterable of Node
            Where to begin.
        known : collection of int
            The indices of nodes at which to stop; they are left out.
        """
        wanted = {node.index for node in outputs}
        needed = []
        for node in reversed(self.nodes):
            if node.index in wanted and node.index not in known:
                needed.append(node)
                for x in node.operands:
                    if x.__class__ is Node:
                        wanted.add(x.index)
        return needed[::-1]

    def verify(self) -> None:
        """Hold the law of graphs; run between passes in tests.

        Raises
        ------
        ValueError
            If an operand comes after its use, a shape or dtype is not what the rule or the constant
            says, something is computed twice, or an input or output is no node of the graph.
        """
        computed: dict[Any, Node] = {}
        for place, node in enumerate(self.nodes):
            if node.index != place:
                raise ValueError(f"{node} stands at place {place}")
            if node.is_input and not any(node is given for given in self.inputs):
                raise ValueError(f"{node} is neither computed, nor a constant, nor an input")
            if node.value is not None and (
                tuple(node.value.shape) != node.shape or as_dtype(node.value.dtype) != node.dtype
            ):
                raise ValueError(f"{node} is {node.shape} {node.dtype}, its constant is not")
            for operand in node.operands:
                if isinstance(operand, Node) and operand.index >= place:
                    raise ValueError(f"{node} uses {operand} before it is computed")
            if node.op is not None:
                twin = computed.setdefault(_call_key(node.op, node.operands, node.params), node)
                if twin is not node:
                    raise ValueError(f"{node} computes what {twin} has computed")
                spec = node.op.spec(*(spec_of(x) for x in node.operands), **node.params)
                said = spec if node.outputs is not None else (spec,)
                if [(tuple(s.shape), s.dtype) for s in said] != [tuple(s) for s in node.specs]:
                    raise ValueError(f"{node} is {node.specs}, its rule says {spec}")
        for node in (*self.inputs, *self.outputs):
            if not self.holds(node):
                raise ValueError(f"{node} is returned or given, and belongs to another graph")

    # --- printing -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"{self.name}({', '.join(typed(node) for node in self.inputs)})"]
        for node in self.needed_for(self.outputs):
            if node.op is not None:
                params = "".join(f" {name}={value!r}" for name, value in node.params.items())
                operands = ", ".join(map(_shown, node.operands))
                lines.append(f"  {typed(node)} = {node.op.name}({operands}){params}")
            elif node.value is not None:
                lines.append(f"  {typed(node)} = constant")
        lines.append(f"  return {', '.join(map(str, self.outputs))}")
        return "\n".join(lines)

    def graphviz(self) -> str:
        """Return the graph in Graphviz's DOT language."""
        lines = [f"digraph {_quoted(self.name)} {{", "  node [shape=box, fontname=monospace];"]
        inputs = {node.index for node in self.inputs}
        for node in self.needed_for(self.outputs):
            name = "input" if node.index in inputs else "constant"
            label = f"{node.op.name if node.op else name}\\n{node.dtype}{list(node.shape)}"
            lines.append(f"  n{node.index} [label={_quoted(label)}];")
            lines.extend(
                f"  n{operand.index} -> n{node.index};"
                for operand in node.operands
                if isinstance(operand, Node)
            )
        lines.extend(
            f"  n{node.index} -> out{place}; out{place} [label=output, shape=plain];"
            for place, node in enumerate(self.outputs)
        )
        return "\n".join([*lines, "}"])


def spec_of(operand: Any) -> Any:
    """Return the spec of a node; a Python scalar stays what it is."""
    if not isinstance(operand, Node):
        return operand
    return Spec(operand.shape, operand.dtype) if operand.outputs is None else operand.outputs


def _call_key(op: Op, operands: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Return what tells whether two calls compute the same."""
    return (
        op,
        *[x.index if x.__class__ is Node else exact(x) for x in operands],
        *[(name, exact(params[name])) for name in sorted(params)],
    )


def exact(value: Any) -> Any:
    """Return a key that is equal only for equal bits: 0.0 == -0.0, and 1 == True."""
    kind = value.__class__
    if kind is float or kind is complex:
        return kind, repr(value)
    if kind is tuple:
        return kind, tuple(map(exact, value))
    return kind, value


def nodes_read(node: Node) -> list[Node]:
    """Return the operands of an operation that are nodes."""
    return [x for x in node.operands if x.__class__ is Node]


def typed(node: Node) -> str:
    """Return a node's number with its dtype and shape."""
    if node.outputs is not None:
        return f"{node}: ({', '.join(f'{spec.dtype}{list(spec.shape)}' for spec in node.outputs)})"
    return f"{node}: {node.dtype}{list(node.shape)}"


def _shown(operand: Any) -> str:
    return str(operand) if isinstance(operand, Node) else repr(operand)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def depend_on(nodes: Sequence[Node], sources: Iterable[Node]) -> set[int]:
    """Return the indices of the nodes that depend on sources, themselves among them."""
    found = {source.index for source in sources}
    for node in nodes:
        if any(isinstance(x, Node) and x.index in found for x in node.operands):
            found.add(node.index)
    return found
