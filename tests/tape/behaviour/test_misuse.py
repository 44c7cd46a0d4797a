"""Misuse: TensorFlow's exception types, the words that its users grep, and a remedy.

TensorFlow 2.21 is not followed where it lets a mistake pass in silence, or answers with an error
about its own insides; each such test says so.
"""

import contextlib
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors
from distgrad.compat.tensorflow import backprop, record

row = pytest.mark.row


def recorded(lib, persistent=False):
    """Return a tape that has recorded y = x**2 at [1, 2], with both."""
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape(persistent=persistent) as tape:
        y = x**2
    return tape, y, x


# --- the tape's protocol --------------------------------------------------------------------------


@row("M1", "C3", "T9")
@pytest.mark.parametrize("method", ["gradient", "jacobian", "batch_jacobian"])
def test_second_gradient_of_a_plain_tape_is_refused(lib, method):
    x = lib.Variable([[1.0, 2.0]])
    with lib.GradientTape() as tape:
        y = x**2
    tape.gradient(y, x)

    with pytest.raises(
        RuntimeError,
        match="A non-persistent GradientTape can only be used to ?compute one set of gradients "
        r"\(or jacobians\)",
    ):
        getattr(tape, method)(y, x)


@row("M2", differs="TensorFlow's message here is that of a second gradient, which misleads")
def test_gradient_of_a_tape_never_entered_says_so(lib):
    x = lib.Variable(1.0)

    with pytest.raises(RuntimeError, match="never entered"):
        lib.GradientTape().gradient(x * 2, x)


