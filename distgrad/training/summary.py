"""Say at the end of a job what ran, with what result, and what to try next."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO


def show_summary(
    title: str,
    facts: Mapping[str, str],
    hints: Sequence[str] = (),
    *,
    columns: int | None,
    stream: TextIO | None = None,
) -> None:
    """Print a title, facts as two aligned columns, and hints: framed on a terminal.

    Parameters
    ----------
    title : str
        What ran, in a few words.
    facts : mapping of str to str
        Name and value of each fact, in the order to show.
    hints : sequence of str
        What to try next, a line each.
    columns : int or None
        Width in characters of the terminal behind `stream`, as from `terminal_columns()`; None
        where there is none.
    stream : text file, optional
        Where to print; by default `sys.stdout`.

    Examples
    --------
    >>> show_summary("Digits", {"ranks": "2", "accuracy": "98.1 %"}, ["more steps"], columns=None)
    <BLANKLINE>
    Digits
      ranks     2
      accuracy  98.1 %
    Try next:
      more steps
    """
    stream = sys.stdout if stream is None else stream
    if stream is None:  # a process that was started without
        return
    if columns is not None and importlib.util.find_spec("rich") is not None:
        _show_framed(title, facts, hints, stream, columns)
    else:
        width = max(map(len, facts), default=0)
        lines = ["", title, *(f"  {name:{width}}  {value}" for name, value in facts.items())]
        if hints:
            lines += ["Try next:", *(f"  {hint}" for hint in hints)]
        stream.write("\n".join(lines) + "\n")
    stream.flush()


def _show_framed(
    title: str, facts: Mapping[str, str], hints: Sequence[str], stream: TextIO, columns: int
) -> None:
    """Print the summary in a frame with colours."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="cyan"), Text(value, style="bold"))
    parts: list[Table | Text] = [table]
    if hints:
        parts += [Text("\nTry next:", style="cyan"), *(Text(f"  {hint}") for hint in hints)]
    console = Console(
        file=stream, force_terminal=True, width=columns, legacy_windows=False, highlight=False
    )
    console.print(Panel(Group(*parts), title=title, title_align="left", border_style="green"))
