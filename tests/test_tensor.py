"""A tensor as its user meets it: printed, converted, indexed, given to NumPy, refused."""

import copy
import operator
import pickle

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kit import ArrayModuleBackend


@pytest.fixture(scope="module")
def strict():
    return ArrayModuleBackend("strict", array_api_strict)


# --- printing -------------------------------------------------------------------------------------


def test_a_scalar_prints_its_value_shape_and_dtype():
    assert str(dg.asarray(6.0)) == "dg.Tensor(6.0, shape=(), dtype=float32)"
    assert str(dg.asarray(np.float64(0.1))) == "dg.Tensor(0.1, shape=(), dtype=float64)"
    assert str(dg.asarray(3)) == "dg.Tensor(3, shape=(), dtype=int64)"
    assert str(dg.asarray(True)) == "dg.Tensor(True, shape=(), dtype=bool)"


def test_a_vector_prints_in_one_line_and_a_matrix_below_its_name():
    assert str(dg.asarray([1.0, 2.5])) == "dg.Tensor([1.  2.5], shape=(2,), dtype=float32)"
    assert str(dg.asarray([[1, 2], [3, 4]])) == (
        "dg.Tensor(\n[[1 2]\n [3 4]], shape=(2, 2), dtype=int64)"
    )


def test_repr_shows_backend_and_device_as_well(strict):
    assert repr(dg.asarray(6.0)) == (
        "<dg.Tensor: shape=(), dtype=float32, backend=numpy, device=cpu, numpy=6.>"
    )
    assert "backend=strict" in repr(dg.asarray(6.0, backend=strict))


def test_formatting_a_scalar_formats_its_number():
    t = dg.asarray(6.0)

    assert f"{t}" == "6.0"
    assert f"{t:.3f}" == "6.000"
    assert f"{t:>8.1e}" == " 6.0e+00"
    assert f"{dg.asarray(7):04d}" == "0007"
    assert f"{dg.Variable(2.0):.1f}" == "2.0"


def test_formatting_an_array_shows_its_values():
    assert f"{dg.asarray([1.0, 2.0])}" == "[1. 2.]"
    with pytest.raises(TypeError, match=r"format '\.3f': .* got shape \(2,\)"):
        f"{dg.asarray([1.0, 2.0]):.3f}"


# --- conversions ----------------------------------------------------------------------------------


def test_python_numbers_come_from_values_without_dimensions():
    assert float(dg.asarray(2.5)) == 2.5
    assert int(dg.asarray(2.5)) == 2
    assert complex(dg.asarray(1.0 + 2.0j)) == 1.0 + 2.0j
    assert operator.index(dg.asarray(3)) == 3
    assert ["a", "b", "c"][dg.asarray(1)] == "b"
    assert (bool(dg.asarray(0.0)), bool(dg.asarray([[2.0]]))) == (False, True)


@pytest.mark.parametrize("convert", [float, int, complex, operator.index])
def test_python_numbers_do_not_come_from_arrays(convert):
    with pytest.raises(TypeError, match=r"shape \(1, 3\): expected no dimensions"):
        convert(dg.asarray([[1, 2, 3]]))


@pytest.mark.parametrize("convert", [float, int])
def test_a_complex_value_loses_no_imaginary_part_silently(convert):
    with pytest.raises(TypeError, match=r"imaginary part; take \.real"):
        convert(dg.asarray(1.0 + 2.0j))


@pytest.mark.parametrize("values", [[], [True, False]])
def test_the_truth_of_several_or_no_elements_is_ambiguous(values):
    with pytest.raises(ValueError, match=r"ambiguous.*dg\.any or dg\.all"):
        bool(dg.asarray(np.array(values, "bool")))


def test_a_floating_value_is_no_index():
    with pytest.raises(TypeError):
        operator.index(dg.asarray(1.0))


def test_length_and_iteration_go_along_the_first_axis():
    t = dg.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    assert len(t) == 3
    assert [row.tolist() for row in t] == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_iteration_is_differentiated():
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        first, second, third = x * 2.0
        y = first * second + third

    assert tape.gradient(y, x).numpy().tolist() == [8.0, 4.0, 2.0]
    assert list(dg.ones((0, 3))) == []


def test_a_value_without_dimensions_has_no_length_and_no_elements():
    with pytest.raises(TypeError, match="zero-dimensional"):
        len(dg.asarray(1.0))
    with pytest.raises(TypeError, match="zero-dimensional"):
        iter(dg.asarray(1.0))


