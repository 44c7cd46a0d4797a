"""How a rank leaves: by the end of its program, by `sys.exit`, or by an error.

MPI lets a rank that leaves alone hang all others for ever. So each rank, on its way out, meets the
others on the guard's communicator. If all come, each exits with its own code and nobody notices.
If they don't come within a moment, this rank tells them why it left; ranks that wait for it in a
collective operation then raise (`Guard.wait`), and ranks that still compute are left in peace,
unless it left by an error: then the job ends after the grace. A rank that fails before it has
joined the job joins it to say so, because the others may be waiting for it in MPI_Init.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed.safety.guard import Failure, Guard, describe_error, write_lines
from distgrad.errors import CommunicationError, LaunchError, RemoteRankError

_HERE = Path(__file__).parent
_LAST_WORDS = 0.5  # seconds
_MOMENT = 0.2  # seconds in which ranks that end together come together


class WatchedExit(SystemExit):
    """A SystemExit that knows whether the interpreter takes it, or a handler of the program."""

    taken: WatchedExit | None = None
    where = ""

    @property
    def code(self) -> Any:  # type: ignore[override]  # SystemExit stores it; here it is watched
        """The exit code; read with no Python frame below, it is the interpreter that exits."""
        if sys._getframe().f_back is None:
            WatchedExit.taken = self
        return vars(SystemExit)["code"].__get__(self)

    def describe(self) -> str:
        """Return the call in words, such as ``sys.exit(3) in train.py, line 12``."""
        return f"sys.exit({', '.join(map(repr, self.args))}) in {self.where}"


class Departure:
    """Watches how this process ends, and sees to it that no rank waits for it in vain.

    Parameters
    ----------
    rank : int
        The rank, as the launcher says.
    join : callable
        ``join() -> Guard or None``: join the job late, only to tell the others of a failure.

    Attributes
    ----------
    guard : Guard or None
        The process's guard, once the job is joined.
    """

    def __init__(self, rank: int, join: Callable[[], Guard | None]) -> None:
        self.guard: Guard | None = None
        self._rank = rank
        self._join = join
        self._process = os.getpid()
        self._reported: BaseException | None = None
        self._earlier_error = _last_error()
        self._previous_hook = sys.excepthook

    def install(self) -> None:
        """Stand at every exit: uncaught exceptions, `sys.exit`, and the end of the program."""
        sys.excepthook = self.report
        sys.exit = _watched_exit
        atexit.register(self.leave)

    def adopt(self, guard: Guard) -> None:
        """Leave as a rank of another guard's: of what is left of a job that lost ranks."""
        self.guard = guard
        self._rank = guard.rank

    # --- uncaught exceptions --------------------------------------------------------------------

    def report(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Print the traceback of an uncaught exception with the rank before each line, and tell."""
        if self._process != os.getpid() or hasattr(sys, "ps1"):
            self._previous_hook(kind, error, trace)  # a child process, or a person at a prompt
            return
        self._reported = error
        if issubclass(kind, KeyboardInterrupt):
            last = traceback.extract_tb(trace)[-1:]
            place = f" in {last[0].filename}, line {last[0].lineno}" if last else ""
            write_lines(self._rank, f"KeyboardInterrupt{place}")
        elif self._previous_hook is sys.__excepthook__:
            write_lines(self._rank, "".join(_format(error, trace)))
        else:
            write_lines(self._rank, describe_error(error))
            self._previous_hook(kind, error, trace)
        self._tell(error, trace)

    def _tell(self, error: BaseException, trace: TracebackType | None) -> None:
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        if self.guard is None and not isinstance(error, LaunchError):
            self.guard = self._join()
        guard = self.guard
        if guard is None:
            return
        if isinstance(error, RemoteRankError) and guard.failure:
            guard.doom(guard.grace, code)  # the others know already
            return
        text = "".join(_format(error, trace))
        guard.tell_failure(Failure(guard.rank, describe_error(error), text, code))

    # --- the way out ----------------------------------------------------------------------------

    def leave(self) -> None:
        """Meet the others on the way out; return only if all of them leave in good order."""
        if self._process != os.getpid():
            if self.guard is not None:
                self._leave_as_child()
            return
        error = _last_error()
        if error is not None and error is not self._earlier_error and error is not self._reported:
            # Somebody replaced sys.excepthook after us: it has printed, but nobody was told.
            write_lines(self._rank, describe_error(error))
            self._tell(error, error.__traceback__)
        exit_ = WatchedExit.taken
        if self.guard is None and _exit_code(exit_):
            self.guard = self._join()
        if self.guard is None or self.guard.mpi.Is_finalized():
            return
        guard = self.guard
        if not guard.losses.known:
            try:
                self._meet(guard, exit_)
            except KeyboardInterrupt:
                guard.abort(130)
            except guard.mpi.Exception as met:
                # If somebody has died: of those that were done, nobody needs the others any more.
                if not guard.losses.heard(met):
                    guard.abort(_exit_code(exit_) or 1)
        if guard.survived or guard.losses.known:
            # After losses MPI_Finalize has been seen to wait for ever, and after MPI_Abort by
            # several ranks the launcher (Open MPI 5.0.11); who ends without either is no trouble.
            code = guard.failure.code if guard.failure else _exit_code(exit_)
            if code:
                time.sleep(_LAST_WORDS)  # the launcher kills the others, which have words to say
            _end_process(code)

    def _leave_as_child(self) -> NoReturn:
        """End a process that was forked off a rank, before mpi4py ends the rank's MPI in it.

        MPI_Finalize would speak for the rank, over the launcher's connection that both share.
        """
        error = _last_error()
        failed = error is not None and error is not self._earlier_error
        _end_process(_exit_code(WatchedExit.taken) or int(failed))

    def _meet(self, guard: Guard, exit_: WatchedExit | None) -> None:
        """Wait until all ranks are on their way out, telling why this one is, or end the job."""
        code = _exit_code(exit_)
        failed = guard.failure is not None and guard.failure.rank == guard.rank
        mpi = guard.mpi
        # Open operations, and a rank to speak for the job: the lowest that failed by itself.
        voice = guard.size - guard.rank if failed or code else 0
        state = np.array([guard.open_operations, voice])
        request = guard.communicator.Iallreduce(mpi.IN_PLACE, state, mpi.MAX)
        begun = time.monotonic()
        told = failed
        while not request.Test():
            waited = time.monotonic() - begun
            guard.receive()
            if waited > _MOMENT and not told:
                told = True
                _tell_why(guard, exit_, code)
            if waited < 0.002:
                os.sched_yield()
            else:
                time.sleep(min(0.01, waited / 10))
        if state[0]:
            # An operation that never completed: MPI_Finalize could wait for it for ever.
            if state[1] != voice:
                time.sleep(1.0)  # one message is enough; this process is ended from outside
            guard.abort(guard.failure.code if guard.failure else code or 1)
        if state[1]:
            guard.deliver()
        guard.reprieve()


def _end_process(code: int) -> NoReturn:
    """End this process now, less what was registered to run after us: mpi4py's MPI_Finalize."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _tell_why(guard: Guard, exit_: WatchedExit | None, code: int) -> None:
    if exit_ is None:
        guard.tell_departure("left its program")
    elif code == 0:
        guard.tell_departure(f"left by {exit_.describe()}")
    elif not guard.failure:
        what = f"left by {exit_.describe()}"
        write_lines(guard.rank, f"{what}; the other ranks have not: the job ends")
        guard.tell_failure(Failure(guard.rank, what, "", code))


def _format(error: BaseException, trace: TracebackType | None) -> list[str]:
    """Return the traceback of an exception, less our own frames where another rank is at fault."""
    limit = None
    if isinstance(error, CommunicationError):
        files = [frame.filename for frame in traceback.extract_tb(trace)]
        limit = next((i for i, name in enumerate(files) if Path(name).parent == _HERE), None)
    return traceback.format_exception(type(error), error, trace, limit=limit)


def _watched_exit(status: Any = None, /) -> NoReturn:
    """Exit the interpreter by raising SystemExit(status), as `sys.exit` does."""
    error = WatchedExit() if status is None else WatchedExit(status)
    caller = sys._getframe(1)
    error.where = f"{caller.f_code.co_filename}, line {caller.f_lineno}"
    raise error


def _exit_code(exit_: WatchedExit | None) -> int:
    status = exit_.args[0] if exit_ is not None and exit_.args else None
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


def _last_error() -> BaseException | None:
    """Return the exception that the interpreter printed last, before any hook saw it."""
    with contextlib.suppress(AttributeError):
        return sys.last_exc  # type: ignore[no-any-return,attr-defined,unused-ignore]  # 3.12
    return getattr(sys, "last_value", None)
