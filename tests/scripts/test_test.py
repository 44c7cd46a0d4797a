"""scripts/test runs every stage, adds the tests up, and fails if anything did."""

import pytest

# The environment's python passes every check; pytest's closing line depends on what it is given.
PYTHON = """
case "$*" in
    *"-q tests/faults"*) echo "=== 1 failed, 4 passed, 2 errors in 3.21s ==="; exit 1 ;;
    *--with-mpi*) echo "7 passed, 1 skipped in 0.42s" ;;
    *emulated.py*) echo "50 passed in 9.00s" ;;
    *pytest*) echo "200 passed, 3 warnings in 61.10s (0:01:01)" ;;
    *mypy*) exit 1 ;;
esac
"""
MPIRUN = 'shift 2; exec "$@"'


@pytest.fixture
def ready(checkout):
    """Return a fake checkout with both environments, in which the fault tests and mypy fail."""
    for name, extras in (("mpich", "mpi,test"), ("openmpi", "openmpi,test,onednn")):
        checkout.make_environment(name, extras, python=PYTHON, mpirun=MPIRUN, ruff="exit 0")
    return checkout


def test_the_tests_of_all_stages_are_added_up(ready):
    result = ready.run("test", "unit", "onednn", "emulated", "mpi", "openmpi-2")

    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == f"{200 + 200 + 50 + 4 * 7} passed, 0 failed"


def test_failures_and_errors_fail_the_run_and_the_stages_after_still_run(ready):
    result = ready.run("test", "faults", "openmpi-3")

    assert result.returncode == 1
    assert "openmpi-3" in result.stdout
    assert result.stdout.splitlines()[-1] == "11 passed, 3 failed"


def test_a_stage_that_fails_without_a_test_counts_as_one(ready):
    result = ready.run("test", "types", "lint")

    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_a_pytest_without_a_closing_line_has_failed(ready):
    python = ready.root / ".environments" / "mpich" / "bin" / "python"
    python.write_text(python.read_text().replace("200 passed", "hello"))

    result = ready.run("test", "unit")

    assert result.returncode == 1
    assert "no test was run" in result.stdout


def test_a_stage_past_its_deadline_is_ended_and_failed(ready):
    script = ready.root / "scripts" / "test"
    text = script.read_text()
    shortened = text.replace("run_stage layers mpich 60", "run_stage layers mpich 1")
    assert shortened != text
    script.write_text(shortened)
    python = ready.root / ".environments" / "mpich" / "bin" / "python"
    python.write_text(python.read_text().replace("*mypy*", "*layers*) sleep 60 ;;\n    *mypy*"))

    result = ready.run("test", "layers")

    assert result.returncode == 1
    assert "FAILED (deadline of 1 s)" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_an_unknown_stage_is_refused_with_the_known_ones(ready):
    result = ready.run("test", "units")

    assert result.returncode == 1
    assert "no stage is called 'units'; there are: lint types layers unit onednn" in result.stderr


def test_help_lists_the_stages(ready):
    result = ready.run("test", "--help")

    assert result.returncode == 0
    assert "stages: lint types layers unit onednn emulated" in result.stdout
