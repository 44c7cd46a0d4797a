"""How gradients leave the device: by NCCL on a stream, or by one copy a bucket."""

from functools import partial

import numpy as np
import pytest

from distgrad.distributed.verbs.communicator import SerialCommunicator
from distgrad.distributed.verbs.nccl import NAMES, NCCLGroup, nccl_version
from distgrad.distributed.verbs.streamed_sums import StreamedSums

pytestmark = pytest.mark.usefixtures("order_of_work")

# NCCL refuses two ranks on one device; its streams and events are CuPy's all the same.
STAND_IN = r"""
import sys
from types import SimpleNamespace
import cupy
import numpy as np
import distgrad.distributed as dist
from distgrad.distributed.verbs import device_buffers

ranks = dist.init(timeout=60)
from mpi4py import MPI

class Group:
    made = []

    def __init__(self, size, identity, rank):
        self.comm, self.lengths, self.streams = MPI.COMM_WORLD.Dup(), [], set()
        Group.made.append(self)

    def allReduce(self, sent, arrived, count, dtype, operation, stream):
        memory = cupy.cuda.UnownedMemory(sent, count * 8, self)
        array = cupy.ndarray(count, dtype, cupy.cuda.MemoryPointer(memory, 0))
        with cupy.cuda.ExternalStream(stream):
            host = array.get()
            self.comm.Allreduce(MPI.IN_PLACE, host)
            array.set(host)
        self.lengths.append(count)
        self.streams.add(stream)

    def check_async_error(self):
        pass

sys.modules["cupy.cuda.nccl"] = SimpleNamespace(
    available=True, get_version=lambda: 22304, get_unique_id=lambda: b"1" * 128,
    NcclCommunicator=Group, NcclError=RuntimeError, NCCL_SUM=0, NCCL_UINT8=np.uint8,
    NCCL_FLOAT32=np.float32, NCCL_FLOAT64=np.float64,
)
device_buffers.device_identity = lambda device: f"device {ranks.rank}"
"""
COUNTED = r"""
x = [dg.Variable(np.ones(n), backend="cupy") for n in (3, 5)]
for step in range(2):
    tape = dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=8)
    with tape:
        loss = sum(dg.sum((each - float(ranks.rank)) ** 2) for each in x)
    found = tape.gradient(loss, x)
    assert found[1].numpy().tolist() == [1.0] * 5
report = dist.last_report()
if ranks.rank == 0:
    print(json.dumps({"algorithm": report.algorithm, "seconds": report.seconds,
                      "lengths": Group.made[1].lengths,
                      "streams": [len(each.streams) for each in Group.made],
                      "same": bool(Group.made[0].streams & Group.made[1].streams)}))
"""


@pytest.fixture
def group_of_one(cupy_backend):
    """A group of NCCL's with one rank, which one device is enough for."""
    if not nccl_version(cupy_backend.module):
        pytest.skip("CuPy finds no NCCL; pip install nvidia-nccl-cu12, or -cu13")
    return NCCLGroup(SerialCommunicator(), cupy_backend.module)


def test_nccl_itself_takes_our_calls(group_of_one):
    module = group_of_one.module

    for name in NAMES:
        given = module.arange(1, 8).astype(name)
        array = given.copy()
        for op in ("sum",) if given.dtype.kind == "c" else ("sum", "prod", "min", "max"):
            group_of_one.allreduce(array, op)
        group_of_one.broadcast(array)
        assert (array == given).all()


def test_nccl_itself_adds_up_on_a_stream_of_its_own(group_of_one):
    module = group_of_one.module
    sums = StreamedSums(group_of_one, module)

    for _ in range(2):
        sums.begin()
        messages = [module.full(n, 2.0, np.float32) * 3 for n in (5, 1 << 20)]
        for each in messages:
            sums.start(each)
        sums.join()
        found = [each + 1 for each in messages]

    assert all((each == 7).all() for each in found)
    assert sums.nbytes == 4 * (5 + (1 << 20))
    assert sums.seconds()[0] > 0


def test_a_message_keeps_its_memory_until_its_stream_waits_for_the_sum(group_of_one):
    module = group_of_one.module
    sums = StreamedSums(group_of_one, module)

    def places(count):
        """Return where so many arrays of the message's size would lie now."""
        return {each.data.ptr for each in [module.empty(1000) for _ in range(count)]}

    module.get_default_memory_pool().free_all_blocks()
    sums.begin()
    message = module.ones(1000)
    place = message.data.ptr
    sums.start(message)
    del message
    during = places(64)
    sums.join()

    assert place not in during
    assert place in places(1024)


