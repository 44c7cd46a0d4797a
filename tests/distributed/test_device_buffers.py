"""The way of device arrays: the choice of all ranks, and what goes by the host all the same.

A module that stands for CuPy counts what is done to its arrays, which are NumPy's inside.
"""

import ctypes
import sys
import threading
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import ArrayModuleBackend
from distgrad.distributed.launching import probing
from distgrad.distributed.verbs import device_buffers, device_line
from distgrad.distributed.verbs.communicator import RecordedCommunicator
from distgrad.distributed.verbs.device_buffers import Ability, choose, line_of
from distgrad.distributed.verbs.device_line import Line
from distgrad.distributed.verbs.nccl import DeviceEvent, NCCLGroup, nccl_version
from distgrad.errors import CommunicationError, LaunchError, StallError

NCCL = 22304
TRIALS = 2  # sums by which a way is tried before it is used


def abilities(*each):
    return [Ability(f"node/{device}", *rest) for device, *rest in each]


@pytest.mark.parametrize(
    ("found", "way", "why"),
    [
        (abilities(("0", NCCL), ("1", NCCL)), "nccl", "device of its own"),
        (abilities(("0", NCCL), ("0", NCCL)), "host", "share a device"),
        (abilities(("0", NCCL), ("0", NCCL, True)), "host", "MPI does not"),
        (abilities(("0", NCCL, True), ("0", NCCL, True)), "mpi", "share a device"),
        (abilities(("0", NCCL), ("1", 0)), "host", "a rank has no NCCL"),
        (abilities(("0", 2604), ("1", 2604)), "host", "older than 2.7"),
        (abilities(("0", 0, True), ("1", 0, True)), "mpi", "takes device buffers"),
        (abilities(("0", 0), ("1", 0)), "host", "no NCCL"),
        (abilities(("0", NCCL, True, "host"), ("1", NCCL, True, "host")), "host", "=host"),
        (abilities(("0", NCCL, True, "mpi"), ("1", NCCL, True, "mpi")), "mpi", "=mpi"),
    ],
)
def test_the_way_is_one_that_every_rank_can_go(found, way, why):
    chosen, reason = choose(found)

    assert chosen == way
    assert why in reason


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (abilities(("0", NCCL, False, "nccl"), ("1", NCCL)), "auto on some ranks, nccl on others"),
        (abilities(("0", NCCL, False, "nccl"), ("0", NCCL, False, "nccl")), "share a device"),
        (abilities(("0", 0, False, "mpi"), ("1", 0, True, "mpi")), "MPI does not take"),
    ],
)
def test_a_way_that_is_asked_for_and_not_there_is_refused(found, why):
    with pytest.raises(LaunchError, match=why):
        choose(found)


# --- a module that stands for CuPy ----------------------------------------------------------------


class Array(np.ndarray):
    """An array of the device, as far as anybody looks."""

    __module__ = "fake_cupy"

    @property
    def __cuda_array_interface__(self):
        return {}

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return Device(1)


class Device:
    """A device, and the current one of each thread."""

    current = threading.local()
    pci_bus_id = "0000:17:00.0"

    def __init__(self, number=None):
        self.id = getattr(Device.current, "number", 0) if number is None else number

    def use(self):
        Device.current.number = self.id

    def __enter__(self):
        self.before = Device()
        self.use()

    def __exit__(self, *_):
        self.before.use()


class CUDARuntimeError(RuntimeError):
    pass


class NcclError(RuntimeError):
    pass


