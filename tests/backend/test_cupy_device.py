"""Which device a rank takes, and how large arrays come from it, without one."""

import importlib.util
import re
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import staging
from distgrad_cupy.choosing import device_of_rank, why_no_device
from distgrad_cupy.passages import Passages
from distgrad_cupy.staging import Staging

HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3"}


@pytest.mark.parametrize(
    ("environment", "count", "device"),
    [
        ({}, 4, None),
        ({**HYDRA, "MPI_LOCALRANKID": "3"}, 4, 3),
        ({**HYDRA, "MPI_LOCALRANKID": "3"}, 2, 1),
        (HYDRA, 1, 0),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, 4, 1),
        ({**HYDRA, "MPI_LOCALRANKID": "3", "DISTGRAD_CUDA_DEVICE": "0"}, 4, 0),
        ({"DISTGRAD_CUDA_DEVICE": "2"}, 4, 2),
    ],
)
def test_ranks_of_a_machine_take_devices_in_turn(environment, count, device):
    assert device_of_rank(count, environment) == device


def test_where_the_launcher_does_not_say_the_job_is_asked(monkeypatch):
    from distgrad.distributed.launching import launch

    monkeypatch.setattr(launch, "world", lambda: SimpleNamespace(local_rank=2))

    assert device_of_rank(4, HYDRA) == 2


@pytest.mark.parametrize("asked", ["4", "first", "-1"])
def test_a_device_that_is_not_there_is_refused(asked):
    with pytest.raises(ValueError, match=r"DISTGRAD_CUDA_DEVICE=.* expected 0 to 3"):
        device_of_rank(4, {"DISTGRAD_CUDA_DEVICE": asked})


class Device(np.ndarray):
    """An array of the device: it is copied when somebody waits for it, and not before."""

    device = nullcontext()
    waiting: ClassVar = []

    def get(self, *, stream, out, blocking):
        assert not blocking
        Device.waiting.append((np.array(self), out))


class Event:
    def __init__(self, disable_timing):
        self.copies = []

    def record(self, stream):
        self.copies = list(Device.waiting)

    def synchronize(self):
        for values, out in self.copies:
            if any(out is each for _, each in Device.waiting):
                out[...] = values
        Device.waiting = [w for w in Device.waiting if not any(w[1] is o for _, o in self.copies)]


@pytest.mark.parametrize("length", [1, 8, 9, 64, 101])
def test_large_arrays_come_in_pieces_through_two_buffers(length, monkeypatch):
    monkeypatch.setattr(staging, "LARGE", 0)
    monkeypatch.setattr(staging, "PIECE", 32)
    made = []

    def pinned(nbytes):
        made.append(np.full(nbytes, 255, np.uint8))
        return made[-1]

    module = SimpleNamespace(
        ascontiguousarray=lambda a: np.ascontiguousarray(a).view(Device),
        cuda=SimpleNamespace(Event=Event, get_current_stream=lambda: None),
    )
    x = np.arange(2 * length, dtype=np.float64).reshape(length, 2)
    stage = Staging(module, pinned)

    first, second = (stage.to_host(x[:, ::-1].view(Device)) for _ in range(2))

    np.testing.assert_array_equal(first, x[:, ::-1])
    np.testing.assert_array_equal(second, x[:, ::-1])
    assert len(made) == 2


def test_small_arrays_come_at_once():
    module = SimpleNamespace(asnumpy=np.array)

    found = Staging(module, None).to_host(np.ones(3).view(Device))

    np.testing.assert_array_equal(found, np.ones(3))


# --- messages that go to the host and back --------------------------------------------------------


class Noting:
    """A module that stands for CuPy, and notes in which order its streams are given what."""

    def __init__(self):
        self.log = []
        self.passed = set()
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(id=1),
            Event=lambda **_: NotedEvent(self),
            Stream=lambda non_blocking: NotedStream("leaving", self.log),
            get_current_stream=lambda: NotedStream("computing", self.log),
        )


class NotedStream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_event(self, event):
        self.log.append((self.name, "waits for", event.stream))


