"""Timelines of ranks over MPI: merged, on one clock, also of jobs that die."""

import json
import os
import time

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.tracing.clocks import compare_clocks
from distgrad.testing.ranks import run_ranks

pytestmark = pytest.mark.mpi(min_size=2)


def test_partners_swap_arrays_and_who_has_none_keeps_its_own():
    world = dist.world()
    partner = world.rank ^ 1
    partner = partner if partner < world.size else world.rank
    array = np.arange(6.0).reshape(2, 3) + 100 * world.rank

    found = world.swap(array, partner)

    np.testing.assert_array_equal(found, np.arange(6.0).reshape(2, 3) + 100 * partner)


def test_skewed_clocks_are_corrected_to_less_than_a_millisecond():
    world = dist.world()
    skew = world.rank * 987_654_321

    reading = compare_clocks(world, lambda: time.perf_counter_ns() + skew)

    # One machine, one clock: what differs is what the test put in.
    assert abs(reading.offset - skew) < 1_000_000


def test_all_ranks_stand_in_one_file_at_the_same_times(directory):
    world = dist.world()
    path = directory / "timeline.json"
    model = [dg.Variable(np.ones((30, 30), np.float32), name=f"v{n}") for n in range(3)]

    with dist.timeline(path):
        for _ in range(2):
            with dist.DistributedGradientTape(
                dg.GradientTape(), bucket_bytes=3000, overlap=True
            ) as tape:
                y = dg.asarray(np.ones((2, 30), np.float32))
                for variable in model:
                    y = dg.tanh(y @ variable)
                loss = dg.mean(y)
            tape.gradient(loss, model, examples=1)
        world.barrier()
        with dist.span("together"):
            time.sleep(0.02)

    world.barrier()
    trace = json.loads(path.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    together = {event["pid"]: event["ts"] for event in spans if event["name"] == "together"}
    assert sorted(together) == list(range(world.size))
    # They left one barrier; ranks beyond the cores are late by time slices.
    assert max(together.values()) - min(together.values()) < 50_000
    for rank in range(world.size):
        names = [event["name"] for event in spans if event["pid"] == rank]
        assert names.count("bucket") >= 4
        assert {"forward", "backward", "pack", "unpack", "exposed"} <= set(names)
    assert trace["otherData"]["missing"] == []
    assert list(directory.iterdir()) == [path]


def test_the_report_names_the_rank_that_computes_longest_without_a_message_more():
    world = dist.world()
    x = dg.Variable(np.ones(5), name="x")
    messages = []
    for step in range(3):
        if step == 2 and world.rank == world.size - 1:
            time.sleep(0.2)
        # Waiting for each other in between hides nothing.
        world.barrier()
        begun = world.started
        with dist.DistributedGradientTape(dg.GradientTape()) as tape:
            y = dg.mean(x * x)
        tape.gradient(y, x, examples=1)
        messages.append(world.started - begun)

    report = dist.last_report()
    assert report.straggler == world.size - 1
    assert report.slowest_rank()[1] > 0.1
    assert report.imbalance > 1.2
    assert messages == [2, 2, 2]


SCRIPT = """
import sys, time
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

world = dist.init()
x = dg.Variable(np.ones(5), name="x")
for step in range(3):
    with dist.span("load batch"):
        time.sleep(0.01)
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        y = dg.mean(x * x)
    tape.gradient(y, x, examples=1)
time.sleep(0.8)
if sys.argv[1] == "fail" and world.rank == 1:
    raise RuntimeError("boom")
world.barrier()
"""


@pytest.mark.fault
@pytest.mark.parametrize("end", ["well", "fail"])
def test_the_variable_records_jobs_that_end_well_and_jobs_that_die(directory, end):
    world = dist.world()
    if world.rank:
        return
    (directory / "job.py").write_text(SCRIPT)
    path = directory / "timeline.json"

    result = run_ranks(
        2, [directory / "job.py", end], env={"DISTGRAD_TIMELINE": os.fspath(path)}, timeout=60
    )

    if end == "well":
        assert result.returncode == 0
    else:
        assert result.returncode != 0
        from distgrad.cli import main

        assert main(["timeline", "merge", os.fspath(path)]) == 0
    spans = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    for rank in range(2):
        names = [event["name"] for event in spans if event["pid"] == rank]
        assert names.count("load batch") == 3
        assert names.count("bucket") == 3