class Group:
    """NCCL whose other ranks do as this one does."""

    made: ClassVar = []
    grouped: ClassVar = []
    ended: ClassVar = []

    takes = bytes
    off = 0  # what its sums are wrong by
    checks = 0

    def __init__(self, size, identity, rank):
        if type(identity) is not Group.takes:
            raise TypeError(identity)
        self.size, self.identity, self.rank = size, identity, rank
        self.calls, self.aborted = [], False
        self.device, self.thread = Device().id, threading.current_thread()
        Group.made.append(self)

    def allReduce(self, sent, arrived, count, dtype, operation, stream):
        assert sent == arrived
        assert stream in (77, 78)
        self.calls.append((count, dtype.__name__, operation))
        numbers = np.ctypeslib.as_array(ctypes.cast(sent, ctypes.POINTER(dtype)), (count,))
        numbers *= self.size
        numbers += Group.off

    def reduceScatter(self, sent, arrived, count, dtype, operation, stream):
        self.calls.append((count, dtype.__name__, f"reduce_scatter {operation}"))
        pointer = ctypes.POINTER(dtype)
        rows = np.ctypeslib.as_array(ctypes.cast(sent, pointer), (self.size, count))
        np.ctypeslib.as_array(ctypes.cast(arrived, pointer), (count,))[...] = rows[0] * self.size

    def broadcast(self, sent, arrived, count, dtype, root, stream):
        self.calls.append((count, "broadcast", root))

    def send(self, place, count, dtype, peer, stream):
        Group.grouped.append(("send", place, count, peer))

    def recv(self, place, count, dtype, peer, stream):
        Group.grouped.append(("recv", place, count, peer))

    @staticmethod
    def end():
        """Give each peer's place what this rank sends that peer: they all do the same."""
        messages, Group.grouped = Group.grouped, []
        sent = {peer: (place, count) for verb, place, count, peer in messages if verb == "send"}
        for verb, place, count, peer in messages:
            if verb == "recv" and peer in sent and sent[peer][1] == count:
                ctypes.memmove(place, sent[peer][0], count)
        Group.ended.append(threading.current_thread())

    def abort(self):
        self.aborted = True

    def check_async_error(self):
        Group.checks += 1


class Event:
    looks = 0
    needed = 3

    other = 600

    def __init__(self, disable_timing=False):
        self.ptr = self

    def record(self, stream):
        assert stream.ptr in (77, 78)

    def query(self):
        self.looks += 1
        return 0 if self.looks > Event.needed else Event.other


class Stream:
    def __init__(self, ptr):
        self.ptr = ptr

    def wait_event(self, event):
        pass


RUNTIME = SimpleNamespace(eventQuery=Event.query, CUDARuntimeError=CUDARuntimeError)


@pytest.fixture
def module(monkeypatch):
    fake = ModuleType("fake_cupy")
    nccl = SimpleNamespace(
        available=True,
        get_version=lambda: NCCL,
        get_unique_id=lambda: bytes(range(128)),
        NcclCommunicator=Group,
        NcclError=NcclError,
        groupStart=lambda: None,
        groupEnd=Group.end,
        NCCL_SUM="sum", NCCL_PROD="prod", NCCL_MIN="min", NCCL_MAX="max",
        NCCL_UINT8=ctypes.c_uint8, NCCL_INT32=ctypes.c_int32, NCCL_INT64=ctypes.c_int64,
        NCCL_FLOAT32=ctypes.c_float, NCCL_FLOAT64=ctypes.c_double,
    )  # fmt: skip
    fake.nccl = nccl  # for tests; CuPy's is a module that nobody has imported yet
    monkeypatch.setitem(sys.modules, "fake_cupy.cuda.nccl", nccl)
    fake.cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        runtime=RUNTIME,
        Stream=lambda non_blocking: Stream(78),
        get_current_stream=lambda: Stream(77),
        get_elapsed_time=lambda begun, done: 1.0,
    )
    monkeypatch.setitem(sys.modules, "fake_cupy", fake)
    monkeypatch.delenv(device_buffers.VARIABLE, raising=False)
    monkeypatch.setattr(device_buffers, "takes_device_arrays", lambda: False)
    Group.made.clear()
    Group.ended.clear()
    return fake


class Backend:
    """A backend of the module's arrays that counts its copies."""

    def __init__(self):
        self.copies = Counter()

    def to_host(self, array):
        self.copies["to host"] += 1
        return np.array(array)

    def asarray(self, host):
        self.copies["to device"] += 1
        return np.array(host).view(Array)

    def synchronize(self):
        self.copies["synchronized"] += 1


def device_array(values, dtype="float32"):
    return np.array(values, dtype).view(Array)


