"""A pytest plugin: all ranks of ``mpirun -n N pytest --with-mpi`` come to one verdict on each test.

pytest-mpi starts the same tests on every rank, and that is all: a test that fails on rank 1 may be
"passed" on rank 0, and where it fails before a collective operation the others hang for ever. With
this plugin beside it

- the ranks agree after each phase of each test: what failed on one has failed on all, with the
  failing ranks named; so has what was skipped on some only;
- a test has a deadline. When it passes, or when others don't come after one has failed, all ranks
  print their Python stacks and the job ends with a non-zero exit code;
- rank 0 alone prints progress and summary, with the slowest rank's durations; all exit with the
  worst rank's code;
- a run in which no test was executed has failed.

It does nothing without ``--with-mpi``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Generator
from functools import partial
from hashlib import blake2b
from typing import IO, Any, NoReturn

import numpy as np
import pytest
from _pytest.config import create_terminal_writer
from _pytest.terminal import TerminalReporter

from distgrad.distributed.launching.launch import detect, init
from distgrad.distributed.safety import stacks
from distgrad.distributed.verbs.mpi import MPICommunicator
from distgrad.errors import LaunchError

_DEADLINE = 60.0
_PATIENCE = 5.0  # seconds that a rank which has failed waits for the others to come to the verdict
_SETTLING = 1.5  # seconds for all ranks to print their stacks before the first ends the job
_TEXT_CHARACTERS = 20_000
_MACHINERY = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "<frozen runpy>", "/threading.py")
_OUTCOMES = ("passed", "skipped", "failed")
_NAME = "distgrad-mpi-session"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--mpi-deadline`` and the setting ``mpi_deadline``."""
    text = "seconds that a test may take under --with-mpi before all ranks print their stacks"
    parser.getgroup("mpi").addoption("--mpi-deadline", type=float, metavar="SECONDS", help=text)
    parser.addini("mpi_deadline", f"{text}; the option comes first", default=str(_DEADLINE))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let rank 0 alone write a report file, and give each rank a temporary folder of its own."""
    if not _is_active(config):
        return
    rank = detect().rank
    if rank != 0 and hasattr(config.option, "xmlpath"):
        config.option.xmlpath = None
    # pytest's own folder is one for all of a user's runs, which tidy it up in each other's way.
    if getattr(config.option, "basetemp", "given") is None:
        folder = config.option.basetemp = tempfile.mkdtemp(prefix=f"pytest-rank-{rank}-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Join the job, if there is one."""
    if not _is_active(config):
        return
    try:
        world = init()
    except LaunchError as error:
        raise pytest.UsageError(str(error)) from error
    given = config.getoption("--mpi-deadline")
    deadline = float(config.getini("mpi_deadline")) if given is None else given
    if isinstance(world, MPICommunicator):
        config.pluginmanager.register(RankSession(config, world, deadline), _NAME)
    else:
        config.pluginmanager.register(ExecutedTests(), _NAME)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of the terminal."""
    session = config.pluginmanager.get_plugin(_NAME)
    if isinstance(session, RankSession):
        session.close()


def _is_active(config: pytest.Config) -> bool:
    return bool(config.getoption("--with-mpi", False) or config.getoption("--only-mpi", False))


class ExecutedTests:
    """Sees to it that a run without any executed test has failed."""

    def __init__(self) -> None:
        self.executed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count tests that ran, or failed before they could."""
        if report.failed or (report.when == "call" and not report.skipped):
            self.executed += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success without tests into failure."""
        if not self.executed and not session.config.option.collectonly and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(
        self, terminalreporter: TerminalReporter, config: pytest.Config
    ) -> None:
        """Say so."""
        if not self.executed and not config.option.collectonly:
            terminalreporter.write_line(
                "no test was executed: a run with --with-mpi that tests nothing has failed",
                red=True,
            )


class RankSession(ExecutedTests):
    """One rank's part in the common session.

    Parameters
    ----------
    config : pytest.Config
        The rank's configuration.
    world : MPICommunicator
        All ranks.
    deadline : float
        Seconds for one test.
    """

    def __init__(self, config: pytest.Config, world: MPICommunicator, deadline: float) -> None:
        super().__init__()
        self._world = world
        self._mpi = world.guard.mpi
        # Of its own: a test that breaks the library's communicators does not break the verdict.
        self._communicator = self._mpi.COMM_WORLD.Dup()
        self._rank = world.rank
        self._deadline = deadline
        self._place = "the start of the session"
        self._failures: list[str] = []
        self._timer: threading.Timer | None = None
        self._stderr = os.dup(2)  # as it was before tests are captured
        self._null: IO[str] | None = None
        stacks.answer(self._stderr)
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if self._rank and reporter:
            self._null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  see close
            reporter._tw = create_terminal_writer(config, self._null)

    def close(self) -> None:
        """Let go of the files."""
        if self._null:
            self._null.close()

    # --- the session ----------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        """Say whose verdicts the report has."""
        vendor, version = self._mpi.get_vendor()
        library = f"{vendor} {'.'.join(map(str, version))}"
        return (
            f"distgrad: one report of {self._world.size} ranks ({library}), each test within "
            f"{self._deadline:g} s"
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember what could not be collected."""
        if report.failed:
            self._failures.append(report.longreprtext)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Go on only if all ranks are to run the same tests."""
        names = [item.nodeid for item in session.items]
        digest = blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
        mine = {"count": len(names), "digest": digest, "failures": self._failures}
        everyone = self._exchange("collection", mine)
        failed = {r: each["failures"] for r, each in enumerate(everyone) if each["failures"]}
        if failed and not self._failures:
            texts = (f"--- rank {r} ---\n{text}" for r, found in failed.items() for text in found)
            raise pytest.UsageError("other ranks could not collect all tests\n" + "\n".join(texts))
        if any(each["digest"] != digest for each in everyone):
            counts = ", ".join(f"rank {r}: {each['count']}" for r, each in enumerate(everyone))
            raise pytest.UsageError(
                f"the ranks collected different tests ({counts}); does collection depend on the "
                "rank, or on the order of a set?"
            )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Give each test its deadline."""
        self._place = item.nodeid
        self._timer = threading.Timer(self._deadline, self._overdue)
        self._timer.daemon = True
        self._timer.start()
        # The timer needs the interpreter's lock; this does not, and ends the process.
        faulthandler.dump_traceback_later(self._deadline + 10, exit=True, file=self._stderr)
        try:
            return (yield)
        finally:
            self._timer.cancel()
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Agree on the outcome of each phase of a test."""
        report = yield
        text = "" if report.passed or hasattr(report, "wasxfail") else _text(report)
        if report.failed:
            self._failures.append(text)
        mine = {"outcome": report.outcome, "text": text, "duration": report.duration}
        everyone = self._exchange(f"{item.nodeid} ({report.when})", mine, hurry=report.failed)
        _merge(report, self._rank, everyone)
        report.duration = max(each["duration"] for each in everyone)
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Exit with the worst rank's code."""
        super().pytest_sessionfinish(session)
        status = int(session.exitstatus)
        everyone = self._exchange("the end of the session", {"status": status}, hurry=status != 0)
        session.exitstatus = max(each["status"] for each in everyone)

    # --- agreement ------------------------------------------------------------------------------

    def _exchange(
        self, place: str, value: dict[str, Any], *, hurry: bool = False
    ) -> list[dict[str, Any]]:
        """Return every rank's value; `hurry` where the others may never come."""
        text = json.dumps(value).encode()
        here = int.from_bytes(blake2b(place.encode(), digest_size=7).digest(), "big")
        heads = np.empty((self._world.size, 2), np.int64)
        self._gather(np.array([here, len(text)], np.int64), heads, place, hurry)
        if (heads[:, 0] != here).any():
            self._end(f"the ranks are at different places; rank {self._rank} is at {place}")
        length = int(heads[:, 1].max())
        padded = np.zeros(length, np.uint8)
        padded[: len(text)] = np.frombuffer(text, np.uint8)
        rows = np.empty((self._world.size, length), np.uint8)
        self._gather(padded, rows, place, hurry)
        return [
            json.loads(row[:used].tobytes()) for row, used in zip(rows, heads[:, 1], strict=True)
        ]

    def _gather(self, mine: Any, everyone: Any, place: str, hurry: bool) -> None:
        request = self._communicator.Iallgather(mine, everyone)
        begun = time.monotonic()
        patience = min(_PATIENCE, self._deadline) if hurry else self._deadline + _SETTLING
        while not request.Test():
            os.sched_yield()
            if time.monotonic() - begun > patience:
                self._end(f"rank {self._rank} waits at {place}, and others don't come")

    def _end(self, reason: str) -> NoReturn:
        """End the job: say why, what has failed here, and where the other ranks stand."""
        lines = [reason, *(f"failed on rank {self._rank}:\n{text}" for text in self._failures[-1:])]
        self._write("\n".join(lines))
        for rank, pid in self._world.guard.neighbours.items():
            if rank != self._rank:
                self._write(f"stacks of rank {rank}:")
                stacks.request(pid)
                time.sleep(0.2)  # one after the other, or the lines of several would mix
        self._world.abort(1)

    def _overdue(self) -> None:
        """Print this rank's stacks (in the timer's thread), and end the job."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        text = "\n".join(line for line in lines if not any(part in line for part in _MACHINERY))
        self._write(f"{self._place} passed its deadline of {self._deadline:g} s; stacks:\n{text}")
        time.sleep(_SETTLING + 0.1 * self._rank)
        self._world.abort(1)

    def _write(self, text: str) -> None:
        marked = "".join(f"[rank {self._rank}] {line}\n" for line in text.splitlines())
        with contextlib.suppress(OSError):
            os.write(self._stderr, marked.encode())


def _text(report: pytest.TestReport) -> str:
    """Return what a report says, with what the test printed."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    parts = [report.longreprtext, *(f"--- {title} ---\n{text}" for title, text in report.sections)]
    return "\n".join(parts)[-_TEXT_CHARACTERS:]


def _merge(report: pytest.TestReport, rank: int, everyone: list[dict[str, Any]]) -> None:
    """Make a report say what all ranks found."""
    outcomes = [each["outcome"] for each in everyone]
    worst = max(outcomes, key=_OUTCOMES.index)
    if worst == "failed":
        others = [r for r, each in enumerate(outcomes) if each == "failed" and r != rank]
        texts = [(f"rank {r}", everyone[r]["text"]) for r in others]
        if report.failed:
            report.sections += texts
            return
        names = ", ".join(map(str, others))
        told = "\n".join(f"--- {title} ---\n{text}" for title, text in texts)
        _fail(report, f"failed on rank {names}, {report.outcome} on rank {rank}\n{told}")
    elif len(set(outcomes)) > 1:
        who = "; ".join(
            f"rank {r} {each['outcome']}" + (f" ({each['text']})" if each["text"] else "")
            for r, each in enumerate(everyone)
        )
        _fail(report, f"the ranks disagree whether to skip this test: {who}")


def _fail(report: pytest.TestReport, text: str) -> None:
    report.outcome = "failed"
    report.longrepr = text
    if hasattr(report, "wasxfail"):
        del report.wasxfail
