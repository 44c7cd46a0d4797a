"""Ranks that cannot find each other say so, instead of each doing the whole work alone."""

import os
import subprocess
import sys

import pytest

from distgrad.testing.ranks import run_ranks

START = "import distgrad.distributed as dist; print('a world of', dist.world().size)"


def run_alone(source, **variables):
    """Run one process that believes to be one of several."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_COMM"))}
    return subprocess.run(
        [sys.executable, "-c", source],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("variable", "launcher"),
    [("PMI", "MPICH's mpirun (Hydra)"), ("OMPI_COMM_WORLD", "Open MPI's mpirun")],
)
def test_a_singleton_that_should_be_one_of_two_is_an_error(variable, launcher):
    done = run_alone(START, **{f"{variable}_SIZE": "2", f"{variable}_RANK": "1"})

    assert done.returncode != 0
    assert "a world of" not in done.stdout
    assert f"LaunchError: rank 1: {launcher} started 2 processes ({variable}_SIZE=2)" in done.stderr
    assert "each process would be a job of its own" in done.stderr
    assert f"{os.path.dirname(sys.executable)}/mpirun -n 2" in done.stderr


def test_the_mpirun_of_another_mpi_is_an_error(tmp_path, other_mpirun):
    script = tmp_path / "job.py"
    script.write_text(START)

    result = run_ranks(2, script, mpi=other_mpirun, timeout=30)

    assert result.returncode != 0
    assert "a world of" not in result.stdout
    assert "MPICH" in result.stderr
    assert "Open MPI" in result.stderr
    # Open MPI's ends all ranks as soon as the first has ended badly.
    assert any(f"LaunchError: rank {rank}: " in result.stderr for rank in (0, 1))


def test_a_missing_mpi4py_is_an_error_with_the_command_that_installs_it():
    done = run_alone(
        "import sys; sys.modules['mpi4py'] = None\n" + START, PMI_SIZE="2", PMI_RANK="0"
    )

    assert done.returncode != 0
    assert "mpi4py is not installed" in done.stderr
    assert "pip install mpi4py mpich" in done.stderr


def test_a_missing_mpi_library_is_an_error_with_the_command_that_installs_it():
    done = run_alone(START, PMI_SIZE="2", PMI_RANK="0", MPI4PY_LIBMPI="/nowhere/libmpi.so")

    assert done.returncode != 0
    assert "mpi4py finds no MPI" in done.stderr
    assert "pip install mpi4py mpich" in done.stderr


def test_one_process_needs_no_mpi():
    done = run_alone("import sys; sys.modules['mpi4py'] = None\n" + START)

    assert done.stdout == "a world of 1\n"


def test_mpirun_of_one_rank_is_serial(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(START + "; import sys; print('mpi4py' in sys.modules)")

    result = run_ranks(1, script, timeout=30)

    assert result.stdout.split() == ["a", "world", "of", "1", "False"], result.stderr
