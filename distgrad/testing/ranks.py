"""Run a script on several MPI ranks, as a test of its own that cannot hang.

The job gets a deadline. When it passes, every rank's Python stacks are printed, all processes of
the job are ended, and an error that shows the stacks is raised.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distgrad.distributed.launching.processes import (
    MARK,
    end_processes,
    launcher_folder,
    outer_environment,
    processes_of,
    send_signal,
)
from distgrad.errors import JobTimeoutError, LaunchError

_DYING_SECONDS = 2.0  # for the ranks to print their stacks, and the launcher to pass them on

_SETTINGS = {
    # Open MPI refuses root, and more ranks than cores, and binds them to cores that are shared.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",  # SIGABRT makes a rank print its stacks
}


@dataclass(frozen=True)
class RankResult:
    """How a job of several ranks ended.

    Attributes
    ----------
    returncode : int
        Of `mpirun`; negative for a signal.
    stdout, stderr : str
        Of all ranks and of `mpirun`.
    seconds : float
        How long it took, the start of the ranks included.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float


def run_ranks(
    n: int,
    script_or_argv: str | Path | Sequence[str | Path],
    *,
    mpi: str | Path | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    elastic: bool = False,
) -> RankResult:
    """Run a Python script under `mpirun` and return how it ended.

    Parameters
    ----------
    n : int
        How many ranks.
    script_or_argv : path or sequence
        The script, or all that follows ``python`` on the command line.
    mpi : path, optional
        The `mpirun` to use; by default the one beside this Python.
    timeout : float
        Seconds until the job is ended, with all ranks' stacks.
    env : mapping, optional
        Variables to add to the environment.
    elastic : bool
        Whether ranks outlive each other, which only Open MPI's can.

    Raises
    ------
    JobTimeoutError
        If the job has not ended by then; the message holds the stacks.
    LaunchError
        If there is no `mpirun`.
    """
    argv = [script_or_argv] if isinstance(script_or_argv, str | Path) else list(script_or_argv)
    outliving = ["--with-ft", "ulfm"] if elastic else []
    mpirun = str(mpi or find_mpirun())
    command = [mpirun, *outliving, "-n", str(n), sys.executable, *map(str, argv)]
    mark = uuid.uuid4().hex
    begun = time.monotonic()
    # Files, not pipes: a process that outlives the job would keep a pipe open, and us reading.
    with (
        launcher_folder() as placed,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        process = subprocess.Popen(  # noqa: S603  the caller's own script
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=outer_environment() | _SETTINGS | placed | {MARK: mark} | dict(env or {}),
            start_new_session=True,
        )
        overdue = False
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            overdue = True
            _print_stacks(process.pid, mark)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_DYING_SECONDS)
        finally:
            _end(process, mark)
        seconds = time.monotonic() - begun
        out, err = (_text(file) for file in (stdout, stderr))
    if overdue:
        raise JobTimeoutError(
            f"{n} ranks of {' '.join(map(str, argv))} did not end within {timeout} s\n"
            f"--- standard output ---\n{out}\n--- standard error, with all stacks ---\n{err}",
            out,
            err,
        )
    return RankResult(process.returncode, out, err, seconds)


def find_mpirun() -> Path:
    """Return the `mpirun` beside this Python.

    Raises
    ------
    LaunchError
        If there is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    if not beside.exists():
        raise LaunchError(f"there is no {beside}; install one: pip install mpi4py mpich")
    return beside


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read().decode(errors="replace"))  # type: ignore[attr-defined]


def _print_stacks(mpirun: int, mark: str) -> None:
    """Make each rank print its stacks, marked with its number, and end."""
    processes = processes_of(mark)
    ranks = {pid: rank for pid, rank in processes.items() if rank is not None}
    launchers = [mpirun, *(pid for pid in processes if pid not in ranks)]
    # Launchers kill all ranks when one dies: they have to stand still until all have printed.
    for pid in launchers:
        send_signal(pid, signal.SIGSTOP)
    for pid, rank in sorted(ranks.items(), key=lambda item: item[1]):
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/fd/2", "wb", buffering=0) as stderr,  # the rank's own pipe
        ):
            stderr.write(f"--- stacks of rank {rank} (process {pid}) ---\n".encode())
        send_signal(pid, signal.SIGABRT)
        send_signal(pid, signal.SIGCONT)  # it may have been stopped
    time.sleep(0.3)
    for pid in launchers:
        send_signal(pid, signal.SIGCONT)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End whatever is left of the job."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    end_processes(mark)
