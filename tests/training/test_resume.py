"""A job that was killed or asked to make room goes on as if nothing had happened."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg

needs_mpirun = pytest.mark.skipif(
    not Path(sys.executable).with_name("mpirun").exists(), reason="no mpirun beside this Python"
)

ALL = ("--deterministic", "--checkpoint-every", 3)


def lines(path):
    try:
        return path.read_text().count("\n")
    except FileNotFoundError:
        return 0


def kill_at(jobs, path, step, wait, arguments):
    """Start the job, and kill it some time after it has written a step; say whether it died."""
    child = jobs.start(*arguments)
    deadline = time.monotonic() + 60
    while lines(path) < step and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(wait)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return jobs.wait(child) == -signal.SIGKILL


def test_a_job_killed_at_any_moment_ends_with_the_same_bits(jobs, tmp_path):
    arguments = (*ALL, "--steps", 60)
    whole = tmp_path / "whole.jsonl"
    assert jobs.wait(jobs.start(*arguments, "--metrics", whole)) == 0, jobs.output()
    chance = np.random.default_rng(5)
    path = tmp_path / "killed.jsonl"
    more = ("--metrics", path, "--checkpoint-dir", tmp_path / "saved", "--resume")

    kills, step = 0, 0
    while step < 58:
        step += int(chance.integers(1, 6))
        kills += kill_at(jobs, path, step, chance.uniform(0, 0.004), (*arguments, *more))
    status = jobs.wait(jobs.start(*arguments, *more))

    assert status == 0, jobs.output()
    assert kills >= 10
    assert jobs.curve(path) == jobs.curve(whole)


def test_a_finished_job_that_is_resumed_says_the_same_again(jobs, tmp_path):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved", "--metrics", tmp_path / "m.jsonl")
    assert jobs.wait(jobs.start(*arguments)) == 0, jobs.output()
    before = jobs.curve(tmp_path / "m.jsonl")

    assert jobs.wait(jobs.start(*arguments, "--resume")) == 0, jobs.output()

    assert jobs.curve(tmp_path / "m.jsonl") == before


def test_a_job_that_has_stopped_early_stays_so_when_it_is_resumed(jobs, tmp_path):
    path = tmp_path / "m.jsonl"
    arguments = (*ALL, "--steps", 200, "--patience", 2, "--checkpoint-dir", tmp_path / "saved")
    assert jobs.wait(jobs.start(*arguments, "--metrics", path)) == 0, jobs.output()
    before = jobs.curve(path)
    assert len(before) < 200

    assert jobs.wait(jobs.start(*arguments, "--metrics", path, "--resume")) == 0, jobs.output()

    assert jobs.curve(path) == before


def test_more_steps_may_follow_with_a_warning(jobs, tmp_path):
    first = (*ALL, "--checkpoint-dir", tmp_path / "saved", "--metrics", tmp_path / "m.jsonl")
    jobs.wait(jobs.start(*first, "--steps", 8))
    jobs.wait(jobs.start(*first, "--steps", 20, "--resume"))
    said = jobs.output()
    jobs.wait(jobs.start(*ALL, "--steps", 20, "--metrics", tmp_path / "whole.jsonl"))

    assert jobs.curve(tmp_path / "m.jsonl")[:20] == jobs.curve(tmp_path / "whole.jsonl")[:20]
    assert jobs.records(tmp_path / "m.jsonl")[-1]["final"] is True
    assert said.count("saved with --steps 8; what follows from --steps 20, such as a schedule") == 1


def test_what_has_not_changed_is_no_reason_for_a_warning(jobs, tmp_path):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))

    assert jobs.wait(jobs.start(*arguments, "--resume")) == 0
    assert "warning" not in jobs.output()
    assert jobs.wait(jobs.start(*arguments, "--resume", "--learning-rate", 0.5)) == 0
    assert "warning: --resume: the checkpoint was saved with --learning-rate" in jobs.output()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_asked_to_make_room_saves_and_leaves_with_75(jobs, tmp_path, number):
    arguments = (*ALL, "--metrics", tmp_path / "m.jsonl", "--checkpoint-dir", tmp_path / "saved")
    whole = tmp_path / "whole.jsonl"
    jobs.wait(jobs.start(*ALL, "--metrics", whole))

    status = jobs.wait(jobs.start(*arguments, "--signal", f"{int(number)}:0:7"))
    saved = sorted(os.listdir(tmp_path / "saved"))
    again = jobs.wait(jobs.start(*arguments, "--resume"))

    assert status == 75
    assert "saved after step 7" in jobs.output()
    assert saved[-1] == "step-0000000007"
    assert again == 0
    assert jobs.curve(tmp_path / "m.jsonl") == jobs.curve(whole)


def test_without_a_place_to_save_a_signal_ends_the_job(jobs):
    assert jobs.wait(jobs.start("--signal", f"{int(signal.SIGTERM)}:0:7")) == -signal.SIGTERM


@needs_mpirun
def test_a_signal_to_one_rank_stops_all_and_other_ranks_go_on(jobs, tmp_path):
    arguments = (*ALL, "--metrics", tmp_path / "m.jsonl", "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*ALL, "--metrics", tmp_path / "whole.jsonl"))

    first = jobs.run(2, *arguments, "--signal", f"{int(signal.SIGUSR1)}:1:8")
    second = jobs.run(3, *arguments, "--resume")

    assert first.returncode == 75, first.stderr
    assert first.stderr.count("saved after step 8") == 1
    assert second.returncode == 0, second.stderr
    records = jobs.records(tmp_path / "m.jsonl")
    assert [each["ranks"] for each in records[:-1]] == [2] * 8 + [3] * 12
    assert jobs.curve(tmp_path / "m.jsonl") == jobs.curve(tmp_path / "whole.jsonl")


@needs_mpirun
def test_a_layer_draws_alike_on_any_number_of_ranks_and_after_a_resume(jobs, tmp_path):
    noisy = (*ALL, "--dropout", 0.3, "--steps", 8, "--metrics")
    assert jobs.wait(jobs.start(*noisy, tmp_path / "whole.jsonl")) == 0, jobs.output()

    arguments = (*noisy, tmp_path / "m.jsonl", "--checkpoint-dir", tmp_path / "saved", "--resume")
    # 7 examples in 24 logical shards: of 5 ranks one has one piece, others two.
    first = jobs.run(5, *arguments, "--signal", f"{int(signal.SIGUSR1)}:1:4")
    second = jobs.run(2, *arguments)

    assert (first.returncode, second.returncode) == (75, 0), first.stderr + second.stderr
    assert "CheckpointWarning" not in first.stderr
    assert jobs.curve(tmp_path / "m.jsonl") == jobs.curve(tmp_path / "whole.jsonl")


@needs_mpirun
def test_ranks_killed_at_different_moments_leave_nothing_wrong(jobs, tmp_path):
    arguments = (*ALL, "--metrics", tmp_path / "m.jsonl", "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*ALL, "--metrics", tmp_path / "whole.jsonl"))
    for rank, step in ((1, 5), (0, 13)):
        killed = jobs.run(2, *arguments, "--resume", "--signal", f"9:{rank}:{step}")
        assert killed.returncode != 0

    last = jobs.run(1, *arguments, "--resume")

    assert last.returncode == 0, last.stderr
    assert jobs.curve(tmp_path / "m.jsonl") == jobs.curve(tmp_path / "whole.jsonl")


# --- what is refused ------------------------------------------------------------------------------


def test_lines_that_the_metrics_lost_are_told_of(jobs, tmp_path):
    metrics = tmp_path / "m.jsonl"
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved", "--metrics", metrics)
    jobs.wait(jobs.start(*arguments, "--steps", 9))
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:1] + lines[2:6]))

    assert jobs.wait(jobs.start(*arguments, "--steps", 9, "--resume")) == 0
    assert jobs.output() == (
        f"job: warning: --metrics {metrics}: has no lines of steps 2, 7 to 9, which are before the "
        "resumed one; they stay missing there and in a report\n"
    )


def test_a_directory_with_a_checkpoint_is_not_overwritten(jobs, tmp_path):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))

    assert jobs.wait(jobs.start(*arguments)) == 1
    assert "holds a checkpoint already (step 20); go on from it with --resume" in jobs.output()


@pytest.mark.parametrize("place", ["taken", "taken/below", "/proc"])  # root may write elsewhere
def test_where_nothing_can_be_saved_nothing_is_begun(jobs, tmp_path, place):
    (tmp_path / "taken").write_text("a file")
    metrics = tmp_path / "m.jsonl"
    arguments = (*ALL, "--checkpoint-dir", tmp_path / place, "--metrics", metrics)

    assert jobs.wait(jobs.start(*arguments)) == 1
    assert f"--checkpoint-dir {tmp_path / place}: " in jobs.output()
    assert lines(metrics) == 0


@needs_mpirun
def test_a_folder_that_ranks_do_not_share_is_known_before_the_first_step(jobs, tmp_path):
    metrics = tmp_path / "m.jsonl"
    result = jobs.run(2, "--fail", "folders", "--checkpoint-dir", "saved", "--metrics", metrics)

    assert result.returncode == 1
    assert result.stderr == (
        "job: --checkpoint-dir saved: rank 1: does not see what rank 0 writes there; expected a "
        "directory that all ranks share\n"
    )
    assert not metrics.exists()
    assert list((tmp_path / "machine-0" / "saved").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", 1), "was saved with --seed 0, not 1"),
        (
            ("--dtype", "float64"),
            "was saved with --dtype float32, not float64; go on with --dtype float32, or begin",
        ),
        (("--global-batch", 8), "was saved with --global-batch 7, not 8"),
        (("--steps", 10), "the checkpoint is of step 20 already"),
    ],
)
def test_another_job_is_not_resumed(jobs, tmp_path, change, message):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))

    assert jobs.wait(jobs.start(*arguments, "--resume", *change)) == 1
    assert message in jobs.output()


def test_what_is_refused_is_told_without_a_warning_beside_it(jobs, tmp_path):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))

    assert jobs.wait(jobs.start(*arguments, "--resume", "--steps", 10)) == 1
    assert jobs.output().count("\n") == 1


def test_examples_that_are_not_those_of_the_checkpoint_end_the_job_in_one_line(jobs, tmp_path):
    arguments = (*ALL, "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))

    assert jobs.wait(jobs.start(*arguments, "--resume", "--examples", 44)) == 1
    assert jobs.output() == (
        "job: --resume: the checkpoint is of another job: state/data: load_state: the state is of "
        "a loader with examples 45; this one has 44, so that its order is another one\n"
    )


def test_a_damaged_checkpoint_is_passed_over(jobs, tmp_path):
    arguments = (*ALL, "--metrics", tmp_path / "m.jsonl", "--checkpoint-dir", tmp_path / "saved")
    jobs.wait(jobs.start(*arguments))
    before = jobs.curve(tmp_path / "m.jsonl")
    newest = sorted((tmp_path / "saved").iterdir())[-1]
    (victim,) = newest.glob("*.safetensors")
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)

    assert jobs.wait(jobs.start(*arguments, "--resume")) == 0, jobs.output()
    assert dg.checkpoint.load(tmp_path / "saved").step == 20  # written again, without a warning
    assert jobs.curve(tmp_path / "m.jsonl") == before


def test_a_job_whose_checkpoints_are_all_damaged_does_not_begin_anew(jobs, tmp_path):
    saved = tmp_path / "saved"
    arguments = (*ALL, "--checkpoint-dir", saved)
    jobs.wait(jobs.start(*arguments))
    for manifest in saved.glob("*/manifest.json"):
        manifest.write_text("{")
    before = sorted(os.listdir(saved))

    assert jobs.wait(jobs.start(*arguments, "--resume")) == 1
    assert "job: --resume: load:" in jobs.output()
    assert f"has no complete checkpoint; damaged: {saved}/step-0000000020" in jobs.output()
    assert jobs.wait(jobs.start(*arguments)) == 1
    assert "holds a checkpoint already (step 20)" in jobs.output()
    assert sorted(os.listdir(saved)) == before
