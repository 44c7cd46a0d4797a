"""Where a training tells what it does: progress, metrics file, event file, summary and report."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from distgrad.training.events import EventFile
from distgrad.training.history import History, Trained
from distgrad.training.job import Job, JobError
from distgrad.training.metrics import MetricsFile
from distgrad.training.progress import Progress
from distgrad.training.report import write_report
from distgrad.training.summary import show_summary
from distgrad.training.terminal import terminal_columns

_SHOWN = 5  # gaps in a message


class Outlets:
    """All that a training writes, on the first rank; the others keep the history alone.

    Parameters
    ----------
    job : Job
        Whose arguments name the files.
    begun : int
        The step after which this run begins.
    title : str
        Of summary and report.
    show : mapping of str to callable
        Which figures stand beside the loss in the progress, each with how to write it.

    Raises
    ------
    JobError
        On every rank, if a file cannot be opened.
    """

    def __init__(
        self, job: Job, begun: int, title: str, show: Mapping[str, Callable[[float], str]]
    ) -> None:
        self._job, self._title, self._show = job, title, show
        self._columns = terminal_columns() if job.speaks else None
        self.history = History()
        arguments = job.arguments
        self._metrics: MetricsFile | None = None
        self._events: EventFile | None = None
        if arguments.metrics is not None:
            self._metrics = job.first_rank(lambda: _opened("--metrics", begun, arguments.metrics))
        if self._metrics is not None:
            for record in self._metrics.kept:
                self.history.add(record)
            self._warn_of_lost(self._metrics.lost)
        if arguments.tensorboard is not None:
            self._events = job.first_rank(
                lambda: _opened_events("--tensorboard", begun, arguments.tensorboard)
            )
        # Known now rather than after hours.
        if arguments.report is not None:
            job.first_rank(lambda: _check_folder("--report", arguments.report))
        if arguments.timeline is not None:
            job.first_rank(lambda: _check_timeline(arguments.timeline))
        self._failure = self._unsaid = ""
        self._begun = begun
        self._started = time.perf_counter()
        self._progress = Progress(
            arguments.steps, columns=self._columns, quiet=not job.speaks, done=begun
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """Take in the record of a step."""
        clean = {name: _or_none(value) for name, value in record.items()}
        self.history.add(clean)
        if not self._failure:
            try:
                self._put(clean, clean)
            except OSError as error:
                self._failure = str(error)
                self._job.is_troubled = True
        if self._job.speaks:
            figures = {"loss": f"{record['loss']:.4f}"}
            figures |= {n: f(record[n]) for n, f in self._show.items() if n in record}
            step, examples = record["step"], record["examples"]
            self._tell(lambda: self._progress.update(step, examples=examples, figures=figures))

    def _warn_of_lost(self, lost: Sequence[range]) -> None:
        if lost:
            shown = lost[:_SHOWN]
            steps = ", ".join(f"{x[0]} to {x[-1]}" if len(x) > 1 else f"{x[0]}" for x in shown)
            more = f" and {len(lost) - _SHOWN} more gaps" if len(lost) > _SHOWN else ""
            self._job.warn(
                f"--metrics {self._job.arguments.metrics}: has no lines of steps {steps}{more}, "
                "which are before the resumed one; they stay missing there and in a report"
            )

    def say(self, text: str) -> None:
        """Print a line, unless the job is to be quiet."""
        if self._job.speaks:
            self._tell(lambda: print(text, flush=True))

    def refuse_failed(self) -> None:
        """Raise a `JobError` on all ranks if a file could not be written, which call this."""
        self._job.first_rank(self._raise_failure)

    def finish(self, trained: Trained, facts: Mapping[str, str], hints: Sequence[str]) -> None:
        """Write the last line, the summary and the report.

        Raises
        ------
        JobError
            On every rank, if a file cannot be written, now or before, or what was to be printed
            could not be.
        """
        job, arguments = self._job, self._job.arguments
        final = {name: _or_none(value) for name, value in trained.final.items()}
        last = {"final": True, **final, "variables_sha256": trained.variables_sha256}
        figures = {"step": trained.steps, **{f"final/{n}": v for n, v in final.items()}}
        job.first_rank(lambda: self._put_last(last, figures))
        told = {**self._facts(trained), **facts}
        if arguments.metrics is not None:
            told["metrics"] = f"{arguments.metrics}, a line a step"
        memory = job.peak_memory()
        if arguments.report is not None:
            told["report"] = f"{arguments.report}"
            job.first_rank(lambda: self._report(trained, told, memory))
        if job.speaks:
            self._tell(lambda: show_summary(self._title, told, hints, columns=self._columns))
        job.first_rank(self._raise_unsaid)

    def _tell(self, action: Callable[[], None]) -> None:
        """Print; from the first failure on nothing any more, for which no training is to end."""
        if self._unsaid:
            return
        try:
            action()
        except OSError as error:
            self._unsaid = f"standard output: {error.strerror or error}"
            _discard(sys.stdout)
            self._job.warn(f"{self._unsaid}; the training goes on")

    def _put(self, line: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            with _naming("--metrics", self._job.arguments.metrics):
                self._metrics.write(line)
        if self._events is not None:
            with _naming("--tensorboard", self._job.arguments.tensorboard):
                self._events.write(figures)

    def _put_last(self, line: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        self._raise_failure()
        self._put(line, figures)
        if self._metrics is not None:
            with _naming("--metrics", self._job.arguments.metrics):
                self._metrics.close()
        if self._events is not None:
            with _naming("--tensorboard", self._job.arguments.tensorboard):
                self._events.close()

    def _report(self, trained: Trained, facts: Mapping[str, str], memory: int) -> None:
        arguments = self._job.arguments
        with _naming("--report", arguments.report):
            write_report(
                arguments.report,
                title=self._title,
                facts=facts,
                arguments=vars(arguments),
                trained=trained,
                memory=memory,
            )

    def _raise_failure(self) -> None:
        if self._failure:
            raise JobError(self._failure)

    def _raise_unsaid(self) -> None:
        if self._unsaid:
            raise JobError(f"{self._unsaid}; all but what was to be printed is done")

    def _facts(self, trained: Trained) -> dict[str, str]:
        arguments, history = self._job.arguments, self.history
        ranks, seconds = self._job.world.size, max(trained.seconds, 1e-9)
        steps = trained.steps - self._begun
        facts = {
            "ran": f"{steps} steps of {arguments.global_batch} examples, {arguments.dtype}, "
            f"seed {arguments.seed}",
            "ranks": f"{ranks}" if ranks > 1 else "1 (a single process, without MPI)",
        }
        losses = history.column("loss")
        if losses:
            facts["loss"] = f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last"
        for name, value in trained.final.items():
            facts[name.replace("_", " ")] = f"{value:.6g}"
        examples = sum(history.column("examples")[len(history) - steps :])
        facts["time"] = f"{seconds:.1f} s, {examples / seconds:,.0f} examples/s"
        if ranks > 1:
            waited = history.total("exposed_comm_seconds")
            sent = history.total("bytes_sent")
            spent = max(history.total("seconds"), 1e-9)
            facts["communication"] = (
                f"{100 * waited / spent:.0f} % of the time, {sent / 1e6:,.1f} MB sent by rank 0"
            )
        return facts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tell(self._progress.close)
        if error is not None:
            for each in (self._metrics, self._events):
                if each is not None:
                    with contextlib.suppress(OSError):  # what could not be written cannot be now
                        each.close()


def percent(value: float) -> str:
    """Return a share, from 0 to 1, as text: ``98.1 %``."""
    return f"{100 * value:.1f} %"


def _discard(stream: TextIO) -> None:
    """Let nobody read what is written from here on; or its buffer would fail once more at exit."""
    with contextlib.suppress(OSError, ValueError):  # an object without a file has no buffer either
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _or_none(value: Any) -> Any:
    """Return a figure as JSON can say it: what is infinite or no number is null there."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _opened(argument: str, begun: int, path: Any) -> MetricsFile:
    with _naming(argument, path):
        return MetricsFile(path, up_to=begun)


def _opened_events(argument: str, begun: int, path: Any) -> EventFile:
    with _naming(argument, path):
        return EventFile(path, begun=begun)


def _check_folder(argument: str, path: Any) -> None:
    with _naming(argument, path), open(path, "a", encoding="utf-8"):
        pass


def _check_timeline(path: Any) -> None:
    with _naming("--timeline", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _check_folder("--timeline", path)


@contextlib.contextmanager
def _naming(argument: str, path: Any) -> Iterator[None]:
    """Put the argument and its file before what an `OSError` says."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{argument} {path}: {error.strerror or error}") from error
