"""Hear that the job is to make room, and say so to all ranks at the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# Slurm sends SIGUSR1 with --signal, most others SIGTERM; a person at a terminal SIGINT.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Takes note of signals in place of dying of them, while it is entered.

    The handler only sets a flag: one rank may hear a signal and another not, or a step later. The
    training loop adds the flags of all ranks up once a step, so that all stop at the same one. A
    second SIGINT raises `KeyboardInterrupt`, as it does elsewhere.

    Attributes
    ----------
    heard : int
        The number of the signal that this process heard first, 0 if none.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._before: dict[int, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.heard == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.heard = self.heard or number

    def __enter__(self) -> Self:
        # Python lets the main thread alone set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
