"""What tutorials on TensorFlow's tape show, with the numbers and the text that they print.

Numbers are those of TensorFlow 2.21 on a CPU, except where it gives None and a derivative exists.
"""

import numpy as np
import pytest

import distgrad as dg


def test_the_gradient_of_a_square_prints_as_a_float32_scalar(capsys):
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x**2
    print(tape.gradient(y, x))

    assert capsys.readouterr().out == "dg.Tensor(6.0, shape=(), dtype=float32)\n"


def test_two_variables_give_a_list_that_unpacks():
    x, y = dg.Variable(3.0), dg.Variable(2.0)
    with dg.GradientTape() as tape:
        z = x**2 + y**3
    gradients = tape.gradient(z, [x, y])

    assert type(gradients) is list
    dz_dx, dz_dy = gradients
    assert str(dz_dx) == "dg.Tensor(6.0, shape=(), dtype=float32)"
    assert str(dz_dy) == "dg.Tensor(12.0, shape=(), dtype=float32)"


def test_a_persistent_tape_differentiates_two_values_of_a_chain():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x**2
        z = y**2

    assert float(tape.gradient(y, x)) == 6.0
    assert float(tape.gradient(z, x)) == 108.0  # d(x^4)/dx, not (dy/dx)^2
    del tape


def test_a_linear_model_takes_one_step_with_broadcast_parameters():
    weight = dg.Variable([0.5], name="weight")
    bias = dg.Variable([0.25], name="bias")
    x = dg.asarray([[1.0], [2.0], [3.0]])
    y = dg.asarray([[2.0], [4.0], [6.0]])
    with dg.GradientTape() as tape:
        loss = dg.mean(dg.square(weight * x + bias - y))
    to_weight, to_bias = tape.gradient(loss, [weight, bias])
    weight.assign_sub(0.01 * to_weight)
    bias.assign_sub(0.01 * to_bias)

    assert float(loss) == 9.0625
    np.testing.assert_allclose(to_weight.numpy(), [-13.0], rtol=1e-6)
    np.testing.assert_allclose(to_bias.numpy(), [-5.5], rtol=1e-6)
    np.testing.assert_allclose(weight.numpy(), [0.63], rtol=1e-6)


def test_watching_a_variable_by_hand_is_harmless():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        tape.watch(x)
        tape.watch(y)
        z = x * y

    assert (float(tape.gradient(z, x)), float(tape.gradient(z, y))) == (3.0, 2.0)


def test_closures_and_nested_functions_are_followed():
    x = dg.Variable(3.0)

    def outer(y):
        def inner(value):
            return x * value**2

        return inner(y)

    with dg.GradientTape() as tape:
        z = outer(2.0)

    assert float(tape.gradient(z, x)) == 4.0


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_the_second_derivative_of_a_linear_function_is_unconnected():
    x = dg.Variable(3.0)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            z = x * 2.0**2
        first = inner.gradient(z, x)
        second = outer.gradient(first, x)

    assert float(first) == 4.0
    assert second is None


def test_an_f_string_shows_the_number_alone():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x**2
    slope = tape.gradient(y, x)

    assert f"dy/dx: {slope}" == "dy/dx: 6.0"
    assert f"{slope.numpy()}" == "6.0"
    assert f"{slope:.3f}" == "6.000"


def test_one_persistent_tape_gives_two_orders_after_its_block_and_can_be_closed():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x**3
    first = tape.gradient(y, x)
    second = tape.gradient(first, x)
    tape.close()

    assert (float(first), float(second)) == (27.0, 18.0)


def test_partial_derivatives_of_a_sum_of_powers():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        z = x**2 + y**3
    dz_dx, dz_dy = tape.gradient(z, [x, y])

    assert (dz_dx.numpy(), dz_dy.numpy()) == (4.0, 27.0)


def test_a_product_of_one_variable_with_itself():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x * x

    assert tape.gradient(y, x).numpy() == 27.0


def test_a_constant_is_differentiated_once_it_is_watched():
    a = dg.asarray(2.0)
    with dg.GradientTape() as tape:
        tape.watch(a)
        b = a * a + 3

    assert tape.gradient(b, a).numpy() == 4.0


def test_nested_tapes_give_the_first_and_the_second_derivative():
    x = dg.Variable(5.0)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = x * x
        first = inner.gradient(y, x)
    second = outer.gradient(first, x)

    assert (float(first), float(second)) == (10.0, 2.0)


