"""``distgrad run``: start a script on several ranks with the MPI of this environment."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from distgrad.distributed.launching.launchers import (
    Placement,
    command_of,
    environment_of,
    find_launcher,
)
from distgrad.distributed.launching.supervision import AGAIN, run_job
from distgrad.errors import LaunchError

_EPILOG = f"""\
SIGUSR1, SIGTERM and SIGINT are passed on to the ranks. A job that ends with exit code {AGAIN}
(EX_TEMPFAIL: saved its state to make room) is started again, unless SIGTERM or SIGINT came.
`mpirun -n 4 python script.py` starts the same ranks without this help."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to a parser."""
    parser = subparsers.add_parser(
        "run",
        help="start a script on several ranks",
        description="Start a Python script on several MPI ranks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="distgrad run -n RANKS [OPTION ...] (SCRIPT | -m MODULE) [ARGUMENT ...]",
    )
    parser.add_argument("-n", type=_positive, required=True, metavar="RANKS", help="how many ranks")
    parser.add_argument(
        "--threads",
        type=_positive,
        metavar="K",
        help="threads of each rank; by default its part of the cores, or as OMP_NUM_THREADS says",
    )
    parser.add_argument("--bind", action="store_true", help="bind each rank to cores of its own")
    parser.add_argument("--tag", action="store_true", help="put the rank before each output line")
    parser.add_argument(
        "--elastic",
        action="store_true",
        help="let ranks outlive each other, for scripts with dist.ElasticJob (Open MPI only)",
    )
    parser.add_argument(
        "--restarts",
        type=_natural,
        default=3,
        metavar="K",
        help=f"start again at most so often after exit code {AGAIN} (default: 3)",
    )
    parser.add_argument(
        "--mpirun",
        metavar="PATH",
        help="the launcher; by default the one beside this Python, else the first on the PATH "
        "(also: DISTGRAD_MPIRUN)",
    )
    parser.add_argument(
        "--launcher-options",
        default="",
        metavar="TEXT",
        help="further options of the launcher, in one word, such as '--hostfile hosts.txt'",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print variables and command, start nothing"
    )
    parser.add_argument(
        "-m", dest="is_module", action="store_true", help="SCRIPT is the name of a module"
    )
    parser.add_argument("script", help="what each rank runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script is given")
    parser.set_defaults(execute=_execute)


def _execute(given: argparse.Namespace) -> int:
    if not given.is_module and not Path(given.script).exists():
        raise LaunchError(
            f"there is no script {given.script}; expected a Python file, or -m and a module"
        )
    try:
        options = tuple(shlex.split(given.launcher_options))
    except ValueError as error:
        raise LaunchError(
            f"--launcher-options {given.launcher_options}: {error}; expected the options as a "
            "shell would take them"
        ) from error
    placement = Placement(
        given.threads,
        given.bind,
        given.tag,
        options,
        given.elastic,
    )
    # One rank needs no launcher, and no MPI.
    launcher = find_launcher(given.mpirun) if given.n > 1 or given.mpirun else None
    argv = [sys.executable, *(["-m"] if given.is_module else []), given.script, *given.arguments]
    if given.dry_run:
        variables = environment_of(launcher, given.n, placement)
        words = [f"{name}={value}" for name, value in sorted(variables.items())]
        print(shlex.join([*words, *command_of(launcher, given.n, argv, placement)]))
        return 0
    return run_job(launcher, given.n, argv, placement=placement, restarts=given.restarts)


def _positive(text: str) -> int:
    value = _natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not a positive number")
    return value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 4")
    return int(text)