def test_sums_stay_on_the_device_by_nccl(module):
    comm, backend = RecordedCommunicator(size=3), Backend()
    line = Line(comm, backend, "nccl", group=NCCLGroup(comm, module))
    x = device_array([1.0, 2.0])

    total = line.allreduce(x)

    np.testing.assert_array_equal(total, [3, 6])
    np.testing.assert_array_equal(x, [1, 2])
    assert Group.made[0].calls == [(2, "c_float", "sum")]
    assert Group.made[0].identity == bytes(range(128))
    assert not backend.copies
    assert line.counts == {"nccl": 1}


def test_nccl_is_found_though_nobody_has_imported_it(module, monkeypatch):
    assert not hasattr(module.cuda, "nccl")
    assert nccl_version(module) == NCCL

    monkeypatch.setattr(module.nccl, "available", False)
    assert nccl_version(module) == 0

    monkeypatch.setitem(sys.modules, "fake_cupy.cuda.nccl", None)  # as if there were none
    assert nccl_version(module) == 0


def test_cupys_nccl_is_one_of_its_modules():
    cupy = pytest.importorskip("cupy")

    assert nccl_version(cupy) >= 0  # without a warning where its library is not installed

    assert hasattr(sys.modules["cupy.cuda.nccl"], "available")


def test_groups_are_made_by_older_cupys_too(module, monkeypatch):
    monkeypatch.setattr(Group, "takes", tuple)
    module.nccl.get_unique_id = lambda: tuple(range(-64, 64))

    NCCLGroup(RecordedCommunicator(size=3), module)

    assert Group.made[0].identity == tuple(range(-64, 64))


def test_half_precision_is_added_up_in_float32(module):
    comm = RecordedCommunicator(size=3)
    line = Line(comm, Backend(), "nccl", group=NCCLGroup(comm, module))

    total = line.allreduce(device_array([1.5], "float16"))

    assert total.dtype == np.float16
    assert Group.made[0].calls == [(1, "c_float", "sum")]


def test_complex_numbers_are_added_up_as_pairs(module):
    comm = RecordedCommunicator(size=3)
    line = Line(comm, Backend(), "nccl", group=NCCLGroup(comm, module))

    total = line.allreduce(device_array([1 + 2j], "complex64"))

    np.testing.assert_array_equal(total, [3 + 6j])
    assert Group.made[0].calls == [(2, "c_float", "sum")]


@pytest.mark.parametrize(("dtype", "op"), [("float32", "max"), ("complex64", "prod")])
def test_what_nccl_does_not_define_goes_by_the_host(module, dtype, op):
    comm, backend = RecordedCommunicator(size=3), Backend()
    line = Line(comm, backend, "nccl", group=NCCLGroup(comm, module))

    found = line.allreduce(device_array([1, 2], dtype), op)

    assert isinstance(found, Array)
    assert backend.copies == {"to host": 1, "to device": 1}
    assert not Group.made[0].calls
    assert comm.calls[-1].verb == "allreduce"
    assert line.counts == {"host": 1}


def test_ranks_on_one_device_go_by_the_host(module):
    # All the ranks of this communicator are this one.
    comm, backend = RecordedCommunicator(size=2), Backend()

    line = line_of(comm, backend, device_array([1.0]))

    assert line.way == "host"
    assert "share a device" in line.reason
    np.testing.assert_array_equal(line.allreduce(device_array([1.0])), [2])
    assert line_of(comm, backend, device_array([1.0])) is line


def test_arrays_of_the_host_have_no_line(module):
    comm = RecordedCommunicator(size=2)

    assert line_of(comm, Backend(), np.ones(3)) is None
    assert not comm.calls


def test_a_lost_rank_ends_the_group_of_nccl(module, monkeypatch):
    comm = RecordedCommunicator(size=3)
    group = NCCLGroup(comm, module)

    def lost(done):
        raise StallError("rank 2 has not come")

    monkeypatch.setattr(comm, "wait_for", lost)

    with pytest.raises(StallError):
        group.allreduce(device_array([1.0]))

    assert Group.made[0].aborted


