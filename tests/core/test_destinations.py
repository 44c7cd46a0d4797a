"""Memory that is offered for results: taken once, where shape and dtype are the same."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.destinations import destination, offering

FLOAT = np.dtype("float32")


def test_nothing_is_offered_outside_of_a_block():
    place = np.empty((2, 3), FLOAT)
    with offering({((2, 3), "f"): [place]}):
        pass

    assert destination((2, 3), FLOAT) is None


def test_a_place_is_given_to_one_result_of_its_shape_and_dtype():
    place = np.empty((2, 3), FLOAT)

    with offering({((2, 3), "f"): [place]}):
        assert destination((3, 2), FLOAT) is None
        assert destination((2, 3), np.dtype("float64")) is None
        assert destination((2, 3), FLOAT) is place
        assert destination((2, 3), FLOAT) is None


def test_an_inner_block_has_its_own_offers():
    outer, inner = (np.empty((2, 3), FLOAT) for _ in range(2))

    with offering({((2, 3), "f"): [outer]}):
        with offering({((2, 3), "f"): [inner]}):
            assert destination((2, 3), FLOAT) is inner
            assert destination((2, 3), FLOAT) is None
        assert destination((2, 3), FLOAT) is outer


@pytest.mark.parametrize("depth", [96, 150], ids=["compiled", "by BLAS"])
def test_a_large_product_is_written_where_it_is_wanted(depth):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(700, depth)).astype(FLOAT)
    b = rng.normal(size=(depth, 800)).astype(FLOAT)
    expected = dg.matmul(a.T.copy().T, b).numpy()
    place = np.zeros((700, 800), FLOAT)

    with offering({((700, 800), "f"): [place]}):
        found = dg.matmul(a.T.copy().T, b)
        again = dg.matmul(a.T.copy().T, b)

    assert found.array is place
    assert again.array is not place
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(again.numpy(), expected)
