"""Stand beside a job: pass signals on to its ranks, and start it again after a preemption."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from distgrad.distributed.launching.launchers import (
    Launcher,
    Placement,
    command_of,
    environment_of,
    launcher_environment,
)
from distgrad.distributed.launching.processes import (
    MARK,
    end_processes,
    launcher_folder,
    outer_environment,
    ranks_of,
    send_signal,
)
from distgrad.distributed.safety.roll import ROLL, missing

# sysexits.h's EX_TEMPFAIL, "the user is invited to retry": with it a script that was told to make
# room leaves after it has saved its state, to be started again.
AGAIN = 75

RESTARTS_VARIABLE = "DISTGRAD_RESTARTS"  # tells the ranks how often they have been started again

_PASSED_ON = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ORPHANS_SECONDS = 1.0  # for ranks to end once their launcher has ended
_PATIENCE = 60.0  # seconds of one wait, in which Python looks for the end 20 times a second


def run_job(
    launcher: Launcher | None,
    n: int,
    argv: Sequence[str],
    *,
    placement: Placement = Placement(),  # noqa: B008  frozen
    restarts: int = 0,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a job to its end, and return its exit code.

    Parameters
    ----------
    launcher : Launcher or None
        What starts the ranks; None for one process without.
    n : int
        How many ranks.
    argv : sequence of str
        What each runs.
    placement : Placement
        How they share the machine.
    restarts : int
        How often to start the job again when it ends with exit code 75 (EX_TEMPFAIL). After a
        SIGTERM or SIGINT it is not started again: somebody wants it to end.
    environment : mapping, optional
        Further variables for the ranks.

    Returns
    -------
    int
        The launcher's exit code, 128 + k where signal k ended it; 1 in place of 0 if a rank of this
        machine joined the job and did not end in good order.

    Notes
    -----
    SIGUSR1, SIGTERM and SIGINT go to the ranks. Hydra (MPICH, Intel) passes them on. Open MPI's
    launcher passes on SIGUSR1, but kills the ranks 0.25 s after the other two, so that these are
    sent to the ranks of this machine without it; with ranks on other machines they become SIGUSR1.
    SIGHUP, of a terminal that is closed, counts as SIGTERM, unless it is ignored (``nohup``).
    A second SIGTERM or SIGINT ends the launcher in its own way, a third kills all that is left.
    """
    for begun in range(restarts + 1):
        job = _Job(launcher, n, argv, placement, begun, environment or {})
        code = job.run()
        if code != AGAIN or job.asked_to_end or begun == restarts:
            break
        left = restarts - begun - 1
        _say(f"the job asks to be started again (exit code {AGAIN}); restarts left: {left}")
    return code


class _Job:
    """One start of a job."""

    def __init__(
        self,
        launcher: Launcher | None,
        n: int,
        argv: Sequence[str],
        placement: Placement,
        begun: int,
        environment: Mapping[str, str],
    ) -> None:
        self.asked_to_end = 0
        self._launcher = launcher
        self._local = not placement.options  # they may name other machines
        self._mark = uuid.uuid4().hex
        self._command = command_of(launcher, n, argv, placement)
        self._environment = (
            outer_environment(keep_settings=True)
            | environment_of(launcher, n, placement)
            | {MARK: self._mark, RESTARTS_VARIABLE: str(begun)}
            | dict(environment)
        )
        if launcher is not None:
            self._environment = launcher_environment(launcher.path, self._environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []  # what came before there was anybody to pass it on to

    def run(self) -> int:
        with (
            launcher_folder() as placed,
            tempfile.TemporaryDirectory(prefix="distgrad-", ignore_cleanup_errors=True) as roll,
            self._passing_on(),
        ):
            try:
                self._process = process = subprocess.Popen(  # noqa: S603  the user's own script
                    self._command,
                    env=placed | {ROLL: roll} | self._environment,
                    # A terminal's Ctrl-C would reach the launcher and the ranks beside us; and in a
                    # session of their own, they must not read from the terminal.
                    start_new_session=True,
                    stdin=subprocess.DEVNULL if _is_terminal() else None,
                )
                for number in self._early:
                    self._pass_on(number)
                code = _end_of(process)
            finally:
                self._clean_up()
            if code == 0 and (left := missing(Path(roll))):
                listed = ", ".join(map(str, left))
                _say(
                    f"the launcher returns 0, but rank {listed} did not end in good order; did one "
                    "end its process, such as by _exit, and the launcher the others?"
                )
                return 1
        return 128 - code if code < 0 else code

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[None]:
        previous: dict[int, Any] = {}
        for number in _PASSED_ON:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the job is to outlive its terminal
            previous[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # the launcher is in a session that the terminal does not end
            number = signal.SIGTERM
        if self._process is None:
            self._early.append(number)
        else:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        if number == signal.SIGUSR1:
            send_signal(process.pid, number)
            return
        self.asked_to_end += 1
        if self.asked_to_end > 2:
            end_processes(self._mark)
        elif self.asked_to_end > 1:
            send_signal(process.pid, signal.SIGTERM)
        elif self._launcher is None or self._launcher.passes_on:
            send_signal(process.pid, number)
        elif self._local:
            for pid in ranks_of(self._mark):
                send_signal(pid, number)
        else:
            send_signal(process.pid, signal.SIGUSR1)

    def _clean_up(self) -> None:
        """End what the launcher has left behind, such as ranks whose launcher was killed."""
        if self._process is not None and self._process.poll() is None:
            end_processes(self._mark)
            self._process.wait()
        deadline = time.monotonic() + _ORPHANS_SECONDS
        while (left := ranks_of(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            listed = ", ".join(str(rank) for rank in sorted(left.values()))
            _say(f"the launcher has ended without rank {listed}; killing what is left")
            end_processes(self._mark)


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process, once it has one; handlers of signals run meanwhile.

    A signal that comes between the interpreter's last look for one and a wait without an end would
    be heard when the job is over: a preemption without a checkpoint.
    """
    while True:
        try:
            return process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            continue


def _is_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _say(text: str) -> None:
    sys.stderr.write(f"distgrad run: {text}\n")
    sys.stderr.flush()
