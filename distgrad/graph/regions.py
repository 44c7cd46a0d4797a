"""Regions of a plan: which elementwise operations are computed together, in one pass over memory.

An operation on large arrays takes the time in which its operands are read and its result is
written. Operations of one shape that follow from each other are one region: a backend that
compiles scalar code (see `Fuses`) reads what the region needs once, and writes what others need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from distgrad.backend.scalar_code import Formula, NoScalarCode, ScalarCode
from distgrad.core.op import Acting, Kind
from distgrad.dtypes import is_real_floating
from distgrad.graph.compiling import MOST_LOOPS, Fuses, Region, loops_of
from distgrad.graph.nodes import Node, exact, nodes_read
from distgrad.ops import VOCABULARY
from distgrad.ops.creation import FULL

_MOST = 400  # operations of a region; what a loop computes in between stays in the nearest cache
_TOTALS = frozenset(("sum", "mean"))

Shape = tuple[int, ...]


class Part(NamedTuple):
    """Calls of a plan that are one region.

    Attributes
    ----------
    region : Region
        What a backend makes a kernel of.
    members, inputs, outputs : tuple of Node
        The elementwise calls, what they read, and the calls of which others read the results: some
        of the members, and sums over all elements of members.
    """

    region: Region
    members: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


class Fusion(NamedTuple):
    """What of a plan is fused.

    Attributes
    ----------
    parts : tuple of Part
        The regions.
    alone : tuple of (Node, str)
        The elementwise operations on large arrays that are in none, and why.
    """

    parts: tuple[Part, ...]
    alone: tuple[tuple[Node, str], ...]


def fusion_of(nodes: Sequence[Node], wanted: Sequence[Node], fusing: Fuses) -> Fusion:
    """Return the regions of a plan.

    Parameters
    ----------
    nodes : sequence of Node
        The plan's calls, in an order in which they can be computed.
    wanted : sequence of Node
        What it returns.
    fusing : Fuses
        Who will make kernels of them.
    """
    origins: dict[int, Node] = {}  # what is repeated, by the index of what it is repeated to
    for node in nodes:
        if node.op is not None and node.op.name == "broadcast_to":
            (x,) = nodes_read(node)
            origins[node.index] = origins.get(x.index, x)
    grouping = _Grouping(fusing, origins)
    for node in nodes:
        grouping.place(node)
    readers = _readers(nodes, wanted)
    totals = _totals(nodes) if fusing.reduces else {}
    reasons, parts = grouping.reasons, []
    for group in grouping.groups:
        for members in _connected(group.members, origins):
            part = _part(members, readers, totals, group.dtype, origins)
            if len(part.members) + sum(each is not None for each in part.region.totals) == 1:
                reasons[members[0].index] = "no other operation of its shape is next to it"
            elif part.inputs:  # else it is the same at every call
                parts.append(part)
    alone = tuple((node, reasons[node.index]) for node in nodes if node.index in reasons)
    return Fusion(tuple(parts), alone)


# --- which operations belong together ---------------------------------------------------------


class _Group:
    """Operations of one shape, of which none is needed for another by way of what is outside."""

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.shape = shape
        self.dtype = dtype
        self.members: list[Node] = []
        self.shapes: set[Shape] = set()  # of what is read
        self.needs = 0  # the groups that it depends on, a bit each, with those that they depend on


class _Grouping:
    """Groups of a plan's calls, which are placed one by one in their order.

    Of each shape one group is open. A call joins it unless what the call reads depends on the group
    by way of an operation outside: the group could not be computed as one then.
    """

    def __init__(self, fusing: Fuses, origins: dict[int, Node]) -> None:
        self._fusing = fusing
        self._origins = origins
        self._known: dict[Any, str] = {}
        self._open: dict[Shape, int] = {}
        self._group_of: dict[int, int] = {}
        self._reached: dict[int, int] = {}  # the groups that a call outside depends on, a bit each
        self._reached_by_acts = 0
        self.groups: list[_Group] = []
        self.reasons: dict[int, str] = {}  # why a call on a large array is outside

    def place(self, node: Node) -> None:
        """Put a call into a group, or leave it outside."""
        if self._is_elementwise(node):
            floating = {d for d in (node.dtype, *_dtypes_read(node)) if is_real_floating(d)}
            number = self._open.get(node.shape)
            if not floating and number is not None:  # of truth values alone: in any dtype
                floating = {self.groups[number].dtype}
            reason = self._why_not(node, floating)
            if not reason:
                dtype = floating.pop()
                fits = number is not None and self.groups[number].dtype == dtype
                if fits and self._joins(node, number):
                    return
                self._open[node.shape] = len(self.groups)
                self.groups.append(_Group(node.shape, dtype))
                if self._joins(node, len(self.groups) - 1):
                    return
                reason = "its operands are repeated along too many axes"
            self.reasons[node.index] = reason
        reached = 0
        for x in nodes_read(node):
            reached |= self._bits_of(x)
        if isinstance(node.op, Acting):  # one after the other, as the program says
            reached |= self._reached_by_acts
            self._reached_by_acts = reached
        self._reached[node.index] = reached

    def _joins(self, node: Node, number: int | None) -> bool:
        """Put a call into a group, if it may be there."""
        assert number is not None  # noqa: S101  for the type checker: there is such a group
        group = self.groups[number]
        read = _operands(node, self._origins)
        outside = [x for x in read if self._group_of.get(x.index) != number]
        needs = 0
        for x in outside:
            needs |= self._bits_of(x)
        needs = self._with_theirs(needs)
        shapes = group.shapes | {x.shape for x in outside}
        if needs >> number & 1 or len(group.members) >= _MOST:
            return False
        if len(loops_of(node.shape, shapes)) > MOST_LOOPS:
            return False
        self._group_of[node.index] = number
        group.members.append(node)
        group.shapes = shapes
        if needs & ~group.needs:
            group.needs |= needs
            for each in self.groups:
                if each.needs >> number & 1:
                    each.needs |= needs
        return True

    def _with_theirs(self, bits: int) -> int:
        """Return groups with those that they depend on."""
        found = left = bits
        while left:
            number = left.bit_length() - 1
            theirs = self.groups[number].needs
            found |= theirs
            left &= ~(theirs | 1 << number)
        return found

    def _bits_of(self, node: Node) -> int:
        number = self._group_of.get(node.index)
        return self._reached.get(node.index, 0) if number is None else 1 << number

    def _is_elementwise(self, node: Node) -> bool:
        op = node.op
        return (
            op is not None
            and op.kind is Kind.ELEMENTWISE
            and VOCABULARY.get(op.name) is op
            and prod(node.shape) >= self._fusing.fewest
        )

    def _why_not(self, node: Node, floating: set[Any]) -> str:
        """Return why a call can be in no region; empty where it can."""
        if len(floating) != 1:
            return "it is not of one real floating dtype"
        (dtype,) = floating
        operands = [x.dtype if isinstance(x, Node) else exact(x) for x in node.operands]
        params = [(name, exact(value)) for name, value in node.params.items()]
        key = (node.op, dtype, *operands, *params)
        if key not in self._known:
            self._known[key] = self._found_missing(node, dtype)
        return self._known[key]

    def _found_missing(self, node: Node, dtype: Any) -> str:
        try:
            formula, _ = _formula((node,), (node,), dtype, self._origins)
        except NoScalarCode as error:
            return str(error)
        return "" if self._fusing.takes(formula) else f"there is no code for it in {dtype}"


def _dtypes_read(node: Node) -> list[Any]:
    return [x.dtype for x in nodes_read(node)]


def _operands(node: Node, origins: dict[int, Node]) -> list[Node]:
    """Return what a region reads for a call: what is repeated in an operand, not the operand."""
    return [origins.get(x.index, x) for x in nodes_read(node)]


# --- what a region computes -----------------------------------------------------------------------


def _readers(nodes: Sequence[Node], wanted: Sequence[Node]) -> dict[int, set[int]]:
    """Return for each value the calls that read it; -1 stands for who wants it."""
    readers: dict[int, set[int]] = {}
    for node in nodes:
        for x in nodes_read(node):
            readers.setdefault(x.index, set()).add(node.index)
    for node in wanted:
        readers.setdefault(node.index, set()).add(-1)
    return readers


def _connected(members: Sequence[Node], origins: dict[int, Node]) -> Iterator[tuple[Node, ...]]:
    """Yield parts of a group that share no value: what is not tied together gains nothing by it."""
    part_of: dict[int, int] = {}  # by a value
    parts: dict[int, list[Node]] = {}
    for node in members:
        touched = [x.index for x in _operands(node, origins) if prod(x.shape) > 1]
        touched.append(node.index)
        joined = sorted({part_of[index] for index in touched if index in part_of})
        part = [each for number in joined for each in parts.pop(number)] + [node]
        parts[node.index] = part
        for index in touched:
            part_of[index] = node.index
        for index, number in part_of.items():
            if number in joined:
                part_of[index] = node.index
    for part in parts.values():
        yield tuple(sorted(part, key=lambda node: node.index))


def _totals(nodes: Sequence[Node]) -> dict[int, list[tuple[str, Node]]]:
    """Return for each value the calls that sum it up, or take its mean, over all its elements."""
    totals: dict[int, list[tuple[str, Node]]] = {}
    for node in nodes:
        op = node.op
        if op is not None and op.name in _TOTALS and VOCABULARY[op.name] is op:
            (x,) = nodes_read(node)
            if prod(node.shape) == 1 and node.dtype == x.dtype:
                totals.setdefault(x.index, []).append((op.name, node))
    return totals


def _part(
    members: tuple[Node, ...],
    readers: dict[int, set[int]],
    totals: dict[int, list[tuple[str, Node]]],
    dtype: Any,
    origins: dict[int, Node],
) -> Part:
    own = {node.index for node in members}
    summed = [(x, *each) for x in members for each in totals.get(x.index, ()) if x.dtype == dtype]
    own.update(node.index for _, _, node in summed)
    whole = [node for node in members if readers.get(node.index, set()) - own]
    results = [*whole, *(x for x, _, _ in summed)]
    formula, inputs = _formula(members, results, dtype, origins)
    region = Region(
        formula,
        members[0].shape,
        tuple(node.shape for node in inputs),
        (*(None for _ in whole), *((name, node.shape) for _, name, node in summed)),
    )
    outputs = (*whole, *(node for _, _, node in summed))
    return Part(region, members, inputs, outputs)


def _formula(
    members: Sequence[Node], outputs: Sequence[Node], dtype: Any, origins: dict[int, Node]
) -> tuple[Formula, tuple[Node, ...]]:
    """Return what operations compute as one formula, and what it reads."""
    writer = ScalarCode(VOCABULARY, dtype)
    values: dict[int, Any] = {}
    inputs: dict[int, Node] = {}

    def value_of(x: Any) -> Any:
        if not isinstance(x, Node):
            return x
        x = origins.get(x.index, x)
        if x.index not in values:
            number = _number(x)
            if number is not None:
                return number
            inputs[x.index] = x
            values[x.index] = writer.argument(f"x{len(inputs) - 1}", x.dtype)
        return values[x.index]

    for node in members:
        assert node.op is not None  # noqa: S101  for the type checker: a call has one
        operands = [value_of(x) for x in node.operands]
        values[node.index] = writer.compute(node.op.name, operands, node.params)
    names = {f"y{place}": node for place, node in enumerate(outputs)}
    body = writer.text({name: values[node.index] for name, node in names.items()})
    read = tuple((f"x{place}", node.dtype) for place, node in enumerate(inputs.values()))
    written = tuple((name, node.dtype) for name, node in names.items())
    return Formula("fused", read, written, body), tuple(inputs.values())


def _number(node: Node) -> float | None:
    """Return the number that an array is full of, if it is one whose elements are computed with."""
    if node.op is FULL and is_real_floating(node.dtype):
        value = node.params["fill_value"]
        return float(value) if isinstance(value, (bool, int, float)) else None
    return None
