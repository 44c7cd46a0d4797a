"""Find the processes of a job on this machine by a mark that all inherit, and place its files."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

MARK = "DISTGRAD_JOB"  # in the environment of each process of a job, to find them all again
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")

# What an outer mpirun told this process must not reach the inner one.
_LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "MPI_LOCAL", "MPIR_CVAR_CH4_PMI")
_SETTING_PREFIXES = ("OMPI_MCA_", "OMPI_ALLOW_", "PRTE_MCA_")  # what a user sets, and a job keeps
_LAUNCHERS_OWN = ("OMPI_MCA_orte_", "OMPI_MCA_ess", "PRTE_MCA_ess", "PRTE_MCA_prte_")


def outer_environment(*, keep_settings: bool = False) -> dict[str, str]:
    """Return this process's environment less what an `mpirun` around it has added.

    Parameters
    ----------
    keep_settings : bool
        Whether to keep Open MPI's parameters, which users set in the same way as its launcher does.
    """

    def is_kept(name: str) -> bool:
        if not name.startswith(_LAUNCHER_PREFIXES):
            return True
        setting = name.startswith(_SETTING_PREFIXES) and not name.startswith(_LAUNCHERS_OWN)
        return keep_settings and setting

    return {name: value for name, value in os.environ.items() if is_kept(name)}


@contextlib.contextmanager
def launcher_folder() -> Iterator[dict[str, str]]:
    """Give a launcher a folder of its own while it runs; yields the variables that name it.

    Open MPI's launcher keeps files in a folder that has its process number for a name, and refuses
    to start where they are there already: left by one that was killed, once the numbers have come
    round again. Its folders on other machines stay where they are.
    """
    # A rank that is only just ending may still write.
    with tempfile.TemporaryDirectory(prefix="distgrad-", ignore_cleanup_errors=True) as folder:
        yield {"PRTE_MCA_prte_local_tmpdir_base": folder}


def processes_of(mark: str) -> dict[int, int | None]:
    """Return the processes of a job, each with its rank, or None for launchers and children."""
    found: dict[int, int | None] = {}
    parents: dict[int, int] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            variables = (directory / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() not in variables:
                continue
            pid = int(directory.name)
            found[pid] = _rank_of(variables)
            status = (directory / "stat").read_text().rpartition(")")[2].split()
            parents[pid] = int(status[1])
    # What a rank has started inherits its variables, but is no rank.
    children = {pid for pid in found if found.get(parents.get(pid, 0)) is not None}
    return {pid: None if pid in children else rank for pid, rank in found.items()}


def ranks_of(mark: str) -> Mapping[int, int]:
    """Return the processes of a job on this machine that are ranks, each with its rank."""
    return {pid: rank for pid, rank in processes_of(mark).items() if rank is not None}


def end_processes(mark: str) -> None:
    """Kill whatever is left of a job on this machine."""
    for pid in processes_of(mark):
        send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended already."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _rank_of(variables: list[bytes]) -> int | None:
    for name in _RANK_VARIABLES:
        for variable in variables:
            if variable.startswith(f"{name}=".encode()):
                return int(variable.partition(b"=")[2])
    return None
