"""A variable: assigned, copied, named, and refused where it would silently stop being one."""

import copy

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.errors import DTypeError, MixedBackendError, ShapeError


@pytest.fixture(scope="module")
def strict():
    return ArrayModuleBackend("strict", array_api_strict)


# --- its first value ------------------------------------------------------------------------------


def test_the_first_value_is_copied():
    array = np.ones(3)
    x = dg.Variable(array)
    array[0] = 7.0

    assert x.numpy().tolist() == [1.0, 1.0, 1.0]


def test_the_first_value_lies_in_rows_whatever_its_order():
    columns = np.arange(6.0).reshape(2, 3).T

    x = dg.Variable(columns)

    # Products of a matrix in columns differ in their last bits from those of one in rows, as which
    # it comes to other ranks and out of checkpoints.
    assert x.array.flags.c_contiguous
    np.testing.assert_array_equal(x.numpy(), columns)


def test_the_values_handed_out_are_copies():
    x = dg.Variable(np.ones(3))
    x.numpy()[0] = 7.0

    assert x.numpy().tolist() == [1.0, 1.0, 1.0]


def test_the_dtype_is_the_values_or_the_default_or_the_one_given():
    assert dg.Variable(1.0).dtype == np.float32
    assert dg.Variable(np.float64(1.0)).dtype == np.float64
    assert dg.Variable(1).dtype == np.int64
    assert dg.Variable([1, 2], dtype="float16").dtype == np.float16
    assert dg.Variable(0.1, dtype="float64").numpy() == 0.1


def test_a_variable_is_made_from_a_tensor_or_another_variable():
    first = dg.Variable([1.0, 2.0])
    second, third = dg.Variable(first), dg.Variable(first * 2.0)
    first.assign([7.0, 7.0])

    assert second.numpy().tolist() == [1.0, 2.0]
    assert third.numpy().tolist() == [2.0, 4.0]


def test_what_is_no_number_makes_no_variable():
    with pytest.raises(DTypeError, match="str"):
        dg.Variable("text")


def test_a_variable_lives_where_its_value_lives_or_where_it_is_told(strict):
    there = array_api_strict.ones(3)
    dg.asarray(1.0, backend=strict)  # the backend is in use

    assert dg.Variable(there).backend.name == "strict"
    assert dg.Variable(dg.asarray(there, backend=strict)).backend is strict
    assert dg.Variable([1.0], backend=strict).backend is strict
    assert dg.Variable(dg.asarray(there, backend=strict), backend="numpy").backend.name == "numpy"
    with dg.use_backend(strict):
        assert dg.Variable(1.0).backend is strict


# --- its name and its print -----------------------------------------------------------------------


def test_a_variable_has_a_name():
    assert dg.Variable(1.0).name == "Variable"
    assert dg.Variable(1.0, name="encoder/bias").name == "encoder/bias"


@pytest.mark.parametrize("name", [3, b"weights", ["w"]])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(TypeError, match="expected a string, or None"):
        dg.Variable(1.0, name=name)


def test_a_variable_prints_its_name_and_what_it_holds():
    x = dg.Variable([1.0, 2.0], name="bias", trainable=False)

    assert str(x) == repr(x)
    assert repr(x) == (
        "<dg.Variable 'bias': shape=(2,), dtype=float32, backend=numpy, trainable=False, "
        "numpy=[1., 2.]>"
    )
    assert "trainable" not in repr(dg.Variable(1.0))


# --- assignment -----------------------------------------------------------------------------------


def test_assignment_replaces_adds_and_subtracts_and_returns_the_variable():
    x = dg.Variable([1.0, 2.0, 3.0])

    assert x.assign([4.0, 5.0, 6.0]) is x
    assert x.numpy().tolist() == [4.0, 5.0, 6.0]
    assert x.assign_add([1.0, 1.0, 1.0]).numpy().tolist() == [5.0, 6.0, 7.0]
    assert x.assign_sub(np.array([1.0, 2.0, 3.0])).numpy().tolist() == [4.0, 4.0, 4.0]
    assert x.assign(dg.asarray([1.0, 2.0, 3.0])).numpy().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("scalar", [2, 2.0, np.float64(2.0), True, dg.asarray(2.0)])
def test_a_scalar_fills_the_variable(scalar):
    x = dg.Variable(np.zeros((3, 4), "float32"))
    x.assign(scalar)
    x.assign_add(scalar)

    assert x.numpy().tolist() == np.full((3, 4), 2.0 * float(scalar)).tolist()
    assert x.dtype == np.float32


def test_an_assigned_array_is_copied():
    x, array = dg.Variable(np.zeros(3)), np.ones(3)
    x.assign(array)
    array[0] = 7.0

    assert x.numpy().tolist() == [1.0, 1.0, 1.0]


def test_variables_assigned_to_each_other_stay_apart():
    x, y = dg.Variable(np.zeros(3)), dg.Variable(np.ones(3))
    x.assign(y)
    y.assign_add(np.ones(3))

    assert x.numpy().tolist() == [1.0, 1.0, 1.0]
    assert y.numpy().tolist() == [2.0, 2.0, 2.0]


