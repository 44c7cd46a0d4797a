"""Clipped gradients stay within their bounds, sparse ones too, and have finite derivatives."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError
from distgrad.optimizers import clip_by_global_norm, clip_by_norm, clip_by_value, global_norm
from distgrad.testing import check_gradients

G = np.array([[3.0, -4.0, 0.5], [0.0, 12.0, -0.25]])
SLICES = dg.IndexedSlices(np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 4.0]]), [2, 0, 2], (4, 2))


def assert_is(given, expected):
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=1e-12)


# --- by value -------------------------------------------------------------------------------------


def test_values_are_clipped_leaf_by_leaf_and_none_stays():
    clipped = clip_by_value({"a": dg.asarray(G), "b": None, "c": [np.float64(7.0)]}, -1.0, 2.0)

    assert_is(clipped["a"], np.clip(G, -1.0, 2.0))
    assert clipped["b"] is None
    assert float(clipped["c"][0]) == 2.0


def test_rows_of_one_position_are_added_up_before_they_are_clipped():
    clipped = clip_by_value(SLICES, -1.0, 3.5)

    assert isinstance(clipped, dg.IndexedSlices)
    assert_is(clipped, np.clip(SLICES.numpy(), -1.0, 3.5))


@pytest.mark.parametrize("bounds", [(0.5, 3.5), (-2.0, -1.0), (np.full(2, -1.0), 3.5)])
def test_where_zeros_may_be_clipped_too_slices_become_dense(bounds):
    clipped = clip_by_value(SLICES, *bounds)

    assert isinstance(clipped, dg.Tensor)
    assert_is(clipped, np.clip(SLICES.numpy(), *bounds))


def test_complex_values_have_no_bounds():
    with pytest.raises(DTypeError, match="clip complex ones by their norm"):
        clip_by_value(dg.asarray(G * 1j), -1.0, 1.0)


# --- by norm --------------------------------------------------------------------------------------


def test_each_gradient_gets_its_own_norm():
    short, long = clip_by_norm([dg.asarray(G / 100), dg.asarray(G)], 2.0)

    assert_is(short, G / 100)
    assert_is(long, G * 2.0 / np.linalg.norm(G))


@pytest.mark.parametrize("axes", [0, 1, [1], (0, 1), -1])
def test_the_norm_may_be_along_axes(axes):
    clipped = clip_by_norm(dg.asarray(G), 2.0, axes=axes)

    along = tuple(axes) if isinstance(axes, list) else axes
    length = np.sqrt(np.sum(G**2, axis=along, keepdims=True))
    assert_is(clipped, G * 2.0 / np.maximum(length, 2.0))


@pytest.mark.parametrize("axes", [None, 1])
def test_the_norm_of_slices_is_that_of_the_dense_array(axes):
    clipped = clip_by_norm(SLICES, 2.0, axes=axes)

    assert isinstance(clipped, dg.IndexedSlices)
    assert_is(clipped, clip_by_norm(SLICES.to_dense(), 2.0, axes=axes).numpy())


def test_complex_gradients_are_scaled_by_their_absolute_values():
    z = dg.asarray(np.array([3.0 + 4.0j, 0.0]))

    assert_is(clip_by_norm(z, 1.0), [0.6 + 0.8j, 0.0])
    assert clip_by_norm(z, 1.0).dtype == np.complex128


def test_half_precision_does_not_overflow():
    g = dg.asarray(np.full(4, 300.0, np.float16))

    clipped = clip_by_norm(g, 2.0)

    assert clipped.dtype == np.float16
    np.testing.assert_allclose(clipped.numpy(), 1.0, rtol=1e-3)
    assert float(global_norm(g)) == 600.0


def test_the_derivative_at_a_norm_of_zero_is_that_of_the_identity():
    x = dg.Variable(np.zeros(3))
    with dg.GradientTape(persistent=True) as tape:
        by_norm = dg.sum(clip_by_norm(x, 1.0) * np.array([1.0, 2.0, 3.0]))
        by_global_norm = dg.sum(clip_by_global_norm([x], 1.0)[0][0])
        norm = global_norm([x])

    assert_is(tape.gradient(by_norm, x), [1.0, 2.0, 3.0])
    assert_is(tape.gradient(by_global_norm, x), np.ones(3))
    assert_is(tape.gradient(norm, x), np.zeros(3))


@pytest.mark.parametrize("limit", [2.0, 100.0])
def test_clipping_is_differentiable_in_every_mode(limit):
    check_gradients(lambda g: clip_by_norm(g, limit), [G], order=2)
    check_gradients(lambda g: clip_by_norm(g, limit, axes=1), [G + 1.0], order=2)
    check_gradients(
        lambda a, b: clip_by_global_norm([a, None, b], limit)[0], [G, G[0] + 1.0], order=2
    )
    check_gradients(lambda a, b: global_norm([a, b]), [G, G[0]], order=2)


def test_negative_norms_and_integers_are_refused():
    for clip in (clip_by_norm, clip_by_global_norm):
        with pytest.raises(ValueError, match="clip_norm is -1; expected a positive number"):
            clip([dg.asarray(G)], -1)
    with pytest.raises(DTypeError, match="expected floating numbers"):
        clip_by_norm(dg.asarray([1, 2]), 1.0)


# --- by the norm of all ---------------------------------------------------------------------------


def test_all_gradients_are_scaled_together():
    nest = {"a": dg.asarray(G), "b": None, "c": (SLICES,)}

    clipped, norm = clip_by_global_norm(nest, 2.0)

    expected = np.sqrt(np.sum(G**2) + np.sum(SLICES.numpy() ** 2))
    np.testing.assert_allclose(float(norm), expected, rtol=1e-12)
    assert_is(clipped["a"], G * 2.0 / expected)
    assert clipped["b"] is None
    assert isinstance(clipped["c"][0], dg.IndexedSlices)
    assert_is(clipped["c"][0], SLICES.numpy() * 2.0 / expected)


def test_short_gradients_are_left_alone():
    (clipped,), _ = clip_by_global_norm([dg.asarray(G)], dg.asarray(1000.0))

    np.testing.assert_array_equal(clipped.numpy(), G)


def test_a_known_norm_is_not_computed_again():
    (clipped,), norm = clip_by_global_norm([dg.asarray(G)], 2.0, use_norm=8.0)

    assert_is(clipped, G / 4.0)
    assert float(norm) == 8.0


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_shows_in_every_gradient(bad):
    with np.errstate(invalid="ignore"):
        clipped, norm = clip_by_global_norm([dg.asarray(G), dg.asarray([bad])], 2.0)

    assert not np.isfinite(float(norm))
    assert all(np.isnan(each.numpy()).all() for each in clipped)


def test_mixed_dtypes_keep_their_own():
    single, double = dg.asarray(G.astype(np.float32)), dg.asarray(G)

    clipped, norm = clip_by_global_norm([single, double], 1.0)

    assert [each.dtype for each in clipped] == [np.float32, np.float64]
    assert norm.dtype == np.float64


def test_no_gradient_has_no_norm():
    with pytest.raises(ValueError, match="there is no gradient"):
        global_norm([None, None])


def test_in_a_traced_function_slices_are_clipped_as_well():
    @dg.function
    def clipped(slices):
        together, norm = clip_by_global_norm([slices], 2.0)
        return clip_by_norm(slices, 2.0), clip_by_value(slices, -1.0, 1.0), together[0], norm

    by_norm, by_value, together, norm = clipped(SLICES)

    assert_is(by_norm, clip_by_norm(SLICES, 2.0).numpy())
    assert_is(by_value, np.clip(SLICES.numpy(), -1.0, 1.0))
    assert_is(together, by_norm.numpy())
    np.testing.assert_allclose(float(norm), np.linalg.norm(SLICES.numpy()))


def test_clipped_rows_are_differentiated():
    table = dg.Variable(np.arange(1.0, 9.0).reshape(4, 2))
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = dg.sum(dg.gather(table, [2, 0, 2]) ** 3)
        clipped = clip_by_norm(inner.gradient(y, table), 1.0)
        first = dg.sum(clipped[0])
    given = outer.gradient(first, table)

    def dense(w):
        gradient = dg.grad(lambda x: dg.sum(dg.take(x, np.array([2, 0, 2]), axis=0) ** 3))(w)
        return dg.sum(clip_by_norm(gradient, 1.0)[0])

    assert_is(given, dg.grad(dense)(table.read()).numpy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: clip_by_norm(g, "a"), TypeError, "clip_by_norm: clip_norm is 'a'; expected a n"),
        (lambda g: clip_by_norm(g, None), TypeError, "clip_by_norm: clip_norm is None"),
        (lambda g: clip_by_global_norm([g], "1"), TypeError, "clip_by_global_norm: clip_norm is '"),
        (lambda g: clip_by_value(g, "a", 1), TypeError, "clip_by_value: low is 'a'"),
        (lambda g: clip_by_value(g, 0, "b"), TypeError, "clip_by_value: high is 'b'"),
        (lambda g: clip_by_value(g, 1, -1), ValueError, "low is 1, high -1; .*exchange them"),
        (lambda g: clip_by_value(g, 0, np.nan), ValueError, "low is 0, high nan"),
    ],
)
def test_bounds_that_are_none_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(dg.asarray([1.0, 2.0]))


def test_a_bound_may_be_left_out_and_both_may_be_equal():
    gradient = np.array([-3.0, 0.5, 2.0])

    assert_is(clip_by_value(gradient, None, 1.0), [-3.0, 0.5, 1.0])
    assert_is(clip_by_value(gradient, 1.0, 1.0), [1.0, 1.0, 1.0])
    assert_is(clip_by_value(gradient, [-1.0, 0.0, 0.0], 1.0), [-1.0, 0.5, 1.0])
