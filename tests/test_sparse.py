"""IndexedSlices stand for a dense array, and keep to their rows where they can."""

import copy

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad import tree
from distgrad.backend import ArrayModuleBackend
from distgrad.errors import DTypeError, PositionError, ShapeError

VALUES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.5, 0.25, 0.125]])
INDICES = np.array([3, 1, 3])
SHAPE = (5, 3)
DENSE = np.zeros(SHAPE)
np.add.at(DENSE, INDICES, VALUES)


def slices(values=VALUES, indices=INDICES, shape=SHAPE):
    return dg.IndexedSlices(values, indices, shape)


def assert_stands_for(given, expected):
    assert isinstance(given, dg.IndexedSlices)
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12)


# --- what they stand for --------------------------------------------------------------------------


def test_rows_of_one_position_add_up():
    np.testing.assert_array_equal(slices().numpy(), DENSE)
    np.testing.assert_array_equal(slices().to_dense().numpy(), DENSE)


def test_they_look_like_the_dense_array():
    given = slices()

    assert (given.shape, given.ndim, given.size, len(given)) == ((5, 3), 2, 15, 5)
    assert given.dtype == np.float64
    assert given.dense_shape == (5, 3)
    assert given.backend.name == "numpy"
    assert given.nbytes == VALUES.nbytes + INDICES.nbytes


def test_coalescing_leaves_each_position_once_in_ascending_order():
    once = slices().coalesce()

    assert once.indices.tolist() == [1, 3]
    np.testing.assert_array_equal(once.values.numpy(), DENSE[[1, 3]])
    np.testing.assert_array_equal(once.numpy(), DENSE)


def test_negative_positions_count_from_the_end():
    given = slices(np.ones((2, 3)), np.array([-1, 4]))

    assert given.coalesce().indices.tolist() == [4]
    np.testing.assert_array_equal(given.numpy()[4], [2.0, 2.0, 2.0])


def test_no_rows_are_an_array_of_zeros():
    given = dg.IndexedSlices(np.zeros((0, 3)), [], SHAPE)

    np.testing.assert_array_equal(given.numpy(), np.zeros(SHAPE))
    assert given.coalesce().indices.shape == (0,)


def test_rows_may_have_no_axes_or_several():
    of_a_vector = dg.IndexedSlices([1.0, 2.0], [1, 1], (3,))
    of_blocks = dg.IndexedSlices(np.ones((2, 3, 4)), [0, 0], (2, 3, 4))

    assert of_a_vector.numpy().tolist() == [0.0, 3.0, 0.0]
    assert of_a_vector.coalesce().values.tolist() == [3.0]
    assert of_blocks.numpy().sum() == 24.0


@pytest.mark.parametrize(
    ("values", "indices", "shape", "error"),
    [
        (VALUES, INDICES, (5, 4), ShapeError),
        (VALUES, INDICES[:2], SHAPE, ShapeError),
        (VALUES, INDICES.reshape(3, 1), SHAPE, ShapeError),
        (1.0, 0, (), ShapeError),
        (VALUES, INDICES * 1.0, SHAPE, DTypeError),
        (VALUES, np.array([3, 1, 5]), SHAPE, PositionError),
        (VALUES, np.array([3, 1, -6]), SHAPE, PositionError),
    ],
)
def test_what_does_not_fit_together_is_refused(values, indices, shape, error):
    with pytest.raises(error, match=r"IndexedSlices: .*expected"):
        dg.IndexedSlices(values, indices, shape)


def test_they_print_their_rows_and_not_the_array():
    given = dg.IndexedSlices([[1.0, 2.0]], [2], (1000000, 2))

    text = "dg.IndexedSlices(indices=dg.Tensor([2], shape=(1,), dtype=int64), "
    assert str(given).startswith(text)
    assert f"{given}" == str(given)
    assert "dense_shape=(1000000, 2)" in repr(given)


def test_copies_are_the_same_and_no_hash_is_given():
    given = slices()

    assert copy.deepcopy(given) is given
    assert copy.copy(given) is given
    with pytest.raises(TypeError, match="unhashable"):
        hash(given)


# --- arithmetic ---------------------------------------------------------------------------------


SCALARS = {
    "a number": 0.25,
    "NumPy's number": np.float64(0.25),
    "an array of no axes": np.array(0.25),
    "a tensor": dg.asarray(np.array(0.25)),
    "a variable": dg.Variable(np.array(0.25)),
}


