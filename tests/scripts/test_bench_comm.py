"""`scripts/bench comm` measures what ranks do together, by the slower one, and drops no row."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def cases(monkeypatch):
    """Return a function that imports a file of the cases by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield lambda name: importlib.import_module(f"comm_cases.{name}")
    for name in [each for each in sys.modules if each.partition(".")[0] == "comm_cases"]:
        del sys.modules[name]


def run(*arguments):
    """Return what the program prints."""
    command = [sys.executable, str(BENCHMARKS / "comm.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_step_takes_as_long_as_its_slower_rank(cases):
    other = np.array([[5.0, 1.0, 1.0], [4.0, 4.0, 4.0]])

    found = cases("running").of_the_slowest(
        {"alone": [1.0, 2.0, 6.0], "together": [3.0, 5.0, 4.0]},
        lambda own: np.stack([own, other]),
    )

    assert found["alone"] == 5  # of 5, 2 and 6, not of one rank's 1, 2 and 6
    assert found["alone least"] == 2
    assert found["together"] == 4
    assert found["together least"] == 4


def test_cases_run_in_turn_from_a_barrier_and_the_first_round_does_not_count(cases):
    heard = []

    found = cases("running").in_turn(
        2, {"a": lambda: heard.append("a"), "b": lambda: heard.append("b")}, lambda: heard.append(0)
    )

    assert heard == [0, "a", 0, "b"] * 3
    assert [len(each) for each in found.values()] == [2, 2]


def test_averaging_is_measured_beside_mpi():
    done = run("averaging", "--ranks", "2", "--rounds", "1", "--megabytes", "1")

    assert done.returncode == 0, done.stderr
    for row in (
        "one raw MPI_Allreduce",
        "averaged in buckets",
        "the deterministic sum",
        "in shared memory",
    ):
        assert row in done.stdout
    assert "matrices" not in done.stdout  # a subject that was not asked for


@pytest.mark.parametrize("which", [0, 2], ids=["dense", "convolutions"])
def test_two_ranks_train_together_and_alone(cases, which):
    found = cases("running").measure("training", 2, 1, which)

    for case in ("alone", "barrier", "copy", "raw", "together", "traced"):
        assert 0 < found[f"{case} least"] <= found[case]
    assert found["compare plans"] > 0
    assert found["bucket"] > 0


def test_rows_that_lose_stand_there_too_and_a_missing_peer_is_said(cases, monkeypatch, capsys):
    steps = cases("steps")
    figures = dict.fromkeys(("alone", "barrier", "copy", "raw", "together", "traced"), 0.010)
    figures |= {f"{case} least": 0.008 for case in figures} | dict.fromkeys(steps.PARTS, 0.001)
    figures |= {"together": 0.020, "together least": 0.012, "bytes": 2.0**20}
    monkeypatch.setattr(steps, "measure", lambda name, *_: figures if name == "training" else None)

    steps.show_steps(1)

    said = capsys.readouterr().out
    assert said.count("distgrad, averaged   ") == len(steps.WORKLOADS)
    assert "20.000 ms     12.000    2.00    1.50" in said
    assert said.count("a barrier in the place of averaging") == len(steps.WORKLOADS)


def test_a_job_that_fails_and_an_unknown_subject_are_said(cases, capsys):
    assert cases("running").measure("training", 2, 1, 99) is None
    assert "training on 2 ranks: no figures" in capsys.readouterr().out

    done = run("nonsense")

    assert done.returncode == 2
    assert "no subject is called 'nonsense'" in done.stderr
