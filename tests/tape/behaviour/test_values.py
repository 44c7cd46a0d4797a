"""What values are, what a tape follows, and how derivatives pass through operations.

TensorFlow 2.21 is not followed where it gives None, NaN or a wrong number and a derivative exists;
each such test says so.
"""

import collections
import gc
import threading
import weakref

import numpy as np
import pytest

row = pytest.mark.row


# --- dtypes ---------------------------------------------------------------------------------------


@row("V1")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_floating_and_complex_dtypes_are_differentiated(lib, dtype):
    x = lib.constant(np.array([1.0, 2.0], dtype))
    found = lib.gradient_of(lambda v: v * v, x)

    assert found.numpy().dtype == dtype
    assert found.numpy().tolist() == [2.0, 4.0]


@row("V1")
@pytest.mark.filterwarnings("ignore:.*floating:UserWarning")
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_other_dtypes_are_not(lib, dtype):
    x = lib.constant(np.array([1, 0], dtype))

    assert lib.gradient_of(lambda v: lib.reshape(v, (2, 1)), x) is None


@row("V2", differs="TensorFlow logs where Python warns")
def test_watching_integers_warns_and_gives_none(lib):
    x = lib.constant(np.int32(3))
    with lib.GradientTape(persistent=True) as tape:
        with pytest.warns(UserWarning, match=r"must be floating \(e.g. float32\), got int32"):
            tape.watch(x)
        y = x * x

    with pytest.warns(UserWarning, match="its gradient is None"):
        assert tape.gradient(y, x) is None
    with pytest.warns(UserWarning, match="dtype int32"):
        zero = tape.gradient(y, x, unconnected_gradients="zero")
    assert (zero.dtype, zero.numpy()) == (lib.int32, 0)


@row("V3")
def test_integer_targets_have_no_gradient(lib):
    x = lib.constant([1.5, 2.5])

    assert lib.gradient_of(lambda v: lib.cast(v, lib.int32), x) is None


@row("V4")
def test_cast_to_integers_and_back_breaks_the_path(lib):
    x = lib.constant(2.5)

    assert lib.gradient_of(lambda v: lib.cast(lib.cast(v, lib.int32), lib.float32), x) is None


@row("V5")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_python_numbers_take_the_tensors_dtype(lib, dtype):
    x = lib.constant(np.array([1.0, 2.0], dtype))

    for result in (x * 2, 2.0 * x, x**2, 1 / x, x - 1.5):
        assert result.numpy().dtype == dtype


@row("V5", spellings=("tf", "tensorflow"))
def test_tensors_of_two_precisions_do_not_mix(lib):
    single, double = lib.constant(1.0), lib.constant(np.float64(1.0))

    with pytest.raises(lib.errors.InvalidArgumentError, match="cannot compute Mul as input #1"):
        single * double


@row("V5", "B13", spellings=("dg",))
def test_tensors_of_two_precisions_promote_and_gradients_come_back(lib):
    single, double = lib.Variable(np.float32(2.0)), lib.Variable(np.float64(3.0))
    with lib.GradientTape() as tape:
        y = single * double
    to_single, to_double = tape.gradient(y, [single, double])

    assert y.dtype == lib.float64
    assert (to_single.dtype, to_double.dtype) == (lib.float32, lib.float64)
    assert (float(to_single), float(to_double)) == (3.0, 2.0)


@row("B13", spellings=("tf",), differs="TensorFlow has no way to a promotion")
def test_precisions_mix_by_casts_and_gradients_come_back(lib):
    single, double = lib.Variable(2.0), lib.Variable(np.float64(3.0))
    with lib.GradientTape() as tape:
        y = lib.cast(single, lib.float64) * double
    to_single, to_double = tape.gradient(y, [single, double])

    assert (to_single.dtype, to_double.dtype) == (lib.float32, lib.float64)
    assert (float(to_single), float(to_double)) == (3.0, 2.0)


@row("V6")
def test_gradients_come_in_the_dtype_of_the_source(lib):
    x = lib.constant(np.float16(3.0))
    found = lib.gradient_of(lambda v: lib.cast(v, lib.float32) ** 2, x)

    assert (found.dtype, found.numpy()) == (lib.float16, 6.0)


@row("V7")
def test_default_dtypes(lib):
    assert lib.Variable(1.0).dtype == lib.constant(1.0).dtype == lib.float32
    assert lib.constant(np.float64(1.0)).dtype == lib.float64
    assert lib.constant(np.ones(2, "float16")).dtype == lib.float16
    assert lib.constant(1).dtype == (lib.int64 if lib.native else lib.int32)  # the standard's rule


