"""Reductions and exchanges of device arrays by NCCL, its groups made over another communicator.

NCCL is that of CuPy (`cupy.cuda.nccl`). A call is given to the current stream and waited for as
every message is: a rank that fails or leaves meanwhile is heard of, and the group is given up.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.distributed.verbs.communicator import Communicator, describe
from distgrad.errors import CommunicationError

_PAUSE = 0.0002  # seconds between two looks at an event that takes longer than
_SOON = 0.0005  # this: a sleep is longer than many a message
_NOT_READY = 600  # cudaErrorNotReady, which CuPy does not tell

_IDENTITY_BYTES = 128  # NCCL_UNIQUE_ID_BYTES of nccl.h, which CuPy does not tell

# NCCL's name of each dtype, and how many of its numbers an element has.
NAMES = {
    "int8": ("NCCL_INT8", 1),
    "uint8": ("NCCL_UINT8", 1),
    "int32": ("NCCL_INT32", 1),
    "uint32": ("NCCL_UINT32", 1),
    "int64": ("NCCL_INT64", 1),
    "uint64": ("NCCL_UINT64", 1),
    "float16": ("NCCL_FLOAT16", 1),
    "float32": ("NCCL_FLOAT32", 1),
    "float64": ("NCCL_FLOAT64", 1),
    "complex64": ("NCCL_FLOAT32", 2),
    "complex128": ("NCCL_FLOAT64", 2),
}
_OPERATIONS = {"sum": "NCCL_SUM", "prod": "NCCL_PROD", "min": "NCCL_MIN", "max": "NCCL_MAX"}


def nccl_version(module: Any) -> int:
    """Return the version of a module's NCCL as a number such as 22304; 0 where there is none."""
    nccl = _nccl_of(module)
    return int(nccl.get_version()) if getattr(nccl, "available", False) else 0


