"""Optimizers cut over two ranks, and collectives of slices, on devices: NCCL, MPI, or the host."""

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("order_of_work")

STEPS = r"""
import hashlib, json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import load
from distgrad.distributed.verbs.device_buffers import line_of

ranks, backend = dist.init(timeout=60), load(BACKEND)
rng = np.random.default_rng(0)
inputs, labels = rng.normal(size=(20, 5)).astype("float32"), rng.normal(size=(20, 3))


def trained(stage, clipping, deterministic):
    x = [
        dg.Variable(np.linspace(-1, 1, 15, dtype="f4").reshape(5, 3), name="w", backend=BACKEND),
        dg.Variable(np.zeros(3), name="b", backend=BACKEND),
    ]
    rule = dg.optimizers.Adam(0.05)
    if clipping:
        rule = dg.optimizers.Optimizer(
            dg.optimizers.chain(dg.optimizers.clipping(global_norm=0.3), rule.transform)
        )
    optimizer = dist.ShardedOptimizer(rule, stage, deterministic=deterministic, bucket_bytes=32)
    optimizer.build(x)
    read, to_host = [], backend.to_host
    for step in range(3):
        parts = [(inputs, labels)]
        if deterministic:
            parts = list(dist.logical_shards((inputs, labels), count=deterministic))
        else:
            parts = [dist.shard((inputs, labels))]
        with optimizer.gathered():
            for a, b in parts:
                with dg.GradientTape() as tape:
                    found = dg.asarray(a, backend=BACKEND) @ x[0]
                    wide = dg.astype(found, "float64") + x[1]
                    loss = dg.mean((wide - dg.asarray(b, backend=BACKEND)) ** 2)
                backend.to_host = lambda array: read.append(array.size) or to_host(array)
                optimizer.backward(loss, x, tape)
                backend.to_host = to_host
        backend.to_host = lambda array: read.append(array.size) or to_host(array)
        optimizer.step()
        backend.to_host = to_host
    with optimizer.gathered():
        values = [each.numpy() for each in x]
    return read, [v.tolist() for v in values], [v.tobytes().hex() for v in values]


one = dg.asarray([0.0], backend=BACKEND)
dist.allgather(one)  # by which the way is chosen and tried
found = [trained(*each) for each in CASES]
line = None if ranks.size == 1 else line_of(ranks, backend, one.array)
if ranks.rank == 0:
    print(json.dumps({"found": found, "way": line and line.way}))
"""
CASES = [(1, False, False), (2, True, False), (3, False, False), (2, False, 4), (3, True, 4)]

VERBS = r"""
import json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.verbs.device_buffers import line_of

ranks = dist.init(timeout=60)
x = dg.Variable(np.arange(6.0).reshape(2, 3) + 10 * ranks.rank, backend="cupy")
with dg.GradientTape(persistent=True) as tape:
    gathered = dist.allgather(x)
    scattered = dist.reduce_scatter(x)
    sent = dist.alltoall(x)
    targets = [dg.sum(each * each) for each in (gathered, scattered, sent)]
    total = dg.sum(dist.alltoall(x[:, 1]))  # of a column, and back a number for all
found = [each.numpy().tolist() for each in (gathered, scattered, sent)]
found += [tape.gradient(each, x).numpy().tolist() for each in (*targets, total)]
found += [each.numpy().tolist() for each in (dist.allgather(x[:, 1]), dist.alltoall(x[::-1, 2]))]
flags = dist.allgather(dg.asarray([ranks.rank == 0], backend="cupy"))
line = line_of(ranks, x.backend, x.array)
if ranks.rank == 0:
    print(json.dumps({"found": found, "flags": flags.numpy().tolist(),
                      "way": line.way, "counts": dict(line.counts)}))
"""

PLACES = r"""
import json
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

ranks = dist.init(timeout=60)
found = []
for stage in (1, 3):
    b = dg.Variable(np.zeros(3, np.float32), name="b", backend="cupy")
    w = dg.Variable(np.ones((8, 8), np.float32), name="w", backend="cupy")
    optimizer = dist.ShardedOptimizer(dg.optimizers.SGD(0.5), stage)
    optimizer.build([b, w])
    with optimizer.gathered():
        with dg.GradientTape() as tape:
            loss = dg.sum(w) + dg.sum(b)
        optimizer.backward(loss, [b, w], tape)
    optimizer.step()
    with optimizer.gathered():
        found.append([[each.array.data.ptr % 16, float(dg.sum(each))] for each in (b, w)])
x = dg.Variable(np.zeros(3, np.float32), backend="cupy")
own = dg.asarray(np.ones(3, np.float32), backend="numpy")
dist.ShardedOptimizer(dg.optimizers.SGD(0.5), 1).apply(own, x)
if ranks.rank == 0:
    print(json.dumps({"found": found, "by the host's": x.numpy().tolist()}))
"""


@pytest.fixture(params=["host", "nccl", "mpi"])
def way(request, cupy_backend, ask_for, monkeypatch):
    """The way of arrays between the devices of two ranks."""
    if request.param != "nccl":
        monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")
    elif cupy_backend.module.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices; the emulated stage of scripts/test has them")
    elif not pytest.importorskip("cupy.cuda.nccl").available:
        pytest.skip("CuPy finds no NCCL; pip install nvidia-nccl-cu12")
    ask_for(request.param)
    return request.param


def test_sharded_optimizers_take_the_steps_of_one_process(two_ranks, way):
    program = f"BACKEND, CASES = 'cupy', {CASES!r}\n{STEPS}"
    (alone,) = two_ranks.said_by(program.replace("'cupy'", "'numpy'"), ranks=1)
    (one,) = two_ranks.said_by(program, ranks=1)
    (said,) = two_ranks.said_by(program)

    assert said["way"] == way
    for case, (_, wanted, _), (_, _, bits), (read, values, found) in zip(
        CASES, alone["found"], one["found"], said["found"], strict=True
    ):
        for expected, value in zip(wanted, values, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=str(case))
        if case[-1]:
            assert found == bits, case
        if way == "nccl" and not (case[1] and case[2]):  # exact norms are added up on the host
            assert max(read, default=0) <= 2  # weights and norms


def test_slices_are_exchanged_with_their_gradients(two_ranks, way):
    (said,) = two_ranks.said_by(VERBS)

    first, second = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) + 10
    total = (first + second)[0]
    gathered, scattered, sent, *gradients, column, backwards = map(np.array, said["found"])
    np.testing.assert_array_equal(gathered, np.stack([first, second]).reshape(gathered.shape))
    np.testing.assert_array_equal(scattered.reshape(-1), total)
    np.testing.assert_array_equal(sent, [first[0], second[0]])
    np.testing.assert_array_equal(gradients[0], 2 * 2 * first)  # both ranks' targets
    np.testing.assert_array_equal(gradients[1], 2 * (first + second))
    np.testing.assert_array_equal(gradients[2], 2 * first)
    np.testing.assert_array_equal(gradients[3], [[0, 1, 0]] * 2)
    np.testing.assert_array_equal(column, [1, 4, 11, 14])
    np.testing.assert_array_equal(backwards, [5, 15])
    assert said["flags"] == [True, False]
    assert set(said["counts"]) == {way} == {said["way"]}


def test_variables_lie_after_a_step_where_they_can_be_read_by_16_bytes(two_ranks, way):
    (said,) = two_ranks.said_by(PLACES)

    assert said["found"] == 2 * [[[0, -1.5], [0, 32.0]]]
    assert said["by the host's"] == [-0.5] * 3  # gradients
