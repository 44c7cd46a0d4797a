"""Explain a gradient: by which operations it comes, or why there is none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distgrad.debug import Lines
from distgrad.dtypes import is_differentiable
from distgrad.variable import Variable

_SHOWN = 24  # operations of a chain that a text shows: about a screen


@dataclass(frozen=True)
class Explanation:
    """Why a target has a gradient with respect to a source, or none; its text is for readers.

    Attributes
    ----------
    connected : bool
        Whether there is a gradient.
    reasons : tuple of str
        Why there is none, the most likely reason first; empty where there is one.
    operations : tuple of str
        The names of the operations on one shortest way from the source to the target; also on one
        that is cut. Empty where there is no way.
    lines : tuple of str
        The user's line of each operation, where `distgrad.debug.trace_lines` was in force.
    """

    connected: bool
    reasons: tuple[str, ...]
    operations: tuple[str, ...]
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.connected:
            return "no gradient: " + "; ".join(self.reasons)
        if not self.operations:
            return "the target is the source"
        many = len(self.operations)
        head = f"connected by {many} operation{'s' if many > 1 else ''}, from source to target"
        steps = [
            f"  {name}" + (f"    {line}" if line else "")
            for name, line in zip(self.operations, self.lines or ("",) * many, strict=True)
        ]
        if many > _SHOWN:
            half = _SHOWN // 2
            steps = [*steps[:half], f"  ... {many - 2 * half} more ...", *steps[-half:]]
        return "\n".join((head, *steps))


class Recorded(NamedTuple):
    """What an explanation reads of a tape.

    Attributes
    ----------
    records : list of Record
        What was recorded.
    roots, followed : collection of int
        See `distgrad.tape.recorder.Recorder`.
    cuts : dict
        As there.
    left : collection of int
        As there.
    spans : sequence of (int, int)
        When the tape listened, as pairs of identities, which grow in time; 0 stands for "still".
    lines : Lines or None
        The lines of values, if they were noted.
    watches_accessed : bool
        Whether trainable variables are watched by themselves.
    """

    records: list[Any]
    roots: Collection[int]
    followed: Collection[int]
    cuts: dict[int, tuple[str, Sequence[int]]]
    left: Collection[int]
    spans: Sequence[tuple[int, int]]
    lines: Lines | None
    watches_accessed: bool


def explain(tape: Recorded, target: Any, source: Any) -> Explanation:
    """Return why a target has a gradient with respect to a source, or none.

    Parameters
    ----------
    tape : Recorded
        What was recorded.
    target, source : Tensor or Variable
        What would be differentiated with respect to what.
    """
    integer = _no_derivative("source", source)
    producers = _producers(tape)
    way = _way_back(producers, target.key, source.key)
    if way is None:
        reasons = [integer or _unwatched(tape, source)]
        if not integer:
            # That numbers left may have been for a log: it is said after what is certain.
            reasons += [why_unrecorded(tape, target), _unused(tape, source), *_left(tape, source)]
        if not any(reasons):
            reasons.append("the target was computed without the source")
        return Explanation(False, tuple(reason for reason in reasons if reason), ())
    names = tuple(producers[key].name for key in way)
    lines: tuple[str, ...] = ()
    if tape.lines is not None:
        lines = tuple(tape.lines.by_key.get(key, "") for key in way)
    # A way is cut where an operation has no derivative; what comes after it was not recorded.
    cut = next((place for place, key in enumerate(way) if producers[key].cut), None)
    reason = integer
    if cut is not None:
        reason = reason or _cut_by(names[cut], lines[cut] if lines else "")
    elif way and source.key not in tape.followed:
        reason = reason or _unwatched(tape, source)
    if way and not reason and target.key not in tape.followed:
        reason = why_unrecorded(tape, target)
    return Explanation(not reason, (reason,) if reason else (), names, lines)


class _Producer(NamedTuple):
    """How a value was computed: the operation, its inputs, and whether derivatives end there."""

    name: str
    inputs: Sequence[int]
    cut: bool


def _producers(tape: Recorded) -> dict[int, _Producer]:
    producers = {key: _Producer(name, inputs, True) for key, (name, inputs) in tape.cuts.items()}
    for op, follows, output, keys, *_ in tape.records:
        # Of what is followed the connected inputs come first: a shortest way prefers them.
        producer = _Producer(op.name, (*filter(None, follows), *keys), False)
        for key in output if isinstance(output, tuple) else (output,):
            producers[key] = producer
    return producers


def _way_back(producers: dict[int, _Producer], target: int, source: int) -> list[int] | None:
    """Return the values on a way from the source, without it, to the target; None if there is none.

    A way without a cut is found before those with one.
    """
    for through_cuts in (False, True):
        after: dict[int, int] = {target: 0}
        layer = [target]
        while layer and source not in after:
            found = []
            for key in layer:
                producer = producers.get(key)
                if producer is None or (producer.cut and not through_cuts):
                    continue
                for each in producer.inputs:
                    if each and each not in after:
                        after[each] = key
                        found.append(each)
            layer = found
        if source in after:
            way, key = [], after[source]
            while key:
                way.append(key)
                key = after[key]
            return way
    return None


def why_unrecorded(tape: Recorded, target: Any) -> str:
    """Return why a tape knows nothing of a target; an empty text where it does.

    Values whose way ends at a cut are known: see `Recorder.cuts`.
    """
    key = target.key
    if key in tape.followed or key in tape.cuts:
        return ""
    if isinstance(target, Variable):
        return f"the target, variable {target.name!r}, was not watched"
    if not is_differentiable(target.dtype):
        return f"the target has dtype {target.dtype}, which has no derivative"
    line = tape.lines.by_key.get(key, "") if tape.lines is not None else ""
    at = f", at {line}" if line else ""
    if tape.spans and key < tape.spans[0][0]:
        return f"the target was computed before the tape's block was entered{at}"
    if tape.spans and tape.spans[-1][1] and key > tape.spans[-1][1]:
        return f"the target was computed after the tape's block was left{at}"
    if not any(start < key and (key < end or not end) for start, end in tape.spans):
        return f"the target was computed while the tape did not listen (stop_recording){at}"
    if tape.lines is None:
        return (
            "the target was computed from nothing that the tape watches, or in another thread "
            "(dg.debug.trace_lines() tells them apart)"
        )
    if not line:
        return "the target was computed in another thread: a tape hears its own thread alone"
    return f"the target was computed from nothing that the tape watches{at}"


def _no_derivative(name: str, value: Any) -> str:
    if is_differentiable(value.dtype):
        return ""
    return f"the {name} has dtype {value.dtype}, which has no derivative; use a floating dtype"


def _unwatched(tape: Recorded, source: Any) -> str:
    """Return why a source is not followed; an empty text where it is."""
    if source.key in tape.followed:
        return ""
    if source.key in tape.cuts:
        return f"the source itself is cut off: {_cut_by(tape.cuts[source.key][0], '')}"
    if isinstance(source, Variable):
        name = f"the source, variable {source.name!r},"
        if not source.trainable:
            return f"{name} is not trainable: tape.watch it, or make it with trainable=True"
        if not tape.watches_accessed:
            return f"{name} was never watched: the tape has watch_accessed_variables=False"
        return f"{name} was not read while the tape listened{_read_elsewhere(tape, source)}"
    return "the source was never watched: call tape.watch(x) before computing with it"


def _read_elsewhere(tape: Recorded, source: Variable) -> str:
    """Return when and where a variable was read instead, as far as that was noted."""
    remedy = "a value taken outside is a constant: read the variable inside the block"
    if tape.lines is None:
        return f" ({remedy}; dg.debug.trace_lines() names the line that read it)"
    if source.key not in tape.lines.reads:
        return ""
    when, line = tape.lines.reads[source.key]
    if tape.spans and when < tape.spans[0][0]:
        return f", but before its block, at {line}: {remedy}"
    if tape.spans and tape.spans[-1][1] and when > tape.spans[-1][1]:
        return f", but after its block, at {line}: {remedy}"
    return f", but while the tape did not listen, at {line}: {remedy}"


def _cut_by(name: str, line: str) -> str:
    at = f", at {line}" if line else ""
    if name == "stop_gradient":
        return f"the way passes stop_gradient{at}"
    if name == "assign":
        return f"the way passes an assignment to a variable{at}, which passes no derivative on"
    if name == "astype":
        return f"the way passes astype to a dtype without derivative{at}"
    return f"the way passes {name}{at}, which has no derivative"


def _left(tape: Recorded, source: Any) -> list[str]:
    """Return that values which depend on a source left for NumPy, if some did."""
    if not tape.left:
        return []
    reached = {source.key}
    for record in tape.records:
        if not reached.isdisjoint(record[3]):
            output = record[2]
            reached.update(output if isinstance(output, tuple) else (output,))
    left = reached.intersection(tape.left)
    if not left:
        return []
    places = sorted({tape.lines.by_key.get(key, "") for key in left} - {""}) if tape.lines else []
    where = f" (computed at {', '.join(places)})" if places else ""
    return [
        f"values computed from the source left for NumPy or Python{where} by numpy(), item() or "
        "float(): whatever was computed from those has no derivative; stay with dg's functions"
    ]


def _unused(tape: Recorded, source: Any) -> str:
    """Return that nothing was computed from a watched source, if so."""
    if source.key not in tape.roots or any(source.key in record[3] for record in tape.records):
        return ""
    if any(source.key in inputs for _, inputs in tape.cuts.values()):
        return ""
    return (
        "no recorded operation uses the source: it was watched too late, or its values were read "
        "before the block"
    )
