"""Plans with regions in place of operations: each is one call, at a place where it can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distgrad.core.op import Acting, Composed, Kind, Spec
from distgrad.dtypes import bool_
from distgrad.graph.nodes import OUTPUT_OF, Node, nodes_read
from distgrad.graph.regions import Part


def fused_calls(
    nodes: Sequence[Node],
    wanted: Sequence[Node],
    parts: Sequence[Part],
    kernels: Sequence[Callable[..., Any]],
) -> list[Node]:
    """Return the calls of a plan with each region as one call, in an order that can be computed.

    Parameters
    ----------
    nodes, wanted
        As for `distgrad.graph.regions.fusion_of`.
    parts : sequence of Part
        The regions that it has found.
    kernels : sequence of callable
        Their kernels.
    """
    region_of = {
        node.index: i for i, part in enumerate(parts) for node in (*part.members, *part.outputs)
    }
    last: dict[int, int] = {}
    units: list[_Unit] = []
    act: list[Node] = []
    for place, node in enumerate(nodes):
        if node.index in region_of:
            last[region_of[node.index]] = place
            continue
        read = nodes_read(node)
        if isinstance(node.op, Acting):  # one after the other, as the program says
            read, act = [*read, *act], [node]
        units.append(_Unit(place, [node], read))
    for i, (part, kernel) in enumerate(zip(parts, kernels, strict=True)):
        units.append(_Unit(last[i], _call(part, kernel, -1 - i), list(part.inputs)))
    return _ordered(units, wanted)


def _call(part: Part, kernel: Callable[..., Any], index: int) -> list[Node]:
    """Return a region as a call, of an index that no graph uses, and its results one by one."""
    inputs, outputs = part.inputs, part.outputs
    specs = tuple(Spec(node.shape, node.dtype) for node in outputs)
    single = len(outputs) == 1
    op = Composed(
        "fused",
        Kind.OPAQUE,
        lambda *_: specs[0] if single else specs,
        compose=lambda xp, *arrays: kernel(*arrays),
        outputs=len(outputs),
    )
    first = outputs[0]
    if single:
        return [Node(first.index, first.shape, first.dtype, op, inputs, where=first.where)]
    whole = Node(index, (), bool_, op, inputs, where=first.where, outputs=specs)
    return [
        whole,
        *(
            Node(node.index, node.shape, node.dtype, OUTPUT_OF, (whole,), {"position": place})
            for place, node in enumerate(outputs)
        ),
    ]


class _Unit(NamedTuple):
    """What is computed at once: where its last call stood, its calls now, and what they read."""

    place: int
    calls: list[Node]
    read: list[Node]


def _ordered(units: Sequence[_Unit], wanted: Sequence[Node]) -> list[Node]:
    """Return the calls of units that are needed, near their places, each behind what it reads."""
    maker = {node.index: number for number, unit in enumerate(units) for node in unit.calls}

    def before(number: int) -> list[int]:
        return [maker[x.index] for x in units[number].read if x.index in maker]

    needed: set[int] = set()
    waiting = [maker[node.index] for node in wanted if node.index in maker]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += before(number)
    made: set[int] = set()
    calls: list[Node] = []
    for first in sorted(needed, key=lambda number: units[number].place):
        stack = [first]
        while stack:
            missing = [each for each in before(stack[-1]) if each not in made]
            if missing:
                stack += missing
                continue
            number = stack.pop()
            if number not in made:
                made.add(number)
                calls += units[number].calls
    return calls
