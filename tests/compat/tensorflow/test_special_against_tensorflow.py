"""Special functions beside TensorFlow itself: values and gradients, the singular points too."""

import warnings

import numpy as np
import pytest

import distgrad.compat.tensorflow as ours
from distgrad.testing.inputs import values

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

ANY, POSITIVE, INSIDE = (
    values((3, 4), *interval) for interval in ((-2.1, 2.0), (0.6, 3.0), (0.1, 0.9))
)
OTHER = values((3, 4), 0.7, 2.8, seed=1)
WITH_ZEROS = np.array([0.0, 0.0, 1.5, -2.0])
EDGES = np.array([0.0, 2.0, 0.5, 3.0])

CASES = {
    **dict.fromkeys(("lgamma", "digamma"), (POSITIVE,)),
    **dict.fromkeys(("erfinv", "erfcinv", "ndtri"), (INSIDE,)),
    **dict.fromkeys(("bessel_i0", "bessel_i0e", "bessel_i1", "bessel_i1e"), (ANY,)),
    **{f"special.bessel_{kind}{n}": (ANY,) for kind in "ij" for n in "01"},
    **{f"special.bessel_{kind}": (POSITIVE,) for kind in ("y0", "y1", "k0", "k1", "k0e", "k1e")},
    **{f"special.{name}": (ANY,) for name in ("dawsn", "fresnel_sin", "fresnel_cos")},
    **{f"special.{name}": (POSITIVE,) for name in ("expint", "spence")},
    **{f"special.bessel_{name} at 0": (np.zeros(2),) for name in ("i0e", "i1e", "j1")},
    "lbeta": (POSITIVE,),
    "betainc": (POSITIVE, OTHER, INSIDE),
    "polygamma": (np.array([[0.0], [1.0], [2.0]]), POSITIVE),
    "zeta": (1 + POSITIVE, OTHER),
    "xlog1py": (ANY, POSITIVE),
    "xlog1py at 0": (WITH_ZEROS, EDGES),
    "xdivy": (ANY, POSITIVE),
    "xdivy at 0": (WITH_ZEROS, EDGES),
}


def named(tf, label):
    found = tf.math
    for part in label.partition(" ")[0].split("."):
        found = getattr(found, part)
    return found


def value_and_gradients(tf, function, arrays):
    inputs = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return y, tape.gradient(y, inputs)


@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_and_gradients_are_tensorflows(label, dtype):
    arrays = [array.astype(dtype) for array in CASES[label]]
    y, gradients = value_and_gradients(ours, named(ours, label), arrays)
    expected, wanted = value_and_gradients(theirs, named(theirs, label), arrays)
    # TensorFlow's own Bessel functions are off by as much.
    tolerance = 1e-6 if dtype == np.float64 else 2e-4

    assert y.dtype.name == expected.dtype.name
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)
    for mine, its in zip(gradients, wanted, strict=True):
        assert (mine is None) == (its is None)
        if its is not None:
            np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["igamma", "igammac"])
def test_incomplete_gamma_functions_are_tensorflows_with_their_gradients(name):
    operands = [POSITIVE, OTHER]

    y, gradients = value_and_gradients(ours, named(ours, name), operands)
    expected, wanted = value_and_gradients(theirs, named(theirs, name), operands)

    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-10)
    for mine, its in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=1e-8)


def test_the_slope_of_bessel_i1_at_0_is_a_half_where_tensorflow_has_1():
    zero = [np.zeros(1)]
    slopes = [
        value_and_gradients(tf, tf.math.bessel_i1, zero)[1][0].numpy()[0] for tf in (ours, theirs)
    ]

    assert slopes == [0.5, 1.0]


def test_every_name_of_tensorflows_module_of_special_functions_is_offered():
    offered = {name for name in dir(theirs.math.special) if not name.startswith("_")}

    assert offered == set(ours.math.special.__all__)
