"""The public surface: names, arguments and defaults, as TensorFlow's users write them."""

import inspect

import numpy as np
import pytest

import distgrad as dg
from distgrad.compat.tensorflow import backprop, record

row = pytest.mark.row
TENSORFLOWS = ("tf", "tensorflow")


def arguments_of(function):
    """Return the arguments that a caller may give by name, without `self`, with their defaults."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind is parameter.KEYWORD_ONLY:
            continue
        if parameter.kind is not parameter.VAR_KEYWORD:
            default = parameter.default
            given[name] = getattr(default, "value", default)
    return given


NOTHING = inspect.Parameter.empty


@row("S1")
def test_tape_takes_two_switches_and_has_tensorflows_methods(lib):
    assert arguments_of(lib.GradientTape) == {"persistent": False, "watch_accessed_variables": True}
    for (
        name
    ) in "batch_jacobian gradient jacobian reset stop_recording watch watched_variables".split():
        assert callable(getattr(lib.GradientTape, name))


@row("S1", spellings=TENSORFLOWS)
def test_tape_has_its_second_name(lib):
    assert lib.autodiff.GradientTape is lib.GradientTape


@row("S2")
def test_watch_takes_one_nest(lib):
    assert arguments_of(lib.GradientTape.watch) == {"tensor": NOTHING}
    x, y = lib.constant(1.0), lib.constant(2.0)
    with lib.GradientTape() as tape:
        tape.watch({"x": x, "rest": [y]})
        z = x * y

    assert [g.numpy() for g in tape.gradient(z, [x, y])] == [2.0, 1.0]


@row("S3")
def test_gradient_takes_tensorflows_arguments(lib):
    assert arguments_of(lib.GradientTape.gradient) == {
        "target": NOTHING,
        "sources": NOTHING,
        "output_gradients": None,
        "unconnected_gradients": "none",
    }


@row("S4")
def test_jacobian_takes_tensorflows_arguments(lib):
    assert arguments_of(lib.GradientTape.jacobian) == {
        "target": NOTHING,
        "sources": NOTHING,
        "unconnected_gradients": "none",
        "parallel_iterations": None,
        "experimental_use_pfor": True,
    }


@row("S5")
def test_batch_jacobian_takes_tensorflows_arguments(lib):
    assert arguments_of(lib.GradientTape.batch_jacobian) == {
        "target": NOTHING,
        "source": NOTHING,
        "unconnected_gradients": "none",
        "parallel_iterations": None,
        "experimental_use_pfor": True,
    }


@row("S6")
def test_recording_is_stopped_and_reset_and_variables_are_told(lib):
    x = lib.Variable(3.0)
    with lib.GradientTape() as tape:
        x * x
        tape.reset()
        with tape.stop_recording():
            y = x * x
        z = x * y

    assert isinstance(tape.watched_variables(), tuple)
    assert tape.gradient(z, x).numpy() == 9.0


@row("S7")
def test_policies_for_unconnected_gradients_are_an_enumeration_of_two_words(lib):
    assert lib.UnconnectedGradients.NONE.value == "none"
    assert lib.UnconnectedGradients.ZERO.value == "zero"
    assert lib.UnconnectedGradients("zero") is lib.UnconnectedGradients.ZERO


@row("S8")
def test_accumulator_takes_primals_and_tangents(lib):
    assert arguments_of(lib.ForwardAccumulator) == {"primals": NOTHING, "tangents": NOTHING}
    names = arguments_of(lib.ForwardAccumulator.jvp)
    assert list(names.values()) == [NOTHING, "none"]
    assert list(names)[1] == "unconnected_gradients"


@row("S9", "C26")
def test_custom_gradient_is_a_decorator_with_and_without_brackets_and_of_methods(lib):
    class Layer:
        def __init__(self):
            self.w = lib.Variable(3.0)

        @lib.custom_gradient
        def call(self, x):
            """Multiply."""

            def grad(dy, variables):
                assert [id(v) for v in variables] == [id(self.w)]
                return 10.0 * dy, [dy * x]

            return x * self.w, grad

    @lib.custom_gradient()
    def bracketed(x):
        return x, lambda dy: 5.0 * dy

    x, layer = lib.constant(2.0), Layer()
    with lib.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, z = layer.call(x), bracketed(x)

    assert [g.numpy() for g in tape.gradient(y, [x, layer.w])] == [10.0, 2.0]
    assert tape.gradient(z, x).numpy() == 5.0
    assert bracketed.__wrapped__ is not None


@row("S10")
def test_recomputation_straight_through_and_stopping_take_one_argument(lib):
    x = lib.constant([0.4, 1.6])

    assert lib.gradient_of(lib.recompute_grad(lib.square), x).numpy().tolist() == pytest.approx(
        [0.8, 3.2]
    )
    through = lib.gradient_of(lib.grad_pass_through(lib.round), x)
    assert through.numpy().tolist() == [1.0, 1.0]
    assert lib.gradient_of(lib.stop_gradient, x) is None


@row("S12", "C27", spellings=TENSORFLOWS)
def test_gradients_are_checked_against_differences(lib):
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    theory, numbers = lib.test.compute_gradient(lib.matmul, [a, b])
    of_complex = lib.test.compute_gradient(lambda z: z * z, [np.array([1 + 2j])])

    for one, other in zip([*theory, *of_complex[0]], [*numbers, *of_complex[1]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert [each.shape for each in theory] == [(1, 2), (1, 2)]
    assert of_complex[0][0].shape == (2, 2)
    with pytest.raises(ValueError, match="`x` must be a list or tuple"):
        lib.test.compute_gradient(lib.sin, np.ones(2))


@row("S12", "C27", spellings=("dg",))
def test_gradients_are_checked_in_both_modes_and_to_second_order(lib):
    lib.testing.check_gradients(lambda a, b: dg.sum(dg.sin(a @ b)), (np.ones((2, 3)), np.eye(3)))

    @lib.custom_gradient
    def wrong(x):
        return x * x, lambda dy: 3.0 * x * dy

    with pytest.raises(AssertionError):
        lib.testing.check_gradients(wrong, (np.array([1.0, 2.0]),), order=1)


@row("S13", "C18")
def test_values_are_clipped(lib):
    found = lib.clip_by_value(lib.constant([-1.0, 0.5, 2.0]), 0.0, 1.0)

    assert found.numpy().tolist() == [0.0, 0.5, 1.0]


@row("S13", "C18", spellings=TENSORFLOWS)
def test_gradients_are_clipped_by_their_norms(lib):
    x, y = lib.constant([3.0, 4.0]), lib.constant([12.0])

    np.testing.assert_allclose(lib.clip_by_norm(x, 1.0).numpy(), [0.6, 0.8], rtol=1e-6)
    rows = lib.clip_by_norm(lib.constant([[3.0, 4.0], [0.3, 0.4]]), 1.0, axes=[1])
    np.testing.assert_allclose(rows.numpy(), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    clipped, norm = lib.clip_by_global_norm([x, None, y], 6.5)
    assert norm.numpy() == 13.0
    assert clipped[1] is None
    np.testing.assert_allclose(clipped[0].numpy(), [1.5, 2.0], rtol=1e-6)
    clipped, _ = lib.clip_by_global_norm([x], 1.0, use_norm=lib.constant(10.0))
    np.testing.assert_allclose(clipped[0].numpy(), [0.3, 0.4], rtol=1e-6)


@row("S14", "C27", spellings=TENSORFLOWS)
def test_numbers_are_checked_where_that_is_switched_on(lib):
    lib.debugging.enable_check_numerics()
    lib.debugging.enable_check_numerics()  # harmless
    try:
        with pytest.raises(lib.errors.InvalidArgumentError, match=r"(?i)log"):
            lib.math.log(lib.constant(-1.0))
    finally:
        lib.debugging.disable_check_numerics()

    with np.errstate(invalid="ignore"):
        nan = lib.math.log(lib.constant([1.0, -1.0]))
    with pytest.raises(lib.errors.InvalidArgumentError, match="the loss : Tensor had NaN values"):
        lib.debugging.check_numerics(nan, "the loss")
    x = lib.constant([1.0, 2.0])
    found = lib.gradient_of(lambda v: lib.debugging.check_numerics(v * v, "squares"), x)
    assert found.numpy().tolist() == [2.0, 4.0]


@row("S14", "C27", spellings=("dg",))
def test_numbers_are_checked_within_a_block(lib):
    with lib.debug_nans(), pytest.raises(FloatingPointError, match="log made a NaN"):
        lib.log(lib.asarray(-1.0))


@row("S15")
def test_functions_are_mapped_over_a_batch(lib):
    x = lib.constant([[1.0, 2.0], [3.0, 4.0]])
    mapped = lib.vmap(lib.sum) if lib.native else lambda v: lib.vectorized_map(lib.reduce_sum, v)

    assert mapped(x).numpy().tolist() == [3.0, 7.0]
    assert lib.gradient_of(lambda v: mapped(v * v), x).numpy().tolist() == [[2.0, 4.0], [6.0, 8.0]]


def functional(lib):
    """Return the modules of TensorFlow's functional forms, ours or its own."""
    if lib.name == "tf":
        return backprop, record
    from tensorflow.python.eager import backprop as theirs
    from tensorflow.python.eager import record as their_record

    return theirs, their_record