def test_numpy_gives_values_of_their_own(strict):
    for backend in ("numpy", strict):
        t = dg.asarray(np.array([1.0, 2.0]), backend=backend)
        values = t.numpy()
        values[0] = 7.0

        assert t.tolist() == [1.0, 2.0]


def test_numpy_gives_a_scalar_where_there_are_no_dimensions():
    assert type(dg.asarray(1.5).numpy()) is np.float32


def test_item_and_tolist_give_pythons_numbers():
    assert type(dg.asarray([[1.5]]).item()) is float
    assert dg.asarray([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="size 1"):
        dg.asarray([1.0, 2.0]).item()


def test_a_tensor_knows_its_shape_dtype_size_and_device(strict):
    for backend, name in (("numpy", "numpy"), (strict, "strict")):
        t = dg.asarray(np.zeros((3, 4), "int16"), backend=backend)

        assert (t.shape, t.ndim, t.size, t.nbytes) == ((3, 4), 2, 12, 24)
        assert t.dtype == np.dtype("int16")
        assert t.backend.name == name
        assert "cpu" in t.device


# --- what is refused ------------------------------------------------------------------------------


def test_item_assignment_is_refused_where_a_tape_watches():
    t, x = dg.asarray([1.0, 2.0]), dg.Variable(3.0)

    with dg.GradientTape() as tape:
        tape.watch(t)
        for key, value in ((0, 3.0), (0, x)):
            with pytest.raises(TypeError, match=r"tape watches.*t = t\.at\[i\]\.set\(x\)"):
                t[key] = value
        with pytest.raises(TypeError, match="tape watches"):
            dg.zeros(2)[0] = x

    assert t.tolist() == [1.0, 2.0]


def test_a_tensor_is_not_none_and_says_so():
    for value in (dg.asarray([1.0, 2.0]), dg.Variable([1.0, 2.0])):
        assert (value == None) is False  # noqa: E711  the comparison is what is tested
        assert (value != None) is True  # noqa: E711


def test_tensors_are_not_hashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(dg.asarray(1.0))


def test_pickling_is_refused_with_the_remedy():
    for value in (dg.asarray(1.0), dg.Variable(1.0)):
        with pytest.raises(TypeError, match=r"not pickled.*\.numpy\(\)"):
            pickle.dumps(value)


def test_a_copy_of_a_tensor_is_the_same_value_to_a_tape():
    t = dg.asarray([1.0, 2.0])

    with dg.GradientTape() as tape:
        tape.watch(t)
        y = copy.copy(t) * copy.deepcopy([t])[0]

    assert tape.gradient(y, t).tolist() == [2.0, 4.0]


# --- item assignment ------------------------------------------------------------------------------


def test_items_are_assigned_on_what_nobody_watches():
    t = dg.asarray([[1.0, 2.0], [3.0, 4.0]])

    t[0] = [5.0, 6.0]
    t[:, 1] = 7
    t[t > 6.5] = -1.0

    assert t.tolist() == [[5.0, -1.0], [3.0, -1.0]]


def test_assignment_changes_neither_the_source_nor_a_copy():
    source = np.array([1.0, 2.0])
    t = dg.asarray(source)
    other = copy.copy(t)

    t[0] = 5.0

    assert source.tolist() == [1.0, 2.0] == other.tolist()
    assert t.tolist() == [5.0, 2.0]


def test_records_keep_what_stood_there_before_an_assignment():
    t, x = dg.asarray([2.0, 3.0]), dg.Variable(1.0)

    with dg.GradientTape() as tape:
        y = x * t
        t[0] = 100.0
        z = x * t
        both = dg.sum(y + z)

    assert tape.gradient(both, x).item() == 2.0 + 3.0 + 100.0 + 3.0


def test_a_loop_may_fill_an_array_that_is_used_then():
    t = dg.zeros(3, dtype="float64")
    for i in range(3):
        t[i] = i**2
    x = dg.Variable([1.0, 2.0, 3.0], dtype="float64")
    with dg.GradientTape() as tape:
        y = dg.sum(x * t)

    assert tape.gradient(y, x).tolist() == [0.0, 1.0, 4.0]


def test_assignment_does_not_lose_the_kind_of_a_number():
    for value in (2.5, dg.asarray(2.5), 1j):
        with pytest.raises(TypeError, match="expected the same kind of number"):
            dg.asarray([1, 2])[0] = value


def test_operators_in_place_bind_the_name_anew():
    t = before = dg.asarray([1.0, 2.0])
    t += 1.0
    t *= 2.0

    assert t.tolist() == [4.0, 6.0]
    assert before.tolist() == [1.0, 2.0]


def test_bitwise_operators_work_on_both_sides():
    t = dg.asarray([6, 3])

    assert (t & 2).tolist() == [2, 2] == (2 & t).tolist()
    assert (t | 1).tolist() == [7, 3] == (1 | t).tolist()
    assert (t ^ 3).tolist() == [5, 0] == (3 ^ t).tolist()
    assert (t << 1).tolist() == [12, 6]
    assert (1 << t).tolist() == [64, 8]
    assert (t >> 1).tolist() == [3, 1]
    assert (64 >> t).tolist() == [1, 8]
    assert (~t).tolist() == [-7, -4]
    assert (~dg.asarray([True, False])).tolist() == [False, True]


# --- operators and scalars ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: a // b,
        lambda a, b: a % b,
        lambda a, b: a**b,
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        lambda a, b: a >= b,
        lambda a, b: a == b,
        lambda a, b: a != b,
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, float], ids=["with an array", "with a number"])
def test_operators_agree_with_numpy_on_either_side(function, kind):
    a = np.array([1.5, 2.0, 3.5])
    b = np.array([2.0, 2.0, 0.5]) if kind is np.asarray else 2.0
    right, left = function(dg.asarray(a), b), function(b, dg.asarray(a))

    for result, expected in ((right, function(a, b)), (left, function(b, a))):
        assert isinstance(result, dg.Tensor)
        np.testing.assert_array_equal(result.numpy(), expected)
        assert result.dtype == expected.dtype