class NotedEvent:
    def __init__(self, module):
        self.module, self.stream = module, None

    def record(self, stream):
        self.stream = stream.name
        self.module.log.append((stream.name, "comes to", "an event"))

    def synchronize(self):
        self.module.log.append(("who calls", "waits for", self.stream))

    @property
    def done(self):
        return self.stream in self.module.passed


class Message(np.ndarray):
    """A message on the device of a module."""

    log: ClassVar = []

    def get(self, *, stream, out, blocking):
        assert not blocking
        Message.log.append((stream.name, "copies", "to the host"))

    @property
    def data(self):
        return SimpleNamespace(copy_from_host_async=self._copy)

    def _copy(self, pointer, nbytes, stream):
        Message.log.append((stream.name, "copies", f"{nbytes} bytes back"))


def test_a_message_leaves_behind_what_computed_it_and_comes_back_before_what_reads_it(monkeypatch):
    module = Noting()
    monkeypatch.setattr(Message, "log", module.log)
    passages = Passages(module, lambda nbytes: np.empty(nbytes, np.uint8))

    passage = passages.bring(np.ones(3, np.float32).view(Message))
    started = list(module.log)
    module.log.clear()
    passage.arrived()
    passage.back()

    assert started == [
        ("computing", "comes to", "an event"),
        ("leaving", "waits for", "computing"),
        ("leaving", "copies", "to the host"),
        ("leaving", "comes to", "an event"),
    ]
    assert module.log == [
        ("who calls", "waits for", "leaving"),
        ("computing", "copies", "12 bytes back"),
        ("computing", "comes to", "an event"),
    ]
    assert passage.host.dtype == np.float32


def test_memory_is_kept_until_the_device_has_come_to_the_end_of_a_copy(monkeypatch):
    module = Noting()
    monkeypatch.setattr(Message, "log", module.log)
    pinned = []

    def allocate(nbytes):
        memory = np.empty(nbytes, np.uint8).view(Kept)
        pinned.append(weakref.ref(memory))
        return memory

    passages = Passages(module, allocate)

    def bring():
        return passages.bring(np.ones(3, np.float32).view(Message))

    bring()  # whoever wanted it has failed
    bring().back()
    bring()
    assert all(each() is not None for each in pinned)

    module.passed.add("leaving")
    bring()
    assert [each() is not None for each in pinned] == [False, True, False, True]

    module.passed.add("computing")
    bring()
    assert [each() is not None for each in pinned] == [False, False, False, False, True]


def test_what_has_left_the_device_is_let_go_as_soon_as_something_comes_back(monkeypatch):
    module = Noting()
    monkeypatch.setattr(Message, "log", module.log)
    passages = Passages(module, lambda nbytes: np.empty(nbytes, np.uint8))
    message = np.ones(3, np.float32).view(Message)
    on_device = weakref.ref(message)

    passage = passages.bring(message)
    del message
    module.passed.add("leaving")
    host = passage.host
    del passage
    passages.put(host, np.ones(3, np.float32).view(Message))

    assert on_device() is None


class Kept(np.ndarray):
    """Pinned memory of which is known whether somebody refers to it."""


class Runtime:
    """Stands for `cupy.cuda.runtime`, made for CUDA 12.9."""

    CUDARuntimeError = staticmethod("cudaError{}".format)

    def __init__(self, driver):
        self.driver = driver

    def driverGetVersion(self):
        return self.driver

    def runtimeGetVersion(self):
        return 12090


@pytest.mark.parametrize(
    ("driver", "status", "words"),
    [
        (0, 35, r"there is no NVIDIA driver, libcuda.so.1 is not found; remedy: install"),
        (11080, 35, r"driver is for CUDA 11\.8 at most, and CuPy was made for CUDA 12\.9; remedy:"),
        (13000, 100, r"13\.0, shows no device \(cudaError100\), and CUDA_VISIBLE_DEVICES is '7'"),
        (13000, 0, r"for CUDA 13\.0, shows no device, and CUDA_VISIBLE_DEVICES is '7'; remedy:"),
    ],
)  # fmt: skip
def test_without_a_device_what_is_missing_is_said(driver, status, words, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")

    assert re.search(words, why_no_device(Runtime(driver), status))
