"""Arrays of another machine's byte order, as files of MNIST, FITS and netCDF hold them."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn

SWAPPED = np.array([1.5, -2.5, 0.25], dtype=">f4")
NATIVE = SWAPPED.astype("f4")

FUNCTIONS = {
    "gelu": nn.gelu,
    "erf": dg.erf,
    "softplus": nn.softplus,
    "tanh": dg.tanh,
    "softmax": dg.softmax,
    "sum": dg.sum,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_swapped_bytes_give_the_numbers_that_native_ones_give(name):
    f = FUNCTIONS[name]

    np.testing.assert_array_equal(f(SWAPPED).numpy(), f(NATIVE).numpy())
    np.testing.assert_array_equal(f(dg.asarray(SWAPPED)).numpy(), f(NATIVE).numpy())
    np.testing.assert_array_equal(
        dg.grad(lambda x: dg.sum(f(x)))(SWAPPED).numpy(),
        dg.grad(lambda x: dg.sum(f(x)))(NATIVE).numpy(),
    )


def test_tensors_and_variables_hold_the_machines_order():
    assert dg.asarray(SWAPPED).dtype == dg.float32
    assert dg.asarray(SWAPPED).array.dtype.isnative
    assert dg.Variable(SWAPPED).dtype == dg.float32
    assert dg.asarray(SWAPPED.astype(">i4")).dtype == dg.int32


def test_a_variable_takes_swapped_values():
    v = dg.Variable(np.zeros(3, "f4"))
    v.assign(SWAPPED)
    v.assign_add(SWAPPED)
    v.assign_sub(np.ones(3, ">f4"))

    np.testing.assert_array_equal(v.numpy(), 2 * NATIVE - 1)


def test_swapped_bytes_cannot_be_shared():
    with pytest.raises(ValueError, match="copy is False"):
        dg.asarray(SWAPPED, copy=False)
