"""Simplify graphs: drop what nobody reads, compute constants once, undo what changes nothing.

Each pass returns a new graph with the same inputs and outputs, and notes what it did. What is
computed twice is merged whenever a graph is built, so after every pass as well. The passes keep
every value's bits; where a copy is undone only the layout in memory may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import copysign, prod
from typing import Any

import numpy as np

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Spec
from distgrad.dtypes import is_complex, is_differentiable
from distgrad.graph.nodes import Graph, Node, typed
from distgrad.ops import VOCABULARY
from distgrad.ops.creation import FULL


@dataclass
class Notes:
    """What the passes did to a graph.

    Attributes
    ----------
    merged, dropped, folded, reduced : list of str
        Operations that had been computed already, that nobody reads, that have constant operands
        only, and that change nothing; a line for each.
    """

    merged: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    reduced: list[str] = field(default_factory=list)


Pass = Callable[[Graph, Kernels, Notes], Graph]


def simplify(graph: Graph, kernels: Kernels) -> tuple[Graph, Notes]:
    """Return a graph that computes the same with less work, and what was done.

    Parameters
    ----------
    graph : Graph
        Stays as it is; also the result where there is nothing to do.
    kernels : Kernels
        Where it will run.
    """
    notes = Notes(merged=[named(node) for node in graph.merged])
    for one_pass in PASSES:
        done = one_pass(graph, kernels, notes)
        if done is not graph:
            notes.merged += [named(node) for node in done.merged]
        graph = done
    return graph, notes


def at_places(graph: Graph, simple: Graph, inputs: Sequence[Node]) -> list[Node]:
    """Return the inputs of a simplified graph that stand where some inputs of the first one do."""
    place = {node.index: position for position, node in enumerate(graph.inputs)}
    return [simple.inputs[place[node.index]] for node in inputs]


def named(node: Node) -> str:
    """Return an operation's name with the user's line."""
    name = node.op.name if node.op else "constant"
    return f"{name} ({node.where})" if node.where else name


# --- rebuilding ---------------------------------------------------------------------------------

Rule = Callable[[Node, tuple[Any, ...]], "Node | None"]


def _rebuilt(graph: Graph, nodes: list[Node], rule: Rule, made: Graph) -> Graph:
    """Return some nodes of a graph as a new one.

    Parameters
    ----------
    graph : Graph
        The old one.
    nodes : list of Node
        Of the old one; those that its outputs depend on are among them.
    rule : callable
        ``rule(node, operands)`` returns a node of the new graph in place of an operation on
        operands in the new graph, or None for the operation itself.
    made : Graph
        The new one, still empty.
    """
    new: dict[int, Node] = {}
    for node in graph.inputs:  # all of them, and first: their number is the function's
        new[node.index] = made.add_input(node.shape, node.dtype)
    for node in nodes:
        if node.op is None:
            if node.value is not None:
                new[node.index] = made.add_constant(node.value, node.shape, node.dtype)
            continue
        operands = tuple(new[x.index] if isinstance(x, Node) else x for x in node.operands)
        found = rule(node, operands)
        if found is None:
            spec = node.outputs if node.outputs is not None else Spec(node.shape, node.dtype)
            found = made.add_call(node.op, operands, node.params, spec, node.where)
            if node.gradient_of is not None and found.gradient_of is None:
                # The operation's own node if it is there still; else as it was, for its name.
                found.gradient_of = new.get(node.gradient_of.index, node.gradient_of)
        new[node.index] = found
    made.outputs = [new[node.index] for node in graph.outputs]
    return made


def _keep(node: Node, operands: tuple[Any, ...]) -> None:
    """Change nothing."""


# --- the passes ---------------------------------------------------------------------------------


def drop_dead(graph: Graph, kernels: Kernels, notes: Notes) -> Graph:
    """Leave out what no output depends on; inputs stay."""
    needed = graph.needed_for(graph.outputs)
    alive = {node.index for node in (*needed, *graph.inputs)}
    if len(alive) == len(graph.nodes):
        return graph
    notes.dropped += [
        named(node)
        for node in graph.nodes
        if node.index not in alive and node.op is not None and node.op.name in VOCABULARY
    ]
    return _rebuilt(graph, needed, _keep, Graph(graph.name))


# A constant of this size stays in a cache of the first level, where reading it costs less than any
# call; larger ones are folded only if they replace as much.
_SMALL = 2**14


def fold_constants(graph: Graph, kernels: Kernels, notes: Notes) -> Graph:
    """Compute once what depends on no input."""
    calls = [node for node in graph.nodes if node.op is not None]
    if not any(_is_constant(node) for node in calls):
        return graph
    made = Graph(graph.name)

    def rule(node: Node, operands: tuple[Any, ...]) -> Node | None:
        op, params = node.op, node.params
        if op is None or VOCABULARY.get(op.name) is not op or node.outputs is not None:
            return None
        is_filled = op.name in _FILLED
        if is_filled:  # of the operand nothing but shape and dtype is read
            value = _FILLED[op.name]
            op, operands = FULL, ()
            params = {"shape": node.shape, "fill_value": value, "dtype": node.dtype}
        elif not _depends_on_nothing(operands):
            return None
        nodes = [x for x in operands if isinstance(x, Node)]
        if _bytes_of(node) > max(_SMALL, sum(map(_bytes_of, nodes))):
            if not is_filled:
                return None
            spec = Spec(node.shape, node.dtype)
            return made.add_call(op, operands, params, spec, node.where)
        arrays = [x.value if isinstance(x, Node) else x for x in operands]
        with np.errstate(all="ignore"):
            result = (kernels.table.get(op) or kernels.resolve(op))(*arrays, **params)
        if result.__class__ is not kernels.array_type:
            result = kernels.backend.asarray(result)
        # What makes a NaN does so at each run, where its warnings and `debug_nans` are looked for.
        if tuple(result.shape) != node.shape or not _is_finite(node, result, kernels):
            return None
        notes.folded.append(f"{named(node)}: {_bytes_of(node)} bytes")
        return made.add_constant(result, node.shape, node.dtype)

    return _rebuilt(graph, graph.nodes, rule, made)


_FILLED = {"zeros_like": 0, "ones_like": 1}


def _is_constant(node: Node) -> bool:
    assert node.op is not None  # noqa: S101  for the type checker: a call has one
    return node.op.name in _FILLED or _depends_on_nothing(node.operands)


def _depends_on_nothing(operands: tuple[Any, ...]) -> bool:
    return all(x.value is not None for x in operands if isinstance(x, Node))


def _bytes_of(node: Node) -> int:
    return prod(node.shape) * int(node.dtype.itemsize)


def _is_finite(node: Node, array: Any, kernels: Kernels) -> bool:
    if not is_differentiable(node.dtype):
        return True
    return bool(kernels.backend.to_host(kernels.all(kernels.isfinite(array))))


def reduce_algebra(graph: Graph, kernels: Kernels, notes: Notes) -> Graph:
    """Undo what changes no bit: x * 1, -(-x), a reshape of a reshape, ..."""
    calls = [node for node in graph.nodes if node.op is not None]
    if not any(_replacement(node, node.operands, kernels, None) for node in calls):
        return graph
    made = Graph(graph.name)
    returned = {node.index for node in graph.outputs}

    def rule(node: Node, operands: tuple[Any, ...]) -> Node | None:
        found = _replacement(node, operands, kernels, made)
        if found is None:
            return None
        if found.op is None and node.index in returned:
            return None  # a result of its own, not the memory of an argument
        notes.reduced.append(f"{named(node)} is {typed(found)}")
        return found

    return _rebuilt(graph, graph.nodes, rule, made)


PASSES: tuple[Pass, ...] = (drop_dead, fold_constants, reduce_algebra, drop_dead)


# --- algebra ------------------------------------------------------------------------------------


def _replacement(
    node: Node, operands: tuple[Any, ...], kernels: Kernels, made: Graph | None
) -> Node | None:
    """Return a node with the bits of an operation on operands, or None.

    Without a graph in which to make one it is any node, which says that there is one.
    """
    assert node.op is not None  # noqa: S101  for the type checker: a call has one
    if node.op.name not in _REDUCIBLE:
        return None
    x = operands[0] if operands else None
    if not isinstance(x, Node):
        if len(operands) == 2 and node.op.name in ("add", "multiply"):  # 1 * x
            return _neutral(node, operands[1], x, kernels)
        return None
    name = node.op.name
    if name in _SAME_TWICE and x.op is node.op and x.params == node.params:
        return _as_is(node, x.operands[0])
    if name in _SAME_IF_FITTING:
        return _as_is(node, x) or _joined(node, x, made)
    if name == "positive" or (name in ("conj", "real") and not is_complex(x.dtype)):
        return _as_is(node, x)
    if name == "where" and operands[1] is operands[2]:
        return _as_is(node, operands[1])
    if len(operands) == 2:
        found = _neutral(node, x, operands[1], kernels)
        if found is None and name in ("add", "multiply"):
            found = _neutral(node, operands[1], x, kernels)
        return found
    return None


_SAME_TWICE = frozenset(("negative", "conj", "matrix_transpose", "flip", "logical_not"))
_SAME_IF_FITTING = frozenset(("reshape", "broadcast_to", "astype", "permute_dims"))
_WITH_NEUTRAL = frozenset(("add", "subtract", "multiply", "divide", "pow"))
_REDUCIBLE = _SAME_TWICE | _SAME_IF_FITTING | _WITH_NEUTRAL | {"positive", "real", "where"}


def _as_is(node: Node, x: Any) -> Node | None:
    """Return an operand if it has the result's shape and dtype."""
    if not isinstance(x, Node) or (x.shape, x.dtype) != (node.shape, node.dtype):
        return None
    if node.op is not None and node.op.name == "permute_dims":
        return x if tuple(node.params["axes"]) == tuple(range(len(x.shape))) else None
    return x


