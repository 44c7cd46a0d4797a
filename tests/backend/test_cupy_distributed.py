"""What ranks do with arrays of devices, on arrays with CuPy's manners, which NumPy cannot read."""

import contextlib
import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import ArrayModuleBackend
from distgrad.distributed.verbs import device_buffers, device_line
from distgrad.distributed.verbs.communicator import RecordedCommunicator


class Group:
    """NCCL whose other ranks do as this one does."""

    def __init__(self, comm, module):
        self.size = comm.size
        self.module = module

    def allreduce(self, array, op="sum"):
        array._host[...] *= self.size

    def broadcast(self, array, root=0):
        pass

    def exchange(self, own, result, parts, verb):
        for to, come in parts:
            if own[to].shape == result[come].shape:
                result[come] = own[to]

    def reduce_scatter(self, rows, result, op="sum"):
        result[...] = rows[0] * self.size


class Sums:
    """A stream that is through at once."""

    def __init__(self, group, module):
        self.start = group.allreduce

    def nothing(self):
        pass

    check = begin = join = nothing

    def seconds(self):
        return 1.0, 0.0


@pytest.fixture(params=["host", "nccl"])
def backend(request, cupy_manners, monkeypatch):
    """A backend of arrays with CuPy's manners, which travel one way."""
    module = cupy_manners.MODULE

    class Mannered(ArrayModuleBackend):
        def asarray(self, value, *, dtype=None, copy=False):
            return (module.array if copy else module.asarray)(value, dtype=dtype)

        def to_host(self, array):
            return array.get()

    plain = property(lambda self: {})
    monkeypatch.setattr(cupy_manners.Array, "__cuda_array_interface__", plain, raising=False)
    here = property(lambda self: contextlib.nullcontext())
    monkeypatch.setattr(cupy_manners.Array, "device", here, raising=False)
    ability = device_buffers.Ability("a device")
    monkeypatch.setattr(device_buffers, "_ability", lambda _: ability)
    monkeypatch.setattr(device_buffers, "choose", lambda *_: (request.param, ""))
    monkeypatch.setattr(device_line, "StreamedSums", Sums)
    # Others that do as this one are not what it is tried with.
    monkeypatch.setattr(device_line.Line, "can_exchange", lambda _: True)
    for each in (device_buffers, device_line):
        monkeypatch.setattr(each, "NCCLGroup", Group)
        monkeypatch.setattr(each, "module_of", lambda _: module)
    return Mannered("mannered", module, {"astype": lambda x, dtype: x.astype(dtype)})


@pytest.fixture
def variable(backend):
    return lambda *shape: dg.Variable(np.ones(shape, np.float32), backend=backend)


def gradients(w, b):
    """Return the gradients of a step, and its tape."""
    with dg.GradientTape() as tape:
        target = dg.sum((w * w + b) ** 2)
    return tape, target


HOW = {
    "means": {},
    "sums": {"average": "sum"},
    "adaptive sums": {"average": "adasum"},
    "finite ones": {"nonfinite": "raise"},
    "overlapped": {"overlap": True, "bucket_bytes": 16},
    "tuned": {"bucket_bytes": "auto"},
    **{name: {"compression": name} for name in ("fp16", "bf16", "int8", "topk", "powersgd")},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_gradients_are_averaged(how, variable, cupy_manners):
    comm, w, b = RecordedCommunicator(size=2), variable(3, 4), variable(4)

    for _ in range(2):
        tape, target = gradients(w, b)
        found = dist.DistributedGradientTape(tape, comm=comm, **how).gradient(target, [w, b])

    assert all(isinstance(each.array, cupy_manners.Array) for each in found)


def test_gradients_are_accumulated(variable, cupy_manners):
    w, b = variable(3, 4), variable(4)
    sums = dist.GradientAccumulator([w, b], comm=RecordedCommunicator(size=2))

    for _ in range(2):
        tape, target = gradients(w, b)
        sums.add(tape.gradient(target, [w, b]))

    assert all(isinstance(each.array, cupy_manners.Array) for each in sums.gradients())


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda comm: dist.DistributedOptimizer(dg.optimizers.Adam(0.1), comm=comm),
        lambda comm: dist.ShardedOptimizer(dg.optimizers.Adam(0.1), stage=1, comm=comm),
        lambda comm: dist.ShardedOptimizer(dg.optimizers.Adam(0.1), stage=2, comm=comm),
    ],
    ids=["distributed", "sharded", "sharded gradients"],
)
def test_optimizers_take_steps(optimizer, variable):
    w, b = variable(3, 4), variable(4)
    steps = optimizer(RecordedCommunicator(size=2))

    for _ in range(2):
        tape, target = gradients(w, b)
        steps.apply(tape.gradient(target, [w, b]), [w, b])

    assert (w.numpy() < 1).any()


VERBS = {
    **{op: lambda x, comm, op=op: dist.allreduce(x, op=op, comm=comm) for op in ("prod", "max")},
    **{
        name: getattr(dist, name)
        for name in ("allreduce", "allgather", "broadcast", "reduce_scatter", "alltoall")
    },
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_collectives_have_gradients(verb, variable, cupy_manners):
    x = variable(2, 2)

    with dg.GradientTape() as tape:
        target = dg.sum(verb(x, comm=RecordedCommunicator(size=2)) ** 2)

    assert isinstance(tape.gradient(target, x).array, cupy_manners.Array)


def test_batches_are_normalized_and_variables_sent(backend, variable):
    comm, w = RecordedCommunicator(size=2), variable(5, 3)

    with dg.use_backend(backend):
        layer = dist.SyncBatchNorm(comm=comm)
        with dg.GradientTape() as tape:
            target = dg.sum(layer(w, training=True) ** 2)
        gradient = tape.gradient(target, w)
    dist.broadcast_variables([w], comm=comm)

    assert gradient.shape == w.shape == (5, 3)