def test_matrix_products_and_unary_operators_agree_with_numpy():
    a, b = np.arange(12.0).reshape(3, 4), np.arange(20.0).reshape(4, 5)
    t = dg.asarray(a)

    np.testing.assert_array_equal((t @ b).numpy(), a @ b)
    np.testing.assert_array_equal((a @ dg.asarray(b)).numpy(), a @ b)
    np.testing.assert_array_equal((-t).numpy(), -a)
    np.testing.assert_array_equal(abs(-t).numpy(), a)
    np.testing.assert_array_equal(t.T.numpy(), a.T)
    np.testing.assert_array_equal(t.mT.numpy(), a.T)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("scalar", [True, 2, 2.0])
def test_a_python_number_does_not_widen_a_tensor(dtype, scalar):
    t = dg.asarray(np.ones(3, dtype))

    for result in (t + scalar, scalar - t, t * scalar, scalar / t, t**scalar, dg.add(t, scalar)):
        assert result.dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_a_python_integer_does_not_widen_integers(dtype):
    t = dg.asarray(np.ones(3, dtype))

    assert (t + 1).dtype == (3 * t).dtype == dtype


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64"])
def test_a_python_float_lifts_integers_to_the_default_dtype(dtype):
    t = dg.asarray(np.ones(3, dtype))

    for result in (t * 0.5, 0.5 * t, t + 1.0, dg.maximum(t, 0.5), dg.where(t > 0, t, 0.5)):
        assert result.dtype == np.float32
    assert (t * 0.5).tolist() == [0.5, 0.5, 0.5]
    assert (t * 2.0j).dtype == np.complex64


def test_numpy_integers_beside_a_python_float_get_the_default_dtype_too():
    assert dg.multiply(np.arange(3), 0.5).dtype == np.float32
    assert dg.add(1, 0.5).dtype == np.float32


def test_comparing_integers_with_a_float_is_exact():
    t = dg.asarray(np.array([2**24, 2**24 + 1]))

    assert (t > float(2**24)).tolist() == [False, True]


def test_a_complex_number_keeps_the_precision_of_a_real_tensor():
    assert (dg.asarray(np.ones(3, "float32")) * 1j).dtype == np.complex64
    assert (dg.asarray(np.ones(3)) * 1j).dtype == np.complex128


def test_tensors_of_two_precisions_promote():
    single, double = dg.asarray(np.ones(3, "float32")), dg.asarray(np.ones(3))

    assert (single * double).dtype == np.float64


# --- NumPy's functions ----------------------------------------------------------------------------


