"""A file that a job was asked to write and cannot is an error: one line, on all ranks."""

import sys
from pathlib import Path

import pytest

needs_mpirun = pytest.mark.skipif(
    not Path(sys.executable).with_name("mpirun").exists(), reason="no mpirun beside this Python"
)
needs_full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no /dev/full, which is full at every write"
)


@needs_full_device
@pytest.mark.parametrize("steps", [1, 20])
def test_a_metrics_file_that_cannot_grow_ends_the_job_with_one_line(jobs, tmp_path, steps):
    arguments = ("--metrics", "/dev/full", "--checkpoint-dir", tmp_path / "saved", "--steps", steps)

    assert jobs.wait(jobs.start(*arguments)) == 1
    assert jobs.output() == "job: --metrics /dev/full: No space left on device\n"


@needs_mpirun
@needs_full_device
def test_a_metrics_file_that_cannot_grow_ends_all_ranks_with_one_line(jobs):
    ended = jobs.run(2, "--metrics", "/dev/full")

    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if "job:" in line]
    assert said == ["job: --metrics /dev/full: No space left on device"]
    assert "Traceback" not in ended.stderr


def test_a_timeline_that_cannot_be_written_is_refused_before_the_first_step(jobs, tmp_path):
    arguments = ("--timeline", tmp_path, "--metrics", tmp_path / "m.jsonl")

    assert jobs.wait(jobs.start(*arguments)) == 1
    assert jobs.output() == f"job: --timeline {tmp_path}: Is a directory\n"
    assert (tmp_path / "m.jsonl").read_text() == ""