def test_a_rank_lost_while_ranks_are_connected_ends_the_group_of_nccl(module, monkeypatch):
    comm = RecordedCommunicator(size=3)
    group = NCCLGroup(comm, module)
    own, everything = device_array([1.0, 2.0, 3.0]), [(slice(r, r + 1),) * 2 for r in range(3)]

    def lost(done):
        raise StallError("rank 2 has not come")

    monkeypatch.setattr(comm, "wait_for", lost)

    with pytest.raises(StallError):
        group.exchange(own, device_array([0.0] * 3), everything, "alltoallv")

    assert Group.made[0].aborted


def test_who_fails_where_others_wait_says_why_and_what_to_do(module, monkeypatch):
    def fail(self, *arguments):
        raise CommunicationError("no peer access")

    def stall(comm, said):
        waited.append(comm.guard.timeout)
        raise StallError("rank 0 has not come")

    monkeypatch.setattr(NCCLGroup, "exchange", fail)
    monkeypatch.setattr(device_line, "exchange_json", stall)
    comm, backend, waited = RecordedCommunicator(size=3), Backend(), []
    comm.guard = SimpleNamespace(timeout=1800.0)
    backend.module = module
    module.empty = lambda *of: np.empty(*of).view(Array)
    line = Line(comm, backend, "nccl", group=NCCLGroup(comm, module))

    with pytest.raises(LaunchError, match=r"BUFFERS=host does.*no peer access; rank 0 has not"):
        line.can_exchange()
    assert waited == [120.0]  # not the half hour that a sum may take
    assert comm.guard.timeout == 1800.0


def test_a_dtype_that_nccl_lacks_is_named(module):
    group = NCCLGroup(RecordedCommunicator(size=3), module)

    with pytest.raises(CommunicationError, match="NCCL has no dtype bool"):
        group.allreduce(device_array([True], "bool"))


def test_an_event_of_the_device_is_waited_for_like_a_threads(module, monkeypatch):
    event = DeviceEvent(Event(disable_timing=True), RUNTIME)

    assert event.wait(5.0)

    monkeypatch.setattr(Event, "needed", 10**9)
    assert not DeviceEvent(Event(disable_timing=True), RUNTIME).wait(0.001)


def test_a_wish_that_is_none_is_refused(module, monkeypatch):
    monkeypatch.setenv(device_buffers.VARIABLE, "fast")

    with pytest.raises(LaunchError, match="'fast'; expected one of auto, nccl, mpi, host"):
        line_of(RecordedCommunicator(size=2), Backend(), device_array([1.0]))


def test_an_mpi_that_does_not_claim_device_buffers_is_not_tried(monkeypatch):
    monkeypatch.setattr(probing, "probe_library", probing.Library)
    monkeypatch.setattr(probing.subprocess, "run", lambda *_, **__: pytest.fail("was tried"))
    probing.takes_device_arrays.cache_clear()

    assert not probing.takes_device_arrays()


def test_an_mpi_that_ends_with_device_buffers_is_not_used(monkeypatch):
    monkeypatch.setattr(
        probing, "probe_library", lambda: probing.Library(takes_device_buffers=True)
    )
    monkeypatch.setattr(probing, "_DEVICE_PROBE", "import os, signal; os.kill(os.getpid(), 11)")
    probing.takes_device_arrays.cache_clear()

    assert not probing.takes_device_arrays()
    probing.takes_device_arrays.cache_clear()