def cubic(x, y):
    """Return x^3 y - x y^2: its slopes are 3 x^2 y - y^2 and x^3 - 2 x y."""
    return x * x * x * y - x * y * y


@row("S16", spellings=TENSORFLOWS)
def test_gradients_in_arguments(lib):
    functions, _ = functional(lib)
    slopes = functions.gradients_function(cubic)
    value, (only,) = functions.val_and_grad_function(cubic, params=["y"])(2.0, 3.0)
    (second,) = functions.gradients_function(lambda x, y: slopes(x, y)[0], params=[0])(2.0, 3.0)
    square = functions.gradients_function(lambda x: x * x)
    (weighed,) = square(lib.constant([1.0, 2.0]), dy=lib.constant([1.0, 0.5]))

    assert [g.numpy() for g in slopes(2.0, 3.0)] == [27.0, -4.0]
    assert (value.numpy(), only.numpy(), second.numpy()) == (6.0, -4.0, 36.0)
    assert weighed.numpy().tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="params must be all strings or all integers"):
        functions.gradients_function(cubic, params=[0, "y"])(2.0, 3.0)
    with pytest.raises(ValueError, match="keyword arguments"):
        functions.gradients_function(cubic)(2.0, 3.0, z=1.0)


@row("S16", spellings=TENSORFLOWS)
def test_same_tensor_passed_twice_is_two_arguments(lib):
    functions, _ = functional(lib)
    one = lib.constant(3.0)

    assert [g.numpy() for g in functions.gradients_function(cubic)(one, one)] == [72.0, 9.0]


