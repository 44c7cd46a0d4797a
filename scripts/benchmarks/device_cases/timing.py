"""Time work on a device by its own events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 3  # rounds that compile kernels, fill the pool of memory and raise the clock


class Clock:
    """Times work on a backend's device, in seconds: by its events, or by the host's clock."""

    def __init__(self, backend: Any, rounds: int) -> None:
        self.backend = backend
        self.rounds = rounds
        self.events = getattr(getattr(backend.module, "cuda", None), "Event", None)

    def median(self, work: Callable[[], Any]) -> float:
        """Return the median of the rounds."""
        for _ in range(WARM_UP):
            work()
        self.backend.synchronize()
        return statistics.median(self._once(work) for _ in range(self.rounds))

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
