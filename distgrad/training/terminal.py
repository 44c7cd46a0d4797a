"""Find out whether what a rank prints ends on a terminal, through the launcher between them.

A rank's own `isatty` says nothing under MPI: MPICH's launcher gives it a pipe also where a person
looks on, and Open MPI's gives it a pseudo-terminal also where the output goes to a file. What
counts is the launcher's own output, which on Linux can be looked up among this process's
ancestors.
"""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from distgrad.distributed.launching.launch import detect

# Values of the environment variable DISTGRAD_PROGRESS, which overrides what is found out here.
BAR, LINES = "bar", "lines"

# Programs that start ranks and forward what they print, by the name the kernel knows.
LAUNCHERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "prterun", "orterun", "prun", "srun"})

DEFAULT_COLUMNS = 80


def terminal_columns() -> int | None:
    """Return the width of the terminal that shows this process's output, None without one.

    Returns
    -------
    int or None
        Characters a line; None where the output goes to a file or a pipe, to a terminal that
        understands no control sequences (`TERM=dumb`), or where nothing can be found out.

    Raises
    ------
    ValueError
        If the environment variable `DISTGRAD_PROGRESS` is neither `bar` nor `lines`.

    Notes
    -----
    `DISTGRAD_PROGRESS=bar` says that a terminal looks on, `lines` that none does; a script that
    starts the launcher sets it, since there `[ -t 1 ]` still tells the truth.
    """
    wish = os.environ.get("DISTGRAD_PROGRESS", "")
    if wish not in ("", BAR, LINES):
        raise ValueError(f"DISTGRAD_PROGRESS: expected {BAR!r} or {LINES!r}, got {wish!r}")
    if wish == LINES or os.environ.get("TERM", "dumb") == "dumb":
        return None
    found = _columns_at_launcher() if detect().launcher else _columns_of(_own_output())
    return (found or DEFAULT_COLUMNS) if wish == BAR else found


def _own_output() -> int:
    """Return the file descriptor of this process's output, -1 if it has none."""
    try:
        return sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # replaced by an object without a file
        return -1


def _columns_at_launcher() -> int | None:
    """Return the width of the terminal that the nearest launcher writes to."""
    own = _own_output()
    if own == -1 or stat.S_ISREG(os.fstat(own).st_mode):  # redirected behind the launcher's back
        return None
    for launcher in _launchers():
        try:
            file = os.open(f"/proc/{launcher}/fd/1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:  # a pipe that nobody reads, or another user's terminal
            return None
        try:
            return _columns_of(file)
        finally:
            os.close(file)
    return None


def _launchers() -> Iterator[int]:
    """Yield the process ids of this process's ancestors that are launchers, nearest first."""
    process = os.getpid()
    while process > 1:
        try:
            status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # no /proc on this system, or the ancestor has ended
            return
        # "17 (name) S 16 ...": the name may hold spaces and brackets itself.
        name, _, rest = status.partition("(")[2].rpartition(")")
        if name in LAUNCHERS:
            yield process
        process = int(rest.split()[1])


def _columns_of(file: int) -> int | None:
    """Return the width of the terminal behind a file descriptor, None if it is no terminal."""
    try:
        return os.get_terminal_size(file).columns or DEFAULT_COLUMNS
    except OSError:
        return None
