"""Two ranks on one device, whose gradients the host averages, and on two, where NCCL does."""

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("order_of_work")


def trained(two_ranks):
    """Return what two ranks say that train together."""
    (said,) = two_ranks.said_by(two_ranks.training)
    assert said["total"] == [3, 6]
    assert said["device"] == "cuda:0"
    np.testing.assert_allclose(said["x"], two_ranks.trained_alone(), rtol=1e-9)
    return said


@pytest.mark.parametrize("asked", ["auto", "host", "mpi"])
def test_two_ranks_train_on_one_device(asked, two_ranks, cupy_backend, ask_for, monkeypatch):
    ask_for(asked)
    monkeypatch.setenv("DISTGRAD_CUDA_DEVICE", "0")

    # NCCL refuses two ranks on one device.
    assert trained(two_ranks)["way"] in (("host", "mpi") if asked == "auto" else (asked,))


@pytest.mark.parametrize("asked", ["auto", "nccl", "host"])
def test_two_ranks_train_on_a_device_each(asked, two_ranks, cupy_backend, ask_for):
    runtime = cupy_backend.module.cuda.runtime
    if runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices; the emulated stage of scripts/test has them")
    nccl = pytest.importorskip("cupy.cuda.nccl")
    if not nccl.available:
        pytest.skip("CuPy finds no NCCL; pip install nvidia-nccl-cu12")
    expected = "host" if asked == "host" else "nccl"
    ask_for(asked)

    assert trained(two_ranks)["way"] == expected