def test_a_variable_keeps_its_dtype_when_another_precision_is_assigned():
    x = dg.Variable(np.zeros(2, "float32"))
    x.assign(np.array([0.5, 1.5]))
    x.assign_add(np.array([1, 2]))

    assert x.dtype == np.float32
    assert x.numpy().tolist() == [1.5, 3.5]


def test_numbers_assigned_from_python_keep_their_precision():
    x = dg.Variable(np.zeros(2))
    x.assign([0.1, 0.2])
    assert x.numpy().tolist() == [0.1, 0.2]

    x.assign(0.1)
    assert x.numpy().tolist() == [0.1, 0.1]


def test_tensors_in_lists_are_assigned_under_a_tape():
    x = dg.Variable([1.0, 2.0])
    with dg.GradientTape():
        y = x * 2.0
        x.assign([y[0], 7.0])

    assert x.numpy().tolist() == [2.0, 7.0]


@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (1, 3)])
def test_another_shape_is_refused_even_if_it_broadcasts(method, shape):
    x = dg.Variable([1.0, 2.0, 3.0], name="bias")

    with pytest.raises(ShapeError, match=rf"{method}: variable 'bias' has shape \(3,\)") as caught:
        getattr(x, method)(np.ones(shape, "float32"))
    assert str(shape) in str(caught.value)
    assert x.numpy().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
@pytest.mark.parametrize(
    ("dtype", "value"), [("int64", 1.5), ("float32", 1.0j), ("bool", 2), ("uint8", -1.0)]
)
def test_another_kind_of_number_is_refused_with_the_remedy(method, dtype, value):
    x = dg.Variable(np.zeros(3, dtype), name="count")

    with pytest.raises(DTypeError, match=rf"'count' has dtype {dtype}.*\.astype\('{dtype}'\)"):
        getattr(x, method)(value)


def test_what_is_no_number_is_not_assigned():
    with pytest.raises(DTypeError, match="str"):
        dg.Variable(1.0).assign("text")


def test_values_of_another_backend_are_not_assigned_silently(strict):
    x = dg.Variable([1.0, 2.0], name="bias")
    value = dg.asarray([3.0, 4.0], backend=strict)

    for given in (value, value.array):
        with pytest.raises(
            MixedBackendError, match=r"'bias' lives on the backend 'numpy'.*'strict'"
        ):
            x.assign(given)
    assert x.assign(value.to(backend="numpy")).numpy().tolist() == [3.0, 4.0]


def test_numpy_arrays_are_assigned_to_variables_anywhere(strict):
    x = dg.Variable([1.0, 2.0], backend=strict)
    x.assign(np.array([3.0, 4.0], "float32"))
    x.assign_sub([1.0, 1.0])

    assert x.backend is strict
    assert x.numpy().tolist() == [2.0, 3.0]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("x += 1.0", "assign_add"),
        ("x -= 1.0", "assign_sub"),
        ("x *= 2.0", "assign"),
        ("x /= 2.0", "assign"),
    ],
)
def test_in_place_operators_are_refused_with_the_remedy(statement, remedy):
    scope = {"x": dg.Variable(1.0, name="bias")}

    with pytest.raises(RuntimeError, match=rf"variable\.{remedy}\(\.\.\.\).*'bias'"):
        exec(statement, scope)  # noqa: S102  a statement is what is tested
    assert isinstance(scope["x"], dg.Variable)


def test_item_assignment_is_refused_with_the_remedy():
    x = dg.Variable([1.0, 2.0], name="bias")

    with pytest.raises(TypeError, match=r"'bias'.*v\.assign\(dg\.where"):
        x[0] = 7.0


def test_variables_are_not_hashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(dg.Variable(1.0))


# --- reading --------------------------------------------------------------------------------------


def test_every_operation_takes_a_variable():
    x = dg.Variable([1.0, 2.0, 3.0])

    assert dg.sum(x * x).numpy() == 14.0
    assert dg.concat([x, x]).shape == (6,)
    assert x[1].numpy() == 2.0
    assert x.reshape(3, 1).shape == (3, 1)
    assert [float(e) for e in x] == [1.0, 2.0, 3.0]
    assert (float(x[0]), len(x), x.tolist()) == (1.0, 3, [1.0, 2.0, 3.0])


def test_a_value_taken_before_an_assignment_stays_what_it_was():
    x = dg.Variable([1.0, 2.0])
    value = x.value()
    x.assign([7.0, 7.0])

    assert value.numpy().tolist() == [1.0, 2.0]
    assert isinstance(value, dg.Tensor)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda v: copy.deepcopy([v])[0]])
def test_a_copy_of_a_variable_is_another_variable(make):
    x = dg.Variable([1.0, 2.0], name="bias", trainable=False)
    y = make(x)
    y.assign([7.0, 7.0])
    with dg.GradientTape() as tape:
        tape.watch([x, y])
        z = dg.sum(x * x + y * 3.0)
    to_x, to_y = tape.gradient(z, [x, y])

    assert (y.name, y.trainable) == ("bias", False)
    assert x.numpy().tolist() == [1.0, 2.0]
    assert to_x.numpy().tolist() == [2.0, 4.0]
    assert to_y.numpy().tolist() == [3.0, 3.0]
