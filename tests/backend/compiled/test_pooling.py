"""Compiled pooling: odd channels, padding, one to three axes, NaN, and overlapping windows."""

from functools import partial

import numpy as np
import pytest

from distgrad_numpy import pooling
from distgrad_numpy.compiled.pooling import OFFERS
from distgrad_numpy.pooling import KERNELS as OWN

pytestmark = pytest.mark.needs_compiler

GEOMETRIES = {
    "tiles": ((6, 8), {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0),) * 2}),
    "overlapping": ((9, 8), {"window": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1))}),
    "gaps": ((11, 10), {"window": (2, 1), "stride": (3, 4), "padding": ((0, 0),) * 2}),
    "one axis": ((13,), {"window": (4,), "stride": (3,), "padding": ((2, 3),)}),
    "three axes": (
        (5, 4, 6),
        {"window": (2, 3, 3), "stride": (2, 1, 2), "padding": ((0, 1), (1, 1), (1, 0))},
    ),
    "padding alone": ((3, 3), {"window": (2, 2), "stride": (2, 2), "padding": ((3, 0), (2, 2))}),
}
TOLERANCES = {np.float32: {"rtol": 1e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-14, "atol": 1e-14}}
CHANNELS = [1, 3, 15, 16, 17, 33, 48, 64, 65, 150]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def draw(*shape, dtype=np.float32):
    # Few values: many are equal, and which of them comes first matters.
    return np.random.default_rng(sum(shape)).integers(-3, 4, shape).astype(dtype)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # windows of padding alone
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_any_geometry_and_number_of_channels(kind, channels, dtype):
    spatial, params = GEOMETRIES[kind]
    x = draw(2, *spatial, channels, dtype=dtype)

    y = OFFERS["max_pool"](x, **params)
    np.testing.assert_array_equal(y, OWN["max_pool"](x, **params))
    places = OFFERS["pool_places"](x, y, **params)
    np.testing.assert_array_equal(places, OWN["pool_places"](x, y, **params))
    g, spread = draw(*y.shape, dtype=dtype), {**params, "shape": spatial}
    np.testing.assert_array_equal(
        OFFERS["max_pool_vjp"](g, places, **spread), OWN["max_pool_vjp"](g, places, **spread)
    )
    close = partial(np.testing.assert_allclose, **TOLERANCES[dtype])
    for counted in (params["padding"], tuple((0, 0) for _ in spatial)):
        close(
            OFFERS["avg_pool"](x, **params, counted=counted),
            OWN["avg_pool"](x, **params, counted=counted),
        )
        close(
            OFFERS["avg_pool_vjp"](g, **spread, counted=counted),
            OWN["avg_pool_vjp"](g, **spread, counted=counted),
        )


@pytest.mark.parametrize("channels", [3, 17, 64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_numbers_are_chosen_as_by_the_own_kernel(value, channels, dtype):
    _, params = GEOMETRIES["overlapping"]
    x = draw(2, 9, 8, channels, dtype=dtype)
    x[0, 2:5, 3:6, ::2] = value
    x[1, :4, :4] = value  # windows of nothing else, with padding before them

    y = OFFERS["max_pool"](x, **params)

    np.testing.assert_array_equal(y, OWN["max_pool"](x, **params))
    np.testing.assert_array_equal(
        OFFERS["pool_places"](x, y, **params), OWN["pool_places"](x, y, **params)
    )
    mean = {**params, "counted": params["padding"]}
    np.testing.assert_allclose(
        OFFERS["avg_pool"](x, **mean), OWN["avg_pool"](x, **mean), **TOLERANCES[dtype]
    )


def test_cotangents_that_are_not_finite_stay_where_they_were_chosen():
    _, params = GEOMETRIES["overlapping"]
    x = draw(1, 9, 8, 17)
    y = OFFERS["max_pool"](x, **params)
    places = OFFERS["pool_places"](x, y, **params)
    g = draw(*y.shape)
    g[0, 2, 3] = np.nan

    found = OFFERS["max_pool_vjp"](g, places, shape=(9, 8), **params)

    assert np.isnan(found).sum() == 17
    np.testing.assert_array_equal(found, pooling.max_pool_vjp(g, places, shape=(9, 8), **params))


def test_windows_with_more_taps_than_a_byte_numbers_are_left_to_the_own_kernel():
    x = draw(1, 20, 20, 3)
    params = {"window": (16, 16), "stride": (1, 1), "padding": ((0, 0),) * 2}

    y = OFFERS["max_pool"](x, **params)

    np.testing.assert_array_equal(y, OWN["max_pool"](x, **params))
    assert OFFERS["pool_places"](x, y, **params) is None