def _nccl_of(module: Any) -> Any:
    """Return a module's NCCL, which CuPy imports for who asks alone; None where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a library that is missing: the choice says so
            return import_module(f"{module.__name__}.cuda.nccl")
    except ImportError:
        return None


def device_identity(device: Any) -> str:
    """Return the identity of a device, the same in every process that uses it."""
    # Its place on the bus, which CUDA_VISIBLE_DEVICES does not change; one of MIG's parts of a
    # device counts as the whole: NCCL refuses two of one device.
    return f"{_machine()}/{device.pci_bus_id}"


def _machine() -> str:
    """Return what tells this machine from others, of which many may be called localhost."""
    import platform  # for this alone

    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{platform.node()}/{boot}"


class NCCLGroup:
    """The ranks of a communicator as a group of NCCL's; all of them make it together.

    Parameters
    ----------
    comm : Communicator
        The ranks, each with a device of its own.
    module : module
        CuPy, whose current device is the rank's.

    Attributes
    ----------
    module : module
        The one given.

    Raises
    ------
    CommunicationError
        If NCCL makes no group.
    RemoteRankError, StallError
        If another rank failed or left, or has not come before the deadline.
    """

    def __init__(self, comm: Communicator, module: Any) -> None:
        self._comm = comm
        self.module = module
        self._nccl = nccl = _nccl_of(module)
        own, why = bytes(_IDENTITY_BYTES), ""
        if comm.rank == 0:
            try:
                own = _as_bytes(nccl.get_unique_id())
            except nccl.NcclError as error:  # told below: the others wait for the identity
                why = f": {error}"
        shared = comm.broadcast(np.frombuffer(own, np.uint8)).tobytes()
        if not any(shared):
            raise CommunicationError(f"rank {comm.rank}: rank 0 has no identity for NCCL{why}")
        self._met = False  # whether each two ranks have exchanged something
        self.count("making a group of NCCL's")
        try:
            self._group = self._by_thread(partial(self._member, shared))
        except nccl.NcclError as error:
            raise CommunicationError(f"rank {comm.rank}: NCCL makes no group: {error}") from error

    def _by_thread(self, work: Callable[[], Any]) -> Any:
        """Return what some work returns, which waits for ranks that may never come.

        NCCL waits there on the host, and hears of no lost rank: this one does meanwhile.
        """
        device, done = self.module.cuda.Device().id, threading.Event()
        found: Future[Any] = Future()

        def run() -> None:
            try:
                self.module.cuda.Device(device).use()  # each thread has a current device
                found.set_result(work())
            except Exception as error:
                found.set_exception(error)
            finally:
                done.set()

        wait_for = getattr(self._comm, "wait_for", threading.Event.wait)
        threading.Thread(target=run, daemon=True, name="distgrad-nccl").start()
        wait_for(done)
        return found.result()

    def _member(self, identity: bytes) -> Any:
        size, rank = self._comm.size, self._comm.rank
        try:
            return self._nccl.NcclCommunicator(size, identity, rank)
        except TypeError:  # before CuPy 14 it was a tuple of signed integers
            signed = tuple(np.frombuffer(identity, np.int8).tolist())
            return self._nccl.NcclCommunicator(size, signed, rank)

    def allreduce(self, array: Any, op: str = "sum") -> None:
        """Reduce all ranks' arrays in place.

        Parameters
        ----------
        array : array
            Contiguous, on the current device, of the same shape and dtype on every rank.
        op : {"sum", "prod", "min", "max"}
            What to do with the elements.
        """
        if array.size:
            self._run(self._reduction(array, op), array, f"allreduce ({op})")

    def begin_sum(self, array: Any, stream: Any) -> None:
        """Give a stream the sum of all ranks' arrays, in place, and return at once.

        Parameters
        ----------
        array : array
            As for `allreduce`; it has to stay where it is until the stream is through.
        stream : cupy.cuda.Stream
            Who waits for it calls `wait`.
        """
        if array.size:
            what = describe("allreduce (sum) by NCCL", array.dtype, array.shape)
            self._start(self._reduction(array, "sum"), what, stream)

    def _reduction(self, array: Any, op: str) -> Callable[[Any], None]:
        """Return what starts a reduction in place on a stream."""
        dtype, count = self._counted(array)
        reduction = getattr(self._nccl, _OPERATIONS[op])
        pointer = array.data.ptr
        return lambda stream: self._group.allReduce(
            pointer, pointer, count, dtype, reduction, stream.ptr
        )

    def broadcast(self, array: Any, root: int = 0) -> None:
        """Put the root's numbers into every rank's array."""
        pointer, count = array.data.ptr, array.nbytes

        def start(stream: Any) -> None:
            kind = self._nccl.NCCL_UINT8
            self._group.broadcast(pointer, pointer, count, kind, root, stream.ptr)

        if array.size:
            self._run(start, array, "broadcast")

    def reduce_scatter(self, rows: Any, result: Any, op: str = "sum") -> None:
        """Put this rank's row of the reduction of all ranks' arrays into another array.

        Parameters
        ----------
        rows : array of shape (size, ...)
            As for `allreduce`; not changed.
        result : array
            Contiguous, of the shape of a row.
        op : {"sum", "prod", "min", "max"}
            What to do with the elements.
        """
        dtype, count = self._counted(result)
        reduction = getattr(self._nccl, _OPERATIONS[op])
        given, place = rows.data.ptr, result.data.ptr

        def start(stream: Any) -> None:
            self._group.reduceScatter(given, place, count, dtype, reduction, stream.ptr)

        if count:
            self._run(start, rows, f"reduce_scatter ({op})")

    def exchange(self, own: Any, result: Any, parts: list[tuple[slice, slice]], verb: str) -> None:
        """Bring what the other ranks have for this one.

        Parameters
        ----------
        own, result : array
            Of one axis, contiguous, on the current device.
        parts : list of tuple of slice
            For each rank what of `own` it gets, and where in `result` its own go; nothing is done
            for this rank's own.
        verb : str
            What errors call it.
        """
        sent = [own[to] for to, _ in parts]
        arrived = [result[come] for _, come in parts]
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        byte = self._nccl.NCCL_UINT8

        def start(stream: Any) -> None:
            self._nccl.groupStart()
            try:
                for other in others:
                    for array, call in (
                        (sent[other], self._group.send),
                        (arrived[other], self._group.recv),
                    ):
                        if array.size:
                            call(array.data.ptr, array.nbytes, byte, other, stream.ptr)
            finally:
                self._nccl.groupEnd()

        if self._met:
            self._run(start, own, verb)
            return

        def meet(stream: Any) -> None:
            # At their first messages two ranks are connected, for which NCCL waits on the host.
            try:
                self._by_thread(partial(start, stream))
            except self._nccl.NcclError:
                raise
            except BaseException:
                self._group.abort()  # ends the wait for a lost rank, too
                raise

        self._run(meet, own, verb)
        self._met = True

    def _counted(self, array: Any) -> tuple[Any, int]:
        """Return NCCL's dtype of an array, and how many numbers it has."""
        found = NAMES.get(array.dtype.name)
        if found is None:
            raise CommunicationError(
                f"NCCL has no dtype {array.dtype}; expected one of {', '.join(NAMES)}"
            )
        name, width = found
        return getattr(self._nccl, name), array.size * width

    def _run(self, start: Callable[[Any], None], array: Any, verb: str) -> None:
        """Start an operation on the current stream, and return once it is done."""
        what = describe(f"{verb} by NCCL", array.dtype, array.shape)
        stream = self.module.cuda.get_current_stream()
        self.count(what)
        self._start(start, what, stream)
        event = self.module.cuda.Event(disable_timing=True)
        event.record(stream)
        self.wait(event, what)

    def count(self, what: str) -> None:
        """Count an operation, by whose name errors call what is waited for next."""
        note = getattr(self._comm, "count", None)
        if note is not None:
            note(what)

    def _start(self, start: Callable[[Any], None], what: str, stream: Any) -> None:
        try:
            start(stream)
        except self._nccl.NcclError as error:
            raise CommunicationError(f"rank {self._comm.rank}: {what}: {error}") from error

    def wait(self, event: Any, what: str) -> None:
        """Return once the device has come to an event behind operations of this group.

        Raises
        ------
        RemoteRankError, StallError
            If another rank failed or left, or has not come before the deadline.
        CommunicationError
            If NCCL or the device fails. After any of these the group is none.
        """
        done = DeviceEvent(event, self.module.cuda.runtime, self._group.check_async_error)
        wait_for = getattr(self._comm, "wait_for", DeviceEvent.wait)
        try:
            wait_for(done)
        except BaseException as error:
            # The kernel on the device would wait for a lost rank for ever.
            self._group.abort()
            if isinstance(error, (self._nccl.NcclError, self.module.cuda.runtime.CUDARuntimeError)):
                raise CommunicationError(f"rank {self._comm.rank}: {what}: {error}") from error
            raise


