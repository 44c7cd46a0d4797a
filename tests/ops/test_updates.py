"""`t.at[i].set(x)` and its like: values, repeated places, gradients, backends."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.errors import DTypeError, PositionError, ShapeError
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values

X = values((4, 5), 0.5, 2.0)
MASK = values((4, 5), -1.0, 1.0, seed=3) > 0
KEYS = {
    "integer": 1,
    "slice": np.s_[1:3, ::2],
    "array": np.array([3, 0]),
    "repeats": np.array([1, 3, 1, 1]),
    "mask": MASK,
    "two-arrays": (np.array([0, 1, 0]), np.array([2, 4, 2])),
}


def set_(a, key, v):
    a[key] = v


METHODS = {
    "set": set_,
    "add": np.add.at,
    "multiply": np.multiply.at,
    "divide": np.divide.at,
    "min": np.minimum.at,
    "max": np.maximum.at,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("method", METHODS)
def test_update_gives_what_numpy_gives(method, key):
    v = values(X[key].shape, 0.6, 1.9, seed=1)
    expected = X.copy()
    METHODS[method](expected, key, v)

    given = getattr(dg.asarray(X).at[key], method)(v)

    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("method", [*METHODS, "power"])
@pytest.mark.parametrize("key", [*KEYS.values(), 2], ids=[*KEYS.keys(), "one"])
def test_update_has_right_derivatives(method, key):
    v = values(X[key].shape, 0.6, 1.3, seed=1)

    check_gradients(lambda x, v: getattr((x * x).at[key], method)(v * v), [X, v])


@pytest.mark.parametrize("method", [*METHODS, "power"])
def test_values_are_broadcast_and_may_be_scalars(method):
    x, row = dg.asarray(X), dg.asarray(X[0] / 2)

    for v in (row, 1.5, dg.asarray(1.5, dtype="float64"), X[0].tolist()):
        given = getattr(x.at[1:3], method)(v)
        whole = getattr(x.at[1:3], method)(dg.broadcast_to(dg.asarray(v, dtype="float64"), (2, 5)))
        np.testing.assert_allclose(given.numpy(), whole.numpy(), rtol=1e-6)
        assert given.dtype == np.float64


def test_gradient_of_a_broadcast_value_is_summed():
    x, v = dg.Variable(np.zeros((4, 5))), dg.Variable(2.0, dtype="float64")

    with dg.GradientTape() as tape:
        y = dg.sum(x.at[MASK].set(v))
    to_x, to_v = tape.gradient(y, [x, v])

    np.testing.assert_array_equal(to_x.numpy(), 1.0 - MASK)
    assert to_v.item() == MASK.sum()


def test_of_repeated_places_the_last_value_stays_and_has_the_gradient():
    x, v = dg.Variable([0.0, 0.0]), dg.Variable([1.0, 2.0, 3.0])

    with dg.GradientTape() as tape:
        y = x.at[[1, 0, 1]].set(v)
    assert y.tolist() == [2.0, 3.0]
    assert tape.gradient(y, v).tolist() == [0.0, 1.0, 1.0]


def test_zero_factors_have_derivatives():
    x = np.array([2.0, 3.0])
    v = np.array([0.0, 5.0, 7.0])

    for key in ([0, 0, 1], [0, 1, 1]):
        check_gradients(lambda v, key=key: dg.asarray(x).at[key].multiply(v), [v], order=1)


def test_get_picks_the_places():
    t = dg.asarray(X)

    np.testing.assert_array_equal(t.at[1:, 2].get().numpy(), X[1:, 2])


def test_an_update_leaves_the_array_as_it_is_and_takes_variables():
    v = dg.Variable([1.0, 2.0])

    assert v.at[0].add(dg.Variable(5.0)).tolist() == [6.0, 2.0]
    assert v.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("method", [*METHODS, "power"])
def test_updates_are_batched(method):
    rows = values((3, 5), 0.6, 1.9, seed=1)
    places = np.array([[0, 1, 1], [2, 2, 2], [4, 0, 4]])

    def update(x, where, v):
        return getattr(x.at[where], method)(v[:3])

    mapped = dg.vmap(update)(X[:3], places, rows)
    shared = dg.vmap(update, in_axes=(0, None, 0))(X[:3], places[0], rows)

    for i in range(3):
        one = update(dg.asarray(X[i]), places[i], dg.asarray(rows[i]))
        same = update(dg.asarray(X[i]), places[0], dg.asarray(rows[i]))
        np.testing.assert_allclose(mapped[i].numpy(), one.numpy(), rtol=1e-14)
        np.testing.assert_allclose(shared[i].numpy(), same.numpy(), rtol=1e-14)


def test_updates_are_traced():
    @dg.function
    def shift_and_mark(x, v):
        return x.at[0].set(v).at[[1, 1]].add(v)

    assert shift_and_mark(dg.ones(3), dg.asarray(4.0)).tolist() == [4.0, 9.0, 1.0]


def test_updates_stay_on_the_backend_of_the_array():
    strict = ArrayModuleBackend("strict", array_api_strict)
    with dg.use_backend(strict):
        x = dg.asarray(X)

    for method in METHODS:
        for v in (2.0, [2.0] * 5):
            given = getattr(x.at[[1, 2, 1]], method)(v)
            expected = getattr(dg.asarray(X).at[[1, 2, 1]], method)(v)
            assert given.backend is strict
            np.testing.assert_allclose(given.numpy(), expected.numpy(), rtol=1e-14)


def test_what_does_not_fit_is_explained():
    t = dg.asarray([1, 2, 3])

    with pytest.raises(DTypeError, match=r"at\[\.\.\.\]\.add: the values are float32"):
        t.at[0].add(1.5)
    with pytest.raises(PositionError, match=r"^index_set|^getitem"):
        t.at[7].set(1)
    with pytest.raises(PositionError):
        t.at[[0, 7]].add(1)
    with pytest.raises(ShapeError, match="broadcast_to"):
        t.at[:2].set(dg.asarray([1, 2, 3]))


@pytest.mark.filterwarnings("ignore:vmap")
@pytest.mark.parametrize("method", ["set", "add", "multiply", "divide", "power", "min", "max"])
@pytest.mark.parametrize("value", [0.5, dg.asarray(0.5)], ids=["number", "tensor"])
def test_a_mask_may_be_computed_in_a_trace_or_a_batch(value, method):
    def update(x):
        return getattr(x.at[x > 0.4], method)(value)

    x = dg.asarray(np.linspace(0.1, 1.0, 12).reshape(3, 4))
    expected = update(x).numpy()

    np.testing.assert_array_equal(dg.function(update)(x).numpy(), expected)
    np.testing.assert_array_equal(dg.vmap(update)(x).numpy(), expected)