def test_a_persistent_tape_repeats_its_answer():
    x = dg.Variable(4.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x**3

    assert [float(tape.gradient(y, x)) for _ in range(3)] == [48.0, 48.0, 48.0]


def test_linear_regression_prints_the_known_progress():
    w, b = dg.Variable(0.0), dg.Variable(0.0)
    x = dg.asarray([1.0, 2.0, 3.0, 4.0])
    y = 3 * x + 2
    lines = []
    for epoch in range(1000):
        with dg.GradientTape() as tape:
            loss = dg.mean(dg.square(y - (w * x + b)))
        to_w, to_b = tape.gradient(loss, [w, b])
        if epoch == 0:
            assert (float(to_w), float(to_b)) == (-55.0, -19.0)
        w.assign_sub(0.01 * to_w)
        b.assign_sub(0.01 * to_b)
        if epoch % 100 == 0:
            lines.append(f"Epoch {epoch}: Loss = {loss:.4f}, W = {w.numpy():.4f}, b = {b:.4f}")

    assert lines[0] == "Epoch 0: Loss = 101.5000, W = 0.5500, b = 0.1900"
    assert lines[1] == "Epoch 100: Loss = 0.0707, W = 3.2206, b = 1.3514"
    assert lines[5] == "Epoch 500: Loss = 0.0064, W = 3.0665, b = 1.8045"
    assert lines[9] == "Epoch 900: Loss = 0.0006, W = 3.0200, b = 1.9411"
    # A thousand float32 steps: rounding may differ in the last digits between machines.
    np.testing.assert_allclose(w.numpy(), 3.0148926, rtol=1e-5)
    np.testing.assert_allclose(b.numpy(), 1.9562136, rtol=1e-5)


def test_a_dense_layer_learns_by_cross_entropy_of_logits_as_the_written_out_formula_does():
    x = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, -1.0], [-0.5, 0.25], [1.5, 1.5]])
    y = np.array([[1.0], [0.0], [0.0], [1.0], [0.0]])
    weights = dg.Variable([[0.1], [-0.2]], dtype="float64")
    bias = dg.Variable([0.0], dtype="float64")
    expected_weights, expected_bias = np.array([[0.1], [-0.2]]), np.zeros(1)
    for _ in range(200):
        with dg.GradientTape() as tape:
            logits = dg.matmul(x, weights) + bias
            loss = dg.mean(dg.sigmoid_cross_entropy(labels=y, logits=logits))
        to_weights, to_bias = tape.gradient(loss, [weights, bias])
        weights.assign_sub(0.1 * to_weights)
        bias.assign_sub(0.1 * to_bias)
        residual = (1 / (1 + np.exp(-(x @ expected_weights + expected_bias))) - y) / len(y)
        expected_weights = expected_weights - 0.1 * x.T @ residual
        expected_bias = expected_bias - 0.1 * residual.sum(axis=0)

    np.testing.assert_allclose(weights.numpy(), expected_weights, rtol=1e-12)
    np.testing.assert_allclose(bias.numpy(), expected_bias, rtol=1e-12)
    assert float(loss) < 0.5


def test_the_hinge_loss_switches_its_active_set():
    w, b = dg.Variable([[1.0]]), dg.Variable([0.0])
    x = dg.asarray([[2.0], [-1.5], [0.0]])
    y = dg.asarray([1.0, -1.0, 1.0])
    for step in range(300):
        with dg.GradientTape() as tape:
            logits = dg.matmul(x, w) + b
            loss = dg.mean(dg.maximum(0.0, 1 - y * dg.squeeze(logits)))
        to_w, to_b = tape.gradient(loss, [w, b])
        if step == 0:
            assert to_w.numpy().tolist() == [[0.0]]
            np.testing.assert_allclose(to_b.numpy(), [-1 / 3], rtol=1e-6)
        w.assign_sub(0.01 * to_w)
        b.assign_sub(0.01 * to_b)

    # The second example's hinge is on and off in turn from b > 0.5 on; each step moves w by 0.005
    # and b by 0.0033, so one step more or less of rounding is within these tolerances.
    np.testing.assert_allclose(w.numpy(), [[1.2299998]], atol=0.006)
    np.testing.assert_allclose(b.numpy(), [0.846666], atol=0.004)
    np.testing.assert_allclose(float(loss), 0.05222, atol=0.003)


def test_one_step_of_a_policy_gradient_through_softmax():
    theta = dg.Variable([0.5, -0.5])
    reward = dg.asarray([1.0, 2.0])
    with dg.GradientTape() as tape:
        expected_reward = dg.sum(dg.softmax(theta) * reward)
        loss = -expected_reward
    slope = tape.gradient(loss, theta)
    theta.assign_sub(0.1 * slope)

    np.testing.assert_allclose(slope.numpy(), [0.19661191, -0.19661194], rtol=1e-6)
    np.testing.assert_allclose(theta.numpy(), [0.4803388, -0.4803388], rtol=1e-6)


def test_a_training_step_takes_variables_as_arguments_and_returns_loss_and_gradients():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(7, 3)).astype("float32")
    y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
    weights, bias = dg.Variable(np.zeros((3, 1), "float32")), dg.Variable(np.zeros(1, "float32"))

    def train_step(x, y, weights, bias):
        with dg.GradientTape() as tape:
            loss = dg.mean(dg.square(x @ weights + bias - y))
        return loss, tape.gradient(loss, [weights, bias])

    losses = []
    for _ in range(100):
        loss, gradients = train_step(x, y, weights, bias)
        assert type(gradients) is list
        for variable, gradient in zip((weights, bias), gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        losses.append(float(loss))

    assert losses[-1] < 0.01 * losses[0]


def test_a_product_of_sine_and_exponential():
    x = dg.asarray(1.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        z = dg.sin(x) * dg.exp(x)

    np.testing.assert_allclose(z.numpy(), 2.2873552, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(z, x).numpy(), 3.7560492, rtol=1e-6)


@pytest.mark.parametrize(("start", "slope"), [(1.5, 3.0), (-1.5, -1.0)])
def test_control_flow_follows_the_branch_that_was_taken(start, slope):
    x = dg.Variable(start)
    with dg.GradientTape() as tape:
        y = x * x if x > 0.0 else -x
    assert float(tape.gradient(y, x)) == slope


def test_a_loop_of_unknown_length_is_unrolled_as_it_ran():
    x = dg.Variable(2.0)
    with dg.GradientTape() as tape:
        y = x
        while y < 100.0:
            y = y * x
    exponent = 7  # 2**7 = 128 is the first power of two above 100

    assert float(y) == 2.0**exponent
    assert float(tape.gradient(y, x)) == exponent * 2.0 ** (exponent - 1)
