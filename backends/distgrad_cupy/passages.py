"""Messages that go to the host by one copy and come back by another, neither waited for here.

They leave the device on a stream of their own, behind an event of the one that computed them, which
goes on. CuPy's pool gives pinned memory out again once nobody refers to it, whatever copies are
under way: so it is referred to until the device has come to the event behind each copy.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class Passages:
    """What brings messages to the host.

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
        self._streams: dict[int, Any] = {}  # by device
        self._under_way: list[tuple[Any, Any]] = []  # events, and what is kept until they come
        self._lock = threading.Lock()

    def bring(self, message: Any) -> Passage:
        """Begin to copy a message to the host, once what was given to the current stream is done.

        Parameters
        ----------
        message : array
            Of one axis, contiguous, on the current device, not written by anybody else until it is
            back.
        """
        cuda = self._module.cuda
        self._let_go()
        device = cuda.Device().id
        if device not in self._streams:
            # Not a blocking one: that and the default stream wait for each other.
            self._streams[device] = cuda.Stream(non_blocking=True)
        stream = self._streams[device]
        computed = cuda.Event(disable_timing=True)
        computed.record(cuda.get_current_stream())
        stream.wait_event(computed)
        buffer = self._pinned(message.nbytes)
        host = buffer.view(np.dtype(message.dtype.str))
        message.get(stream=stream, out=host, blocking=False)
        return Passage(self, message, host, self.kept_until(stream, (message, buffer)))

    def room(self, length: int, dtype: Any) -> np.ndarray[Any, Any]:
        """Return a flat array in pinned memory, for a message that comes to be on the host."""
        dtype = np.dtype(dtype)
        room: np.ndarray[Any, Any] = self._pinned(length * dtype.itemsize).view(dtype)
        return room

    def put(self, host: np.ndarray[Any, Any], message: Any = None) -> Any:
        """Begin to copy a message to the device, and return it there; nobody waits.

        Parameters
        ----------
        host : numpy.ndarray
            In pinned memory.
        message : array, optional
            Where to put it; a new array by default.
        """
        self._let_go()
        stream = self._module.cuda.get_current_stream()
        if message is None:
            message = self._module.empty(host.size, host.dtype)
        message.data.copy_from_host_async(host.ctypes.data, host.nbytes, stream)
        self.kept_until(stream, host)
        return message

    def _let_go(self) -> None:
        """Refer no more to what the device is done with: memory of the host, and its own."""
        with self._lock:
            self._under_way = [each for each in self._under_way if not each[0].done]

    def kept_until(self, stream: Any, kept: Any) -> Any:
        """Return an event behind what a stream was given, until which something is kept."""
        event = self._module.cuda.Event(block=True, disable_timing=True)
        event.record(stream)
        with self._lock:
            self._under_way.append((event, kept))
        return event


class Passage:
    """One message on its way.

    Attributes
    ----------
    host : numpy.ndarray
        The message in pinned memory, once it has `arrived`.
    """

    def __init__(
        self, passages: Passages, message: Any, host: np.ndarray[Any, Any], event: Any
    ) -> None:
        self._passages, self._message, self._event = passages, message, event
        self.host = host

    def arrived(self) -> None:
        """Return once the message is on the host; any thread may call this, and others go on."""
        self._event.synchronize()

    def back(self) -> Any:
        """Return the message on the device, with what is on the host by now; nobody waits."""
        return self._passages.put(self.host, self._message)
