"""Every call into CuPy is one that its functions take: all samples, on what has CuPy's manners."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("CuPy or SciPy is not installed", allow_module_level=True)

import distgrad_cupy.special
from distgrad_cupy import conforming

ELSEWHERE = ("transfer", "to_device")  # between devices, of which this one has only one
PORTABLE = [sample for sample in samples() if sample.operation not in ELSEWHERE]
DIFFERENTIABLE = [sample for sample in PORTABLE if sample.sources]
COMPLEX = [sample.rotated() for sample in DIFFERENTIABLE if sample.takes_complex]
SINGLE = [sample.cast(np.dtype("float32")) for sample in DIFFERENTIABLE]


@pytest.fixture
def backend(cupy_manners, monkeypatch):
    """The backend that the CuPy backend is made from, over the module that stands for CuPy."""
    module = cupy_manners.MODULE

    class Mannered(ArrayModuleBackend):
        def asarray(self, value, *, dtype=None, copy=False):
            return (module.array if copy else module.asarray)(value, dtype=dtype)

        def to_host(self, array):
            return array.get()

    monkeypatch.setattr(distgrad_cupy.special, "cupy", module)
    monkeypatch.setattr(
        distgrad_cupy.special, "function", lambda name: getattr(cupy_manners.SPECIAL, name)
    )
    run = SimpleNamespace(module=module, namespace=lambda: SimpleNamespace(backend=made))
    kernels = {
        "astype": lambda x, dtype: x.astype(dtype),
        **distgrad_cupy.special.KERNELS,
        **conforming.kernels(run),
    }
    made = Mannered("mannered", module, kernels)
    return made


@pytest.mark.parametrize("sample", [*PORTABLE, *COMPLEX], ids=str)
def test_samples_go_through_as_on_numpy(sample, backend):
    rules.check_agreement(sample, backend)


@pytest.mark.parametrize("sample", SINGLE, ids=str)
def test_samples_in_single_precision_go_through_as_on_numpy(sample, backend):
    rules.check_agreement(sample, backend)


REFUSED = {
    "an array of the host beside one of the device": lambda cp, x: x + np.ones(3),
    "an array of the host in a list": lambda cp, x: cp.concatenate([x, np.ones(3)]),
    "an array of the host assigned": lambda cp, x: x.__setitem__(slice(2), np.ones(2)),
    "NumPy reading one of the device": lambda cp, x: np.asarray(x),
    "an argument that CuPy's function lacks": lambda cp, x: cp.sum(x, where=x > 0),
    "an argument that CuPy's method lacks": lambda cp, x: x.max(initial=0.0),
    "an argument that CuPy's ufuncs lack": lambda cp, x: cp.add(x, x, where=x > 0),
    "a dtype without a loop": lambda cp, x: cp.bitwise_and(x, x),
    "two masks in an index": lambda cp, x: cp.stack([x, x])[cp.stack([x, x])[:, 0] > 0, x > 0],
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_stands_for_cupy_refuses_what_cupy_refuses(call, cupy_manners):
    x = cupy_manners.MODULE.asarray(np.arange(3.0))

    with pytest.raises(TypeError):
        call(cupy_manners.MODULE, x)


def test_what_cupy_lacks_is_not_there(cupy_manners):
    assert hasattr(np, "nanquantile")
    assert not hasattr(cupy_manners.MODULE, "nanquantile")