# --- sources and targets --------------------------------------------------------------------------


@row("V8", "C8", "T4")
def test_values_computed_on_the_tape_are_sources(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape() as tape:
        y = x * x
        z = y * y

    to_y, to_x = tape.gradient(z, [y, x])
    assert (to_y.numpy(), to_x.numpy()) == (18.0, 108.0)


@row("V8")
def test_same_object_under_another_name_is_the_source_itself(lib):
    x = lib.constant(3.0)
    y = x

    assert lib.gradient_of(lambda _: y, x).numpy() == 1.0


@row("V9")
@pytest.mark.parametrize("no_op", ["identity", "+ 0", "* 1", "- 0"])
def test_operations_that_change_nothing_make_new_tensors(lib, no_op):
    functions = {
        "identity": lib.identity,
        "+ 0": lambda v: v + 0.0,
        "* 1": lambda v: v * 1.0,
        "- 0": lambda v: v - 0.0,
    }
    x = lib.constant(3.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        y = functions[no_op](x)
        z = y * y

    to_x, to_y = tape.gradient(z, [x, y])
    assert (to_x.numpy(), to_y.numpy()) == (6.0, 6.0)
    assert y is not x


@row("V10")
def test_target_that_is_a_source_contributes_one(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape() as tape:
        y = x * x

    assert tape.gradient([x, y], x).numpy() == 7.0


@row("V11")
def test_elements_of_a_target_are_summed(lib):
    x = lib.constant([1.0, 2.0])

    assert lib.gradient_of(lambda v: v * v[0], x).numpy().tolist() == [4.0, 1.0]


@row("V12", "C7", "T3")
def test_several_targets_are_summed_and_one_named_twice_counts_twice(lib):
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape() as tape:
        y, z = x * x, 3.0 * x

    assert tape.gradient([y, z, z], x).numpy().tolist() == [8.0, 10.0]


@row("V13")
def test_repeated_source_gets_the_full_gradient_each_time(lib):
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape() as tape:
        y = x * x
    first, second = tape.gradient(y, [x, x])

    assert first.numpy().tolist() == second.numpy().tolist() == [2.0, 4.0]


@row("V14", "C12", "C13", "T1")
def test_result_has_the_structure_of_the_sources(lib):
    Pair = collections.namedtuple("Pair", "left right")
    x, y = lib.Variable(2.0), lib.Variable(3.0)
    with lib.GradientTape() as tape:
        z = x * y
    found = tape.gradient({"z": z}, {"second": (y,), "first": Pair(x, [x])})

    assert list(found) == ["second", "first"]
    assert found["second"][0].numpy() == 2.0
    assert isinstance(found["first"], Pair)
    assert found["first"].right[0].numpy() == 3.0


@row("V15", "C10")
def test_unconnected_source_is_none_or_zeros_of_its_shape_and_dtype(lib):
    x, y = lib.Variable(2.0), lib.Variable(np.array([1.0, 2.0], "float16"))
    with lib.GradientTape(persistent=True) as tape:
        z = x * x
    zeros = tape.gradient(z, y, unconnected_gradients="zero")

    assert tape.gradient(z, y) is None
    assert tape.gradient(z, y, unconnected_gradients=lib.UnconnectedGradients.NONE) is None
    assert (zeros.dtype, zeros.numpy().tolist()) == (lib.float16, [0.0, 0.0])


@row("V15")
def test_unconnected_batch_jacobian_is_zeros_in_any_case(lib):
    x, y = lib.Variable([[2.0], [3.0]]), lib.Variable([[1.0, 2.0], [3.0, 4.0]])
    with lib.GradientTape() as tape:
        z = x * x

    assert tape.batch_jacobian(z, y).numpy().tolist() == [[[0.0, 0.0]], [[0.0, 0.0]]]


# --- what is followed -----------------------------------------------------------------------------


@row("V16", "C1")
def test_watching_does_not_look_back(lib):
    x = lib.constant(3.0)
    with lib.GradientTape(persistent=True) as tape:
        before = x * x
        tape.watch(x)
        after = x * x
    outside = x * x

    assert tape.gradient(before, x) is None
    assert tape.gradient(after, x).numpy() == 6.0
    assert tape.gradient(outside, x) is None


@row("V16", differs="TensorFlow does not show what a tape holds")
def test_operations_on_unwatched_values_are_not_recorded(lib):
    x, constant = lib.Variable(3.0), lib.constant(2.0)
    with lib.GradientTape() as tape:
        constant * constant + 1.0
        y = x * constant

    assert tape.summary().records == 1
    assert tape.gradient(y, x).numpy() == 2.0


@row("V17")
def test_watching_twice_is_harmless(lib):
    x = lib.constant(3.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        tape.watch(x)
        z = x * x

    assert tape.gradient(z, x).numpy() == 6.0


@row("V17", differs="TensorFlow allows it and forgets it, against its own documentation")
def test_watching_works_while_recording_is_stopped(lib):
    x, y = lib.constant(3.0), lib.constant(2.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        with tape.stop_recording():
            tape.watch(y)
        z = x * x * y

    assert [g.numpy() for g in tape.gradient(z, [x, y])] == [12.0, 9.0]


@row("V18", "C8", "C9")
def test_trainable_variables_are_watched_on_read_unless_the_tape_says_not_to(lib):
    x, y = lib.Variable(2.0), lib.Variable(3.0)
    frozen = lib.Variable(4.0, trainable=False)
    with lib.GradientTape(persistent=True) as tape:
        z = x * y * frozen
    with lib.GradientTape(watch_accessed_variables=False, persistent=True) as chosen:
        chosen.watch(x)
        w = x * y

    assert [g if g is None else g.numpy() for g in tape.gradient(z, [x, y, frozen])] == [
        12,
        8,
        None,
    ]
    assert chosen.gradient(w, y) is None
    assert chosen.gradient(w, x).numpy() == 3.0


@row("V18")
def test_value_read_before_the_tape_is_a_constant(lib):
    x = lib.Variable(2.0)
    before = x * 1.0
    with lib.GradientTape() as tape:
        y = before * x

    assert tape.gradient(y, x).numpy() == 2.0


@row("V19", "T2")
def test_watched_variables_come_in_the_order_of_creation_and_survive_the_gradient(lib):
    first, second = lib.Variable(1.0), lib.Variable(2.0)
    frozen = lib.Variable(3.0, trainable=False)
    t = lib.constant(1.0)
    with lib.GradientTape() as tape:
        z = second * first
        tape.watch(frozen)
        tape.watch(t)
    before = tape.watched_variables()
    tape.gradient(z, first)
    after = tape.watched_variables()

    assert isinstance(before, tuple)
    assert [id(v) for v in before] == [id(v) for v in after]
    assert [id(v) for v in before] == [id(first), id(second), id(frozen)]


@row("V19")
def test_watched_variables_are_the_trainable_ones_of_every_dtype(lib):
    count, flags = lib.Variable([1, 2]), lib.Variable([True, False])
    weights, z = lib.Variable([1.0, 2.0]), lib.Variable([1j, 2.0])
    fixed = lib.Variable([3, 4], trainable=False)
    with lib.GradientTape() as tape:
        for variable in (weights, count, z, fixed):
            variable + variable
        flags == flags  # noqa: B015, PLR0124

    watched = [id(v) for v in tape.watched_variables()]

    assert watched == [id(v) for v in (count, flags, weights, z)]


@row("V19")
def test_reset_clears_the_watched_variables(lib):
    x = lib.Variable(1.0)
    with lib.GradientTape() as tape:
        x * x
        tape.reset()

    assert tape.watched_variables() == ()


@row("V20")
def test_watching_is_local_to_a_tape_and_inner_gradients_are_recorded_outside(lib):
    x, y = lib.constant(2.0), lib.constant(3.0)
    with lib.GradientTape(persistent=True) as outer:
        outer.watch(y)
        with lib.GradientTape(persistent=True) as inner:
            inner.watch(x)
            z = x * x * y
        first = inner.gradient(z, x)

    assert outer.gradient(z, x) is None
    assert inner.gradient(z, y) is None
    assert outer.gradient(first, y).numpy() == 4.0


@row("V21")
def test_tapes_may_be_left_in_another_order(lib):
    x = lib.Variable(3.0)
    one, other = lib.GradientTape(), lib.GradientTape()
    one.__enter__()
    other.__enter__()
    y = x * x
    one.__exit__(None, None, None)
    z = y * x
    other.__exit__(None, None, None)

    assert one.gradient(y, x).numpy() == 6.0
    assert other.gradient(z, x).numpy() == 27.0


# --- variables ------------------------------------------------------------------------------------


@row("V22", "C22")
def test_assignment_is_not_differentiated_and_reads_before_it_keep_the_old_value(lib):
    x, w = lib.Variable(2.0), lib.Variable(1.0)
    with lib.GradientTape() as tape:
        before = w * x
        w.assign(x * 3.0)
        after = w * x
        w.assign_add(1.0)
        again = w * x

    to_x, to_w = tape.gradient([before, after, again], [x, w])
    assert (to_x.numpy(), to_w.numpy()) == (1.0 + 6.0 + 7.0, 6.0)


@row("V23")
def test_tangent_stays_with_a_variable_that_is_assigned(lib):
    v = lib.Variable(2.0)
    with lib.ForwardAccumulator(v, lib.constant(1.0)) as accumulator:
        v.assign(5.0)
        y = v * v

    assert accumulator.jvp(y).numpy() == 10.0


# --- ways out and cuts ----------------------------------------------------------------------------


@row("V24", differs="NumPy's functions lose the path in TensorFlow")
def test_numpys_functions_are_differentiated(lib):
    x = lib.constant([0.5, 1.0])
    with lib.GradientTape() as tape:
        tape.watch(x)
        y = np.sin(x) * np.array([2.0, 3.0], "float32")

    assert isinstance(y, lib.Tensor)
    expected = np.cos([0.5, 1.0]) * [2.0, 3.0]
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), expected, rtol=1e-6)


@row("V24")
def test_array_times_variable_is_the_variables_operation(lib):
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape() as tape:
        y = np.array([3.0, 4.0], "float32") * x

    assert isinstance(y, lib.Tensor)
    assert tape.gradient(y, x).numpy().tolist() == [3.0, 4.0]


@row("V25", spellings=("tf", "tensorflow"))
def test_numpy_function_cuts_and_py_function_is_differentiated(lib):
    x = lib.constant([1.0, 2.0])
    with lib.GradientTape(persistent=True) as tape:
        tape.watch(x)
        cut = lib.numpy_function(np.square, [x], lib.float32)
        kept = lib.py_function(lambda t: t * t, inp=[x], Tout=lib.float32)
        several = lib.py_function(lambda t: [t * t, 3.0 * t], [x], [lib.float32, lib.float32])

    assert cut.numpy().tolist() == kept.numpy().tolist() == [1.0, 4.0]
    assert tape.gradient(cut, x) is None
    assert tape.gradient(kept, x).numpy().tolist() == [2.0, 4.0]
    assert tape.gradient(several, x).numpy().tolist() == [5.0, 7.0]


@row("V25", spellings=("tf", "tensorflow"))
def test_results_of_python_have_the_dtype_that_was_said(lib):
    x = lib.constant([1.0, 2.0])

    with pytest.raises(lib.errors.InvalidArgumentError):
        lib.py_function(lambda t: lib.cast(t, lib.float64), [x], lib.float32)
    total, first = lib.numpy_function(lambda a: [a.sum(), a[0]], [x], [lib.float32, lib.float32])
    assert (total.numpy(), first.numpy()) == (3.0, 1.0)


@row("V25", spellings=("tf",), differs="TensorFlow looks at the dtype in graphs only")
def test_numpys_results_have_the_dtype_that_was_said(lib):
    x = lib.constant([1.0, 2.0])

    with pytest.raises(lib.errors.InvalidArgumentError, match="returns double, but expects float"):
        lib.numpy_function(lambda a: a.astype("float64"), [x], lib.float32)


@row("V25", spellings=("dg",))
def test_numbers_that_left_for_numpy_are_constants(lib):
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape(persistent=True) as tape:
        y = lib.asarray(np.square(x.numpy())) * x

    assert tape.gradient(y, x).numpy().tolist() == [1.0, 4.0]


@row("V26", "C24")
@pytest.mark.parametrize("name", ["floor", "round", "argmax", "floor division"])
def test_operations_without_a_gradient_give_none(lib, name):
    functions = {
        "floor": lib.floor,
        "round": lib.round,
        "argmax": lib.argmax,
        "floor division": lambda v: v // 2.0,
    }

    assert lib.gradient_of(functions[name], lib.constant([1.5, -2.5])) is None


@row("V26", spellings=("tf", "tensorflow"))
def test_shuffled_values_have_no_gradient(lib):
    assert lib.gradient_of(lib.random.shuffle, lib.constant([1.5, -2.5])) is None


@row("V26")
def test_sign_gives_zero_and_remainder_one(lib):
    x = lib.constant([1.5, -2.5])

    assert lib.gradient_of(lib.sign, x).numpy().tolist() == [0.0, 0.0]
    assert lib.gradient_of(lambda v: v % 2.0, x).numpy().tolist() == [1.0, 1.0]


@row("V27")
def test_stop_gradient_cuts_both_modes(lib):
    x = lib.constant(3.0)

    assert lib.gradient_of(lambda v: v * lib.stop_gradient(v), x).numpy() == 3.0
    with lib.ForwardAccumulator(x, lib.constant(1.0)) as accumulator:
        y = x * lib.stop_gradient(x)
    assert accumulator.jvp(y).numpy() == 3.0


@row("V27")
def test_backward_functions_behind_a_cut_do_not_run(lib):
    ran = []

    @lib.custom_gradient
    def watched(x):
        def grad(dy):
            ran.append("grad")
            return dy

        return 2.0 * x, grad

    x = lib.constant(3.0)

    assert lib.gradient_of(lambda v: lib.stop_gradient(watched(v)) + v, x).numpy() == 1.0
    assert ran == []


# --- complex numbers ------------------------------------------------------------------------------


@row("V28", "T7")
def test_complex_gradients_point_in_the_direction_of_steepest_ascent(lib):
    z = lib.constant(np.complex128(1.0 + 2.0j))

    assert lib.gradient_of(lambda v: v * v, z).numpy() == np.conj(2 * (1 + 2j))
    assert lib.gradient_of(lambda v: lib.abs(v) ** 2, z).numpy() == pytest.approx(2 + 4j)


# --- sparse gradients -----------------------------------------------------------------------------


def embedded(lib, indices=(2, 0, 2)):
    """Return the gradient of rows picked from a table, each weighed by its place, and the table."""
    table = lib.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with lib.GradientTape() as tape:
        rows = lib.gather(table, list(indices), axis=0)
        loss = lib.reduce_sum(rows * lib.constant([[1.0], [10.0], [100.0]]))
    return tape.gradient(loss, table), table


@row("S11", "V29")
def test_rows_picked_give_slices_that_keep_duplicates(lib):
    slices, _ = embedded(lib)

    assert isinstance(slices, lib.IndexedSlices)
    assert slices.indices.numpy().tolist() == [2, 0, 2]
    assert slices.values.numpy().tolist() == [[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]]
    assert list(np.asarray(slices.dense_shape)) == [3, 2]
    assert lib.dense(slices).tolist() == [[10.0, 10.0], [0.0, 0.0], [101.0, 101.0]]


@row("S11")
def test_slices_are_made_of_values_and_indices(lib):
    slices = lib.IndexedSlices(lib.constant([[1.0]]), lib.constant([2]), lib.constant([3, 1]))

    assert lib.dense(slices).tolist() == [[0.0], [0.0], [1.0]]


@row("V29")
def test_other_axes_and_slicing_give_dense_gradients(lib):
    x = lib.constant([[1.0, 2.0], [3.0, 4.0]])

    picked = lib.gradient_of(lambda v: lib.gather(v, [1], axis=1), x)
    sliced = lib.gradient_of(lambda v: v[1:], x)
    assert isinstance(picked, lib.Tensor)
    assert isinstance(sliced, lib.Tensor)
    assert picked.numpy().tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert sliced.numpy().tolist() == [[0.0, 0.0], [1.0, 1.0]]


@row("V29", "V31")
def test_sparse_and_sparse_are_put_together_and_sparse_and_dense_are_dense(lib):
    x = lib.Variable([[1.0], [2.0], [3.0]])
    with lib.GradientTape(persistent=True) as tape:
        two = lib.reduce_sum(lib.gather(x, [0, 2], axis=0)) + lib.reduce_sum(
            lib.gather(x, [2], axis=0)
        )
        both = two + lib.reduce_sum(x)
    sparse, dense = tape.gradient(two, x), tape.gradient(both, x)

    assert isinstance(sparse, lib.IndexedSlices)
    assert len(sparse.indices.numpy()) == 3
    assert lib.dense(sparse).tolist() == [[1.0], [0.0], [2.0]]
    assert isinstance(dense, lib.Tensor)
    assert dense.numpy().tolist() == [[2.0], [1.0], [3.0]]


@row("V29")
def test_jacobian_of_picked_rows_is_dense(lib):
    x = lib.Variable([[1.0], [2.0]])
    with lib.GradientTape() as tape:
        y = lib.gather(x, [1, 1], axis=0)

    assert tape.jacobian(y, x).numpy()[:, 0, :, 0].tolist() == [[0.0, 1.0], [0.0, 1.0]]


@row("V30", "B7", differs="TensorFlow's slices have no arithmetic")
def test_slices_have_arithmetic_and_train_a_variable(lib):
    slices, table = embedded(lib)
    before = table.numpy().copy()
    step = 0.1 * slices
    table.assign_sub(step)

    assert isinstance(step, lib.IndexedSlices)
    assert isinstance(slices + slices, lib.IndexedSlices)
    np.testing.assert_allclose(lib.dense(slices / 2.0 + slices), 1.5 * lib.dense(slices))
    np.testing.assert_allclose(table.numpy(), before - 0.1 * lib.dense(slices), rtol=1e-6)


@row("V30", "B7", differs="a second derivative of slices is an AttributeError in TensorFlow")
def test_slices_are_differentiated_again(lib):
    x = lib.Variable([[1.0], [2.0]])
    with lib.GradientTape() as outer:
        with lib.GradientTape() as inner:
            y = lib.reduce_sum(lib.gather(x, [1, 1], axis=0) ** 3)
        slices = inner.gradient(y, x)

    found = outer.gradient(slices, x)
    assert lib.dense(found).tolist() == [[0.0], [24.0]]


@row("V31")
def test_slices_of_several_targets_add_up(lib):
    x = lib.Variable([[1.0], [2.0]])
    with lib.GradientTape() as tape:
        y, z = lib.gather(x, [0], axis=0), lib.gather(x, [1, 0], axis=0)

    assert lib.dense(tape.gradient([y, z], x)).tolist() == [[2.0], [1.0]]


# --- conventions ----------------------------------------------------------------------------------


@row("V32", "C20", "T8")
@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("max", [2.0, 2.0, 1.0], [0.5, 0.5, 0.0]),
        ("maximum", [2.0, 1.0], [1.0, 0.0]),
        ("maximum, second", [2.0, 3.0], [0.0, 1.0]),
        ("relu", [0.0, 1.0], [0.0, 1.0]),
        ("abs", [0.0, -1.0], [0.0, -1.0]),
        ("clip", [1.0, 2.0], [1.0, 0.0]),
    ],
)
def test_ties_and_kinks(lib, name, at, expected):
    functions = {
        "max": lib.reduce_max,
        "maximum": lambda v: lib.maximum(v, lib.constant(2.0)),
        "maximum, second": lambda v: lib.maximum(lib.constant(2.0), v),
        "relu": lib.relu,
        "abs": lib.abs,
        "clip": lambda v: lib.clip_by_value(v, 0.0, 1.0),
    }

    assert lib.gradient_of(functions[name], lib.constant(at)).numpy().tolist() == expected


@row("V32")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_slope_of_the_root_at_zero_is_infinite(lib):
    assert lib.gradient_of(lib.sqrt, lib.constant([0.0])).numpy().tolist() == [np.inf]


@row("V35")
def test_product_with_zeros(lib):
    one, two = lib.constant([0.0, 2.0, 3.0]), lib.constant([0.0, 0.0, 3.0])

    assert lib.gradient_of(lib.reduce_prod, one).numpy().tolist() == [6.0, 0.0, 0.0]
    assert lib.gradient_of(lib.reduce_prod, two).numpy().tolist() == [0.0, 0.0, 0.0]


@row("V36")
def test_equal_eigenvalues_have_finite_gradients_of_their_vectors(lib):
    # The trace of V diag(1, 2, 3) V^T is 6 whatever V: its gradient through equal values is 0.
    x = lib.constant(np.eye(3))

    def function(v):
        values, vectors = lib.linalg.eigh(v)
        return lib.reduce_sum(values * lib.constant(np.array([1.0, 1.0, 1.0]))) + lib.reduce_sum(
            vectors**2
        )

    found = lib.gradient_of(function, x).numpy()
    np.testing.assert_allclose(found, np.eye(3), atol=1e-12)


@row("V37")
def test_empty_arrays_have_empty_gradients(lib):
    found = lib.gradient_of(lambda v: v * 2.0, lib.zeros((0, 3)))

    assert tuple(found.shape) == (0, 3)


# --- functions with rules of their own ------------------------------------------------------------


@row("V38", "C26")
def test_backward_function_of_a_custom_gradient_is_differentiated(lib):
    @lib.custom_gradient
    def cube(x):
        return x**3, lambda dy: dy * 3.0 * x**2

    x = lib.Variable(2.0)
    with lib.GradientTape() as outer:
        with lib.GradientTape() as inner:
            y = cube(x)
        first = inner.gradient(y, x)

    assert (first.numpy(), outer.gradient(first, x).numpy()) == (12.0, 12.0)


@row("V39", "B2", differs="TensorFlow raises NotImplementedError at the second order")
def test_second_order_and_forward_mode_through_recomputation(lib):
    # sin(x) x at 1: the first derivative is sin 1 + cos 1, the second 2 cos 1 - sin 1.
    again = lib.recompute_grad(lambda v: lib.sin(v) * v)
    x = lib.Variable(1.0)
    with lib.GradientTape() as outer:
        with lib.GradientTape() as inner:
            y = again(x)
        first = inner.gradient(y, x)
    with lib.ForwardAccumulator(x, lib.constant(1.0)) as accumulator:
        y = again(x)

    assert first.numpy() == pytest.approx(1.3817733, rel=1e-6)
    assert accumulator.jvp(y).numpy() == pytest.approx(1.3817733, rel=1e-6)
    assert outer.gradient(first, x).numpy() == pytest.approx(0.2391, abs=1e-4)


@row("V39")
def test_first_order_through_recomputation(lib):
    again = lib.recompute_grad(lambda v: lib.sin(v) * v)

    found = lib.gradient_of(again, lib.constant(1.0))
    assert found.numpy() == pytest.approx(1.3817733, rel=1e-6)


@row("V40")
def test_straight_through_gives_none_to_variables_inside(lib):
    x, w = lib.constant([0.4, 1.6]), lib.Variable(2.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        y = lib.grad_pass_through(lambda v: lib.round(v) * w)(x) * 3.0
    to_x, to_w = tape.gradient(y, [x, w])

    assert y.numpy().tolist() == [0.0, 12.0]
    assert to_x.numpy().tolist() == [3.0, 3.0]
    assert to_w is None


# --- forward mode ---------------------------------------------------------------------------------


@row("V41")
def test_accumulator_looks_up_and_never_computes(lib):
    x = lib.constant([1.0, 2.0])
    accumulator = lib.ForwardAccumulator(x, lib.constant([1.0, 0.0]))
    before = x * x
    with accumulator:
        inside = x * x
    after = x * x

    assert accumulator.jvp(inside).numpy().tolist() == [2.0, 0.0]
    assert accumulator.jvp(before) is None
    assert accumulator.jvp(after) is None
    zeros = accumulator.jvp(after, unconnected_gradients=lib.UnconnectedGradients.ZERO)
    assert zeros.numpy().tolist() == [0.0, 0.0]


@row("V41", differs="TensorFlow casts them, except in eager programs, where it refuses")
def test_tangents_are_brought_to_the_dtype_of_the_primal(lib):
    x = lib.constant(np.array([1.0, 2.0], "float32"))
    with lib.ForwardAccumulator(x, lib.constant(np.array([1.0, 0.0], "float64"))) as accumulator:
        y = x * x

    assert accumulator.jvp(y).dtype == lib.float32


@row("V41")
def test_tangents_die_with_their_values(lib):
    x = lib.constant(2.0)
    with lib.ForwardAccumulator(x, lib.constant(1.0)) as accumulator:
        y = x * x
        tangent = weakref.ref(accumulator.jvp(y)) if lib.name != "tensorflow" else None
        del y
        gc.collect()

    assert tangent is None or tangent() is None


@row("V41")
def test_accumulators_nest_with_each_other_and_with_tapes(lib):
    x, one = lib.constant(3.0), lib.constant(1.0)
    with lib.ForwardAccumulator(x, one) as outer, lib.ForwardAccumulator(x, one) as inner:
        y = x**3
    with lib.ForwardAccumulator(x, one) as forward:
        with lib.GradientTape() as tape:
            tape.watch(x)
            z = x**3
        slope = tape.gradient(z, x)

    assert outer.jvp(inner.jvp(y)).numpy() == 18.0
    assert inner.jvp(outer.jvp(y)) is None
    assert forward.jvp(slope).numpy() == 18.0


@row("V42", "B1", differs="TensorFlow gives a wrong 2.4, and 0.656 for the sine")
def test_nested_accumulators_are_right_where_an_intermediate_is_used_again(lib):
    x, one = lib.constant(np.float64(0.7)), lib.constant(np.float64(1.0))
    with lib.ForwardAccumulator(x, one) as outer, lib.ForwardAccumulator(x, one) as inner:
        m = lib.identity(x)
        y = (m * m) * m
        s = lib.sin(x)
        z = (s * s) * s

    assert outer.jvp(inner.jvp(y)).numpy() == pytest.approx(4.2)
    expected = 6 * np.sin(0.7) * np.cos(0.7) ** 2 - 3 * np.sin(0.7) ** 3
    assert outer.jvp(inner.jvp(z)).numpy() == pytest.approx(expected)


# --- threads and functions ------------------------------------------------------------------------


def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@row("V43")
def test_tape_hears_its_own_thread_and_answers_in_any(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape(persistent=True) as tape:
        y = x * x
        elsewhere = in_another_thread(lambda: x * x)

    assert tape.gradient(elsewhere, x) is None
    assert in_another_thread(lambda: tape.gradient(y, x)).numpy() == 6.0


@row("V44", "C23")
def test_functions_go_around_tapes_and_inside(lib):
    x = lib.Variable([1.0, 2.0])

    @lib.function
    def around(v):
        with lib.GradientTape() as tape:
            tape.watch(v)
            y = v * v * v
        return tape.gradient(y, v)

    @lib.function
    def branches(v):
        return lib.cond(lib.reduce_sum(v) > 0.0, lambda: v**3, lambda: v)

    with lib.GradientTape() as tape:
        y = branches(x)

    assert tape.gradient(y, x).numpy().tolist() == [3.0, 12.0]
    assert around(lib.constant([1.0, 2.0])).numpy().tolist() == [3.0, 12.0]


@row("V44")
def test_function_is_traced_for_each_shape_and_each_python_number(lib):
    traces = []

    @lib.function
    def scaled(x, by):
        traces.append(by)
        return x * by

    scaled(lib.ones((2,)), 2.0)
    scaled(lib.zeros((2,)), 2.0)
    assert len(traces) == 1
    scaled(lib.ones((3,)), 2.0)
    assert len(traces) == 2


@row("V45", "B3", "C23", differs="TensorFlow traces a function at every eager call")
def test_jacobians_are_vectorised_without_tracing(lib):
    x = lib.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    ran = []

    @lib.custom_gradient
    def square(v):
        def grad(dy):
            ran.append(dy.shape)
            return 2.0 * v * dy

        return v * v, grad

    with lib.GradientTape(persistent=True) as tape:
        y = square(x)
    whole = tape.jacobian(y, x)
    batch = tape.batch_jacobian(y, x)

    assert len(ran) == 2  # once for all eighteen rows, once for all examples
    rows = np.arange(3)
    np.testing.assert_array_equal(batch.numpy(), whole.numpy()[rows, :, rows])
    assert batch.numpy()[1].tolist() == [[6.0, 0.0], [0.0, 8.0]]


# --- memory ---------------------------------------------------------------------------------------


@row("V46", "C4", differs="TensorFlow keeps inputs where the rule reads the output")
@pytest.mark.parametrize(
    ("name", "arrays"),
    [("tanh", 1), ("sin", 1), ("square", 1), ("* 2", 0), ("+ 1", 0), ("neg", 0), ("relu", 1),
     ("reshape", 0), ("sum", 0)],
)  # fmt: skip
def test_tape_keeps_one_array_or_none(lib, name, arrays):
    functions = {
        "tanh": lib.tanh,
        "sin": lib.sin,
        "square": lib.square,
        "* 2": lambda v: v * 2.0,
        "+ 1": lambda v: v + 1.0,
        "neg": lambda v: -v,
        "relu": lib.relu,
        "reshape": lambda v: lib.reshape(v, (-1,)),
        "sum": lib.reduce_sum,
    }
    x = lib.constant(np.ones((3, 5), "float32"))
    with lib.GradientTape() as tape:
        tape.watch(x)
        y = functions[name](x)
    held = tape.summary().nbytes

    assert held == arrays * 15 * 4
    assert tape.gradient(y, x) is not None


@row("V46", "C3", "C4")
def test_plain_tape_lets_go_at_its_gradient_and_a_persistent_one_when_it_dies(lib):
    gc.collect()
    gc.disable()
    try:
        x = lib.Variable([1.0, 2.0])
        with lib.GradientTape() as plain, lib.GradientTape(persistent=True) as persistent:
            y = lib.tanh(lib.sin(x))
        slope = plain.gradient(y, x)
        assert persistent.gradient(y, x).numpy().tolist() == slope.numpy().tolist()
        reference = weakref.ref(persistent)
        del persistent

        assert reference() is None
    finally:
        gc.enable()
