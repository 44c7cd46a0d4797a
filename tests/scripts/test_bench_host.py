"""What the host takes to give a device its work: measured where nothing is computed."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"


@pytest.mark.needs_compiler
@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
@pytest.mark.skipif(shutil.which("nm") is None, reason="the emulated device is made with nm")
def test_calls_and_steps_are_measured_without_a_device():
    command = [sys.executable, BENCHMARKS / "host.py", "--rounds", "1"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=400)

    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line]
    calls = {row[0]: [float(each) for each in row[1:]] for row in rows[1:6]}
    assert set(calls) == {"addition", "tanh", "sum", "product", "reshape"}
    assert all(0 < figure < 1e4 for row in calls.values() for figure in row)
    steps = {row[0]: [float(each) for each in row[1:3]] for row in rows[7:]}
    assert set(steps) == {"MLP", "CNN", "LSTM", "transformer"}
    assert all(traced < eager for eager, traced in steps.values())  # replays are a few launches
