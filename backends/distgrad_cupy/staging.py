"""Bring large arrays from the device by pinned buffers: one is filled while the other is emptied.

A copy into memory that the system may move goes through the driver's own small buffers and holds
the processor meanwhile. Arrays on their way to the device need nothing: CuPy stages them itself.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

LARGE = 4 * 2**20  # bytes from which a transfer goes in pieces
PIECE = 8 * 2**20  # bytes of a piece: below a millisecond on any bus, far above a launch


class Staging:
    """Two pinned buffers of a process; threads take turns.

    Parameters
    ----------
    module : module
        CuPy.
    pinned : callable
        ``pinned(nbytes)``: a NumPy array of bytes in pinned memory.
    """

    def __init__(self, module: Any, pinned: Any) -> None:
        self._module = module
        self._pinned = pinned
        self._buffers: list[Any] = []
        self._lock = threading.Lock()

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array's values in host memory, once they are computed.

        Parameters
        ----------
        array : array
            On the current device or another one.
        """
        # On the stream of the array's device: CuPy takes that of the current one.
        if array.nbytes < LARGE:
            with array.device:
                small: np.ndarray[Any, Any] = self._module.asnumpy(array)
            return small
        host = np.empty(array.shape, array.dtype)
        with array.device, self._lock:
            if not self._buffers:
                self._buffers = [self._pinned(PIECE) for _ in range(2)]
            own = self._module.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._in_pieces(own, host.reshape(-1).view(np.uint8))
        return host

    def _in_pieces(self, own: Any, raw: np.ndarray[Any, Any]) -> None:
        stream = self._module.cuda.get_current_stream()
        underway: list[tuple[Any, Any, Any]] = []  # what was started: its place, buffer and event
        for number, start in enumerate(range(0, own.size, PIECE)):
            place = slice(start, min(start + PIECE, own.size))
            buffer = self._buffers[number % 2][: place.stop - place.start]
            own[place].get(stream=stream, out=buffer, blocking=False)
            event = self._module.cuda.Event(disable_timing=True)
            event.record(stream)
            underway.append((place, buffer, event))
            if len(underway) == 2:  # the other buffer is needed next
                _emptied(raw, *underway.pop(0))
        for each in underway:
            _emptied(raw, *each)


def _emptied(raw: np.ndarray[Any, Any], place: slice, buffer: Any, event: Any) -> None:
    event.synchronize()
    raw[place] = buffer