def test_sums_by_nccl_travel_on_a_stream_of_their_own(two_ranks, cupy_backend, monkeypatch):
    monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")

    trained, counted = two_ranks.said_by(STAND_IN + two_ranks.training + COUNTED)

    assert trained["way"] == "nccl"
    np.testing.assert_allclose(trained["x"], two_ranks.trained_alone(), rtol=1e-9)
    assert counted["lengths"] == [7, 7, 7, 7, 5, 3, 5, 3]
    assert counted["streams"] == [1, 1]
    assert not counted["same"]
    assert counted["algorithm"] == "overlapped allreduce"
    assert counted["seconds"] > 0


PASSING = r"""
import json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import load
from distgrad_cupy.passages import Passages

ranks, backend = dist.init(timeout=60), load("cupy")
brought, bring = [], Passages.bring
Passages.bring = lambda self, message: brought.append(message.size) or bring(self, message)
read, to_host = [], backend.to_host
backend.to_host = lambda array: read.append(array.size) or to_host(array)
x = [dg.Variable(np.full(n, 2.0), backend="cupy") for n in (3, 5, 4)]
rows = dg.Variable(np.ones((4, 3)), backend="cupy")
held, found = [*x, rows], []
for options in OPTIONS:
    tape = dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=8, **options)
    with tape:
        used = x if ranks.rank else x[:2]  # rank 0 has no gradient of the third
        loss = sum(dg.sum(each * each) for each in used) * (ranks.rank + 1)
        loss = loss + dg.sum(rows * rows)
    brought.clear(), read.clear()
    # As many examples on either rank, but none on rank 0 the second time.
    examples = 0 if len(found) % 3 == 1 and not ranks.rank else 1
    averages = tape.gradient(loss, held, examples=examples)
    lengths, looked = list(brought), list(read)
    found.append([lengths, looked, [float(dg.mean(each)) for each in averages]])
if ranks.rank == 0:
    print(json.dumps({"found": found, "algorithm": dist.last_report().algorithm}))
"""


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("how", [{}, {"compression": "fp16"}])
def test_a_bucket_goes_to_the_host_by_one_copy(overlap, how, two_ranks, cupy_backend, monkeypatch):
    monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", "host")
    monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")
    options = [{"overlap": overlap, **how}] * 3

    (said,) = two_ranks.said_by(f"OPTIONS = {options!r}\n{PASSING}")

    assert said["algorithm"].startswith("overlapped") == overlap
    for number, (brought, read, averages) in enumerate(said["found"]):
        alone = number == 1  # rank 1 has all examples then
        assert read == []
        assert brought == [length + bool(how) for length in (12, 4, 5, 3) if length != 4]
        np.testing.assert_allclose(
            averages, [8.0, 8.0, 8.0, 2.0] if alone else [6.0, 6.0, 4.0, 2.0], rtol=1e-3
        )


def test_pinned_memory_is_kept_until_the_device_has_passed_it(cupy_backend):
    module, passages = cupy_backend.module, cupy_backend.passages
    message = module.arange(5.0)

    passage = passages.bring(message)
    passage.arrived()
    host = passage.host
    np.testing.assert_array_equal(host, np.arange(5.0))
    host += 1
    back = passage.back()

    assert back is message
    assert any(kept is host for _, kept in passages._under_way)
    np.testing.assert_array_equal(cupy_backend.to_host(back), np.arange(5.0) + 1)
    passages.bring(module.arange(3.0))
    assert not any(kept is host for _, kept in passages._under_way)


def test_who_waits_for_the_device_waits_for_other_ranks_first(cupy_backend):
    from distgrad.core.under_way import forget_wait, note_wait

    waits = []
    wait = partial(waits.append, "waited")
    array = cupy_backend.asarray(np.ones(3))
    note_wait(wait)
    try:
        cupy_backend.to_host(array)
        cupy_backend.synchronize()
    finally:
        forget_wait(wait)

    assert waits == ["waited"] * 2


