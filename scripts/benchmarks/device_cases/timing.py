"""Time work on a device by its own events, and go on where something fails or time runs out."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

# Rounds that compile kernels, fill the pool of memory, capture graphs and raise the clock.
WARM_UP = 5


class Clock:
    """Times work on a backend's device, in seconds: by its events, or by the host's clock.

    Parameters
    ----------
    backend : Backend
        Whose device it is.
    rounds : int
        How often each is measured, after some rounds that are not counted.
    seconds : float
        After so many nothing new is begun: a machine may be lent for minutes only.
    """

    def __init__(self, backend: Any, rounds: int, seconds: float = float("inf")) -> None:
        self.backend = backend
        self.rounds = rounds
        self.events = getattr(getattr(backend.module, "cuda", None), "Event", None)
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    def median(self, work: Callable[[], Any]) -> float:
        """Return the median of the rounds."""
        for _ in range(WARM_UP):
            work()
        self.backend.synchronize()
        return statistics.median(self._once(work) for _ in range(self.rounds))

    def attempt(self, make: Callable[[], Callable[[], Any] | None]) -> float | str:
        """Return the median of what `make` makes, or in words why there is none.

        What fails must not take the figures of all others with it.
        """
        return self._attempted(make, self.median)

    def attempt_torch(self, make: Callable[[], Callable[[], Any] | None]) -> float | str:
        """Return likewise the median of PyTorch's work, where it is there with a device."""
        if not self.events:
            return "not measured"
        return self._attempted(make, lambda work: torch_median(work, self.rounds))

    def _attempted(self, make: Any, median: Callable[[Callable[[], Any]], float]) -> float | str:
        if self.is_over:
            return "no time left"
        try:
            work = make()
            return "not measured" if work is None else median(work)
        except Exception as error:
            first = (str(error).splitlines() or [""])[0].replace("|", "/")
            return f"fails ({type(error).__name__}: {first[:60]})"
        finally:
            self._free()

    def _free(self) -> None:
        """Give memory that nobody uses back to the device: libraries have a pool each."""
        if self.events:
            self.backend.module.get_default_memory_pool().free_all_blocks()
            if "torch" in sys.modules:
                import torch

                torch.cuda.empty_cache()

    def _once(self, work: Callable[[], Any]) -> float:
        if self.events is None:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        begin, end = self.events(), self.events()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(self.backend.module.cuda.get_elapsed_time(begin, end)) / 1e3


def milliseconds(found: float | str) -> str:
    """Return what `Clock.attempt` found as a cell of a table."""
    return found if isinstance(found, str) else f"{1e3 * found:.3f}"


def torch_median(step: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of PyTorch's step, by its own events: its stream is another."""
    import torch

    times = []
    for number in range(WARM_UP + rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        if number >= WARM_UP:
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)
