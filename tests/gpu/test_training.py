"""What a job reads of a device while it trains: nothing before its gradients are on their way."""

import numpy as np

import distgrad as dg
from distgrad.training.averages import Averaged, Sums


def test_figures_are_added_up_there_and_read_in_the_end(cupy_backend, monkeypatch):
    read, to_host = [], cupy_backend.to_host
    monkeypatch.setattr(cupy_backend, "to_host", lambda x: read.append(x.size) or to_host(x))
    losses = np.array([1.0, 2.0, 4.0], np.float32)
    sums = Sums()

    for dtype in ("float32", "float16"):
        each = dg.asarray(losses.astype(dtype), backend=cupy_backend)
        sums.add((each, {"mean": dg.mean(each)}), losses)
    assert not read
    rows = sums.rows

    np.testing.assert_allclose(rows, [[7.0, 7.0]] * 2, rtol=1e-3)
    assert read == [1] * 4
    assert sums.rows == rows
    assert len(read) == 4


def test_the_norm_of_gradients_is_read_once(cupy_backend, monkeypatch):
    read, to_host = [], cupy_backend.to_host
    monkeypatch.setattr(cupy_backend, "to_host", lambda x: read.append(x.size) or to_host(x))
    gradients = [dg.asarray(np.full(n, 2.0, "f4"), backend=cupy_backend) for n in (3, 5)]
    host = dg.asarray(np.full(2, 4.0), backend="numpy")

    found = Averaged([*gradients, None, host], 0.0, 1).grad_norm

    np.testing.assert_allclose(found, 8.0)
    assert read == [2]


def test_a_loss_scale_waits_once_for_all_gradients(cupy_backend, monkeypatch):
    read, to_host = [], cupy_backend.to_host
    monkeypatch.setattr(cupy_backend, "to_host", lambda x: read.append(x.size) or to_host(x))
    scale = dg.optimizers.LossScale(8.0)
    finite = [dg.asarray(np.ones(n, "f2"), backend=cupy_backend) for n in (3, 5)]
    wrong = dg.asarray(np.array([1.0, np.inf], "f4"), backend=cupy_backend)

    assert scale.adjust(finite)
    assert read == [1]
    assert not scale.adjust([*finite, wrong])
    assert read == [1, 1]