class Module(ModuleType):
    """NumPy, but for new arrays, which lie on the device."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, *arguments):
        return np.empty(*arguments).view(Array)


class Devices(ArrayModuleBackend):
    """A backend whose arrays lie on the device that is none."""

    def __init__(self):
        super().__init__("devices", Module("on_device"))
        self.copies = Counter()
        self._array_type = Array

    def asarray(self, value, *, dtype=None, copy=False):
        self.copies["to device"] += not isinstance(value, Array)
        return super().asarray(np.asarray(value), dtype=dtype, copy=copy).view(Array)

    def to_host(self, array):
        self.copies["to host"] += 1
        return np.array(array)


def step(comm, backend, **how):
    """Return the gradients of a step, averaged."""
    x = dg.Variable(np.array([1.0, 2.0]), backend=backend)
    y = dg.Variable(np.array([[3.0]]), backend=backend)
    with dg.GradientTape() as tape:
        target = dg.sum(x * x) + dg.sum(y)
    backend.copies.clear()
    return dist.DistributedGradientTape(tape, comm=comm, **how).gradient(target, [x, y])


def test_gradients_are_averaged_on_the_devices(module, monkeypatch):
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", "each has its own"))
    comm, backend = RecordedCommunicator(size=3), Devices()
    line_of(comm, backend, device_array([1.0]))

    for steps in (1, 2):  # the second one knows the layout
        found = step(comm, backend)

        np.testing.assert_allclose(found[0].array, [2, 4])
        np.testing.assert_allclose(found[1].array, [[1]])
        assert isinstance(found[0].array, Array)
        assert len(Group.made[1].calls) == steps
        assert backend.copies["to host"] == 0


def test_other_reductions_go_by_the_host(module, monkeypatch):
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", "each has its own"))
    monkeypatch.setattr(RecordedCommunicator, "split", lambda self, colour: self, raising=False)
    monkeypatch.setattr(RecordedCommunicator, "machine", lambda self: 0, raising=False)
    monkeypatch.setattr(RecordedCommunicator, "count", lambda self, what: None, raising=False)
    comm, backend = RecordedCommunicator(size=3), Devices()
    line_of(comm, backend, device_array([1.0]))

    found = step(comm, backend, reduction="hierarchical")

    assert isinstance(found[0].array, Array)
    assert backend.copies["to host"] == 2
    assert not any(group.calls[TRIALS:] for group in Group.made)


def test_tensors_are_reduced_on_the_devices_with_their_gradients(module, monkeypatch):
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", "each has its own"))
    comm, backend = RecordedCommunicator(size=3), Devices()
    x = dg.Variable(np.array([1.0, 2.0]), backend=backend)

    with dg.GradientTape() as tape:
        total = dist.allreduce(x, comm=comm)
        target = dg.sum(total * total)
    gradient = tape.gradient(target, x)

    np.testing.assert_allclose(total.array, [3, 6])
    np.testing.assert_allclose(gradient.array, [18, 36])  # of all ranks' targets
    assert len(Group.made[0].calls) == TRIALS + 2


# --- ways that fail, and devices that do ----------------------------------------------------------


def group_of(module, size=3):
    return NCCLGroup(RecordedCommunicator(size=size), module)


def test_a_group_is_made_by_a_thread_on_the_device_of_the_array(module, monkeypatch):
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", "each has its own"))

    line_of(RecordedCommunicator(size=2), Devices(), device_array([1.0]))

    (group,) = Group.made
    assert group.device == 1
    assert group.thread is not threading.current_thread()


def test_a_rank_that_is_lost_while_a_group_is_made_is_heard_of(module, monkeypatch):
    comm, never = RecordedCommunicator(size=2), threading.Event()
    monkeypatch.setattr(module.nccl, "NcclCommunicator", lambda *_: never.wait(60))

    def lost(done):
        raise StallError("rank 1 has not come")

    monkeypatch.setattr(comm, "wait_for", lost)

    with pytest.raises(StallError, match="rank 1 has not come"):
        NCCLGroup(comm, module)
    never.set()


def free_choice(monkeypatch):
    """Let the ranks, which are all this one, have a device each."""
    places = iter(range(100))
    monkeypatch.setattr(
        device_buffers,
        "exchange_json",
        lambda comm, value: [
            {**value, "device": f"node/{next(places)}"} if isinstance(value, dict) else value
            for _ in range(comm.size)
        ],
    )


def test_a_way_that_gives_wrong_sums_is_not_taken(module, monkeypatch):
    free_choice(monkeypatch)
    monkeypatch.setattr(Group, "off", 1)
    comm = RecordedCommunicator(size=2)

    with pytest.warns(RuntimeWarning, match="nccl failed when it was tried, on rank 0: it gave a"):
        line = line_of(comm, Devices(), device_array([1.0]))

    assert line.way == "host"
    assert "a wrong sum of 5 known numbers" in line.reason


def test_a_way_that_is_asked_for_and_gives_wrong_sums_is_an_error(module, monkeypatch):
    free_choice(monkeypatch)
    monkeypatch.setattr(Group, "off", 1)
    monkeypatch.setenv(device_buffers.VARIABLE, "nccl")

    with pytest.raises(LaunchError, match="=nccl cannot be had: nccl failed when it was tried"):
        line_of(RecordedCommunicator(size=2), Devices(), device_array([1.0]))


@pytest.mark.parametrize("place", ["get_unique_id", "NcclCommunicator"])
def test_where_nccl_makes_no_group_the_ranks_go_another_way(place, module, monkeypatch):
    def refuse(*_):
        raise NcclError("NCCL_ERROR_SYSTEM_ERROR")

    free_choice(monkeypatch)
    monkeypatch.setattr(module.nccl, place, refuse)

    with pytest.warns(RuntimeWarning, match="NCCL_ERROR_SYSTEM_ERROR"):
        line = line_of(RecordedCommunicator(size=2), Devices(), device_array([1.0]))

    assert line.way == "host"


def test_a_device_that_fails_ends_the_wait(module, monkeypatch):
    group = group_of(module)
    monkeypatch.setattr(Event, "other", 700)

    with pytest.raises(CommunicationError, match=r"allreduce .sum. by NCCL.*: 700"):
        group.allreduce(device_array([1.0]))

    assert Group.made[0].aborted


def test_an_error_of_nccl_that_comes_later_ends_the_wait(module, monkeypatch):
    def failed(self):
        raise NcclError("NCCL_ERROR_REMOTE_ERROR")

    group = group_of(module)
    monkeypatch.setattr(Event, "needed", 10**9)
    monkeypatch.setattr(Group, "check_async_error", failed)

    with pytest.raises(CommunicationError, match="NCCL_ERROR_REMOTE_ERROR"):
        group.allreduce(device_array([1.0]))

    assert Group.made[0].aborted


def test_an_interrupt_ends_the_group_of_nccl(module, monkeypatch):
    def interrupted(done):
        raise KeyboardInterrupt

    group = group_of(module)
    monkeypatch.setattr(group._comm, "wait_for", interrupted)

    with pytest.raises(KeyboardInterrupt):
        group.allreduce(device_array([1.0]))

    assert Group.made[0].aborted


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_integers_that_nccl_lacks_go_by_the_host(dtype, module):
    backend = Backend()
    comm = RecordedCommunicator(size=3)
    line = Line(comm, backend, "nccl", group=NCCLGroup(comm, module))

    total = line.allreduce(device_array([1, 2], dtype))

    np.testing.assert_array_equal(total, [3, 6])
    assert backend.copies == {"to host": 1, "to device": 1}


def test_a_way_that_does_not_answer_is_given_up_soon_and_named(module, monkeypatch):
    free_choice(monkeypatch)
    comm, seen = RecordedCommunicator(size=2), []
    comm.guard = SimpleNamespace(timeout=1800.0)

    def wait_for(done):
        seen.append(comm.guard.timeout)
        raise StallError("rank 1 has not come")

    monkeypatch.setattr(comm, "wait_for", wait_for)

    with pytest.raises(LaunchError, match=r"nccl did not answer .*=host does not try it"):
        line_of(comm, Devices(), device_array([1.0]))

    assert seen == [120.0]
    assert comm.guard.timeout == 1800.0


def test_accumulated_gradients_are_averaged_on_the_devices(module, monkeypatch):
    monkeypatch.setattr(device_buffers, "choose", lambda *_: ("nccl", "each has its own"))
    comm, backend = RecordedCommunicator(size=3), Devices()
    x = dg.Variable(np.array([1.0, 2.0]), backend=backend)
    sums = dist.GradientAccumulator([x], comm=comm)

    for _ in range(2):
        with dg.GradientTape() as tape:
            target = dg.sum(x * x)
        gradient = tape.gradient(target, [x])
        backend.copies.clear()
        sums.add(gradient)
        assert not backend.copies  # added up where they lie
    (found,) = sums.gradients()

    np.testing.assert_allclose(found.array, [2, 4])
    assert len(Group.made[1].calls) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_accumulated_gradients_of_devices_may_go_by_the_host(size, module, monkeypatch):
    monkeypatch.setenv(device_buffers.VARIABLE, "host")
    comm, backend = RecordedCommunicator(size=size), Devices()
    rows = dg.Variable(np.ones((4, 2), np.float32), backend=backend)
    x = dg.Variable(np.array([1.0, 2.0], np.float16), backend=backend)
    sums = dist.GradientAccumulator([x, rows], comm=comm)

    for examples in (1, 3):
        with dg.GradientTape() as tape:
            picked = dg.nn.embedding(rows, dg.asarray([1, 1], backend=backend))
            target = dg.sum(x * x) + dg.sum(picked) * 2
        sums.add(tape.gradient(target, [x, rows]), examples=examples)
    to_x, to_rows = sums.gradients()

    np.testing.assert_allclose(to_x.array, [2, 4])
    assert to_x.dtype == "float16"
    np.testing.assert_allclose(dg.asarray(to_rows).array, [[0, 0], [4, 4], [0, 0], [0, 0]])


# --- messages from rank to rank ------------------------------------------------------------------


@pytest.fixture
def line(module, monkeypatch):
    """A way by NCCL that is taken for good: others that do as this one pass no trial."""
    monkeypatch.setattr(Line, "can_exchange", lambda _: True)
    return line_by_nccl(module)


def line_by_nccl(module):
    comm = RecordedCommunicator(size=3)
    return Line(comm, Devices(), "nccl", group=NCCLGroup(comm, module))


def test_slices_are_exchanged_by_nccl_as_a_group(line):
    own = device_array([1, 2, 3, 4, 5, 6], "float64")

    found = line.alltoallv(own, np.full((3, 3), 2))
    gathered = line.allgatherv(own[:2], [2, 2, 2], out=device_array(np.zeros(6), "float64"))

    np.testing.assert_array_equal(found, own)  # the others are this rank
    np.testing.assert_array_equal(gathered, [1, 2, 1, 2, 1, 2])
    assert isinstance(found, Array)
    assert line.counts == {"nccl": 2}


def test_ranks_are_connected_by_a_thread_at_their_first_messages(line):
    for _ in range(2):
        line.alltoallv(device_array([1, 2, 3]), np.ones((3, 3)))

    first, second = Group.ended
    assert first is not threading.current_thread()
    assert second is threading.current_thread()


def test_a_rank_that_is_lost_while_ranks_are_connected_is_heard_of(line, module, monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(module.nccl, "groupEnd", lambda: never.wait(60))

    def lost(done):
        raise StallError("rank 2 has not come")

    monkeypatch.setattr(line._comm, "wait_for", lost)

    with pytest.raises(StallError, match="rank 2 has not come"):
        line.alltoallv(device_array([1, 2, 3]), np.ones((3, 3)))
    never.set()


def test_a_way_on_which_messages_go_astray_is_not_taken_for_slices(module, monkeypatch):
    line = line_by_nccl(module)
    monkeypatch.setattr(module.nccl, "groupEnd", lambda: None)

    with pytest.warns(RuntimeWarning, match="host: nccl failed .* rank 0: what arrived is not"):
        gathered = line.allgatherv(device_array([1, 2]), [2, 2, 2])

    np.testing.assert_array_equal(gathered, [1, 2, 1, 2, 1, 2])
    assert line.alltoallv(device_array([1, 2, 3]), np.ones((3, 3), np.int64)).size == 3
    assert line.counts == {"host": 2}
    assert [call.verb for call in line._comm.calls[-2:]] == ["allgatherv", "alltoallv"]


def test_rows_of_a_sum_are_scattered_by_nccl(line):
    rows = device_array([[1.5, 2.5], [3, 4], [5, 6]], "float16")

    own = line.reduce_scatter(rows)

    assert own.dtype == np.float16
    np.testing.assert_array_equal(own, [4.5, 7.5])
    assert Group.made[0].calls == [(2, "c_float", "reduce_scatter sum")]


def test_what_nccl_does_not_add_up_is_scattered_by_the_host(line):
    line.reduce_scatter(device_array([[1, 2], [3, 4], [5, 6]]), "max")

    assert line.counts == {"host": 1}
    assert not Group.made[0].calls
