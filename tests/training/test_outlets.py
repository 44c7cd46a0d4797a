"""A file that a job was asked to write and cannot is an error: one line, on all ranks."""

import subprocess
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


@needs_full_device
@pytest.mark.parametrize("steps", [1, 20])
def test_an_output_that_cannot_be_written_is_no_reason_to_stop(jobs, tmp_path, steps):
    words = ("--metrics", tmp_path / "m.jsonl", "--steps", steps)
    with open("/dev/full", "w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, jobs.script, *map(str, words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "job: warning: standard output: No space left on device; the training goes on",
        "job: standard output: No space left on device; all but what was to be printed is done",
    ]
    assert jobs.records(tmp_path / "m.jsonl")[-1]["final"] is True


def test_a_process_without_an_output_prints_nothing(jobs, tmp_path):
    command = f"exec '{sys.executable}' '{jobs.script}' --steps 2 >&-"
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_timeline_that_cannot_be_written_is_refused_before_the_first_step(jobs, tmp_path):
    arguments = ("--timeline", tmp_path, "--metrics", tmp_path / "m.jsonl")

    assert jobs.wait(jobs.start(*arguments)) == 1
    assert jobs.output() == f"job: --timeline {tmp_path}: Is a directory\n"
    assert (tmp_path / "m.jsonl").read_text() == ""
