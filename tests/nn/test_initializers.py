"""Initial values: variances, bounds, orthogonality, what rules refuse."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors
from distgrad.nn import initializers
from distgrad.random import Generator

SHAPE = (3, 3, 40, 60)  # 360 inputs, 540 outputs, 21600 numbers


def drawn(rule, shape=SHAPE, dtype="float64"):
    return rule(Generator(5), shape, np.dtype(dtype)).numpy()


@pytest.mark.parametrize(
    ("rule", "variance"),
    [
        (initializers.glorot_uniform(), 2 / 900),
        (initializers.glorot_normal(gain=2.0), 8 / 900),
        (initializers.he_uniform(), 2 / 360),
        (initializers.he_normal(), 2 / 360),
        (initializers.lecun_uniform(), 1 / 360),
        (initializers.lecun_normal(), 1 / 360),
        (initializers.normal(0.3), 0.09),
        (initializers.uniform(-0.1, 0.2), 0.3**2 / 12),
        (initializers.truncated_normal(0.5), (0.5 * 0.8796256610342398) ** 2),
    ],
)
def test_rules_have_their_variance(rule, variance):
    # The relative error of a variance of 21600 normal numbers is 0.0096: four of that.
    assert drawn(rule).var() == pytest.approx(variance, rel=0.04)


def test_normal_numbers_are_cut_off_at_two_deviations():
    bound = 2 / 0.8796256610342398 * np.sqrt(2 / 360)
    found = np.abs(drawn(initializers.he_normal())).max()

    assert 0.98 * bound < found <= bound


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (3, 2, 4), (6, 6)])
def test_orthogonal_matrices_are(shape):
    matrix = drawn(initializers.orthogonal(2.0), shape).reshape(-1, shape[-1])
    small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T

    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)


def test_constants_are_numbers_or_arrays_of_the_shape():
    assert drawn(initializers.ones(), (2,)).tolist() == [1.0, 1.0]
    assert drawn(initializers.zeros(), (2,)).tolist() == [0.0, 0.0]
    assert drawn(initializers.constant([1, 2]), (2,)).tolist() == [1.0, 2.0]
    with pytest.raises(errors.ShapeError, match=r"the value has shape \(2,\), the variable \(3,\)"):
        drawn(initializers.constant([1, 2]), (3,))


def test_rules_of_fans_refuse_vectors():
    with pytest.raises(errors.ShapeError, match="no inputs and outputs"):
        drawn(initializers.he_normal(), (3,))
    with pytest.raises(errors.ShapeError, match="two axes or more"):
        drawn(initializers.orthogonal(), (3,))


@pytest.mark.parametrize("name", initializers.__all__)
def test_rules_keep_the_dtype(name):
    rule = getattr(initializers, name)(*([1] if name == "constant" else []))

    assert rule(Generator(1), (4, 3), dg.float32).dtype == dg.float32
