"""Look at a tape: why a gradient is None, what is recorded, and what that keeps in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from distgrad.core.op import Spec
from distgrad.dtypes import as_dtype
from distgrad.tape.explain import Explanation, Recorded, explain, why_unrecorded
from distgrad.tape.listening import ListeningTape
from distgrad.tape.packing import MEMORY, Held
from distgrad.tensor import Operators


@dataclass(frozen=True)
class OperationSummary:
    """What the records of one sort of operation keep.

    Attributes
    ----------
    name : str
        The operation.
    records : int
        How often it was recorded.
    nbytes : int
        The memory of the arrays that its records keep, and that no earlier record keeps.
    largest : int
        The most bytes that one such record keeps.
    packed : int
        The bytes of the arrays that hooks took out of its records; see `Summary`.
    """

    name: str
    records: int
    nbytes: int
    largest: int
    packed: int = 0


@dataclass(frozen=True)
class Summary:
    """How much a tape has recorded, and what it keeps in memory; its text is a table.

    Attributes
    ----------
    records : int
        The number of recorded operations.
    nbytes : int
        The memory, in bytes, of all arrays that records keep, each counted once. A view counts
        with the whole array that it holds. What the code outside also holds, such as the value of
        a variable, is counted too; what a rule of the user's own holds cannot be seen.
    operations : tuple of OperationSummary
        By sort of operation; the most memory first.
    packed : dict of str to int
        The bytes of the arrays that hooks took out of the records, by the place where they are:
        ``"disk"`` (`offload_to_disk`), ``"host"`` (`offload_to_host`), or ``"packed"`` for what
        `saved_values` made of them, whose own size is not known. None of them counts in `nbytes`.
    """

    records: int
    nbytes: int
    operations: tuple[OperationSummary, ...]
    packed: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [f"{self.records} records keep {self.nbytes} bytes"]
        for where, nbytes in self.packed.items():
            place = where if where == "packed" else f"on {where}"
            rows[0] += f", and {nbytes} bytes {place}"
        if self.operations:
            rows.append(f"{'operation':24}{'records':>10}{'bytes':>14}{'largest':>14}")
            rows += [
                f"{each.name:24}{each.records:>10}{each.nbytes:>14}{each.largest:>14}"
                for each in self.operations
            ]
        return "\n".join(rows)


@dataclass(frozen=True)
class GraphNode:
    """One recorded operation, or one watched value, in which case it has no inputs.

    Attributes
    ----------
    outputs : tuple of int
        The identities of what it computed.
    name : str
        The operation, or what is watched.
    inputs : tuple of int
        The identities of its inputs; 0 for a constant.
    nbytes : int
        The memory that its record keeps.
    line : str
        The user's line, where it was noted.
    """

    outputs: tuple[int, ...]
    name: str
    inputs: tuple[int, ...]
    nbytes: int = 0
    line: str = ""


@dataclass(frozen=True)
class TapeGraph:
    """What a tape recorded, as a graph; its text has one line for each operation.

    Attributes
    ----------
    nodes : tuple of GraphNode
        Watched values first, then operations in the order in which they ran.
    """

    nodes: tuple[GraphNode, ...]

    def __str__(self) -> str:
        names = self._names()
        rows = []
        for node in self.nodes:
            left = ", ".join(names[key] for key in node.outputs)
            inputs = ", ".join(names.get(key, "constant") for key in node.inputs)
            call = f"{node.name}({inputs})" if node.inputs else node.name
            kept = f"  keeps {node.nbytes} bytes" if node.nbytes else ""
            rows.append(f"{left} = {call}{kept}" + (f"  # {node.line}" if node.line else ""))
        return "\n".join(rows)

    def dot(self) -> str:
        """Return the graph in Graphviz's language, for ``dot -Tsvg``."""
        made_by = {key: place for place, node in enumerate(self.nodes) for key in node.outputs}
        rows = ["digraph tape {", "  rankdir=TB;"]
        for place, node in enumerate(self.nodes):
            shape = "box" if node.inputs else "ellipse"
            label = _quoted("\n".join(filter(None, (node.name, node.line))))
            rows.append(f"  n{place} [label={label}, shape={shape}];")
            rows += [f"  n{made_by[key]} -> n{place};" for key in node.inputs if key in made_by]
        return "\n".join((*rows, "}"))

    def _names(self) -> dict[int, str]:
        keys = [key for node in self.nodes for key in node.outputs]
        return {key: f"%{number}" for number, key in enumerate(keys, 1)}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class InspectableTape(ListeningTape):
    """A listening tape that says what it knows."""

    def explain(self, target: Any, source: Any) -> Explanation:
        """Return by which operations a gradient comes, or why it is None.

        Ask before `gradient` releases a tape that is not persistent. The lines of the user's code
        are named where the tape was entered within `distgrad.debug.trace_lines`; without it, what
        another thread computed cannot be told from what does not depend on watched values.

        Parameters
        ----------
        target, source : Tensor or Variable
            What would be differentiated with respect to what.

        Returns
        -------
        Explanation
            Its text is for readers; its attributes tell programs the same.

        Raises
        ------
        TapeError
            If the tape has released what it recorded.
        TypeError
            If target or source is no Tensor or Variable.

        Examples
        --------
        >>> import distgrad as dg
        >>> x = dg.Variable(2.0)
        >>> with dg.GradientTape() as tape:
        ...     y = dg.floor(x) * 3.0
        >>> print(tape.explain(y, x))
        no gradient: the way passes floor, which has no derivative
        """
        self._refuse_if_spent("explain")
        for name, value in (("target", target), ("source", source)):
            if not isinstance(value, Operators):
                raise TypeError(
                    f"explain: {name} is a {type(value).__name__}; expected one Tensor or "
                    "Variable: a value that left for NumPy has no derivative"
                )
        return explain(self._recorded(), target, source)

    def summary(self) -> Summary:
        """Return how much is recorded, and what it keeps in memory, by sort of operation.

        A tape that gave its gradient, and is not persistent, keeps nothing any more.

        Examples
        --------
        >>> import distgrad as dg
        >>> x = dg.Variable([1.0, 2.0])
        >>> with dg.GradientTape() as tape:
        ...     y = dg.sum(dg.sin(x))
        >>> print(tape.summary())
        2 records keep 8 bytes
        operation                  records         bytes       largest
        sin                              1             8             8
        sum                              1             0             0
        """
        counted: set[int] = set()
        packed: dict[str, int] = {}
        found: dict[str, list[tuple[int, int]]] = {}
        for record in self.records:
            out = _packed_by(record, counted)
            for where, nbytes in out.items():
                packed[where] = packed.get(where, 0) + nbytes
            sizes = found.setdefault(record[0].name, [])
            sizes.append((_bytes_kept(record, counted), sum(out.values())))
        operations = [
            OperationSummary(
                name,
                len(sizes),
                sum(kept for kept, _ in sizes),
                max(kept for kept, _ in sizes),
                sum(out for _, out in sizes),
            )
            for name, sizes in found.items()
        ]
        operations.sort(key=lambda each: -each.nbytes)
        total = sum(each.nbytes for each in operations)
        return Summary(len(self.records), total, tuple(operations), packed)

    def graph(self) -> TapeGraph:
        """Return what is recorded as a graph: its text for reading, ``dot()`` for Graphviz.

        Examples
        --------
        >>> import distgrad as dg
        >>> x = dg.Variable([1.0, 2.0], name="x")
        >>> with dg.GradientTape() as tape:
        ...     y = dg.sum(x * x)
        >>> print(tape.graph())
        %1 = variable 'x' float32[2]
        %2 = multiply(%1, %1)  keeps 8 bytes
        %3 = sum(%2)
        """
        by_key = self._lines.by_key if self._lines is not None else {}
        nodes = []
        for key in sorted(self.roots):
            variable = self._variables.get(key)
            name = "watched"
            if variable is not None:
                shape = ", ".join(map(str, variable.shape))
                name = f"variable {variable.name!r} {variable.dtype}[{shape}]"
            nodes.append(GraphNode((key,), name, ()))
        for record in self.records:
            op, _, output, keys, *_ = record
            outputs = output if isinstance(output, tuple) else (output,)
            line = by_key.get(outputs[0], "")
            nodes.append(GraphNode(outputs, op.name, tuple(keys), _bytes_kept(record, set()), line))
        return TapeGraph(tuple(nodes))

    # --- for errors and warnings ----------------------------------------------------------------

    def _recorded(self) -> Recorded:
        return Recorded(
            self.records,
            self.roots,
            self.followed,
            self.cuts,
            self.left,
            self._spans,
            self._lines,
            self._watch_accessed,
        )

    def _reasons(self, targets: list[Any], wanted: list[Any]) -> list[str]:
        """Return for each source why the targets have no gradient, if they have none."""
        recorded = self._recorded()
        reached = {target.key for target in targets}
        for record in reversed(self.records):
            if not reached.isdisjoint(record[2] if isinstance(record[2], tuple) else (record[2],)):
                reached.update(record[1])
        found = []
        for source in wanted:
            each = [] if source.key in reached else targets
            texts = [str(explain(recorded, target, source)) for target in each]
            found.append("; ".join(dict.fromkeys(texts)))
        return found

    def _why_unrecorded(self, targets: list[Any]) -> str:
        """Return why the tape knows none of the targets; an empty text where it knows one."""
        recorded = self._recorded()
        reasons = [why_unrecorded(recorded, target) for target in targets]
        return reasons[0] if reasons and all(reasons) else ""


