"""Write down what a rank does, while it does it, so that little is lost if the job dies.

Who works only appends to a list. A thread of its own writes the list to a file of this rank twice a
second, and the file is whole up to its last line however the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from distgrad.core import spans
from distgrad.distributed.tracing.clocks import Reading

VERSION = 1
_FLUSH_SECONDS = 0.5
_MOST_SPANS = 2_000_000  # a rank: 200 MB of text, and more than a browser can show


def partial_path(path: Path, rank: int) -> Path:
    """Return the file of one rank, beside the timeline that it will be a part of."""
    return path.with_name(f"{path.name}.rank{rank:05d}.partial")


class Recorder:
    """Takes down the spans of this process.

    Parameters
    ----------
    path : Path
        The timeline; this rank's part goes into a file beside it.
    rank, size : int
        Which rank this is, and of how many.

    Attributes
    ----------
    failure : str
        Why the file could not be written to its end, empty if it could: a full disk ends the
        recording, and nothing that is recorded.
    """

    def __init__(self, path: Path, rank: int, size: int) -> None:
        self.path = path
        self.rank = rank
        self.file = partial_path(path, rank)
        self.failure = ""
        self._lines: list[tuple[str, str, int, int, dict[str, Any], int]] = []
        self._written = self._left_out = 0
        self._wakes = threading.Event()
        self._writing = threading.Lock()
        self._process = os.getpid()
        self._main = threading.get_ident()
        self._stream = self.file.open("w", encoding="utf-8")
        header = {
            "distgrad_timeline": VERSION,
            "rank": rank,
            "ranks": size,
            "host": os.uname().nodename,
            "process": self._process,
            "command": " ".join(sys.argv)[:200],
            "began": time.time(),
        }
        self._put([json.dumps(header)])
        self._before = spans.tell(self.hear)
        atexit.register(self.flush)
        threading.Thread(target=self._run, daemon=True, name="distgrad-timeline").start()

    def hear(self, name: str, lane: str, begun: int, ended: int, facts: dict[str, Any]) -> None:
        """Take down one span."""
        self._lines.append((name, lane, begun, ended, facts, threading.get_ident()))

    def note_clock(self, reading: Reading) -> None:
        """Take down how this rank's clock differs from rank 0's."""
        self._put([json.dumps({"clock": list(reading)})])

    def flush(self) -> None:
        """Write what has been heard so far."""
        if self._process != os.getpid():  # a fork has the same file, and nothing to say
            return
        with self._writing:
            lines = self._lines[:]
            del self._lines[: len(lines)]  # others go on appending
            room = _MOST_SPANS - self._written
            self._left_out += max(len(lines) - room, 0)
            lines = lines[:room]
            self._written += len(lines)
            text = [self._line(*each) for each in lines]
        if text:
            self._put(text)

    def _line(
        self, name: str, lane: str, begun: int, ended: int, facts: dict[str, Any], thread: int
    ) -> str:
        if lane == spans.USER and thread != self._main:
            lane = f"{lane} (thread {thread % 10_000})"
        return json.dumps([name, lane, begun, ended - begun, facts], default=str)

    def _put(self, lines: list[str]) -> None:
        with self._writing:
            if self._stream.closed or self.failure:
                return
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except OSError as error:
                self._note(error)

    def _note(self, error: OSError) -> None:
        self.failure = self.failure or f"{self.file}: {error.strerror or error}"

    def _run(self) -> None:
        while not self._wakes.wait(_FLUSH_SECONDS):
            self.flush()

    def close(self) -> None:
        """Hear no more, and leave the file complete."""
        if self._stream.closed:
            return
        spans.tell(self._before)
        self._wakes.set()
        self.flush()
        self._put([json.dumps({"end": time.perf_counter_ns(), "left_out": self._left_out})])
        atexit.unregister(self.flush)
        with self._writing:
            try:
                self._stream.close()
            except OSError as error:  # of what is left in its buffer
                self._note(error)
