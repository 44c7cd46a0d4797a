"""Show how far a training job is: a bar on a terminal, now and then a plain line elsewhere."""

import importlib.util
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

# Often enough to look alive, rarely enough to cost nothing (a frame takes about 1 ms).
SECONDS_PER_FRAME = 0.1
# A log gets ten lines, and a sign of life from a slow job.
LINES_PER_JOB = 10
SECONDS_PER_LINE = 10.0

# Go back to the start of the line above and erase it.
ONE_LINE_BACK = "\x1b[1A\r\x1b[2K"


@dataclass(frozen=True)
class _State:
    """What one frame or line shows."""

    step: int
    steps: int
    figures: Mapping[str, str]
    examples_per_second: float
    seconds_left: float


class Progress:
    """The progress of one job, on the one rank that prints.

    Parameters
    ----------
    steps : int
        Steps that the job will make.
    columns : int or None
        Width in characters of the terminal behind `stream`, as from `terminal_columns()`; None
        where there is none.
    quiet : bool
        Print nothing. Every rank but the first passes True.
    stream : text file, optional
        Where to print; by default `sys.stdout`. Nothing is printed by a process that has none.
    done : int
        Steps that were made before, by a run that this one resumes.

    Notes
    -----
    The bar is drawn with the package rich; without it, the terminal gets plain lines as well.

    Examples
    --------
    >>> with Progress(steps=2, columns=None) as progress:  # doctest: +ELLIPSIS
    ...     progress.update(1, examples=64, figures={"loss": "0.5000"})
    step 1/2 (50 %): loss 0.5000, ... examples/s, 0 s left
    """

    def __init__(
        self,
        steps: int,
        *,
        columns: int | None,
        quiet: bool = False,
        stream: TextIO | None = None,
        done: int = 0,
    ) -> None:
        self._steps = steps
        self._done = done
        self._stream = sys.stdout if stream is None else stream
        self._columns = columns if importlib.util.find_spec("rich") else None
        self._quiet = quiet or self._stream is None  # of a process that was started without
        self._started = time.perf_counter()
        self._shown_at = self._started
        self._shown_step = 0
        self._examples = 0
        self._state: _State | None = None

    def update(self, step: int, *, examples: int, figures: Mapping[str, str]) -> None:
        """Take in one finished step, and print if it is time to.

        Parameters
        ----------
        step : int
            Number of the finished step, from 1 on.
        examples : int
            Size of the step's global batch.
        figures : mapping of str to str
            Name and value of what else to show, such as the loss, in the order to show it.
        """
        if self._quiet:
            return
        now = time.perf_counter()
        self._examples += examples
        elapsed = max(now - self._started, 1e-9)
        left = elapsed / (step - self._done) * (self._steps - step)
        self._state = _State(step, self._steps, figures, self._examples / elapsed, left)
        if self._columns is not None:
            due = self._shown_step == 0 or now - self._shown_at >= SECONDS_PER_FRAME
        else:
            last = max(self._shown_step, self._done)
            tenth, shown = (n * LINES_PER_JOB // self._steps for n in (step, last))
            due = tenth > shown or now - self._shown_at >= SECONDS_PER_LINE
        if due:
            self._show(self._state, now)

    def close(self) -> None:
        """Show the last step, if it is not shown yet."""
        if self._state is not None and self._state.step > self._shown_step:
            self._show(self._state, time.perf_counter())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _show(self, state: _State, now: float) -> None:
        if self._columns is None:
            self._stream.write(_line(state))
        else:
            # A frame ends its line and the next one goes back up, since Open MPI forwards whole
            # lines only. The cursor stays visible: a killed job leaves the terminal as it was.
            back = ONE_LINE_BACK if self._shown_step else ""
            self._stream.write(back + _frame(state, self._columns, self._stream))
        self._stream.flush()
        self._shown_at, self._shown_step = now, state.step


def _line(state: _State) -> str:
    """Return the state as a line for a log."""
    figures = "".join(f"{name} {value}, " for name, value in state.figures.items())
    return (
        f"step {state.step}/{state.steps} ({100 * state.step // state.steps} %): {figures}"
        f"{state.examples_per_second:,.0f} examples/s, {_duration(state.seconds_left)} left\n"
    )


def _frame(state: _State, columns: int, stream: TextIO) -> str:
    """Return the state as one line with a bar and colours, at most `columns` wide."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    texts = [Text(f"{state.step}/{state.steps}")]
    texts += [Text.assemble(f"{name} ", (value, "bold")) for name, value in state.figures.items()]
    texts += [Text(f"{state.examples_per_second:,.0f} examples/s")]
    texts += [Text(f"{_duration(state.seconds_left)} left")]
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(ratio=1)
    for _ in texts:
        table.add_column(justify="right", no_wrap=True)
    table.add_row(ProgressBar(total=state.steps, completed=state.step), *texts)
    console = Console(file=stream, force_terminal=True, width=columns, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _duration(seconds: float) -> str:
    """Return a time for people: `4 s`, `3:20`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