def _bytes_kept(record: Any, counted: set[int]) -> int:
    """Return the memory of the arrays of a record that were not counted yet, and count them."""
    total = 0
    for array in _arrays_of(record):
        whole = array
        while isinstance(getattr(whole, "base", None), type(array)):
            whole = whole.base
        if id(whole) not in counted:
            counted.add(id(whole))
            total += prod(whole.shape) * as_dtype(whole.dtype).itemsize
    return total


def _packed_by(record: Any, counted: set[int]) -> dict[str, int]:
    """Return by their place the bytes that hooks took out of a record; count each value once."""
    found: dict[str, int] = {}
    for each in _values_of(record):
        if not isinstance(each, Held) or each.stored.where == MEMORY or id(each.stored) in counted:
            continue
        counted.add(id(each.stored))
        where = each.stored.where
        found[where] = found.get(where, 0) + each.stored.nbytes
    return found


def _arrays_of(record: Any) -> Iterator[Any]:
    """Yield the arrays that a record keeps, apart from specs, shapes and numbers."""
    array_type = record[7].array_type
    for each in _values_of(record):
        if isinstance(each, Held) and each.stored.where == MEMORY:
            yield each.stored.packed.array
        elif isinstance(each, array_type) and not isinstance(each, Spec):
            yield each


def _values_of(record: Any) -> Iterator[Any]:
    """Yield whatever a record keeps."""
    op, _, _, _, xs, y, _, _ = record
    yield from xs or ()
    yield from y if isinstance(y, tuple) else (y,)
    yield from getattr(op, "residuals", ())