ORDERED = r"""
import hashlib, json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import load
from distgrad.distributed.verbs.device_buffers import line_of
from distgrad_cupy.passages import Passages

ranks, backend = dist.init(timeout=60), load("cupy")
brought, bring = [], Passages.bring
Passages.bring = lambda self, message: brought.append(message.size) or bring(self, message)
rng = np.random.default_rng(3)
# Of all magnitudes: every other order gives other bits.
rows = rng.normal(size=(50, 12)) * 10.0 ** rng.integers(-4, 5, (50, 12))
batch = {"narrow": rows.astype("float32"), "wide": rows}
x = {name: dg.Variable(np.ones(12, each.dtype), backend="cupy") for name, each in batch.items()}
never = dg.Variable(np.ones(3), backend="cupy")


def gradients(how, count):
    losses = []
    if how == "tape":
        with dg.GradientTape(persistent=True) as tape:
            for part in dist.logical_shards(batch, count=count):
                parts = [dg.mean(dg.asarray(part[n], backend="cupy") @ x[n]) for n in x]
                losses.append(dg.astype(parts[0], "float64") + parts[1])
        tape = dist.DistributedGradientTape(tape, deterministic=count, bucket_bytes=64)
        return tape.gradient(losses, [x, never])
    sums = dist.GradientAccumulator([x, never], deterministic=count, average=how)
    for part in dist.logical_shards(batch, count=count):
        with dg.GradientTape() as tape:
            parts = [dg.mean(dg.asarray(part[n], backend="cupy") @ x[n]) for n in x]
            loss = dg.astype(parts[0], "float64") + parts[1]
        sums.add(tape.gradient(loss, [x, never]))
    return sums.gradients()


found = {}
for how, count in (("tape", 7), ("examples", 7), ("sum", 7), ("ranks", 1)):
    read, to_host = [], backend.to_host
    backend.to_host = lambda array: read.append(array.size) or to_host(array)
    brought.clear()
    averages, nothing = gradients(how, count)
    copied = [list(read), list(brought)]
    backend.to_host = to_host
    assert nothing is None
    found[how] = [
        copied,
        {n: hashlib.sha256(g.numpy().tobytes()).hexdigest() for n, g in averages.items()},
        {n: g.numpy().tolist() for n, g in averages.items()},
    ]
line = None if ranks.size == 1 else line_of(ranks, backend, x["wide"].array)
if ranks.rank == 0:
    print(json.dumps({"found": found, "way": line and line.way}))
"""


@pytest.fixture
def ordered_alone(two_ranks):
    """What one process finds for the same logical shards."""
    (alone,) = two_ranks.said_by(ORDERED, ranks=1)
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 12)) * 10.0 ** rng.integers(-4, 5, (50, 12))
    for how in ("tape", "examples"):
        np.testing.assert_allclose(alone["found"][how][2]["wide"], rows.mean(axis=0), rtol=1e-9)
    return alone["found"]


def check_ordered(said, alone, way):
    """Hold that ranks have the bits of one process."""
    assert said["way"] == way
    for how, (_, digests, values) in said["found"].items():
        assert digests == alone[how][1], values


def test_logical_shards_are_added_up_on_the_device_and_go_by_the_host(
    two_ranks, ordered_alone, cupy_backend, monkeypatch
):
    monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", "host")
    monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")

    (said,) = two_ranks.said_by(ORDERED)

    check_ordered(said, ordered_alone, "host")
    for how, ((read, brought), *_) in said["found"].items():
        assert read == [1, 1]  # of the sums the weight alone, once for a dtype
        # Of seven shards three are this rank's, a pair and one, in each message; of one, none.
        messages = {"tape": [4, 13, 13], "ranks": []}.get(how, [13, 16])
        assert sorted(brought) == sorted(2 * messages)


def test_logical_shards_stay_on_the_devices_with_nccl(
    two_ranks, ordered_alone, cupy_backend, monkeypatch
):
    if cupy_backend.module.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices; the emulated stage of scripts/test has them")
    nccl = pytest.importorskip("cupy.cuda.nccl")
    if not nccl.available:
        pytest.skip("CuPy finds no NCCL; pip install nvidia-nccl-cu12")
    monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", "nccl")

    (said,) = two_ranks.said_by(ORDERED)

    check_ordered(said, ordered_alone, "nccl")
    for number, ((read, brought), *_) in enumerate(said["found"].values()):
        assert brought == []
        assert read[-1] == 1
        assert number == 0 or len(read) == 2  # the first one tries the way
