"""Record a timeline of all ranks: in a block, or of a whole job by an environment variable."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from distgrad.distributed.tracing.clocks import compare_clocks
from distgrad.distributed.tracing.merging import TimelineError, merge
from distgrad.distributed.tracing.recording import Recorder
from distgrad.distributed.verbs.communicator import exchange_json

VARIABLE = "DISTGRAD_TIMELINE"

_of_the_job: Timeline | None = None


class Timeline:
    """The recording of what all ranks do; see `distgrad.distributed.timeline`.

    Parameters
    ----------
    path : str or os.PathLike
        Where rank 0 puts the timeline; the ranks' parts lie beside it until then.
    comm : Communicator
        The ranks; all make their timelines together.

    Raises
    ------
    TimelineError
        On every rank, if one of them cannot write its part.
    """

    def __init__(self, path: str | os.PathLike[str], comm: Any) -> None:
        self.path = Path(path)
        self._comm = comm
        self._recorder: Recorder | None = None
        failure = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # ranks may not share a disk
            self._recorder = Recorder(self.path, comm.rank, comm.size)
        except OSError as error:
            failure = str(error)
        try:
            self._agree(failure)
        except TimelineError:
            self._stop()
            raise
        self._note_clock()

    def __enter__(self) -> Timeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # the others may not come: what was recorded stays in the parts
            self._stop()

    def close(self) -> None:
        """Stop, and write the timeline on rank 0; all ranks call this.

        Raises
        ------
        TimelineError
            On every rank, if a rank could not write its part, or rank 0 cannot write the whole;
            the ranks' parts stay then.
        """
        self._note_clock()
        self._agree(self._stop())
        failure = ""
        if self._comm.rank == 0:
            try:
                self._merge()
            except (TimelineError, OSError) as error:
                failure = f"{error}"
        self._agree(failure)

    def _note_clock(self) -> None:
        reading = compare_clocks(self._comm)
        if self._recorder is not None:
            self._recorder.note_clock(reading)

    def _stop(self) -> str:
        """End the recording; return why this rank's part is not whole, empty if it is."""
        if self._recorder is None:
            return ""
        self._recorder.close()
        return self._recorder.failure

    def _agree(self, failure: str) -> None:
        """Raise a `TimelineError` on every rank if one of them has failed."""
        for rank, said in enumerate(exchange_json(self._comm, failure)):
            if said:
                raise TimelineError(f"rank {rank}: {said}" if self._comm.size > 1 else said)

    def _merge(self) -> None:
        missing = merge(self.path)["missing"]
        if missing:
            print(
                f"timeline: {self.path} lacks ranks {missing}: rank 0 does not see their files; "
                f"bring them together and run: distgrad timeline merge {self.path}",
                file=sys.stderr,
            )


def stand_by() -> None:
    """Have the job's timeline put together at the very end, if the environment asks for one.

    Called before the departure of ranks is watched, so that it runs after that, when all other
    ranks are known to have written their parts.
    """
    if os.environ.get(VARIABLE):
        atexit.register(_merge_at_exit, os.getpid())


def start_if_asked(comm: Any) -> None:
    """Start the timeline of the job if the environment asks for one; all ranks call this."""
    global _of_the_job  # noqa: PLW0603  a process is in one job
    path = os.environ.get(VARIABLE)
    if path and _of_the_job is None:
        _of_the_job = Timeline(path, comm)
        atexit.register(_stop_at_exit, _of_the_job)


def _stop_at_exit(timeline: Timeline) -> None:
    failure = timeline._stop()
    if failure:
        print(f"timeline: {failure}", file=sys.stderr)


def _merge_at_exit(process: int) -> None:
    if _of_the_job is not None and process == os.getpid() and _of_the_job._comm.rank == 0:
        try:
            _of_the_job._merge()
        except (TimelineError, OSError) as error:
            print(f"timeline: {error}", file=sys.stderr)
