"""Sums on a stream of their own: what waits for what, how long memory is kept, who is heard of.

The device here does nothing before somebody waits for it, and then as perversely as its streams and
events allow: memory that is free is given out again at once, and what is not computed yet is NaN.
"""

import ctypes
import gc
import sys
import threading
import time
import weakref
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import ArrayModuleBackend
from distgrad.core import under_way
from distgrad.distributed.verbs import device_buffers
from distgrad.distributed.verbs.communicator import RecordedCommunicator
from distgrad.errors import CommunicationError, DesyncError, StallError

NOT_READY = 600
LENGTHS = (3, 4, 1, 5)  # nothing is a power of two, and no bucket as long as another


class Handle:
    """What an array's memory is given back by."""


class Array(np.ndarray):
    """An array of the device: its operators are work for the current stream."""

    __module__ = "streaming_cupy"
    handle = None

    def __array_finalize__(self, other):
        self.handle = getattr(other, "handle", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        given = [memory_of(x) for x in inputs]
        run = getattr(ufunc, method)
        made = array_of(run(*given, **kwargs)) if out is None else out[0]
        place = memory_of(made)
        if out is None and place.dtype.kind == "f":
            place[...] = np.nan
        Device.here().give(lambda: np.copyto(place, run(*given, **kwargs), casting="unsafe"))
        return made

    def __setitem__(self, key, value):
        place, value = memory_of(self)[key], memory_of(value)
        Device.here().give(lambda: np.copyto(place, value))

    def astype(self, dtype, order="K", copy=True):
        if not copy and self.dtype == dtype:
            return self
        made = array_of(np.full(self.shape, np.nan, dtype))
        place, given = memory_of(made), memory_of(self)
        Device.here().give(lambda: np.copyto(place, given))
        return made

    @property
    def __cuda_array_interface__(self):
        return {}

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return Device.here()


def memory_of(x):
    """Return what kernels know of an array: where it lies, and not whether it is still there."""
    if not isinstance(x, Array):
        return x
    if x.handle is None:
        return x.view(np.ndarray)
    place = (ctypes.c_char * x.nbytes).from_address(x.ctypes.data)
    return np.ndarray(x.shape, x.dtype, place)


def array_of(host):
    return np.array(host).view(Array)


class Stream:
    def __init__(self, name):
        self.name, self.ptr, self.works = name, self, []

    def wait_event(self, event):
        self.works.append(event.has_come)
        Device.here().log.append(f"{self.name} waits for {event.behind}")


class Event:
    def __init__(self, disable_timing=False):
        self.ptr = self
        self.came = None
        self.behind = ""

    def record(self, stream):
        def come():
            self.came = time.perf_counter()
            return True

        self.behind = stream.name
        stream.works.append(come)

    def has_come(self):
        return self.came is not None


class Device:
    """The device of this thread's rank, with the stream that computes and one that communicates."""

    ranks = threading.local()
    pci_bus_id = "0"
    id = 0

    def __init__(self):
        self.log = []
        self.computing = Stream("compute")
        self.communicating = []
        self.spare, self.owned = {}, []

    @staticmethod
    def here():
        if not hasattr(Device.ranks, "device"):
            Device.ranks.device = Device()
        return Device.ranks.device

    def use(self):
        Device.ranks.device = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def give(self, work):
        self.computing.works.append(lambda: work() is None)

    def empty(self, length, dtype):
        free = self.spare.setdefault((length, np.dtype(dtype)), [])
        raw = free.pop() if free else np.empty(length, dtype)
        self.owned.append(raw)
        made, handle = raw.view(Array), Handle()
        made.handle = handle
        weakref.finalize(handle, free.append, raw)
        return made

    def proceed(self):
        """Compute as far as events allow, and then look at what travels."""
        for stream in (self.computing, *self.communicating):
            while stream.works and stream.works[0]():
                stream.works.pop(0)


class NcclError(RuntimeError):
    pass


class Nccl:
    """NCCL among threads, or with other ranks that do as this one does."""

    together: ClassVar = {}
    made: ClassVar = []

    def __init__(self, size, identity, rank):
        self.size, self.identity, self.rank = size, identity, rank
        self.number = 0
        self.aborted = False
        self.lengths = []
        Nccl.made.append(self)

    def allReduce(self, pointer, _, count, dtype, operation, stream):
        assert dtype is ctypes.c_float
        place = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(dtype)), (count,))
        name, self.number = (self.identity, self.number), self.number + 1
        self.lengths.append(count)
        Device.here().log.append(f"{stream.name} adds up {count}")
        rows = Nccl.together.setdefault(name, {})

        def add():
            if self.aborted:
                return True
            rows.setdefault(self.rank, place.copy())
            if "alone" in Nccl.together:
                rows.update(dict.fromkeys(range(self.size), rows[self.rank]))
            if len(rows) < self.size:
                return False
            place[...] = sum(rows[rank] for rank in sorted(rows))
            return True

        stream.works.append(add)

    def abort(self):
        self.aborted = True

    def check_async_error(self):
        pass