def _joined(node: Node, x: Node, made: Graph | None) -> Node | None:
    """Return two changes of shape as one; what an inner one has done the outer one does again."""
    if x.op is not node.op or node.op is None:
        return None
    origin, params = x.operands[0], node.params
    if node.op.name == "astype":
        return None  # the narrower dtype in between rounds
    if node.op.name == "permute_dims":
        first, second = _axes(x), _axes(node)
        params = {"axes": tuple(first[axis] for axis in second)}
        if params["axes"] == tuple(range(len(first))):
            return origin
    elif node.op.name == "reshape":
        params = {**params, "shape": node.shape}
        if _as_is(node, origin):
            return origin
    if made is None:
        return x
    return made.add_call(node.op, (origin,), params, Spec(node.shape, node.dtype), node.where)


def _axes(node: Node) -> tuple[int, ...]:
    rank = len(node.shape)
    return tuple(axis % rank for axis in node.params["axes"])


def _neutral(node: Node, x: Any, other: Any, kernels: Kernels) -> Node | None:
    """Return x where the other operand of a sum or product changes no bit of it."""
    assert node.op is not None  # noqa: S101  for the type checker: a call has one
    kept = _as_is(node, x)
    value = None if kept is None else _number(other, kernels)
    if kept is None or value is None:
        return None
    name = node.op.name
    if name == "subtract" and value == 0 and copysign(1, value) > 0:
        return kept
    if name == "add" and value == 0:
        # -0.0 + 0 is 0: only of integers, or with -0.0, is the sum what x was.
        safe = not is_differentiable(x.dtype) or copysign(1, value) < 0
        return kept if safe else None
    # A complex product with 1 + 0i multiplies infinities by 0.
    unit = name in ("multiply", "divide", "pow") and value == 1 and not is_complex(x.dtype)
    return kept if unit else None


def _number(operand: Any, kernels: Kernels) -> float | int | None:
    """Return the value of a real scalar, or of a constant with one element."""
    if isinstance(operand, Node):
        if operand.value is None or prod(operand.shape) != 1 or is_complex(operand.dtype):
            return None
        number = np.asarray(kernels.backend.to_host(operand.value)).item()
        return number if isinstance(number, (int, float)) else None
    return operand if type(operand) in (int, float) else None
