"""Explain a traced function: what each trace holds, what simplifying did, what runs and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from distgrad.graph.nodes import Node
from distgrad.graph.passes import named

_SHOWN = 6  # lines of one sort that a text shows; the attributes hold all
_NAMES = 8  # of operations that a line shows


@dataclass(frozen=True)
class TraceExplanation:
    """What was traced for one signature; its text is for readers.

    Attributes
    ----------
    backend : str
        Where it runs.
    inputs, variables, captured : tuple of str
        Dtype and shape of each argument, of each variable that is read, and of each tensor from
        outside that a tape follows.
    assigned : int
        How many variables are assigned after a run.
    constants, constant_bytes : int
        How many arrays are held for as long as the trace is, and their memory.
    operations : int
        Calls of kernels in a run.
    places, peak_bytes : int
        How many values a run holds at most at one time, and the memory of results among them.
    merged, dropped, folded, reduced : tuple of str
        What simplifying did, with the user's lines: operations that had been computed already, that
        nobody reads, that depend on constants alone, that change nothing.
    fused : tuple of str
        What is computed in one pass over memory: its operations, with the user's lines.
    alone : tuple of str
        The elementwise operations on large arrays that are not, with the user's lines and why.
    backward : str
        What the backward pass is; empty where none was asked for.
    way : str
        How the backend runs it; empty where it calls operation by operation as every backend can.
    changed : str
        What was different from the trace before.
    """

    backend: str
    inputs: tuple[str, ...]
    variables: tuple[str, ...]
    captured: tuple[str, ...]
    assigned: int
    constants: int
    constant_bytes: int
    operations: int
    places: int
    peak_bytes: int
    merged: tuple[str, ...]
    dropped: tuple[str, ...]
    folded: tuple[str, ...]
    reduced: tuple[str, ...]
    fused: tuple[str, ...]
    alone: tuple[str, ...]
    backward: str
    way: str
    changed: str

    def __str__(self) -> str:
        lines = [f"inputs: {', '.join(self.inputs) or 'none'}; on {self.backend}"]
        if self.changed:
            lines.insert(0, f"new because: {self.changed}")
        if self.variables:
            lines.append(f"variables: {', '.join(self.variables)}; assigned: {self.assigned}")
        if self.captured:
            lines.append(f"captured tensors that a tape follows: {', '.join(self.captured)}")
        lines.append(f"constants: {self.constants}, {self.constant_bytes} bytes")
        lines.append(
            f"operations: {self.operations}, in {self.places} places, "
            f"at most {self.peak_bytes} bytes of results at a time"
        )
        for what, notes in (
            ("merged, computed already", self.merged),
            ("dropped, read by nobody", self.dropped),
            ("folded, constant", self.folded),
            ("reduced, changes nothing", self.reduced),
            ("fused, in one pass over memory", self.fused),
            ("elementwise and not fused", self.alone),
        ):
            if notes:
                lines.append(f"{what}: {len(notes)}")
                lines += [f"  {note}" for note in notes[:_SHOWN]]
                if len(notes) > _SHOWN:
                    lines.append(f"  ... {len(notes) - _SHOWN} more")
        if self.way:
            lines.append(f"runs {self.way}")
        lines.append(f"backward: {self.backward or 'not asked for yet'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class FunctionExplanation:
    """What a traced function holds; its text is for readers.

    Attributes
    ----------
    name : str
        The function's.
    traced : int
        How often it was traced; more than there are traces where variables are no more.
    traces : tuple of TraceExplanation
        One for each signature, in the order in which they came.
    """

    name: str
    traced: int
    traces: tuple[TraceExplanation, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: traced {self.traced} time{'' if self.traced == 1 else 's'}"]
        if not any(each.way or each.fused for each in self.traces):
            lines.append(
                "not fused: each operation is a call of the backend's own kernel, one by one"
            )
        for number, each in enumerate(self.traces, 1):
            lines.append(f"trace {number}")
            lines += [f"  {line}" for line in str(each).splitlines()]
        return "\n".join(lines)


def explain_trace(compiled: Any, changed: str) -> TraceExplanation:
    """Return what there is to say of one trace.

    Parameters
    ----------
    compiled : Compiled
        The trace.
    changed : str
        What was different from the one before.
    """
    graph, plan, notes = compiled.graph, compiled.plan, compiled.notes
    variables = compiled.variables
    count = len(compiled.inputs) - len(variables) - len(compiled.captured)
    constants = [n for n in graph.needed_for(graph.outputs) if n.value is not None]
    return TraceExplanation(
        compiled.kernels.backend.name,
        tuple(_spec(node) for node in compiled.inputs[:count]),
        tuple(f"{v.name} {v.dtype}{list(v.shape)}" for v in variables),
        tuple(f"{t.dtype}{list(t.shape)}" for t in compiled.captured),
        compiled.assigns,
        len(constants),
        _bytes(constants),
        len(plan.nodes),
        plan.places,
        plan.peak_bytes(),
        tuple(notes.merged),
        tuple(notes.dropped),
        tuple(notes.folded),
        tuple(notes.reduced),
        *_fusion(plan.fusion),
        _backward(compiled.derivative),
        plan.way,
        changed,
    )


def _fusion(fusion: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is fused and what is not, in words."""
    if fusion is None:
        return (), ()
    fused = []
    for _, members, inputs, outputs in fusion.parts:
        names = [node.op.name for node in dict.fromkeys((*members, *outputs))]
        shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
        line = f"{len(names)} operations ({shown}) on {_spec(members[0])}"
        line += f" read {_arrays(len(inputs))} and write {_arrays(len(outputs))}"
        fused.append(f"{line} ({outputs[-1].where})" if outputs[-1].where else line)
    return tuple(fused), tuple(f"{named(node)}: {reason}" for node, reason in fusion.alone)


def _arrays(count: int) -> str:
    return f"{count} array{'' if count == 1 else 's'}"


def _backward(derivative: Any) -> str:
    if derivative is None:
        return ""
    if derivative.plan is None:
        return "nothing has a gradient"
    count = len(derivative.residuals)
    return (
        f"{len(derivative.plan.nodes)} operations; the forward pass, of "
        f"{len(derivative.forward.nodes)}, keeps {_arrays(count)}, "
        f"{_bytes(derivative.residuals)} bytes"
    )


def _spec(node: Node) -> str:
    return f"{node.dtype}{list(node.shape)}"


def _bytes(nodes: Sequence[Node]) -> int:
    return sum(prod(spec.shape) * int(spec.dtype.itemsize) for n in nodes for spec in n.specs)
