"""Make one timeline of what the ranks wrote down, all on rank 0's clock.

The result is in the Trace Event Format [1]_ that Perfetto (https://ui.perfetto.dev) and Chrome's
``chrome://tracing`` show: a process for each rank, a row for each lane.

References
----------
.. [1] Duca and Sinclair, "Trace Event Format", the Chromium project, 2016.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgrad.core.spans import COMMUNICATION, COMPUTE, USER, WAITING
from distgrad.distributed.tracing.clocks import Reading, offset_at
from distgrad.distributed.tracing.recording import VERSION
from distgrad.errors import DistgradError
from distgrad.whole_files import replacing

_ROWS = (COMPUTE, WAITING, COMMUNICATION, USER)  # from top to bottom; others follow


class TimelineError(DistgradError):
    """A timeline cannot be merged or read: files are missing, or are none of a timeline."""


@dataclass
class Part:
    """What one rank wrote down."""

    rank: int
    header: dict[str, Any]
    readings: list[Reading] = field(default_factory=list)
    spans: list[list[Any]] = field(default_factory=list)
    ended: bool = False
    left_out: int = 0


def read_part(path: Path) -> Part:
    """Return what a rank wrote down, also if it died over it.

    Raises
    ------
    TimelineError
        If the file is none of a timeline.
    """
    part: Part | None = None
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except ValueError:
                continue  # the last line of a rank that was killed while it wrote
            if part is None:
                if not isinstance(value, dict) or value.get("distgrad_timeline") != VERSION:
                    break
                part = Part(int(value["rank"]), value)
            elif isinstance(value, list):
                part.spans.append(value)
            elif "clock" in value:
                part.readings.append(Reading(*value["clock"]))
            elif "end" in value:
                part.ended, part.left_out = True, int(value["left_out"])
    if part is None:
        raise TimelineError(
            f"{path}: expected a rank's part of a timeline, a file FILE.rank00000.partial"
        )
    return part


def partial_files(path: Path) -> list[Path]:
    """Return the ranks' parts of a timeline, in the order of the ranks."""
    return sorted(path.parent.glob(f"{_escaped(path.name)}.rank*.partial"))


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def merge(path: Path, *, remove: bool = True) -> dict[str, Any]:
    """Write the timeline of all ranks whose parts lie beside it, and return its summary.

    Parameters
    ----------
    path : Path
        Of the timeline.
    remove : bool
        Whether to remove the parts, if all ranks' are there.

    Returns
    -------
    dict
        The timeline's ``otherData``: ranks, missing ranks, clocks.

    Raises
    ------
    TimelineError
        If there are no parts.
    """
    files = partial_files(path)
    if not files:
        raise TimelineError(
            f"{path}: there are no parts of a timeline beside it (expected {path.name}"
            ".rank00000.partial, ...); was the job started with this path, and does this machine "
            "see the ranks' files?"
        )
    parts = [read_part(file) for file in files]
    trace = trace_of(parts)
    with replacing(path) as stream:
        json.dump(trace, stream, separators=(",", ":"))
    summary: dict[str, Any] = trace["otherData"]
    if remove and not summary["missing"]:
        for file in files:
            file.unlink(missing_ok=True)
    return summary


def trace_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the parts as one trace; times are microseconds of rank 0's clock since the first."""
    starts = {}
    for part in parts:
        starts[part.rank] = [
            begun - offset_at(part.readings, begun) for _, _, begun, _, _ in part.spans
        ]
    origin = min((min(each) for each in starts.values() if each), default=0.0)
    events: list[dict[str, Any]] = []
    for part in parts:
        lanes = _lanes(part)
        host = part.header.get("host", "")
        label = f"rank {part.rank} ({host})"
        events.append(_meta("process_name", part.rank, 0, {"name": label}))
        events.append(_meta("process_sort_index", part.rank, 0, {"sort_index": part.rank}))
        for lane, row in lanes.items():
            events.append(_meta("thread_name", part.rank, row, {"name": lane}))
            events.append(_meta("thread_sort_index", part.rank, row, {"sort_index": row}))
        for (name, lane, _, lasted, facts), start in zip(
            part.spans, starts[part.rank], strict=True
        ):
            events.append(
                {
                    "name": name,
                    "cat": lane,
                    "ph": "X",
                    "ts": (start - origin) / 1000,
                    "dur": lasted / 1000,
                    "pid": part.rank,
                    "tid": lanes[lane],
                    "args": facts,
                }
            )
    ranks = max((int(part.header.get("ranks", 1)) for part in parts), default=0)
    found = {part.rank for part in parts}
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "ranks": ranks,
            "missing": sorted(set(range(ranks)) - found),
            "unfinished": sorted(part.rank for part in parts if not part.ended),
            "left_out": {str(p.rank): p.left_out for p in parts if p.left_out},
            "clock_offsets_us": {
                str(part.rank): [reading.offset / 1000 for reading in part.readings]
                for part in parts
            },
            "clock_errors_us": {
                str(part.rank): [reading.error / 1000 for reading in part.readings]
                for part in parts
            },
        },
    }


def _lanes(part: Part) -> dict[str, int]:
    found = {span[1] for span in part.spans}
    ordered = [lane for lane in _ROWS if lane in found] + sorted(found - set(_ROWS))
    return {lane: row + 1 for row, lane in enumerate(ordered)}


def _meta(name: str, rank: int, row: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "ts": 0, "pid": rank, "tid": row, "args": args}


def totals(path: Path) -> dict[tuple[str, str], dict[int, tuple[int, float]]]:
    """Return how often each rank did what in a timeline, and for how many seconds in all.

    Returns
    -------
    dict
        By (lane, name), then by rank: the number and the seconds.

    Raises
    ------
    TimelineError
        If the file is no timeline.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        found: dict[tuple[str, str], dict[int, tuple[int, float]]] = defaultdict(dict)
        for event in events:
            if event.get("ph") == "X":
                ranks = found[event.get("cat", ""), event["name"]]
                number, seconds = ranks.get(event["pid"], (0, 0.0))
                ranks[event["pid"]] = number + 1, seconds + event["dur"] / 1e6
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TimelineError(
            f"{path} is no timeline: expected JSON with traceEvents, as dist.timeline writes them"
        ) from error
    return dict(found)