@pytest.mark.parametrize("factor", SCALARS.values(), ids=SCALARS.keys())
def test_scaled_by_a_scalar_they_stay_sparse(factor):
    given = slices()

    for product in (factor * given, given * factor, dg.multiply(factor, given)):
        assert_stands_for(product, 0.25 * DENSE)
    assert_stands_for(given / factor, 4.0 * DENSE)
    assert_stands_for(np.multiply(factor, given), 0.25 * DENSE)


def test_negated_they_stay_sparse():
    assert_stands_for(-slices(), -DENSE)
    assert +slices() is not None
    assert_stands_for(+slices(), DENSE)


def test_sums_and_differences_of_slices_put_rows_end_to_end():
    other = slices(np.ones((1, 3)), np.array([0]))

    total, difference = slices() + other, slices() - other

    assert total.indices.tolist() == [3, 1, 3, 0]
    assert_stands_for(total, DENSE + other.numpy())
    assert_stands_for(difference, DENSE - other.numpy())


def test_pythons_sum_adds_them():
    assert_stands_for(sum([slices(), slices(), 2 * slices()]), 4 * DENSE)
    assert_stands_for(slices() - 0, DENSE)


def test_with_a_dense_array_the_result_is_dense():
    dense = dg.asarray(np.arange(15.0).reshape(SHAPE))

    for found, expected in (
        (slices() + dense, DENSE + dense.numpy()),
        (dense + slices(), DENSE + dense.numpy()),
        (dense - slices(), dense.numpy() - DENSE),
        (slices() * dense, DENSE * dense.numpy()),
        (2.0 / (slices() + 1.0), 2.0 / (DENSE + 1.0)),
        (slices() + 1.0, DENSE + 1.0),
        (slices() + dense.numpy(), DENSE + dense.numpy()),
        (dense.numpy() * slices(), DENSE * dense.numpy()),
        (dg.matmul(slices(), np.ones((3, 2))), DENSE @ np.ones((3, 2))),
    ):
        assert isinstance(found, dg.Tensor)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_slices_of_other_shapes_broadcast_as_dense_arrays_do():
    row = dg.IndexedSlices(np.ones((1, 3)), [0], (1, 3))

    np.testing.assert_array_equal((slices() + row).numpy(), DENSE + 1.0)
    with pytest.raises(ShapeError, match="do not broadcast"):
        slices() + dg.IndexedSlices(np.ones((1, 3)), [0], (4, 3))


def test_every_function_takes_them_for_the_dense_array():
    given = slices()

    assert float(dg.sum(given)) == DENSE.sum()
    np.testing.assert_array_equal(dg.square(given).numpy(), DENSE**2)
    np.testing.assert_array_equal((given**2).numpy(), DENSE**2)
    kept = dg.where(DENSE > 1, given, 0.0)
    np.testing.assert_array_equal(kept.numpy(), np.where(DENSE > 1, DENSE, 0.0))
    np.testing.assert_array_equal(np.asarray(given), DENSE)
    np.testing.assert_array_equal(np.exp(given).numpy(), np.exp(DENSE))
    np.testing.assert_array_equal(dg.asarray(given).numpy(), DENSE)
    np.testing.assert_array_equal(dg.concat([given, given]).numpy(), np.concatenate([DENSE] * 2))
    np.testing.assert_array_equal(given[3].numpy(), DENSE[3])
    np.testing.assert_array_equal([row.tolist() for row in given], DENSE)
    np.testing.assert_array_equal(given.sum(axis=0).numpy(), DENSE.sum(axis=0))
    np.testing.assert_array_equal(given.T.numpy(), DENSE.T)
    assert given.tolist() == DENSE.tolist()


def test_comparisons_are_refused_with_the_remedy():
    given = slices()

    for compare in (
        lambda: given == slices(),
        lambda: given != 0,
        lambda: given < 1,
        lambda: given >= slices(),
    ):
        with pytest.raises(TypeError, match=r"take g\.to_dense"):
            compare()
    assert (given == None, given != None) == (False, True)  # noqa: E711  the question is the test


def test_in_another_dtype_they_stay_sparse():
    narrow = slices().astype("float32")

    assert isinstance(narrow, dg.IndexedSlices)
    assert narrow.dtype == narrow.values.dtype == np.float32


# --- nests, transformations -----------------------------------------------------------------------


def test_in_nests_they_are_leaves():
    leaves, _ = tree.flatten({"a": slices(), "b": [None, dg.asarray(1.0)]})

    assert isinstance(leaves[0], dg.IndexedSlices)
    assert len(leaves) == 2


