"""The figures of a device: a row is written once it is known, and failures keep to their place."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"
HOST = SimpleNamespace(module=np, synchronize=lambda: None)


@pytest.fixture(scope="module")
def timing():
    """The module of the clock: `scripts` is no package."""
    path = BENCHMARKS / "device_cases" / "timing.py"
    specification = importlib.util.spec_from_file_location("timing_of_devices", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_page_is_written_also_where_no_time_is_left(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    command = [sys.executable, BENCHMARKS / "gpu.py", "--backend", "numpy", "--seconds", "-1"]
    sizes = ["--rounds", "1", "--elements", "2048", "--size", "8", "--scale", "16"]

    done = subprocess.run(
        [*command, *sizes, "--write", page], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text == f"before\n{done.stdout}"
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for kernel in ("copy", "a step of Adam, 200 parameters", "random gamma", "product, float16"):
        (row,) = [line for line in rows if line.startswith(f"| {kernel} |")]
        assert "no time left" in row
    assert len([row for row in rows if row.startswith("| transformer |")]) == 3
    assert "fails" not in text
    widths = {row.count("|") for row in rows}
    assert widths == {4, 8, 7}  # kernels, steps, and what is beside PyTorch's


def test_what_fails_says_so_in_its_place(timing):
    clock = timing.Clock(HOST, rounds=1)

    def failing():
        raise MemoryError("2 GB | are missing\nand more")

    assert timing.milliseconds(clock.attempt(failing)) == "fails (MemoryError: 2 GB / are missing)"
    assert timing.milliseconds(clock.attempt(lambda: failing)).startswith("fails (MemoryError")
    assert timing.milliseconds(clock.attempt(lambda: None)) == "not measured"
    assert float(timing.milliseconds(clock.attempt(lambda: lambda: time.sleep(0.002)))) >= 2


def test_without_a_device_pytorch_is_not_measured(timing):
    clock = timing.Clock(HOST, rounds=1)

    assert clock.attempt_torch(lambda: pytest.fail("asked")) == "not measured"


def test_nothing_is_begun_once_the_time_is_over(timing):
    clock = timing.Clock(HOST, rounds=1, seconds=-1)

    assert clock.attempt(lambda: pytest.fail("begun")) == "no time left"
