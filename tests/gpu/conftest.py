"""Tests in this folder need a CUDA device; without one they are left out, and one says why.

Where `DISTGRAD_GPU=required` is set, as by `scripts/test gpu`, there is a device, and a run that
cannot use it has failed.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import load
from distgrad.distributed.launching.launchers import find_launcher
from distgrad.errors import BackendUnavailableError, LaunchError

collect_ignore = ["emulator"]  # whose modules would be imported in search of doctests


def pytest_configure():
    """Refuse to begin where a device is required and cannot be used."""
    reason = why_not() if os.environ.get("DISTGRAD_GPU") == "required" else ""
    if reason:
        raise pytest.UsageError(f"tests/gpu: {reason}")


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker("gpu")
    reason = why_not() if here else ""
    if reason:
        first, *rest = here  # one line in the report says it for all of them
        first.add_marker(pytest.mark.skip(reason=f"tests/gpu: {reason}"))
        config.hook.pytest_deselected(items=rest)
        left_out = set(rest)
        items[:] = [item for item in items if item not in left_out]


def why_not():
    """Return why the CuPy backend does not work here; nothing where it does."""
    try:
        load("cupy")
    except BackendUnavailableError as error:
        return str(error)
    return ""


@pytest.fixture
def cupy_backend():
    """The CuPy backend, on the current device."""
    return load("cupy")


# --- when work is done ---------------------------------------------------------------------------

# Where the device is an emulated one: in which orders it does what several streams are given.
EMULATED = "DISTGRAD_EMULATOR" in os.environ
ORDER = os.environ.get("DISTGRAD_EMULATED_ORDER", "")
ORDERS = ([ORDER] if ORDER else ["late", "aside first"]) if EMULATED else ["its own"]


@pytest.fixture
def work_in(monkeypatch):
    """What has an emulated device do its work in an order, and those that the test starts."""
    driver = ctypes.CDLL(str(Path(os.environ["DISTGRAD_EMULATOR"]) / "libcuda.so.1"))

    def change(order):
        monkeypatch.setenv("DISTGRAD_EMULATED_ORDER", order)
        driver.emulated_be(order.encode())

    yield change
    driver.emulated_be(ORDER.encode())


@pytest.fixture(params=ORDERS)
def order_of_work(request):
    """The order in which the device does what several streams are given."""
    if EMULATED:
        request.getfixturevalue("work_in")(request.param)


# --- two ranks ------------------------------------------------------------------------------------

_TRAINING = r"""
import json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs.device_buffers import line_of

ranks = dist.init(timeout=60)
with dg.use_backend("cupy"):
    x = dg.Variable(np.linspace(-1, 1, 7), backend="cupy")
    total = dist.allreduce(dg.asarray([1.0, 2.0], backend="cupy") * (ranks.rank + 1))
    optimizer = dg.optimizers.Adam(0.1)
    for step in range(4):
        with dg.GradientTape() as tape:
            loss = dg.sum((x - float(ranks.rank)) ** 2)
        tape = dist.DistributedGradientTape(tape)
        optimizer.apply(tape.gradient(loss, x), x)
line = line_of(ranks, x.backend, x.array)
if ranks.rank == 0:
    print(json.dumps({"x": x.numpy().tolist(), "total": total.numpy().tolist(),
                      "device": x.device, "way": line.way, "reason": line.reason}))
"""


# An emulated device's memory is the host's, so that any MPI takes it; it only does not say so.
_TAKING = r"""
from distgrad.distributed.verbs import device_buffers as asked
asked.takes_device_arrays = lambda: True
"""


def launcher_here():
    """Return the launcher of this environment's MPI; skip the test where there is none."""
    try:
        return find_launcher().path
    except LaunchError as error:
        pytest.skip(str(error))


class TwoRanks:
    """Programs for two ranks, and what they train, as one process does.

    Attributes
    ----------
    training : str
        A program that trains, and says on rank 0 what became of it.
    """

    training = _TRAINING

    @staticmethod
    def said_by(job, ranks=2):
        """Return what rank 0 of two says, or of another number."""
        if os.environ.get("DISTGRAD_DEVICE_BUFFERS") == "mpi":
            job = _TAKING + job
        done = subprocess.run(
            [launcher_here(), "-n", str(ranks), sys.executable, "-c", job],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    @staticmethod
    def trained_alone():
        """Return the parameter after the same steps with the mean of both ranks' gradients."""
        x = dg.Variable(np.linspace(-1, 1, 7))
        optimizer = dg.optimizers.Adam(0.1)
        for _ in range(4):
            gradient = 2 * (x.numpy() - 0.5)
            optimizer.apply(dg.asarray(gradient), x)
        return x.numpy()


@pytest.fixture
def launcher():
    """The launcher of ranks."""
    return launcher_here()


@pytest.fixture
def ask_for(monkeypatch):
    """What asks for a way of arrays between ranks; skips the test where MPI cannot be one."""

    def ask(way):
        if way == "mpi" and not EMULATED:
            pytest.skip("the MPI from PyPI takes no memory of a real device")
        monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", way)

    return ask


@pytest.fixture
def two_ranks():
    """Programs on two ranks."""
    return TwoRanks
