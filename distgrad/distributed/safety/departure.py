"""How a rank leaves: by the end of its program, an exit, MPI_Finalize, or an error.

MPI lets a rank that leaves alone hang all others for ever. So each rank, on its way out, meets the
others on the guard's communicator. If all come, each exits with its own code and nobody notices.
If they don't come within a moment, this rank tells them why it left; ranks that wait for it in a
collective operation then raise (`Guard.wait`), and ranks that still compute are left in peace,
unless it left by an error: then the job ends after the grace. A rank that fails before it has
joined the job joins it to say so, because the others may be waiting for it in MPI_Init.

What ends a process without the interpreter's own end, `os._exit` and `os.exec*`, is a way out like
the others, and so is a call of MPI_Finalize: who takes it alone is waited for by the others, and
where a rank that ends so returns 0, MPICH's launcher may return 0 for the whole job.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import numpy as np

from distgrad.distributed.safety.guard import Failure, Guard, describe_error, write_lines
from distgrad.distributed.safety.roll import Roll
from distgrad.errors import CommunicationError, LaunchError, RemoteRankError

_HERE = Path(__file__).parent
_LAST_WORDS = 0.5  # seconds
_MOMENT = 0.2  # seconds in which ranks that end together come together

_exit, _execv, _execve = os._exit, os.execv, os.execve


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
        self._roll: Roll | None = None
        self._is_leaving = False
        self._has_left = False

    def install(self) -> None:
        """Stand at every exit: uncaught exceptions, exits, and the end of the program."""
        sys.excepthook = self.report
        sys.exit = _watched_exit
        os._exit = self._watched_end
        os.execv = self._watched_execv
        os.execve = self._watched_execve
        atexit.register(self.leave)

    def watch(self, guard: Guard) -> None:
        """Leave as a rank of this guard's, also by MPI_Finalize, from the joining of the job on."""
        self.guard = guard
        self._roll = Roll(guard.rank)
        # MPI_Finalize begins by deleting what is attached to this communicator, while all of MPI
        # still works (MPI 4.0, section 11.2.4).
        mpi = guard.mpi
        mpi.COMM_SELF.Set_attr(mpi.Comm.Create_keyval(delete_fn=self._watched_finalize), None)

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
        if guard is None or self._has_left or guard.mpi.Is_finalized():
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
        self._tell_what_nobody_heard()
        exit_ = WatchedExit.taken
        code = _exit_code(exit_)
        if self.guard is None and code:
            self.guard = self._join()
        guard = self.guard
        if guard is None or self._has_left or guard.mpi.Is_finalized():
            return
        self._depart(guard, f"left by {exit_.describe()}" if exit_ else "left its program", code)
        if guard.survived or guard.losses.known:
            # After losses MPI_Finalize has been seen to wait for ever, and after MPI_Abort by
            # several ranks the launcher (Open MPI 5.0.11); who ends without either is no trouble.
            code = guard.failure.code if guard.failure else code
            if code:
                time.sleep(_LAST_WORDS)  # the launcher kills the others, which have words to say
            _end_process(code)

    def _tell_what_nobody_heard(self) -> None:
        """Tell of an error that somebody who replaced sys.excepthook after us has printed."""
        error = _last_error()
        if error is not None and error is not self._earlier_error and error is not self._reported:
            self._reported = error
            write_lines(self._rank, describe_error(error))
            self._tell(error, error.__traceback__)

    def _depart(self, guard: Guard, what: str, code: int, *, finalizes: bool = True) -> bool:
        """Meet the others, unless some are lost; return whether some of all are to finalize MPI."""
        self._is_leaving = True
        lost = guard.losses.known
        if not lost:
            try:
                finalizes = self._meet(guard, what, code, finalizes)
            except KeyboardInterrupt:
                guard.abort(130)
            except guard.mpi.Exception as met:
                # If somebody has died: of those that were done, nobody needs the others any more.
                if not guard.losses.heard(met):
                    guard.abort(code or 1)
                lost = True
        self._has_left = True
        if self._roll is not None:
            self._roll.sign_off(lost_others=guard.survived or lost)
        return finalizes and not (guard.survived or lost)

    def _leave_as_child(self) -> NoReturn:
        """End a process that was forked off a rank, before mpi4py ends the rank's MPI in it.

        MPI_Finalize would speak for the rank, over the launcher's connection that both share.
        """
        error = _last_error()
        failed = error is not None and error is not self._earlier_error
        _end_process(_exit_code(WatchedExit.taken) or int(failed))

    def _meet(self, guard: Guard, what: str, code: int, finalizes: bool) -> bool:
        """Wait until all ranks are on their way out, telling why this one is, or end the job."""
        failed = guard.failure is not None and guard.failure.rank == guard.rank
        if guard.open_operations and guard.failure is None:
            what += ", in the middle of an operation between ranks"
            code = code or 1
        mpi = guard.mpi
        # Open operations, and a rank to speak for the job: the lowest that failed by itself.
        voice = guard.size - guard.rank if failed or code else 0
        state = np.array([guard.open_operations, voice, finalizes])
        request = guard.communicator.Iallreduce(mpi.IN_PLACE, state, mpi.MAX)
        begun = time.monotonic()
        told = failed
        while not request.Test():
            waited = time.monotonic() - begun
            guard.receive()
            if waited > _MOMENT and not told:
                told = True
                _tell_why(guard, what, code)
            if waited < 0.002:
                os.sched_yield()
            else:
                time.sleep(min(0.01, waited / 10))
        if state[0]:
            # An operation that never completed: MPI_Finalize could wait for it for ever.
            if state[1] != voice:
                time.sleep(1.0)  # one message is enough; this process is ended from outside
            elif voice and not told:
                write_lines(guard.rank, what)
            guard.abort(guard.failure.code if guard.failure else code or 1)
        if state[1]:
            guard.deliver()
        guard.reprieve()
        return bool(state[2])

    # --- ways out that end no program -----------------------------------------------------------

    def _watched_end(self, status: int) -> NoReturn:
        """End the process at once, as `os._exit` does."""
        if isinstance(status, int):
            self._end(f"os._exit({status})", status & 0xFF)
        _exit(status)

    def _watched_execv(self, path: Any, argv: Any, /) -> NoReturn:
        """Execute another program in place of this one, as `os.execv` does."""
        if _is_program(path):
            self._end(f"os.execv({path!r}, ...)", 0)
        _execv(path, argv)

    def _watched_execve(self, path: Any, argv: Any, env: Any) -> NoReturn:
        """Execute another program in place of this one, as `os.execve` does."""
        if _is_program(path):
            self._end(f"os.execve({path!r}, ...)", 0)
        _execve(path, argv, env)

    def _end(self, call: str, code: int) -> None:
        """Leave, if this is a rank that has not yet, by a call that ends the process at once."""
        guard = self.guard
        if self._process != os.getpid() or guard is None or self._has_left:
            return
        mpi = guard.mpi
        is_main = threading.current_thread() is threading.main_thread()
        if mpi.Is_finalized() or not (is_main or mpi.Query_thread() == mpi.THREAD_MULTIPLE):
            return
        caller = sys._getframe(2)
        while caller.f_globals is vars(os) and caller.f_back:  # os.execvp calls os.execv
            caller = caller.f_back
        what = f"left by {call} in {_place(caller)}"
        if self._is_leaving:  # by a signal's handler or another thread, while the others are met
            write_lines(guard.rank, f"{what}, before the other ranks have come to their end")
            guard.abort(code or 1)
        self._tell_what_nobody_heard()
        # Ranks that finalize MPI wait for each other there; where none does, none has to.
        if self._depart(guard, what, code, finalizes=False) and is_main:
            mpi.Finalize()

    def _watched_finalize(self, communicator: Any, key: int, value: Any) -> None:
        guard = self.guard
        if self._process == os.getpid() and guard is not None and not self._is_leaving:
            what = f"called MPI_Finalize in {_place(sys._getframe(1))}"
            self._depart(guard, what, 0)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"


def _is_program(path: Any) -> bool:
    """Return whether a path can be executed: if not, this program goes on with an OSError."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        return os.path.isfile(path) and os.access(path, os.X_OK)
    return False


def _end_process(code: int) -> NoReturn:
    """End this process now, less what was registered to run after us: mpi4py's MPI_Finalize."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    _exit(code)


def _tell_why(guard: Guard, what: str, code: int) -> None:
    if code == 0:
        guard.tell_departure(what)
    elif not guard.failure:
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
    error.where = _place(sys._getframe(1))
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
