"""The jobs in scripts/ have one loss curve: for any ranks, micro-batches, and after a resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MPIRUN = Path(sys.executable).parent / "mpirun"

# Words that make a job small. Sums of float64 in another order differ by some 1e-16 of the largest
# summand; 4 steps of a nonlinear model make at most 1e-10 of that.
SMALL = {
    "fit_newton": ("--steps", 4),
    "fit_physics": ("--steps", 4, "--global-batch", 13, "--dtype", "float64"),
    "train_policy": ("--steps", 4, "--global-batch", 7),
    "train_text": (
        *("--steps", 4, "--global-batch", 7, "--dtype", "float64", "--width", 8, "--heads", 2),
        *("--blocks", 2, "--context", 32),
    ),
}
TOLERANCE = 1e-10
WAYS_TO_FIT = {
    **{f"stage {stage}": ("--zero", stage) for stage in (1, 2, 3)},
    "computed again": ("--recompute",),
}

every_job = pytest.mark.parametrize("job", SMALL)


def start(job: str, ranks: int, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a job, made small, and return what it printed."""
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    given = (*SMALL[job], *words, "--quiet")
    return subprocess.run(
        [*launcher, sys.executable, str(SCRIPTS / f"{job}.py"), *map(str, given)],
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
    )


def records_of(folder: Path, job: str, ranks: int, *words: object) -> list[dict]:
    """Return the metrics of a job that has to succeed, a dict a line."""
    path = folder / "metrics.jsonl"
    result = start(job, ranks, "--metrics", path, *words)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(records: list[dict]) -> list[tuple[float, float]]:
    """Return loss and gradient norm of each step."""
    return [(record["loss"], record["grad_norm"]) for record in records[:-1]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the metrics of each job as one process."""
    return {job: records_of(tmp_path_factory.mktemp(job), job, 1) for job in SMALL}


@every_job
def test_the_curve_goes_down_or_the_policy_learns_nothing_yet(alone, job):
    losses = [loss for loss, _ in curve(alone[job])]

    assert len(losses) == 4
    assert len(set(losses)) == 4
    assert np.isfinite(losses).all()
    if job != "train_policy":  # whose loss is no measure: 4 episodes of 7 are chance
        assert losses[-1] < losses[0]


@every_job
def test_two_ranks_have_the_curve_of_one(tmp_path, alone, job):
    both = records_of(tmp_path, job, 2)

    assert {record["ranks"] for record in both[:-1]} == {2}
    np.testing.assert_allclose(curve(both), curve(alone[job]), rtol=TOLERANCE)


@every_job
def test_micro_batches_leave_the_curve_as_it_is(tmp_path, alone, job):
    pieces = records_of(tmp_path, job, 1, "--micro-batches", 3)

    np.testing.assert_allclose(curve(pieces), curve(alone[job]), rtol=TOLERANCE)


@every_job
def test_a_job_that_lost_a_rank_ends_with_the_bits_of_one_that_did_not(tmp_path, job):
    words = ("--deterministic", "--checkpoint-every", 1)
    saved = ("--checkpoint-dir", tmp_path / "saved")

    whole = records_of(tmp_path, job, 1, *words)
    lost = start(job, 2, *words, *saved, DISTGRAD_FAULTS="kill:rank=1,step=3")
    resumed = records_of(tmp_path, job, 1, *words, *saved, "--resume")

    assert lost.returncode != 0
    assert any((tmp_path / "saved").iterdir())
    assert resumed[-1]["variables_sha256"] == whole[-1]["variables_sha256"]
    # A new file of metrics: it has the steps after the checkpoint alone.
    assert 0 < len(resumed) <= len(whole)
    assert curve(resumed) == curve(whole)[len(whole) - len(resumed) :]


# --- what the text's model does to fit ------------------------------------------------------------


@pytest.mark.parametrize("words", WAYS_TO_FIT.values(), ids=WAYS_TO_FIT)
def test_cutting_and_computing_again_leave_the_curve_as_it_is(tmp_path, alone, words):
    found = records_of(tmp_path, "train_text", 2, "--micro-batches", 2, *words)

    np.testing.assert_allclose(curve(found), curve(alone["train_text"]), rtol=TOLERANCE)
    assert found[-1]["bits_per_byte"] == pytest.approx(alone["train_text"][-1]["bits_per_byte"])


@pytest.mark.parametrize("words", [("--zero", 2), ("--zero", 3, "--global-batch", 25)])
def test_what_is_cut_has_the_same_bits_for_any_ranks_if_asked(tmp_path, words):
    words = (*words, "--deterministic")

    one, two = (records_of(tmp_path, "train_text", ranks, *words) for ranks in (1, 2))

    assert curve(one) == curve(two)
    assert one[-1]["variables_sha256"] == two[-1]["variables_sha256"]


def test_parameters_that_were_cut_over_two_ranks_go_on_in_one(tmp_path, alone):
    words = ("--zero", 3, "--checkpoint-dir", tmp_path / "saved")

    records_of(tmp_path, "train_text", 2, *words, "--steps", 2, "--checkpoint-every", 2)
    resumed = records_of(tmp_path, "train_text", 1, *words, "--resume")

    # The schedule of the learning rate is that of 2 steps in the first part, so only the first
    # step of the whole is the same; what counts is that the second part starts from the first.
    assert [record["step"] for record in resumed[:-1]] == [1, 2, 3, 4]
    assert resumed[2]["loss"] < resumed[0]["loss"]
    assert resumed[0]["loss"] == pytest.approx(alone["train_text"][0]["loss"], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--zero", 3, "--deterministic"), "expected --global-batch 24 or more"),
        (("--zero", 2, "--micro-batches", 8), "expected 8 or more"),
        (("--heads", 3), "and heads share the width"),
        (("--blocks", 10**9), "a model of 768,000,002,304 parameters takes"),
    ],
)
def test_what_the_text_s_model_cannot_do_is_said_in_a_line(words, message):
    result = start("train_text", 1, *words)

    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