def test_a_traced_function_takes_and_returns_them():
    @dg.function
    def halved(given, x):
        return {"half": 0.5 * given, "sum": given + x}

    x = dg.asarray(np.ones(SHAPE))
    for scale in (1.0, 3.0):
        found = halved(scale * slices(), x)

        assert_stands_for(found["half"], 0.5 * scale * DENSE)
        np.testing.assert_allclose(found["sum"].numpy(), scale * DENSE + 1.0)
    assert halved.graph(slices(), x) is not None


def test_positions_that_are_arguments_are_not_coalesced_in_a_trace():
    @dg.function
    def coalesced(given):
        return given.coalesce()

    with pytest.raises(TypeError, match=r"not known inside dg\.function or dg\.vmap"):
        coalesced(slices())


def test_vmap_returns_them_dense():
    scaled = dg.vmap(lambda factor: factor * slices())(dg.asarray(np.array([1.0, 2.0])))

    np.testing.assert_allclose(scaled.numpy(), np.stack([DENSE, 2 * DENSE]))


def test_they_move_to_another_backend_as_rows():
    strict = ArrayModuleBackend("strict", array_api_strict)

    moved = slices().to(backend=strict)

    assert isinstance(moved, dg.IndexedSlices)
    assert moved.backend is strict
    assert moved.indices.backend is strict
    np.testing.assert_array_equal(moved.coalesce().numpy(), DENSE)


# --- variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", ArrayModuleBackend("strict", array_api_strict)])
def test_assignments_change_the_rows_alone(backend):
    start = np.arange(15.0).reshape(SHAPE)
    variable = dg.Variable(start, backend=backend)
    given = slices().to(backend=backend)

    variable.assign_add(given)
    np.testing.assert_array_equal(variable.numpy(), start + DENSE)

    variable.assign_sub(0.5 * given)
    np.testing.assert_array_equal(variable.numpy(), start + 0.5 * DENSE)
    variable.assign(given)
    np.testing.assert_array_equal(variable.numpy(), DENSE)


def test_a_lone_variable_is_changed_without_a_copy():
    variable = dg.Variable(np.zeros((1000, 3)))
    variable.assign_add(dg.IndexedSlices(np.ones((1, 3)), [5], (1000, 3)))
    place = variable.array.ctypes.data

    variable.assign_sub(dg.IndexedSlices(np.ones((1, 3)), [7], (1000, 3)))

    assert variable.array.ctypes.data == place
    assert variable.numpy().sum() == 0.0


HOLDERS = {
    "a tensor that was read": lambda v: v.read(),
    "its array": lambda v: v.array,
    "a view of it": lambda v: v.array[2:],
    "NumPy's view of a tensor": np.asarray,
    "a tensor without a way back": dg.stop_gradient,
    "a part": lambda v: v[1:],
    "a buffer": lambda v: memoryview(v.array),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
def test_whoever_holds_the_old_value_keeps_it(hold):
    variable = dg.Variable(np.zeros(SHAPE))
    held = hold(variable)

    variable.assign_add(slices())

    assert np.asarray(held.numpy() if hasattr(held, "numpy") else held).sum() == 0.0
    np.testing.assert_array_equal(variable.numpy(), DENSE)


def test_a_tape_differentiates_at_the_value_that_it_heard():
    variable = dg.Variable(np.ones(SHAPE))
    with dg.GradientTape() as tape:
        y = dg.sum(variable * variable)
        variable.assign_add(slices())

    np.testing.assert_array_equal(tape.gradient(y, variable).numpy(), 2 * np.ones(SHAPE))


def test_assignments_of_slices_are_checked():
    variable = dg.Variable(np.zeros(SHAPE, np.float32), name="table")

    with pytest.raises(ShapeError, match="variable 'table' has shape"):
        variable.assign_add(dg.IndexedSlices([1.0], [0], (5,)))
    with pytest.raises(DTypeError, match="expected the same kind"):
        variable.assign_sub(slices(VALUES * 1j))
    variable.assign_add(slices())  # float64 rows for a float32 variable
    assert variable.dtype == np.float32


def test_in_a_traced_function_variables_take_slices():
    variable = dg.Variable(np.zeros(SHAPE))

    @dg.function
    def step(given):
        variable.assign_add(2.0 * given)

    step(slices())
    step(slices())

    np.testing.assert_array_equal(variable.numpy(), 4 * DENSE)