def _as_bytes(identity: Any) -> bytes:
    """Return a group's identity as bytes: CuPy 14's own, or signed integers of those before it."""
    return identity if isinstance(identity, bytes) else np.array(identity, np.int8).tobytes()


class DeviceEvent(threading.Event):
    """An event of a device, to be waited for as one of a thread.

    Parameters
    ----------
    event : cupy.cuda.Event
        Recorded on a stream.
    runtime : module
        `cupy.cuda.runtime`.
    check : callable, optional
        Called while the event is waited for; raises if it will not come.
    """

    def __init__(self, event: Any, runtime: Any, check: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._event, self._runtime = event, runtime
        self._check = check
        self._begun = time.monotonic()

    def is_set(self) -> bool:
        """Return whether the device has come to it.

        Raises
        ------
        CUDARuntimeError
            If the device has failed, after which no event ever comes.
        """
        status = self._runtime.eventQuery(self._event.ptr)
        if status not in (0, _NOT_READY):
            raise self._runtime.CUDARuntimeError(status)
        return bool(status == 0)

    def wait(self, timeout: float | None = None) -> bool:
        """Return once the device has come to it or the time is over: whether it has."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            now = time.monotonic()
            if end is not None and now >= end:
                return False
            if now - self._begun < _SOON:
                time.sleep(0)  # other threads may compute
                continue
            if self._check is not None:
                self._check()
            time.sleep(_PAUSE)
        return True
