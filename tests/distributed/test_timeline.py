"""Timelines: what is recorded, on whose clock, in which format, and what is left of a dead job."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.cli import main
from distgrad.core.spans import COMPUTE, spanned
from distgrad.distributed.tracing.clocks import SAMPLES, Reading, compare_clocks, offset_at
from distgrad.distributed.tracing.merging import merge, read_part, totals, trace_of
from distgrad.distributed.tracing.recording import Recorder, partial_path

MILLISECOND = 1_000_000


class Mailbox:
    """Where ranks that are threads meet in pairs."""

    def __init__(self, size):
        self.slots = [[None] * size for _ in range(size)]
        self.barriers = {}
        self.lock = threading.Lock()

    def barrier(self, pair):
        with self.lock:
            return self.barriers.setdefault(pair, threading.Barrier(2))


class PairedRank:
    """A rank that can do nothing but swap."""

    def __init__(self, rank, size, mailbox):
        self.rank, self.size, self._mailbox = rank, size, mailbox

    def swap(self, array, partner):
        if partner == self.rank:
            return array.copy()
        barrier = self._mailbox.barrier(frozenset((self.rank, partner)))
        self._mailbox.slots[self.rank][partner] = array.copy()
        barrier.wait(10)
        theirs = self._mailbox.slots[partner][self.rank].copy()
        barrier.wait(10)
        return theirs


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_skewed_clocks_are_found_to_less_than_a_millisecond(size):
    mailbox, readings = Mailbox(size), [None] * size
    skews = [rank * rank * 7919 * MILLISECOND for rank in range(size)]  # up to minutes

    def work(rank):
        def clock():
            return time.perf_counter_ns() + skews[rank]

        readings[rank] = compare_clocks(PairedRank(rank, size, mailbox), clock)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    for reading, skew in zip(readings, skews, strict=True):
        assert abs(reading.offset - skew) <= max(reading.error, 1)
        assert abs(reading.offset - skew) < MILLISECOND


def test_the_sample_with_the_shortest_trip_counts():
    """One message is late by 50 ms each way but for a single sample."""
    quick, late = SAMPLES // 2, 50 * MILLISECOND

    class Upper:
        rank, size = 1, 2

        def __init__(self):
            self.time, self.calls = 0, 0

        def now(self):
            return self.time

        def swap(self, array, partner):
            if len(array) > 1:
                # Sent at 0, 1, ... of the lower clock, which goes 3 s behind; received alike.
                return self.lower
            self.time += 1000 if self.calls == quick else late
            self.calls += 1
            return array

    upper = Upper()
    sent, rows = 0, []
    for sample in range(SAMPLES):
        trip = 1000 if sample == quick else late // 2
        rows.append((sent - 3_000_000_000, sent + trip - 3_000_000_000))
        sent += 1000 if sample == quick else late
    upper.lower = np.array([*rows, (0, 0)], np.int64)

    reading = compare_clocks(upper, upper.now)

    assert reading.offset == 3_000_000_000
    assert reading.error == 1000


def test_offsets_change_evenly_between_two_readings():
    readings = [Reading(1000, 50, 1), Reading(3000, 70, 1)]

    assert [offset_at(readings, at) for at in (0, 1000, 2000, 9000)] == [50, 50, 60, 70]
    assert offset_at([], 5) == 0


def recorded(folder, ranks, skew=0):
    """Write parts in which all ranks did the same at the same moment, by skewed clocks."""
    path = folder / "timeline.json"
    for rank in range(ranks):
        recorder = Recorder(path, rank, ranks)
        recorder.note_clock(Reading(0, rank * skew, 5))
        begun = 10**9 + rank * skew
        recorder.hear("forward", "compute", begun, begun + 2 * MILLISECOND, {})
        recorder.hear(
            "bucket", "communication", begun + 2 * MILLISECOND, begun + 3 * MILLISECOND, {"n": 8}
        )
        recorder.close()
    return path


def test_the_timeline_has_what_the_trace_event_format_requires(tmp_path):
    path = recorded(tmp_path, 3)
    merge(path)

    trace = json.loads(path.read_text())
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert {"name", "ph", "ts", "pid", "tid", "args"} <= event.keys()
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert event["cat"]
    names = {
        (event["pid"], event["args"]["name"])
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert names == {(rank, lane) for rank in range(3) for lane in ("compute", "communication")}
    assert list(tmp_path.iterdir()) == [path], "the parts are gone"


def test_times_are_those_of_rank_0s_clock(tmp_path):
    path = recorded(tmp_path, 4, skew=123_456_789)
    merge(path)

    events = json.loads(path.read_text())["traceEvents"]
    starts = {(e["name"], e["ts"]) for e in events if e["ph"] == "X"}
    assert starts == {("forward", 0.0), ("bucket", 2000.0)}


def test_what_a_killed_rank_recorded_is_merged(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "import distgrad.distributed as dist\n"
        "dist.init()\n"
        "with dist.span('load batch'):\n"
        "    time.sleep(0.01)\n"
        "time.sleep(1.2)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "timeline.json"
    environment = os.environ | {"DISTGRAD_TIMELINE": str(path)}
    subprocess.run([sys.executable, script], env=environment, timeout=60)
    part = partial_path(path, 0)
    with part.open("a") as stream:
        stream.write('["half a li')  # as if it had died while it wrote

    assert main(["timeline", "merge", str(path)]) == 0

    trace = json.loads(path.read_text())
    assert trace["otherData"]["unfinished"] == [0]
    assert [e["name"] for e in trace["traceEvents"] if e["ph"] == "X"] == ["load batch"]


def test_a_variable_records_a_whole_job(tmp_path):
    path = tmp_path / "timeline.json"
    code = (
        "import distgrad as dg, distgrad.distributed as dist\n"
        "dist.init()\n"
        "x = dg.Variable(2.0)\n"
        "with dg.GradientTape() as tape:\n"
        "    y = x * x\n"
        "g = tape.gradient(y, x)\n"
        "dg.optimizers.SGD(0.1).apply(g, x)\n"
    )
    environment = os.environ | {"DISTGRAD_TIMELINE": str(path)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)

    names = [name for _, name in totals(path)]
    assert {"forward", "backward", "optimizer"} <= set(names)


def test_a_missing_rank_is_named_and_its_part_awaited(tmp_path):
    path = recorded(tmp_path, 3)
    partial_path(path, 1).unlink()

    assert merge(path)["missing"] == [1]
    assert partial_path(path, 0).exists()


def test_files_that_are_no_parts_are_refused(tmp_path):
    (tmp_path / "t.json.rank00000.partial").write_text("hello\n")

    with pytest.raises(dist.TimelineError, match="expected a rank's part"):
        merge(tmp_path / "t.json")
    with pytest.raises(dist.TimelineError, match="no parts"):
        merge(tmp_path / "other.json")


def test_a_timeline_that_cannot_be_written_is_an_error(tmp_path):
    recording = dist.timeline(tmp_path / "t.json", dist.SerialCommunicator())
    (tmp_path / "t.json").mkdir()

    with pytest.raises(dist.TimelineError, match="Is a directory"):
        recording.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_full_disk_ends_the_recording_and_not_what_is_recorded(tmp_path, fails):
    path = tmp_path / "t.json"
    partial_path(path, 0).symlink_to("/dev/full")
    error, message = (ArithmeticError, "own") if fails else (dist.TimelineError, "No space left")

    ended = []

    def work():
        with dist.timeline(path, comm=dist.SerialCommunicator()):
            ended.append("all of it")
            if fails:
                raise ArithmeticError("own")

    with pytest.raises(error, match=message):
        work()

    assert ended


def test_the_command_shows_where_the_time_went(tmp_path, capsys):
    path = recorded(tmp_path, 2)
    merge(path)

    assert main(["timeline", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["spans", "rank", "0", "rank", "1"]
    assert "compute/forward" in lines[2]
    assert lines[2].split()[1:] == ["2", "0.002", "s", "0.002", "s"]

    assert main(["timeline", "show", __file__]) == 2
    assert "no timeline" in capsys.readouterr().err


def test_buckets_walks_and_user_spans_stand_in_the_timeline_of_a_step(tmp_path):
    path = tmp_path / "deep" / "timeline.json"
    comm = dist.RecordedCommunicator(size=2)
    x, z = (dg.Variable(np.ones(n, np.float32), name=f"x{n}") for n in (3, 1))

    with dist.timeline(path, comm):
        with dist.span("load batch", examples=3):
            pass
        with dist.DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.mean(x * x) + dg.sum(z * z)
        tape.gradient(y, [x, z])
    with dist.span("afterwards"):
        pass

    events = json.loads(path.read_text())["traceEvents"]
    spans = {e["name"]: e for e in events if e["ph"] == "X"}
    # In the order of a step; the other rank is pretended, so that its part is missing.
    expected = ["load batch", "forward", "backward", "compare plans", "pack", "bucket", "unpack"]
    assert sorted(expected, key=lambda name: spans[name]["ts"]) == expected
    assert spans["bucket"]["args"] == {"bytes": 16, "number": 0}
    assert spans["load batch"]["args"] == {"examples": 3}
    assert "afterwards" not in spans


def test_a_block_that_fails_leaves_the_parts(tmp_path):
    path = tmp_path / "timeline.json"

    with (
        pytest.raises(RuntimeError, match="boom"),
        dist.timeline(path, dist.SerialCommunicator()),
        dist.span("work"),
    ):
        raise RuntimeError("boom")

    part = read_part(partial_path(path, 0))
    assert [span[0] for span in part.spans] == ["work"]
    assert trace_of([part])["otherData"]["missing"] == []


def test_spans_cost_next_to_nothing_without_a_timeline():
    @spanned("work", COMPUTE)
    def work(value):
        """Return the value."""
        return value

    assert work(3) == 3
    assert work.__doc__ == "Return the value."
    assert dist.span("a") is dist.span("b"), "no object is made"
