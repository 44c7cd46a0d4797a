"""Two ranks on one device, whose gradients the host averages, and on two, where NCCL does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

JOB = r"""
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


def trained():
    """Return what two ranks say that train together."""
    mpirun = Path(sys.executable).with_name("mpirun")
    if not mpirun.exists():
        pytest.skip(f"there is no {mpirun}")

    done = subprocess.run(
        [mpirun, "-n", "2", sys.executable, "-c", JOB], capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    said = json.loads(lines[-1])
    assert said["total"] == [3, 6]
    assert said["device"] == "cuda:0"
    np.testing.assert_allclose(said["x"], trained_alone(), rtol=1e-9)
    return said


@pytest.mark.parametrize("asked", ["auto", "host"])
def test_two_ranks_train_on_one_device(asked, cupy_backend, monkeypatch):
    monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", asked)
    monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")

    assert trained()["way"] in ("host", "mpi")  # NCCL refuses two ranks on one device


@pytest.mark.parametrize("asked", ["auto", "nccl", "host"])
def test_two_ranks_train_on_a_device_each(asked, cupy_backend, monkeypatch):
    runtime = cupy_backend.module.cuda.runtime
    if runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices; the emulated stage of scripts/test has them")
    nccl = pytest.importorskip("cupy.cuda.nccl")
    if not nccl.available:
        pytest.skip("CuPy finds no NCCL; pip install nvidia-nccl-cu12")
    expected = "host" if asked == "host" else "nccl"
    monkeypatch.setenv("DISTGRAD_DEVICE_BUFFERS", asked)

    assert trained()["way"] == expected


def trained_alone():
    """Return the parameter after the same steps with the mean of both ranks' gradients."""
    import distgrad as dg

    x = dg.Variable(np.linspace(-1, 1, 7))
    optimizer = dg.optimizers.Adam(0.1)
    for _ in range(4):
        gradient = 2 * (x.numpy() - 0.5)
        optimizer.apply(dg.asarray(gradient), x)
    return x.numpy()