def test_numpy_ufuncs_give_tensors_that_are_differentiated():
    x = dg.Variable([0.3, 0.4, 0.5])
    with dg.GradientTape() as tape:
        y = np.sin(x * 1.0) + np.exp(x)

    assert isinstance(y, dg.Tensor)
    expected = np.cos([0.3, 0.4, 0.5]) + np.exp([0.3, 0.4, 0.5])
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda array, t: array * t,
        np.multiply,
        lambda array, t: np.multiply(t, array),
        lambda array, t: t * array,
        lambda array, t: array[0] * t * (array / array[0]),
        lambda array, t: np.add(array * t, 1.0),
    ],
)
def test_arrays_and_tensors_mix_in_either_order(function):
    array = np.array([2.0, 3.0, 5.0], "float32")
    for x in (dg.Variable([1.0, 1.0, 1.0]), dg.asarray([1.0, 1.0, 1.0])):
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = function(array, x)

        assert isinstance(y, dg.Tensor)
        np.testing.assert_allclose(tape.gradient(y, x).numpy(), [2.0, 3.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("ufunc", "function"),
    [
        (np.arctan2, dg.atan2),
        (np.power, dg.pow),
        (np.absolute, dg.abs),
        (np.true_divide, dg.divide),
        (np.arcsin, dg.asin),
        (np.less, dg.less),
        (np.logical_and, dg.logical_and),
        (np.conjugate, dg.conj),
    ],
)
def test_a_ufunc_is_the_operation_of_its_meaning(ufunc, function):
    arguments = [dg.asarray([0.25, 0.5, 0.75]), dg.asarray([0.5, 0.25, 0.75])][: ufunc.nin]
    result = ufunc(*arguments)

    assert isinstance(result, dg.Tensor)
    np.testing.assert_array_equal(result.numpy(), function(*arguments).numpy())


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.add(t, 1.0, out=np.zeros(3)),
        lambda t: np.add(t, 1.0, where=[True, False, True]),
        lambda t: np.add.at(t, [0], 1.0),
        lambda t: np.hypot.reduce(t, where=[True, False, True]),
    ],
    ids=["out=", "where=", "at", "where= of a reduction without a neutral number"],
)
def test_what_a_ufunc_cannot_do_here_is_an_error_and_no_silent_array(call):
    with pytest.raises(TypeError):
        call(dg.asarray([1.0, 2.0, 3.0]))


def test_numpy_may_read_a_tensor_that_no_tape_watches():
    t = dg.asarray(np.array([1.0, 2.0, 3.0]))
    array = np.asarray(t)

    assert array.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 7.0
    assert np.shares_memory(array, t.array)


def test_numpy_gets_the_dtype_and_the_copy_that_it_asks_for():
    t = dg.asarray(np.array([1.0, 2.0, 3.0]))
    copied = np.array(t)
    copied[0] = 7.0

    assert t.tolist() == [1.0, 2.0, 3.0]
    assert np.asarray(t, dtype="float32").dtype == np.float32
    with pytest.raises(ValueError, match=r"[cC]opy"):
        np.array(t, dtype="float32", copy=False)


@pytest.mark.parametrize("read", [np.asarray, np.array])
def test_numpy_may_not_read_a_tensor_that_a_tape_watches(read):
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape():
        y = x * 2.0
        for watched in (x, y):
            with pytest.raises(TypeError, match=r"t\.numpy\(\).*dg\.stop_gradient\(t\)"):
                read(watched)
        values = np.asarray(dg.stop_gradient(y))

    assert values.tolist() == [2.0, 4.0, 6.0]
    assert np.asarray(y).tolist() == [2.0, 4.0, 6.0]


# --- indexing -------------------------------------------------------------------------------------


def test_indexing_follows_numpy_and_is_differentiated():
    values = np.arange(24.0).reshape(2, 3, 4)
    x = dg.Variable(values)
    for key in (1, (0, slice(None, None, 2)), (..., -1), None, [1, 0, 1], values > 5, (0, [2, 2])):
        with dg.GradientTape() as tape:
            y = x[key]
        expected = np.zeros_like(values)
        np.add.at(expected, key, 1.0) if key is not None else expected.__iadd__(1.0)

        np.testing.assert_array_equal(y.numpy(), values[key])
        np.testing.assert_array_equal(tape.gradient(y, x).numpy(), expected)


def test_an_index_out_of_range_names_the_shape():
    with pytest.raises(dg.errors.ShapeError, match=r"out of bounds.*shape \(3,\)"):
        dg.asarray([1.0, 2.0, 3.0])[5]
