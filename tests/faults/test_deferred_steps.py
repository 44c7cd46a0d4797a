"""Steps that wait for the next read: what another rank does in the meantime, and how a job ends."""

import pytest

from distgrad.testing.ranks import run_ranks

JOB = """
import os, sys, threading
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.averaging.adding import Native
from distgrad.errors import RemoteRankError

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: ranks share the pipe

world = dist.init()
hold, calls = threading.Event(), []  # until it is set, rank 1 sends no more than so many buckets
layers = [dg.Variable(np.ones(2**16, np.float32), name=f"layer{n}") for n in range(4)]
optimizer = dist.DistributedOptimizer(
    dg.optimizers.SGD(0.5), wait="next-read", bucket_bytes=2**18
)
optimizer.build(layers)
add_up = Native.add_up

def held(self, *arguments):
    if len(calls) == FIRST:
        hold.wait()
    calls.append(arguments)
    return add_up(self, *arguments)

if world.rank == 1:
    Native.add_up = held
gradients = [dg.asarray(np.full(2**16, world.rank + 1, np.float32))] * 4
optimizer.apply(gradients, layers, examples=1)
say("applied")
"""
MEAN = 1 - 0.5 * 1.5


def job(tmp_path, rest, first=0):
    """Run the job, whose rank 1 sends the first buckets only, until `rest` lets it send all."""
    script = tmp_path / "job.py"
    script.write_text(f"FIRST = {first}\n" + JOB + rest)
    return run_ranks(2, script, timeout=60)


def test_a_job_ends_in_good_order_with_averages_under_way(tmp_path):
    result = job(tmp_path, "threading.Timer(0.3, hold.set).start()\nsay('end')\n")

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("applied") == result.stdout.count("end") == 2


def test_a_read_waits_for_its_own_layer(tmp_path):
    result = job(
        tmp_path,
        """
first = float(layers[0].numpy()[0])  # for the last one, rank 1 would wait for ever
hold.set()
last = float(layers[-1].numpy()[0])
say("values", first, last)
""",
        first=1,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"values {MEAN} {MEAN}") == 2, result.stdout


def test_an_error_on_another_rank_surfaces_at_the_read(tmp_path):
    result = job(
        tmp_path,
        """
if world.rank == 1:
    raise ValueError("planted")
try:
    layers[-1].numpy()
except RemoteRankError as error:
    say("heard", "planted" in str(error), "at the read")
    say("kept", float(layers[-1].numpy()[0]))
    raise
""",
    )

    assert result.returncode != 0
    assert "heard True at the read" in result.stdout, result.stdout + result.stderr
    assert "kept 1.0" in result.stdout
    assert "ValueError: planted" in result.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_that_exits_by_itself_has_sent_its_part(tmp_path, code):
    result = job(
        tmp_path,
        f"""
if world.rank == 1:
    threading.Timer(0.3, hold.set).start()
    sys.exit({code})
say("value", float(layers[-1].numpy()[0]))
""",
    )

    assert f"value {MEAN}" in result.stdout, result.stdout + result.stderr
    assert (result.returncode != 0) == (code != 0)