class Module(ModuleType):
    """NumPy, but for new arrays, which lie on the device."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, length, dtype):
        return Device.here().empty(length, dtype)


class Devices(ArrayModuleBackend):
    """A backend whose arrays lie on the device."""

    def __init__(self):
        super().__init__("streaming", Module("on_device"))
        self._array_type = Array
        self.reads = 0

    def asarray(self, value, *, dtype=None, copy=False):
        return super().asarray(value, dtype=dtype, copy=copy).view(Array)

    def to_host(self, array):
        under_way.settle()
        self.reads += 1
        device, begun = Device.here(), time.monotonic()
        while device.computing.works:
            device.proceed()
            assert time.monotonic() - begun < 20, "the device waits for ever"
        return np.array(array)


class Waits(threading.local):
    """What each thread waits for, as if it were a process."""

    def __init__(self):
        self.waits = {}

    def __setitem__(self, wait, nothing):
        self.waits[wait] = nothing

    def __iter__(self):
        return iter(self.waits)

    def pop(self, wait, default):
        return self.waits.pop(wait, default)

    def clear(self):
        self.waits.clear()


def query(event):
    Device.here().proceed()
    return 0 if event.has_come() else NOT_READY


def new_stream(non_blocking):
    assert non_blocking  # or it would wait for the default stream
    made = Stream("communication")
    Device.here().communicating.append(made)
    return made


def elapsed(begun, done):
    if not (begun.has_come() and done.has_come()):
        raise NcclError("not ready")
    return 1e3 * (done.came - begun.came)


@pytest.fixture
def backend(monkeypatch):
    fake = ModuleType("streaming_cupy")
    nccl = SimpleNamespace(
        available=True, get_version=lambda: 22304, NcclCommunicator=Nccl, NcclError=NcclError,
        NCCL_SUM="sum", NCCL_FLOAT32=ctypes.c_float,
        get_unique_id=lambda: len(Nccl.made).to_bytes(1, "big") * 127 + b"\1",
    )  # fmt: skip
    fake.cuda = SimpleNamespace(
        Device=lambda number=0: Device.here(),
        Event=Event,
        Stream=new_stream,
        get_current_stream=lambda: Device.here().computing,
        get_elapsed_time=elapsed,
        runtime=SimpleNamespace(eventQuery=query, CUDARuntimeError=NcclError),
    )
    monkeypatch.setitem(sys.modules, "streaming_cupy", fake)
    monkeypatch.setitem(sys.modules, "streaming_cupy.cuda.nccl", nccl)
    monkeypatch.delenv(device_buffers.VARIABLE, raising=False)
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", ""))
    monkeypatch.setattr(device_buffers, "_ability", lambda _: device_buffers.Ability("a device"))
    Nccl.together.clear()
    Nccl.made.clear()
    Device.ranks.__dict__.clear()
    monkeypatch.setattr(under_way, "_WAITS", Waits())
    return Devices()


@pytest.fixture
def alone(backend):
    """A communicator whose other ranks do as this one does, and its device."""
    Nccl.together["alone"] = {}
    return RecordedCommunicator(size=3)


def variables(backend):
    return [
        dg.Variable(np.linspace(1, 2, n).astype(np.float32), backend=backend, name=f"v{n}")
        for n in LENGTHS
    ]


def step(comm, held, *, used=(0, 1, 2, 3), examples=1.0, scale=1.0, **how):
    """Return the gradients of a step: a bucket for each variable."""
    with dg.GradientTape() as tape:
        loss = sum(dg.sum(held[n] * held[n]) for n in used) * scale
    how = {"bucket_bytes": 4, **how}
    return dist.DistributedGradientTape(tape, comm, **how).gradient(loss, held, examples=examples)


def expected(held):
    return [2 * np.linspace(1, 2, n).astype(np.float32) for n in LENGTHS]


def test_buckets_leave_during_the_walk_each_behind_its_gradients(backend, alone):
    held = variables(backend)
    step(alone, held)
    log = Device.here().log
    log.clear()

    found = step(alone, held)

    travelling = []
    for n in (5, 1, 4, 3):
        travelling += ["communication waits for compute", f"communication adds up {n}"]
    assert log == [*travelling, "compute waits for communication"]
    for each, values in zip(found, expected(held), strict=True):
        np.testing.assert_allclose(each.numpy(), values)


def test_the_host_waits_for_no_sum_before_somebody_reads(backend, alone):
    held = variables(backend)
    step(alone, held)[0].numpy()
    reads = backend.reads

    found = step(alone, held)

    assert Device.here().communicating[0].works
    assert backend.reads == reads
    found[0].numpy()
    assert not Device.here().communicating[0].works


def test_results_are_computed_with_before_they_are_there(backend, alone):
    held = variables(backend)
    for _ in range(3):
        found = step(alone, held)
        changed = [each + each for each in found]

    for each, values in zip(changed, expected(held), strict=True):
        np.testing.assert_allclose(each.numpy(), 2 * values)


@pytest.mark.parametrize("overlap", [None, False])
def test_memory_is_not_given_out_again_while_a_message_travels(backend, alone, overlap):
    same = [dg.Variable(np.full(4, n, np.float32), backend=backend) for n in range(1, 6)]
    kept = []
    for _ in range(3):
        with dg.GradientTape() as tape:
            loss = sum(dg.sum(each * each) for each in same)
        tape = dist.DistributedGradientTape(tape, alone, bucket_bytes=16, overlap=overlap)
        kept.append([each + 0.0 for each in tape.gradient(loss, same)])  # the messages are free

    for found in kept:
        for n, each in enumerate(found, 1):
            np.testing.assert_allclose(each.numpy(), np.full(4, 2 * n))


def test_messages_of_an_interrupted_walk_stay_where_they_are(backend, alone):
    held = variables(backend)
    step(alone, held)

    @dg.custom_gradient
    def failing(x):
        def gradient(g):
            raise RuntimeError("boom")

        return x * 1.0, gradient

    with dg.GradientTape() as tape:
        loss = dg.sum(failing(held[0]) * 1.0) + sum(dg.sum(held[n] * held[n]) for n in (1, 2, 3))
    tape = dist.DistributedGradientTape(tape, alone, bucket_bytes=4)
    with suppress(RuntimeError):
        tape.gradient(loss, held)
    gc.collect()

    spare = Device.here().spare
    assert not spare[5, np.dtype(np.float32)]
    held[0].numpy()  # nobody waits for what will not come
    with pytest.raises(CommunicationError, match="interrupted by an exception"):
        step(alone, held)


def test_accumulated_gradients_travel_together(backend, alone):
    held = variables(backend)
    sums = dist.GradientAccumulator(held, alone)
    for _ in range(2):
        with dg.GradientTape() as tape:
            loss = sum(dg.sum(each * each) for each in held)
        sums.add(tape.gradient(loss, held))
    log = Device.here().log
    log.clear()

    found = sums.gradients()

    assert [each for each in log if "waits" in each] == [
        "communication waits for compute",
        "compute waits for communication",
    ]
    for each, values in zip(found, expected(held), strict=True):
        np.testing.assert_allclose(each.numpy(), values)


def test_the_report_has_the_seconds_of_the_device(backend, alone):
    held = variables(backend)
    step(alone, held)

    step(alone, held)
    report = dist.last_report(alone)

    assert report.buckets == len(LENGTHS)
    assert report.bytes == 4 * sum(LENGTHS)
    assert report.algorithm == "overlapped allreduce"
    assert report.seconds > 0
    assert report.exposed_seconds > 0
    assert not Device.here().communicating[0].works


def test_a_rank_that_is_lost_is_heard_of_by_who_reads_and_by_no_step_after(
    backend, alone, monkeypatch
):
    held = variables(backend)
    step(alone, held)[0].numpy()
    del Nccl.together["alone"]

    def lost(done):
        assert not done.is_set()
        raise StallError("rank 2 has not come")

    monkeypatch.setattr(alone, "wait_for", lost)
    found = step(alone, held)
    for _ in range(2):  # what was read the second time was never computed, too
        with pytest.raises(StallError, match="rank 2"):
            found[0].numpy()

    assert [each.aborted for each in Nccl.made] == [False, True]
    with pytest.raises(CommunicationError, match="NCCL was given up"):
        step(alone, held)
    under_way.abandon()  # as an elastic job does, which sets all variables anew
    held[0].numpy()


def test_a_step_waits_for_the_sums_of_the_one_before(backend, alone):
    held = variables(backend)
    step(alone, held)
    waits = []
    alone.wait_for = lambda done: waits.append(done.wait(10))

    step(alone, held)

    assert waits == [True]


def test_gradients_of_many_ranks_are_averaged_whoever_has_which(backend, on_ranks):
    def work(comm):
        held, found = variables(backend), []
        for examples, used in [(comm.rank + 1, (0, 1, 2, 3)), (comm.rank, (3, 2, 0, 1))]:
            step(comm, held, used=used, examples=examples, scale=comm.rank + 1.0)
        # Rank 0 has no example, rank 1 nothing of the second variable, rank 2 another order.
        used = [(0, 1, 2, 3), (0, 2, 3), (3, 0, 1, 2)][comm.rank]
        for _ in range(2):
            averages = step(comm, held, used=used, examples=comm.rank, scale=comm.rank + 1.0)
            found.append([each.numpy() for each in averages])
        sent = [each.lengths for each in Nccl.made if each.rank == comm.rank][-1]
        return found, sent

    results = on_ranks(3, work)

    for found, sent in results:
        assert sent == list(reversed(LENGTHS)) * 4
        for averages in found:
            for n, (each, values) in enumerate(zip(averages, expected(None), strict=True)):
                weights = 2 * 3 if n == 1 else 1 * 2 + 2 * 3
                np.testing.assert_allclose(each, values * weights / 3, rtol=1e-6)


def test_another_model_on_one_rank_is_found_before_anything_travels(backend, on_ranks):
    def work(comm):
        held = variables(backend)
        step(comm, held)[0].numpy()
        before = len(Device.here().log)
        with pytest.raises(DesyncError):
            step(comm, held[::-1] if comm.rank == 1 else held)
        return len(Device.here().log) - before

    assert on_ranks(3, work) == [0, 0, 0]


def test_a_collective_on_the_way_back_may_come_elsewhere_on_each_rank(backend, on_ranks):
    def work(comm):
        held = variables(backend)

        def squares():
            total = dist.allreduce(held[1], comm=comm)
            return dg.sum(total * total)

        for _ in range(2):
            with dg.GradientTape() as tape:
                # Recorded before and after the rest: walked through after and before it.
                total = squares() if comm.rank else 0.0
                loss = total + sum(dg.sum(held[n] * held[n]) for n in (0, 2, 3))
                if not comm.rank:
                    loss = loss + squares()
            tape = dist.DistributedGradientTape(tape, comm, bucket_bytes=4)
            found = [each.numpy() for each in tape.gradient(loss, held)]
        return found

    for found in on_ranks(2, work):
        assert not isinstance(found, Exception), found
        np.testing.assert_allclose(found[1], 8 * np.linspace(1, 2, 4), rtol=1e-6)
