"""What CuPy's functions do not take is brought into a form that they do."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy import conforming

NAMES = set(conforming.kernels(None))
SAMPLES = [sample for sample in samples() if sample.operation in NAMES]


def solve(a, b):
    """Stand for CuPy's function: no stacks of two shapes, and no arrays without elements."""
    if a.shape[:-1] != b.shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K)")
    assert a.size
    assert b.size
    return np.linalg.solve(a, b)


def of_elements(transform):
    """Return a transform that stands for CuPy's."""

    def own(x, axes, norm):
        assert x.size
        return transform(x, axes=axes, norm=norm)

    return own


def without_geev(a):
    """Stand for CuPy's function on an older cuSOLVER."""
    raise RuntimeError("geev is not available")


def step_by_step(ufunc):
    """Return a reduction that stands for CUB's: in the dtype of the elements, one after the other.

    CuPy calls it where the dtype that is asked for is none, or that of the elements.
    """

    def own(x, axis=None, dtype=None, keepdims=False):
        if x.dtype != np.float16 or dtype not in (None, x.dtype):
            return ufunc.reduce(x, axis=axis, dtype=dtype, keepdims=keepdims)
        assert axis is None
        total = x.dtype.type(ufunc.identity)
        for each in x.ravel():
            total = ufunc(total, each)
        return np.reshape(total, (1,) * x.ndim if keepdims else ())

    return own


class Particular:
    """NumPy, but for what CuPy does otherwise."""

    linalg = SimpleNamespace(solve=solve, eig=without_geev, eigvals=without_geev)
    fft = SimpleNamespace(fftn=of_elements(np.fft.fftn), ifftn=of_elements(np.fft.ifftn))
    sum, prod = staticmethod(step_by_step(np.add)), staticmethod(step_by_step(np.multiply))

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.fixture
def particular():
    """A backend over a module that is as particular as CuPy."""
    module = Particular()
    run = SimpleNamespace(module=module, namespace=lambda: SimpleNamespace(backend=backend))
    backend = ArrayModuleBackend("particular", module, conforming.kernels(run))
    return backend


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_samples_go_through_as_on_numpy(sample, particular):
    rules.check_agreement(sample, particular)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64", "int32"])
def test_results_have_the_dtypes_that_numpy_has(dtype, particular):
    a, b = np.eye(3).astype(dtype), np.ones((2, 3, 0)).astype(dtype)
    reference = ArrayModuleBackend("reference", np)

    for name, arrays, how in (
        ("solve", (a, b), {}),
        ("solve", (a, np.ones((2, 3, 1)).astype(dtype)), {}),
        ("eig", (a,), {}),
        ("eigvals", (a,), {}),
        ("fft", (b,), {"axes": (1,), "norm": "backward"}),
    ):
        found, expected = (each.kernel(name)(*arrays, **how) for each in (particular, reference))
        pairs = zip(found, expected, strict=True) if name == "eig" else [(found, expected)]
        for one, other in pairs:
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name


def test_quotients_of_infinities_are_their_limits(particular):
    inf = np.inf
    a = np.array([inf, -inf, 1.0, 1.0, -7.0, inf])
    b = np.array([1.0, 2.0, -inf, inf, 2.0, inf])

    with np.errstate(all="ignore"):
        found = particular.kernel("floor_divide")(a, b)
        halved = particular.kernel("floor_divide")(a, 2.0)

    np.testing.assert_array_equal(found, [inf, -inf, -0.0, 0.0, -4.0, np.nan])
    np.testing.assert_array_equal(halved, [inf, -inf, 0, 0, -4, inf])


def test_a_failure_of_another_kind_is_not_hidden(particular, monkeypatch):
    def failing(a):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Particular.linalg, "eigvals", failing)

    with pytest.raises(RuntimeError, match="out of memory"):
        particular.kernel("eigvals")(np.eye(3))


def test_systems_that_do_not_fit_are_explained(particular):
    with pytest.raises(ValueError, match=r"a must have"):
        particular.kernel("solve")(np.eye(3), np.ones((4, 2)))


def test_sums_and_products_of_half_precision_are_formed_in_single(particular):
    ones, tenths = np.ones(4096, np.float16), np.full((2, 3000), 0.1, np.float16)
    # Whose powers half precision takes for sums: 1 + 600/1024.
    near = np.full(600, 1.0 + 2.0**-10, np.float16)

    found = particular.kernel("sum")(ones), particular.kernel("sum")(tenths, keepdims=True)
    product = particular.kernel("prod")(near)

    assert found[0] == 4096
    np.testing.assert_allclose(found[1], [[600]], rtol=1e-3)
    np.testing.assert_allclose(product, (1 + 2.0**-10) ** 600, rtol=1e-3)
    assert {each.dtype for each in (*found, product)} == {np.dtype(np.float16)}
