"""Find out what a step computes and sends: from a recorded timeline, or from a job's metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median, pstdev
from typing import Any

from distgrad.core.spans import COMMUNICATION, COMPUTE
from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.planning.link import PlanningError
from distgrad.distributed.planning.prediction import Message, Step

_SKIPPED = 2  # steps at the start, which set things up


def step_of_timeline(path: Path) -> Step:
    """Return what rank 0 did in a step of a timeline, and how the ranks' times deviate.

    Raises
    ------
    PlanningError
        If the file is no timeline, or has no steps with messages.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        spans: dict[int, list[dict[str, Any]]] = {}
        for event in events:
            if event.get("ph") == "X":
                spans.setdefault(event["pid"], []).append(event)
        of_ranks = {rank: _steps(own) for rank, own in spans.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanningError(
            f"{path} is no timeline; expected JSON with traceEvents, as dist.timeline writes them"
        ) from error
    if 0 not in of_ranks:
        raise PlanningError(
            f"{path} has nothing of rank 0; expected the timeline of all ranks, as distgrad "
            "timeline merge writes it"
        )
    steps = of_ranks[0]
    steps = steps[_SKIPPED:] if len(steps) > 2 * _SKIPPED else steps
    steps = [each for each in steps if each["messages"]]
    if not steps:
        raise PlanningError(
            f"{path} has no step with messages; record a job of two ranks or more: "
            "DISTGRAD_TIMELINE=FILE distgrad run -n 2 ..."
        )
    number = max(set(counts := [len(each["messages"]) for each in steps]), key=counts.count)
    alike = [each for each in steps if len(each["messages"]) == number]
    messages = tuple(
        Message(
            median(each["messages"][place][0] for each in alike),
            median(each["messages"][place][1] for each in alike),
        )
        for place in range(number)
    )
    backward = median(each["backward"] for each in alike)
    computing = {
        rank: [each["forward"] + each["backward"] for each in own[_SKIPPED:]]
        for rank, own in of_ranks.items()
    }
    deviations = [pstdev(each) for each in zip(*computing.values(), strict=False)]
    return Step(
        median(each["forward"] for each in alike),
        backward,
        median(each["optimizer"] for each in alike),
        tuple(Message(nbytes, min(ready, backward)) for nbytes, ready in messages),
        median(deviations) if deviations and len(computing) > 1 else 0.0,
        overlaps=messages[0].ready < backward,
    )


def _steps(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the seconds of each step's parts; a step ends with the walk and what follows it."""
    steps: list[dict[str, Any]] = []
    forward = 0.0
    for event in sorted(spans, key=lambda each: each["ts"]):
        name, lane, seconds = event["name"], event.get("cat"), event["dur"] / 1e6
        if lane == COMPUTE and name == "forward":
            forward += seconds
        elif lane == COMPUTE and name == "backward":
            if steps and not steps[-1]["messages"]:  # another micro-batch of the same step
                steps[-1]["backward"] += seconds
                steps[-1]["forward"] += forward
                steps[-1]["began"] = event["ts"] - 1e6 * (steps[-1]["backward"] - seconds)
            else:
                steps.append(
                    {
                        "forward": forward,
                        "backward": seconds,
                        "optimizer": 0.0,
                        "messages": [],
                        "began": event["ts"],
                    }
                )
            forward = 0.0
        elif steps and lane == COMPUTE and name == "optimizer":
            steps[-1]["optimizer"] += seconds
        elif steps and lane == COMMUNICATION and name == "bucket":
            ready = (event["ts"] - steps[-1]["began"]) / 1e6
            steps[-1]["messages"].append((float(event["args"]["bytes"]), ready))
    return steps


def step_of_metrics(path: Path, bucket_bytes: float = BUCKET_BYTES) -> Step:
    """Return a step of a job's ``--metrics`` file, whose parts are estimated.

    Raises
    ------
    PlanningError
        If it has no lines with seconds and bytes.
    """
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            seconds = float(record["seconds"]) - float(record["exposed_comm_seconds"])
            found.append((seconds, float(record["bytes_sent"])))
        except (ValueError, KeyError, TypeError):
            continue
    found = found[_SKIPPED:] if len(found) > 2 * _SKIPPED else found
    if not found or not math.isfinite(sum(seconds for seconds, _ in found)):
        raise PlanningError(f"{path} has no steps; expected lines of JSON as --metrics writes them")
    nbytes = median(nbytes for _, nbytes in found)
    if not nbytes:
        raise PlanningError(f"{path} is of a job of one rank, which sent nothing; run it on two")
    return Step.estimated(
        nbytes, median(seconds for seconds, _ in found), bucket_bytes=bucket_bytes
    )
