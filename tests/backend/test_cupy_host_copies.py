"""Which operations pass through the host on CuPy: those listed here, and no others.

Operations with CUDA of this package run it here, over NumPy's arrays; all others go to a module
with CuPy's names and manners. Both note what asks for an array's values in host memory, and what
brings some from there, while a kernel runs.
"""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.eager import kernels_of
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("CuPy or SciPy is not installed", allow_module_level=True)


import distgrad_cupy.special
from distgrad_cupy import conforming
from distgrad_cupy.cuda_kernels import cuda_kernels

COMPUTED = {
    "betaincc": "CuPy has no complement, and 1 - betainc loses its digits",
    "scatter_multiply": "devices have no atomic product",
}
ASKED = {
    "cofactor": "whether a matrix is near a singular one",
    "expm": "how often to halve the matrices",
}
ELSEWHERE = ("transfer", "to_device")  # between devices, of which there is one


class Noting(ArrayModuleBackend):
    """A backend that notes in `seen` the operations whose kernels pass through the host."""

    def __init__(self, module):
        self.seen = set()
        self._running = []
        super().__init__("noting", module)

    def take(self, kernels):
        """Take kernels that need the backend."""
        self._kernels = kernels

    def kernel(self, name):
        kernel = super().kernel(name)

        def noted(*operands, **params):
            self._running.append(name)
            try:
                return kernel(*operands, **params)
            finally:
                self._running.pop()

        return kernel and noted

    def passes(self):
        """Note the operation that was asked for, not those that it is composed of."""
        self.seen.update(self._running[:1])

    def asarray(self, value, *, dtype=None, copy=False):
        if isinstance(value, np.ndarray):
            self.passes()
        return (self.module.array if copy else self.module.asarray)(value, dtype=dtype)

    def to_host(self, array):
        self.passes()
        return array if isinstance(array, np.ndarray) else array.get()


class Copying:
    """A module whose conversions of what lies on the host are noted too."""

    def __init__(self, module, names):
        self._module = module
        self._names = names
        self.passes = lambda: None

    def __getattr__(self, name):
        found = getattr(self._module, name)
        if name not in self._names:
            return found

        def converting(value, *args, **kwargs):
            if isinstance(value, (np.ndarray, list, tuple)):
                self.passes()
            return found(value, *args, **kwargs)

        return converting


def noting(array_type, name, backend):
    """Return a conversion of one element to Python's number, which waits for it, as one noted."""
    own = getattr(array_type, name)

    def conversion(array):
        backend.passes()
        return own(array)

    return conversion


def over_manners(cupy_manners, monkeypatch):
    """Return a backend over what has CuPy's names, without the CUDA of this package."""
    module = Copying(cupy_manners.MODULE, cupy_manners.CONVERTING)
    monkeypatch.setattr(distgrad_cupy.special, "cupy", module)
    monkeypatch.setattr(
        distgrad_cupy.special, "function", lambda name: getattr(cupy_manners.SPECIAL, name)
    )
    backend = Noting(module)
    module.passes = backend.passes
    for name in ("__bool__", "__int__", "__float__", "__complex__", "__index__"):
        monkeypatch.setattr(cupy_manners.Array, name, noting(cupy_manners.Array, name, backend))
    run = SimpleNamespace(module=module, namespace=lambda: kernels_of(backend))
    own = {"astype": lambda x, dtype: x.astype(dtype), **distgrad_cupy.special.KERNELS}
    backend.take(own | conforming.kernels(run))
    return backend


def over_cuda(host_runner):
    """Return a backend over NumPy's arrays with the CUDA of this package, run on the host."""
    backend = Noting(np)
    run = type(host_runner)(host_runner.folder, lambda: kernels_of(backend))
    of_cupy = {name: getattr(kernels_of("numpy"), name) for name in distgrad_cupy.special.NAMES}
    backend.take(of_cupy | cuda_kernels(run))
    return backend


OWN = set(cuda_kernels(None)) - set(conforming.kernels(None))


def calls(name):
    """Return samples of an operation, in all its dtypes."""
    found = [each for each in samples(name) if name not in ELSEWHERE]
    turned = [each.rotated() for each in found if each.takes_complex and each.sources]
    single = [each.cast(np.dtype("float32")) for each in found if each.sources]
    return [*found, *turned, *single]


def test_what_passes_through_the_host_is_listed(cupy_manners, host_runner, monkeypatch):
    plain, cuda = over_manners(cupy_manners, monkeypatch), over_cuda(host_runner)

    for name in VOCABULARY:
        for sample in calls(name):
            rules.call(sample, cuda if name in OWN else plain)

    # What CuPy's names compose of operations with CUDA of this package meets those on the device.
    assert (plain.seen - OWN) | cuda.seen == COMPUTED.keys() | ASKED.keys()


WORDS = np.array([1, 2, 3], np.uint64)

# What goes there for these arguments, and for others not.
FOR_SOME = {
    "words of 2 bytes": ("random_bits", (WORDS,), {"shape": (3,), "dtype": np.dtype("uint16")}),
    "derivatives of order 9": ("gammainc_ratio", (np.ones(3), np.ones(3)), {"order": 9}),
    "a number alone that is carried": ("gamma_carried", (0.5, np.ones(3), np.ones(3)), {}),
}


@pytest.mark.parametrize(("name", "operands", "params"), FOR_SOME.values(), ids=FOR_SOME)
def test_what_passes_for_some_arguments_only_is_listed(name, operands, params, host_runner):
    backend = over_cuda(host_runner)
    start = {"start": 0} if name.startswith("random") else {}

    backend.kernel(name)(*operands, **start, **params)

    assert backend.seen == {name}