@row("S16", spellings=TENSORFLOWS)
def test_gradients_for_the_variables_that_a_function_reads(lib):
    functions, _ = functional(lib)
    w, b = lib.Variable(2.0), lib.Variable(1.0)
    value, pairs = functions.implicit_val_and_grad(lambda x: b + w * x)(lib.constant(5.0))

    assert value.numpy() == 11.0
    assert [(g.numpy(), v is w) for g, v in pairs] == [(5.0, True), (1.0, False)]
    assert functions.implicit_grad(lambda: w * w)()[0][0].numpy() == 4.0


@row("S16", spellings=TENSORFLOWS)
def test_vjp_pulls_cotangents_back(lib):
    functions, _ = functional(lib)
    value, vjp = functions.make_vjp(lambda x, y: (x * y, x))(2.0, 3.0)

    assert [v.numpy() for v in value] == [6.0, 2.0]
    assert [g.numpy() for g in vjp()] == [4.0, 2.0]
    assert [g.numpy() for g in vjp([lib.constant(1.0), lib.constant(0.0)])] == [3.0, 2.0]
    _, once = functions.make_vjp(lambda x: x * x, persistent=False)(2.0)
    once()
    with pytest.raises((RuntimeError, lib.errors.InternalError)):
        once()


@row("S16", spellings=TENSORFLOWS)
def test_operations_are_recorded_by_hand(lib):
    _, recording = functional(lib)
    x = lib.constant(2.0)
    with (
        lib.GradientTape() as tape,
        lib.autodiff.ForwardAccumulator(x, lib.constant(1.0)) as accumulator,
    ):
        tape.watch(x)
        with recording.stop_recording():
            y, z = x * 3.0, x * 4.0
        recording.record_operation("Mine", [y, z], [x], lambda dy, dz: [5.0 * dy + 7.0 * dz])

        assert recording.could_possibly_record()
        assert recording.should_record_backprop([y])
        assert not recording.should_record_backprop([lib.constant(1.0)])
    assert not recording.could_possibly_record()
    assert tape.gradient([y, z], x).numpy() == 12.0
    assert accumulator.jvp(z).numpy() == 7.0