@row("M3", "T6")
def test_gradient_inside_a_plain_tapes_block_stops_its_recording(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape() as tape:
        first = tape.gradient(x * x, x)
        y = x * x

    assert first.numpy() == 6.0
    with pytest.raises(RuntimeError, match="persistent"):
        tape.gradient(y, x)


@row("M4")
def test_gradient_inside_a_persistent_tapes_block_is_recorded(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape(persistent=True) as tape:
        first = tape.gradient(x**3, x)

    assert tape.gradient(first, x).numpy() == 18.0


@row("M4", differs="TensorFlow warns that this is less efficient; here it costs one record")
def test_gradient_inside_a_persistent_tapes_block_costs_one_record_and_no_warning(lib):
    x = lib.Variable(3.0)
    with warnings.catch_warnings(), lib.GradientTape(persistent=True) as tape:
        warnings.simplefilter("error")
        y = x**3
        before = tape.summary().records
        kept = tape.gradient(y, x)

        assert tape.summary().records == before + 1
    del kept


@row("M5")
def test_entering_an_active_tape_is_refused(lib):
    with lib.GradientTape() as tape, pytest.raises(ValueError, match="Tape is still recording"):
        tape.__enter__()


@row("M6", "T5")
def test_entering_again_goes_on_with_the_same_tape(lib):
    x = lib.Variable(3.0)
    tape = lib.GradientTape()
    with tape:
        y = x * x
    with tape:
        z = y * x

    assert tape.gradient(z, x).numpy() == 27.0


@row("M7")
def test_entering_a_used_plain_tape_begins_anew(lib):
    tape, y, x = recorded(lib)
    tape.gradient(y, x)
    with tape:
        z = x * 3.0

    assert tape.gradient(z, x).numpy().tolist() == [3.0, 3.0]


@row("M8")
def test_reset_outside_the_block_is_refused(lib):
    tape, _, _ = recorded(lib)

    with pytest.raises(ValueError, match="Tape is not recording"):
        tape.reset()


@row("M9")
def test_stopping_a_tape_that_does_not_record_is_refused(lib):
    tape, _, _ = recorded(lib)

    with pytest.raises(ValueError, match="Tape is not recording"), tape.stop_recording():
        pass
    with (
        pytest.raises(RuntimeError, match="Trying to stop recording a tape which is not recording"),
        lib.GradientTape().stop_recording(),
    ):
        pass


@row("M9", "B8", differs="a nested stop_recording is an error in TensorFlow")
def test_stopped_blocks_nest(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape() as tape:
        with tape.stop_recording():
            with tape.stop_recording():
                lost = x * x
            also_lost = x * x
        z = x * 2.0

    assert tape.gradient([lost, also_lost, z], x).numpy() == 2.0


@row("M10")
def test_exceptions_leave_what_was_recorded_usable(lib):
    x = lib.Variable(3.0)
    tape = lib.GradientTape()
    with contextlib.suppress(KeyError), tape:
        y = x * x
        with contextlib.suppress(ZeroDivisionError), tape.stop_recording():
            raise ZeroDivisionError
        y = y * x
        raise KeyError

    assert tape.gradient(y, x).numpy() == 27.0


# --- watching -------------------------------------------------------------------------------------


@row("M11", "T9")
@pytest.mark.parametrize("value", [np.ones(2), 1.0, "a", None], ids=repr)
def test_watching_what_is_no_tensor_names_its_type(lib, value):
    kind = type(value).__name__
    tensors = "not Tensor" if lib.native else "not tf.Tensor or tf.Variable or ExtensionType"
    with (
        lib.GradientTape() as tape,
        pytest.raises(ValueError, match=rf"Passed in object .*of type '{kind}', {tensors}"),
    ):
        tape.watch(value)


@row("M12", "B9", differs="TensorFlow raises an AttributeError about None")
def test_watching_before_entering_is_allowed(lib):
    x = lib.constant(3.0)
    tape = lib.GradientTape()
    tape.watch(x)
    with tape:
        y = x * x

    assert tape.gradient(y, x).numpy() == 6.0


# --- targets and sources --------------------------------------------------------------------------


@row("M13")
def test_target_that_is_none_is_refused(lib):
    tape, _, x = recorded(lib)

    with pytest.raises(TypeError, match="Argument `target` should be a list or nested structure"):
        tape.gradient(None, x)


@row("M14", differs="TensorFlow's TypeError is about converting None to a dtype")
def test_sources_that_are_none_are_refused_and_none_within_a_nest_is_left_alone(lib):
    tape, y, x = recorded(lib, persistent=True)

    with pytest.raises(TypeError, match="`sources` should be a list or nested structure"):
        tape.gradient(y, None)
    assert tape.gradient([y, None], x).numpy().tolist() == [2.0, 4.0]


@row("M15", "B4", differs="TensorFlow's AttributeError names an attribute _id")
def test_number_or_array_as_target_or_source_is_named_with_a_remedy(lib):
    tape, y, x = recorded(lib, persistent=True)

    with pytest.raises(TypeError, match=r"source 0 is a ndarray; expected .* convert"):
        tape.gradient(y, np.ones(2))
    with pytest.raises(TypeError, match=r"target 0 is a float; expected .* convert"):
        tape.gradient(1.0, x)


@row("M15", spellings=("tf", "tensorflow"))
def test_number_as_source_is_an_attribute_error_for_those_who_catch_it(lib):
    tape, y, _ = recorded(lib)

    with pytest.raises(AttributeError):
        tape.gradient(y, 1.0)


@row("M16")
def test_no_sources_and_no_targets_give_no_gradients(lib):
    tape, y, x = recorded(lib, persistent=True)

    assert tape.gradient(y, []) == []
    assert tape.gradient([], x) is None


@row("M16")
def test_no_targets_give_zeros_where_zeros_are_asked_for(lib):
    tape, _, x = recorded(lib)

    found = tape.gradient([], x, unconnected_gradients="zero")

    assert found.dtype == x.dtype
    assert not found.numpy().any()


@row("M17", "T9")
def test_unknown_policy_for_unconnected_sources_is_refused(lib):
    tape, y, x = recorded(lib)

    with pytest.raises(ValueError, match="Unknown value for unconnected_gradients: 'nonsense'"):
        tape.gradient(y, x, unconnected_gradients="nonsense")


@row("M17")
def test_unknown_policy_for_an_accumulator_is_refused(lib):
    x = lib.constant([1.0, 2.0])
    words = "Unknown value" if lib.native else "'nonsense' is not a valid UnconnectedGradients"

    with (
        lib.ForwardAccumulator(x, lib.ones((2,))) as accumulator,
        pytest.raises(ValueError, match=words),
    ):
        accumulator.jvp(x, unconnected_gradients="nonsense")


# --- output gradients -----------------------------------------------------------------------------


@row("M18", "B5", differs="TensorFlow broadcasts in silence")
def test_output_gradients_of_another_shape_are_refused(lib):
    tape, y, x = recorded(lib)

    with pytest.raises(ValueError, match="expected the same shape"):
        tape.gradient(y, x, output_gradients=lib.constant(1.0))


@row("M19", "B5", differs="TensorFlow takes the first element of the list")
def test_output_gradients_in_a_list_belong_to_the_elements_of_one_target(lib):
    tape, y, x = recorded(lib)

    assert tape.gradient(y, x, output_gradients=[1.0, 0.5]).numpy().tolist() == [2.0, 2.0]


@row("M20", "B5", differs="TensorFlow takes ones for those that are missing")
def test_too_few_output_gradients_are_refused(lib):
    tape, y, x = recorded(lib)

    with pytest.raises(ValueError, match="structure of target"):
        tape.gradient([y, y], x, output_gradients=[lib.ones((2,))])


@row("M21", differs="TensorFlow's docstring allows None, its code does not")
def test_none_among_output_gradients_stands_for_ones(lib):
    tape, y, x = recorded(lib)
    given = [None, lib.constant([1.0, 0.5])]

    assert tape.gradient([y, y], x, output_gradients=given).numpy().tolist() == [4.0, 6.0]


@row("M22", differs="TensorFlow's multiplication refuses, from within the backward pass")
def test_output_gradients_of_another_precision_are_brought_to_the_targets(lib):
    tape, y, x = recorded(lib)
    double = lib.constant(np.array([1.0, 0.5], "float64"))
    found = tape.gradient(y, x, output_gradients=double)

    assert (found.dtype, found.numpy().tolist()) == (lib.float32, [2.0, 2.0])


@row("M22")
def test_complex_output_gradients_of_a_real_target_are_refused(lib):
    tape, y, x = recorded(lib)
    expected = (TypeError,) if lib.name != "tensorflow" else (Exception,)

    with pytest.raises(expected):
        tape.gradient(y, x, output_gradients=lib.constant([1j, 1j]))


# --- Jacobians ------------------------------------------------------------------------------------


@row("M23", "T9", spellings=("tf", "tensorflow"))
def test_jacobian_by_a_loop_on_a_plain_tape_is_refused(lib):
    tape, y, x = recorded(lib)

    with pytest.raises(RuntimeError, match="must be created with persistent=True to compute the"):
        tape.jacobian(y, x, experimental_use_pfor=False)


@row("M23", spellings=("dg",))
def test_jacobian_by_a_loop_works_on_a_plain_tape_of_our_own(lib):
    tape, y, x = recorded(lib)

    found = tape.jacobian(y, x, experimental_use_pfor=False)
    assert found.numpy().tolist() == [[2.0, 0.0], [0.0, 4.0]]


@row("M24", differs="TensorFlow's AttributeError says that a list has no shape")
def test_jacobian_of_a_list_is_a_list(lib):
    tape, y, x = recorded(lib)

    (found,) = tape.jacobian([y], x)
    assert found.numpy().tolist() == [[2.0, 0.0], [0.0, 4.0]]


@row("M25", differs="TensorFlow's words, on every failure and not on some")
def test_failure_of_the_vectorisation_says_how_to_do_without(lib):
    @lib.custom_gradient
    def doubled(x):
        return 2.0 * x, lambda dy: dy if float(dy[0]) > 0 else 2.0 * dy

    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape(persistent=True) as tape:
        y = doubled(x)

    with pytest.raises(
        ValueError,
        match=r"Encountered an exception while vectorizing the jacobian computation\. "
        r"Vectorization can be disabled by setting experimental_use_pfor to False",
    ):
        tape.jacobian(y, x)
    by_rows = tape.jacobian(y, x, experimental_use_pfor=False)
    assert by_rows.numpy().tolist() == [[1.0, 0.0], [0.0, 2.0]]


@row("M26", "T9")
def test_batch_jacobian_of_shapes_that_do_not_fit_is_refused(lib):
    a, b = lib.Variable([[1.0, 2.0]]), lib.Variable([[1.0], [2.0]])
    with lib.GradientTape(persistent=True) as tape:
        flat, y = lib.reduce_sum(a * b, axis=1), a * 2.0

    with pytest.raises(ValueError, match="must have rank at least 2"):
        tape.batch_jacobian(flat, b)
    with pytest.raises(ValueError, match="Need first dimension of target shape"):
        tape.batch_jacobian(y, b)


@row("M26", differs="TensorFlow's AttributeError says that a list has no shape")
def test_batch_jacobian_takes_one_source(lib):
    a = lib.Variable([[1.0, 2.0]])
    with lib.GradientTape() as tape:
        y = a * 2.0

    with pytest.raises(TypeError, match="batch_jacobian: source is a list; expected one"):
        tape.batch_jacobian(y, [a])


@row("M27", differs="TensorFlow refuses parallel_iterations on a plain tape in a function")
def test_batch_jacobian_takes_its_memory_knob_on_any_tape(lib):
    x = lib.constant([[1.0, 2.0], [3.0, 4.0]])

    @lib.function
    def slopes(x):
        with lib.GradientTape() as tape:
            tape.watch(x)
            y = x * x
        return tape.batch_jacobian(y, x, parallel_iterations=1)

    assert slopes(x).numpy()[1].tolist() == [[6.0, 0.0], [0.0, 8.0]]


# --- forward mode ---------------------------------------------------------------------------------


@row("M28", "T9")
def test_same_primal_twice_is_refused(lib):
    x, one = lib.constant(1.0), lib.constant(1.0)

    with pytest.raises(ValueError, match="multiple times"):
        lib.ForwardAccumulator([x, x], [one, one])


@row("M29", "T9")
def test_entering_an_active_accumulator_is_refused(lib):
    x, one = lib.constant(1.0), lib.constant(1.0)

    with (
        lib.ForwardAccumulator(x, one) as accumulator,
        pytest.raises(ValueError, match="already recording"),
    ):
        accumulator.__enter__()
    with accumulator:
        assert accumulator.jvp(x * x).numpy() == 2.0


@row("M30")
def test_tangents_of_another_structure_are_refused(lib):
    x, one = lib.constant(1.0), lib.constant(1.0)

    with pytest.raises(ValueError, match="don't have the same nested structure"):
        lib.ForwardAccumulator([x], [one, one])


@row("M30", differs="TensorFlow does not look at the shapes")
def test_tangents_of_another_shape_are_refused(lib):
    with pytest.raises(ValueError, match="expected the same shape"):
        lib.ForwardAccumulator(lib.constant(1.0), lib.ones((2,)))


# --- custom gradients -----------------------------------------------------------------------------


@row("M31")
def test_custom_gradient_with_too_few_gradients_is_refused(lib):
    @lib.custom_gradient
    def too_few(a, b):
        return a * b, lambda dy: dy

    with pytest.raises(ValueError, match="expected to return 2 gradients, but returned 1"):
        lib.gradient_of(lambda a: too_few(a, a), lib.constant([1.0, 2.0]))


@row("M32")
def test_custom_gradient_that_does_not_take_captured_variables_is_refused(lib):
    w = lib.Variable(2.0)

    @lib.custom_gradient()
    def captures(a):
        return a * w, lambda dy: dy

    with pytest.raises(TypeError, match="grad_fn must accept keyword argument 'variables'"):
        lib.gradient_of(captures, lib.constant([1.0, 2.0]))


@row("M33")
def test_custom_gradient_that_forgets_captured_variables_is_refused(lib):
    w = lib.Variable(2.0)

    @lib.custom_gradient
    def forgets(a):
        return a * w, lambda dy, variables: (dy, [])

    with pytest.raises(ValueError, match="Must return gradient for each variable"):
        lib.gradient_of(forgets, lib.constant([1.0, 2.0]))


@row("M34", "B6", differs="TensorFlow returns what it was given, of whatever shape and dtype")
def test_custom_gradient_of_another_shape_or_dtype_is_refused(lib):
    @lib.custom_gradient
    def wrong_shape(a):
        return a * 1.0, lambda dy: lib.ones((5,))

    @lib.custom_gradient
    def wrong_dtype(a):
        return a * 1.0, lambda dy: lib.constant([1j, 2j])

    x = lib.constant([1.0, 2.0])
    with pytest.raises(ValueError, match=r"gradient 0 has shape \(5,\), its argument \(2,\)"):
        lib.gradient_of(wrong_shape, x)
    with pytest.raises(errors.DTypeError, match="expected a real gradient for a real argument"):
        lib.gradient_of(wrong_dtype, x)


@row("M35")
def test_custom_gradient_takes_keyword_arguments(lib):
    @lib.custom_gradient
    def scaled(x, *, by=1.0):
        return x * by, lambda dy: 10.0 * by * dy

    x = lib.constant(2.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        y = scaled(x, by=3.0)

    assert (y.numpy(), tape.gradient(y, x).numpy()) == (6.0, 30.0)


@row("M35", differs="keyword arguments are an error in a TensorFlow graph")
def test_custom_gradient_takes_keyword_arguments_in_a_traced_function(lib):
    @lib.custom_gradient
    def scaled(x, *, by=1.0):
        return x * by, lambda dy: 10.0 * by * dy

    traced = lib.function(lambda x: scaled(x, by=3.0))
    assert lib.gradient_of(traced, lib.constant(2.0)).numpy() == 30.0


# --- the functions behind the tape ----------------------------------------------------------------


def functional(lib):
    """Return the modules of TensorFlow's functional forms, ours or its own."""
    if lib.name == "tf":
        return backprop, record
    from tensorflow.python.eager import backprop as theirs
    from tensorflow.python.eager import record as their_record

    return theirs, their_record


@row("M36", "T9", spellings=("tf", "tensorflow"))
def test_recorded_operation_with_too_few_gradients_is_refused(lib):
    _, recording = functional(lib)
    x = lib.constant(2.0)
    with lib.GradientTape() as tape:
        tape.watch(x)
        with recording.stop_recording():
            y = x * 3.0
        recording.record_operation("InvalidBackprop", [y], [x], lambda dy: [])

    with pytest.raises(lib.errors.InternalError, match=r"InvalidBackprop.*too few gradients"):
        tape.gradient(y, x)


@row("M36", spellings=("dg",))
def test_operation_of_the_users_own_with_too_few_gradients_is_refused(lib):
    @lib.custom_gradient
    def too_few(a, b):
        return a * b, lambda dy: [dy]

    with pytest.raises(ValueError, match="expected to return 2 gradients, but returned 1"):
        lib.gradient_of(lambda a: too_few(a, 2.0 * a), lib.constant(1.0))


@row("M37", spellings=("tf", "tensorflow"))
def test_implicit_gradients_need_a_value_and_a_variable(lib):
    functions, _ = functional(lib)
    x = lib.constant(2.0)

    def forgetful(x):
        x * x

    with pytest.raises(
        ValueError,
        match="Cannot differentiate a function that returns None; did you forget to return a value "
        "from forgetful",
    ):
        functions.implicit_grad(forgetful)(x)
    with pytest.raises(ValueError, match="No trainable variables were accessed while the function"):
        functions.implicit_grad(lambda: x * x)()


@row("M37", spellings=("dg",))
@pytest.mark.parametrize("transform", [dg.grad, dg.value_and_grad])
def test_gradient_of_a_function_that_returns_nothing_is_refused(lib, transform):
    with pytest.raises(TypeError, match="None"):
        transform(lambda x: None)(2.0)


# --- variables and tensors ------------------------------------------------------------------------


@row("M38")
def test_adding_to_a_variables_name_is_refused(lib):
    v = lib.Variable(1.0)

    with pytest.raises(RuntimeError, match=r"`variable \+= value`.* not supported"):
        v += 1.0


@row("M39")
def test_item_assignment_is_refused(lib):
    t, v = lib.constant([1.0, 2.0]), lib.Variable([1.0, 2.0])
    # A tensor of ours that no tape watches may be filled, as the array API standard asks.
    words = "would cut the gradient; take" if lib.native else "item assignment"

    with lib.GradientTape() as tape:
        tape.watch(t)
        with pytest.raises(TypeError, match=words):
            t[0] = 1.0
    with pytest.raises(TypeError, match="item assignment"):
        v[0] = 1.0


@row("M39", spellings=("tf", "tensorflow"))
def test_part_of_a_variable_is_assigned_by_its_own_method(lib):
    v = lib.Variable([1.0, 2.0])
    v[0].assign(9.0)

    assert v.numpy().tolist() == [9.0, 2.0]


@row("M40")
@pytest.mark.parametrize("kind", ["constant", "Variable"])
def test_tensors_and_variables_are_unhashable(lib, kind):
    value = getattr(lib, kind)(1.0)

    with pytest.raises(TypeError, match=r"unhashable.*key"):
        hash(value)


@row("M40", spellings=("tf", "tensorflow"))
@pytest.mark.parametrize("kind", ["constant", "Variable"])
def test_references_are_keys(lib, kind):
    make = getattr(lib, kind)
    value = make(1.0)

    assert {value.ref(): "found"}[value.ref()] == "found"
    assert value.ref().deref() is value
    assert value.ref() != make(1.0).ref()


@row("M41")
def test_assignment_of_another_shape_is_refused(lib):
    v = lib.Variable([1.0, 2.0])

    with pytest.raises(ValueError, match=r"(?i)shape"):
        v.assign([1.0, 2.0, 3.0])


@row("M41", spellings=("tf", "tensorflow"))
def test_assignment_of_another_dtype_is_refused(lib):
    v = lib.Variable([1.0, 2.0])

    with pytest.raises(ValueError, match=r"Cannot assign value to variable .*Shape mismatch"):
        v.assign([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="Shape mismatch"):
        v.assign(3.0)
    with pytest.raises(lib.errors.InvalidArgumentError):
        v.assign_sub(3.0)
    with pytest.raises(ValueError, match="requested dtype float32 for Tensor with dtype float64"):
        v.assign(lib.constant(np.array([1.0, 2.0])))


@row("M41", spellings=("dg",))
def test_assignment_of_another_kind_of_number_is_refused(lib):
    v = lib.Variable([1.0, 2.0])

    with pytest.raises(errors.DTypeError, match="expected the same kind of number"):
        v.assign([1j, 2j])
    v.assign(np.array([3.0, 4.0]))  # NumPy's float64 of the same kind is brought to float32
    assert v.numpy().dtype == np.float32
