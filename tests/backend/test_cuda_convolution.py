"""Convolution's CUDA kernels on the host: every geometry against NumPy's, whatever fits a chunk."""

import importlib.util

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.backends_in_force import kernels_of
from distgrad.testing import rules
from distgrad.testing.samples import samples
from distgrad.windows import counts

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import convolution
from distgrad_cupy.cuda_kernels import cuda_kernels

NAMES = ("conv", "conv_transpose", "conv_kernel_vjp")
SAMPLES = [sample for name in NAMES for sample in samples(name)]
DTYPES = ("float16", "bfloat16", "float32", "float64")
TOLERANCES = {"float16": 8e-3, "bfloat16": 6e-2, "float32": 3e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def host(host_runner):
    """A backend over NumPy with the kernels of the device, run on the host."""
    return ArrayModuleBackend("host", np, cuda_kernels(host_runner))


@pytest.fixture
def smallest_chunks(monkeypatch):
    """Chunks of a few rows, and parts of a few more."""
    monkeypatch.setattr(convolution, "_CHUNK_BYTES", 200)
    monkeypatch.setattr(convolution, "_PART_ROWS", 2)


@pytest.mark.parametrize("few", [0, 64], ids=["as products", "directly"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_small_chunks_give_what_numpy_gives(sample, dtype, few, host, smallest_chunks, monkeypatch):
    monkeypatch.setattr(convolution, "_FEW_PRODUCTS", few)

    rules.check_agreement(sample.cast(np.dtype(dtype)), host)


def geometries(count):
    """Yield shapes and arguments of convolutions, of one to three axes, drawn at random."""
    rng = np.random.default_rng(7)
    while count:
        rank = int(rng.integers(1, 4))
        groups = int(rng.choice([1, 1, 2, 3]))
        inner, each = (int(n) for n in rng.integers(1, 4, 2))
        # Prime or odd lengths, so that no axis is a multiple of a stride.
        lengths = tuple(int(n) for n in rng.choice([1, 3, 5, 7], rank))
        window, stride, dilation = (tuple(int(n) for n in rng.integers(1, 4, rank)) for _ in "123")
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (rank, 2)))
        spatial = counts(lengths, window, stride, padding, dilation)
        if 0 in spatial and rng.random() < 0.8:
            continue
        count -= 1
        how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        x, w = (2, *lengths, inner * groups), (*window, inner, each * groups)
        yield x, w, (2, *spatial, each * groups), how


@pytest.mark.parametrize("case", list(geometries(60)), ids=str)
def test_any_geometry_gives_what_numpy_gives(case, host, smallest_chunks, monkeypatch):
    *shapes, how = case
    rng = np.random.default_rng(1)
    x, w, y = (rng.standard_normal(shape) for shape in shapes)
    calls = {
        "conv": (x, w, how),
        "conv_transpose": (y, w, {**how, "shape": x.shape[1:-1]}),
        "conv_kernel_vjp": (x, y, {**how, "window": w.shape[:-2]}),
    }
    numbers = kernels_of("numpy")

    for dtype in DTYPES:
        for name, (first, second, params) in calls.items():
            given = first.astype(dtype), second.astype(dtype)
            exact = [each.astype(np.float64) for each in given]
            for few in (0, 64):
                monkeypatch.setattr(convolution, "_FEW_PRODUCTS", few)
                found = host.kernel(name)(*given, **params)

                expected = getattr(numbers, name)(*exact, **params)
                assert found.dtype == dtype
                np.testing.assert_allclose(
                    found.astype(np.float64),
                    expected,
                    rtol=TOLERANCES[dtype],
                    atol=TOLERANCES[dtype] * 10,
                    err_msg=f"{name} {dtype} {few}",
                )


def test_what_is_unrolled_at_a_time_is_bounded(host, host_runner, monkeypatch):
    x = np.random.default_rng(2).standard_normal((3, 9, 11, 4))
    w = np.random.default_rng(3).standard_normal((3, 3, 4, 5))
    how = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    sizes = []
    launch = host_runner.launch
    monkeypatch.setattr(convolution, "_CHUNK_BYTES", 5000)
    monkeypatch.setattr(
        host_runner,
        "launch",
        lambda *args: (sizes.append(args[-1][1].nbytes), launch(*args)),
    )

    host.kernel("conv")(x, w, **how)

    assert len(sizes) > 10
    assert max(sizes) <= 5000
    assert sum(sizes) == 3 * 9 * 11 * 36 * 8


def test_windows_of_one_element_are_multiplied_as_they_lie(host, host_runner):
    x, w = np.ones((2, 3, 4, 5), np.float32), np.ones((1, 1, 5, 2), np.float32)
    how = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    before = len(host_runner.launched)

    y = host.kernel("conv")(x, w, **how)

    assert len(host_runner.launched) == before
    np.testing.assert_array_equal(y, np.full((2, 3, 4, 2), 5))


@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes_are_composed(name, host):
    sample = next(s for s in samples(name) if s.variant == "plane")

    rules.check_agreement(sample.rotated(), host)
