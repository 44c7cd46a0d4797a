"""That the emulated device's functions are as inexact as CUDA lets them be, and no more."""

import os

import numpy as np
import pytest

cupy = pytest.importorskip("cupy")

pytestmark = pytest.mark.skipif(
    "DISTGRAD_EMULATOR" not in os.environ, reason="about the emulated device alone"
)

X = np.linspace(0.1, 3.0, 1000, dtype=np.float32)


# what the CUDA C++ Programming Guide says of single precision, in units in the last place
@pytest.mark.parametrize(("function", "most"), [("exp", 1), ("sin", 2), ("tan", 4), ("sinh", 3)])
def test_functions_are_off_by_as_much_as_cuda_says(function, most):
    exact = getattr(np, function)(X.astype(np.float64))

    given = getattr(cupy, function)(cupy.asarray(X)).get()

    away = np.abs(given - exact) / np.spacing(exact.astype(np.float32))
    assert most - 0.5 < away.max() <= most + 1  # one, for what any result is rounded by


def test_what_is_exact_on_a_device_is_exact_here():
    assert cupy.exp(cupy.zeros(3)).get().tolist() == [1.0] * 3
    assert cupy.log(cupy.ones(3)).get().tolist() == [0.0] * 3
    assert float(cupy.abs(cupy.tanh(cupy.linspace(-9, 9, 999))).max()) <= 1
    np.testing.assert_array_equal(cupy.sqrt(cupy.asarray(X)).get(), np.sqrt(X))


def test_equal_calls_have_equal_results():
    x = cupy.asarray(X)

    assert bool((cupy.exp(x) == cupy.exp(x.copy())).all())
