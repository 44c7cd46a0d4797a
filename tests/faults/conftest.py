"""MPI jobs that are broken on purpose: how to write one, run it, and look at its end."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from distgrad.testing.ranks import run_ranks

HAS_MPIRUN = Path(sys.executable).with_name("mpirun").exists()

# A job ends within 5 s of its fault. The rest is for what the launcher does before and after, on
# a machine that is busy with other things.
SECONDS_AFTER_FAULT = 5.0

PRELUDE = """
import os, signal, subprocess, sys, threading, time
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

def fault():
    os.write(1, f"FAULT {time.time():.3f} ".encode())  # in one piece: others print, too
"""


@dataclass(frozen=True)
class Job:
    """How a broken job ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds_after_fault: float

    def by_rank(self, rank: int) -> str:
        """Return what a rank said on standard error."""
        mark = f"[rank {rank}] "
        lines = self.stderr.splitlines()
        return "\n".join(line[len(mark) :] for line in lines if line.startswith(mark))

    def waited(self, rank: int) -> float:
        """Return for how many seconds a rank says that it has waited when it lost patience."""
        said = re.search(rf"StallError: rank {rank} has waited (\d+\.\d) s in", self.by_rank(rank))
        assert said, self.by_rank(rank)
        return float(said[1])


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.fault)
            if not HAS_MPIRUN:
                item.add_marker(pytest.mark.skip(reason="there is no mpirun beside this Python"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder in which programs that the test starts keep their temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # asked for anew, here and afterwards
    yield folder
    monkeypatch.undo()
    tempfile.tempdir = None


@pytest.fixture
def run_job(tmp_path):
    """Return ``run(source, n=2, *arguments, timeout=, **environment)``."""

    def run(source, n=2, *arguments, timeout=30.0, **environment):
        script = tmp_path / "job.py"
        script.write_text(PRELUDE + source)
        result = run_ranks(n, [script, *arguments], timeout=timeout, env=environment)
        ended = time.time()
        faults = [
            float(text) for text in re.findall(r"FAULT (\d+\.\d{3})", result.stdout + result.stderr)
        ]
        since = ended - max(faults) if faults else float("nan")
        return Job(result.returncode, result.stdout, result.stderr, since)

    return run


@pytest.fixture
def run_broken(run_job):
    """Return `run_job` for jobs that have to end by themselves, soon, and not well."""

    def run(*arguments, **keywords):
        job = run_job(*arguments, **keywords)
        assert job.returncode != 0, job.stderr
        assert job.seconds_after_fault < SECONDS_AFTER_FAULT, job.stderr
        return job

    return run


@pytest.fixture
def run_tests(tmp_path):
    """Return ``run(source, n=2, *options)``: run a test file on ranks, with the plugin."""
    # Only these two: others, such as hypothesis, take longer to import than the tests take.
    load = ["-p", "pytest_mpi", "-p", "distgrad.testing.mpi_plugin"]

    def run(source, n=2, *options, timeout=60.0):
        (tmp_path / "test_planted.py").write_text(
            "import os, time\nimport pytest\nfrom mpi4py import MPI\n"
            "world = MPI.COMM_WORLD\nrank = world.rank\n" + source
        )
        command = ["-m", "pytest", *load, "--with-mpi", "-p", "no:cacheprovider", "--color=no"]
        environment = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
            "COLUMNS": "200",
        }
        return run_ranks(
            n, [*command, f"--rootdir={tmp_path}", *options, tmp_path / "test_planted.py"],
            timeout=timeout,
            env=environment,
        )  # fmt: skip

    return run


@pytest.fixture
def other_mpirun():
    """Return the mpirun of another MPI, or skip."""
    path = os.environ.get("DISTGRAD_OTHER_MPIRUN")
    if not path:
        pytest.skip("DISTGRAD_OTHER_MPIRUN names no mpirun of another MPI")
    return path
