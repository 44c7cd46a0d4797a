"""Print where a rank stands: the Python stacks of a process, asked for from outside by a signal.

The C handler of `faulthandler` prints them, so that it works while the process is stuck inside an
MPI call and holds the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from pathlib import Path

# SIGUSR1 is what batch systems and mpirun forward before a job's time is over.
SIGNAL = signal.SIGUSR2


def answer(descriptor: int = 2) -> bool:
    """Print this process's stacks whenever the signal comes; return False if it is taken.

    Parameters
    ----------
    descriptor : int
        Where to print; standard error by default.
    """
    if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return False  # the program uses the signal itself
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True, chain=False)
    return True


def request(pid: int) -> bool:
    """Make a process of this machine print its stacks; return whether it can."""
    if not catches(pid, SIGNAL):
        return False
    with contextlib.suppress(OSError):
        os.kill(pid, SIGNAL)
        return True
    return False


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal: without one, the signal would end it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
