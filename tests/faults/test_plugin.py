"""The pytest plugin makes all ranks of a test session come to one verdict."""

import re

import pytest


def summary(result):
    """Return pytest's closing line, such as ``1 failed, 2 passed``: one, of rank 0."""
    lines = re.findall(r"^=* ?((?:\d+ \w+,? ?)+) in [\d.]+s", result.stdout, re.MULTILINE)
    assert len(lines) == 1, result.stdout + result.stderr
    return lines[0]


def test_tests_that_pass_everywhere_pass_once(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
@pytest.mark.parametrize("number", range(3))
def test_meets(number): world.Barrier()
""",
        3,
    )

    assert result.returncode == 0, result.stderr
    assert summary(result) == "3 passed"


def test_what_fails_on_one_rank_fails_and_shows_that_ranks_report(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_fails_on_two():
    print("spoken by", rank)
    assert rank != 2, "two is odd"

@pytest.mark.mpi
def test_goes_on(): world.Barrier()
""",
        3,
    )

    assert result.returncode == 1
    assert summary(result) == "1 failed, 1 passed"
    assert "failed on rank 2, passed on rank 0" in result.stdout
    assert "two is odd" in result.stdout
    assert "spoken by 2" in result.stdout


def test_all_failing_ranks_are_shown(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_fails(): assert False, f"reason of {rank}"
"""
    )

    assert result.returncode == 1
    assert summary(result) == "1 failed"
    assert "reason of 0" in result.stdout
    assert "reason of 1" in result.stdout


def test_a_failure_before_a_collective_ends_the_job_with_the_report_and_stacks(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_fails_before():
    assert rank != 1, "one is odd"
    world.Barrier()
"""
    )

    assert result.returncode != 0
    assert "[rank 1] E       AssertionError: one is odd" in result.stderr
    assert "stacks of rank 0:" in result.stderr
    assert re.search(r"test_planted.py\W+line \d+ in test_fails_before", result.stderr)
    assert result.seconds < 20


def test_a_hang_ends_at_the_deadline_with_the_stacks_of_all_ranks(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_hangs():
    if rank == 1: time.sleep(100)
    world.Barrier()
""",
        3,
        "--mpi-deadline=2",
    )

    assert result.returncode != 0
    for rank in range(3):
        assert f"[rank {rank}] test_planted.py::test_hangs passed its deadline of 2 s" in (
            result.stderr
        )
        assert re.search(rf"\[rank {rank}\] .*line \d+ in test_hangs", result.stderr)
    assert result.seconds < 20


def test_the_deadline_may_come_from_the_settings(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_hangs(): time.sleep(100)
""",
        2,
        "-o",
        "mpi_deadline=1",
    )

    assert result.returncode != 0
    assert "passed its deadline of 1 s" in result.stderr


def test_a_crash_ends_the_job(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_crashes():
    if rank == 1: os.kill(os.getpid(), 9)
    world.Barrier()
"""
    )

    assert result.returncode != 0
    assert result.seconds < 20


@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_a_fixture_that_fails_on_one_rank_fails_everywhere(run_tests, where):
    before, after = ("assert rank != 1", "") if where == "setup" else ("", "assert rank != 1")
    result = run_tests(
        f"""
@pytest.fixture
def thing():
    {before or "pass"}
    yield
    {after or "pass"}

@pytest.mark.mpi
def test_uses(thing): world.Barrier()

@pytest.mark.mpi
def test_goes_on(): world.Barrier()
"""
    )

    assert result.returncode == 1
    assert "1 error" in summary(result)
    assert "failed on rank 1, passed on rank 0" in result.stdout


def test_a_skip_on_one_rank_only_is_a_failure(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_skips():
    if rank == 1: pytest.skip("not my task")
"""
    )

    assert result.returncode == 1
    assert "the ranks disagree whether to skip this test: rank 0 passed; rank 1 skipped" in (
        result.stdout
    )
    assert "not my task" in result.stdout


def test_skips_and_expected_failures_on_all_ranks_are_none(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_skips(): pytest.skip("nobody's task")

@pytest.mark.mpi
@pytest.mark.xfail
def test_fails_as_expected(): assert False

@pytest.mark.mpi
def test_passes(): pass
"""
    )

    assert result.returncode == 0, result.stdout
    assert summary(result) == "1 passed, 1 skipped, 1 xfailed"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "@pytest.mark.mpi\ndef test_skips(): pytest.skip('always')\n",
        "@pytest.mark.mpi(min_size=9)\ndef test_needs_nine(): pass\n",
    ],
    ids=["no tests", "all skipped", "too few ranks"],
)
def test_a_session_that_executes_nothing_has_failed(run_tests, source):
    result = run_tests(source)

    assert result.returncode == 5
    assert "no test was executed" in result.stdout


def test_ranks_that_collect_different_tests_are_told(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
@pytest.mark.parametrize("number", range(rank + 1))
def test_counts(number): pass
"""
    )

    assert result.returncode == 4
    assert "the ranks collected different tests (rank 0: 1, rank 1: 2)" in (
        result.stdout + result.stderr
    )


def test_a_file_that_only_one_rank_cannot_import_is_told(run_tests):
    result = run_tests(
        """
if rank == 1: raise ImportError("missing on rank 1")
@pytest.mark.mpi
def test_meets(): world.Barrier()
"""
    )

    assert result.returncode != 0
    assert "other ranks could not collect all tests" in result.stdout + result.stderr
    assert "missing on rank 1" in result.stdout + result.stderr
    assert result.seconds < 20


def test_only_one_rank_writes_the_report_file(run_tests, tmp_path):
    result = run_tests(
        """
@pytest.mark.mpi
def test_meets(): world.Barrier()
""",
        2,
        f"--junitxml={tmp_path}/report.xml",
    )

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "report.xml").read_text().count("<testcase") == 1


def test_without_the_option_nothing_is_done(tmp_path):
    import subprocess
    import sys

    (tmp_path / "test_plain.py").write_text("def test_passes(): pass\n")
    script = (
        "import sys, pytest\n"
        "code = pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1]])\n"
        "assert 'mpi4py' not in sys.modules\n"
        "sys.exit(code)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_report_says_whose_it_is_and_shows_the_slowest_ranks_time(run_tests):
    result = run_tests(
        """
@pytest.mark.mpi
def test_waits():
    if rank == 1: time.sleep(0.7)
""",
        2,
        "--durations=1",
        "--durations-min=0.5",
    )

    assert result.returncode == 0, result.stderr
    assert "distgrad: one report of 2 ranks (" in result.stdout
    durations = re.findall(r"([\d.]+)s call .*test_waits", result.stdout)
    assert len(durations) == 1
    assert float(durations[0]) >= 0.7