@row("S16", spellings=TENSORFLOWS)
def test_a_backward_function_that_iterates_is_transposed_where_it_has_work_to_do(lib):
    _, recording = functional(lib)
    x, y = lib.constant([1.0, 3.0]), lib.constant([2.0, 6.0])

    def doubled(dy):
        total = step = dy
        while float(lib.reduce_max(lib.abs(step))) > 1e-7:
            step = step * 0.5
            total = total + step
        return [total]

    with lib.autodiff.ForwardAccumulator(x, lib.constant([1.0, 3.0])) as accumulator:
        recording.record_operation("Doubled", [y], [x], doubled)

    np.testing.assert_allclose(accumulator.jvp(y).numpy(), [2.0, 6.0], rtol=1e-4)


@row("S16", spellings=TENSORFLOWS)
def test_operations_are_recorded_by_hand_for_one_mode_alone(lib):
    _, recording = functional(lib)
    x = lib.constant(2.0)
    with (
        lib.GradientTape(persistent=True) as tape,
        lib.autodiff.ForwardAccumulator(x, lib.constant(1.0)) as accumulator,
    ):
        tape.watch(x)
        with recording.stop_recording():
            y, z = x * 3.0, x * 4.0
        recording.record_operation_backprop_only("Back", [y], [x], lambda dy: [5.0 * dy])
        recording.record_operation_forwardprop_only("Forth", [z], [x], lambda dz: [7.0 * dz], None)

    assert tape.gradient(y, x).numpy() == 5.0
    assert tape.gradient(z, x) is None
    assert accumulator.jvp(y) is None
    assert accumulator.jvp(z).numpy() == 7.0


@row("S16", spellings=TENSORFLOWS)
def test_variables_that_are_read_are_noted(lib):
    _, recording = functional(lib)
    first, second = lib.Variable(1.0), lib.Variable(2.0, trainable=False)
    with recording.VariableWatcher() as watcher:
        first * second

    assert [v is first for v in watcher.watched_variables()] == [True]


@row("S16", spellings=("dg",))
def test_functional_forms_have_the_names_of_jax_and_torch(lib):
    value, slopes = lib.value_and_grad(cubic, argnums=(0, 1))(2.0, 3.0)
    pulled = lib.vjp(cubic, 2.0, 3.0)[1](1.0)

    assert (float(value), *map(float, slopes)) == (6.0, 27.0, -4.0)
    assert [float(g) for g in pulled] == [27.0, -4.0]
    assert float(lib.grad(lib.grad(cubic))(2.0, 3.0)) == 36.0


@row("S17", "B11", spellings=("dg",))
def test_hessians_and_products_with_them_are_functions(lib):
    x, v = lib.asarray([1.0, 2.0]), lib.asarray([1.0, 0.0])

    def f(x):
        return lib.sum(x**3)

    assert lib.hessian(f)(x).numpy().tolist() == [[6.0, 0.0], [0.0, 12.0]]
    assert lib.hvp(f, (x,), (v,))[1][0].numpy().tolist() == [6.0, 0.0]
    assert lib.jacfwd(lib.grad(f))(x).numpy().tolist() == [[6.0, 0.0], [0.0, 12.0]]
    value, slope = lib.value_and_grad(f)(x)
    assert (float(value), slope.numpy().tolist()) == (9.0, [3.0, 12.0])


@row("S17", "B11", spellings=("tf",), differs="TensorFlow has none of them in eager programs")
def test_hessian_comes_from_the_tapes_of_tensorflows_names(lib):
    x = lib.Variable([1.0, 2.0])
    with lib.GradientTape(persistent=True) as tape:
        y = lib.reduce_sum(x**3)
    slope = tape.gradient(y, x)  # after the block

    assert tape.jacobian(slope, x).numpy().tolist() == [[6.0, 0.0], [0.0, 12.0]]
