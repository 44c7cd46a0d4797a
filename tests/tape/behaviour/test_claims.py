"""What tutorials claim of the tape in prose, as far as no other file of this folder shows it."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.compat import tensorflow as compat

row = pytest.mark.row


@row("C2")
def test_what_ran_is_walked_back_in_the_order_in_which_it_ran(lib):
    x = lib.Variable(2.0)
    with lib.GradientTape() as one:
        y = x * x
        y = y + 3.0 * y * x
    with lib.GradientTape() as other:
        z = 3.0 * x * x
        z = z * z + x

    assert one.gradient(y, x).numpy() == 2 * 2.0 + 9 * 2.0**2
    assert other.gradient(z, x).numpy() == 36 * 2.0**3 + 1


@row("C11")
def test_gradient_has_the_shape_of_its_source(lib):
    x, row_, scalar = lib.ones((3, 4)), lib.ones((4,)), lib.constant(2.0)
    with lib.GradientTape() as tape:
        tape.watch([x, row_, scalar])
        y = x * row_ + scalar
    found = tape.gradient(y, [x, row_, scalar])

    assert [tuple(g.shape) for g in found] == [(3, 4), (4,), ()]
    assert found[1].numpy().tolist() == [3.0] * 4
    assert found[2].numpy() == 12.0


@row("C14")
def test_newtons_method_with_a_hessian_from_nested_tapes(lib):
    # The minimum of (x - 1)^4 + (y + 2)^2 + x y, by its own slopes: both vanish where it stops.
    point = lib.Variable(np.array([2.0, 1.0]))
    for _ in range(30):
        with lib.GradientTape() as outer:
            with lib.GradientTape() as inner:
                x, y = point[0], point[1]
                loss = (x - 1.0) ** 4 + (y + 2.0) ** 2 + x * y
            slope = inner.gradient(loss, point)
        hessian = outer.jacobian(slope, point)
        point.assign_sub(np.linalg.solve(hessian.numpy(), slope.numpy()))

    np.testing.assert_allclose(slope.numpy(), [0.0, 0.0], atol=1e-10)


@row("C15")
def test_gradient_penalty_of_a_critic_trains_its_weights(lib):
    # A critic whose slope in its input is held at 1, as in a GAN: d/dw (|df/dx| - 1)^2.
    w = lib.Variable(np.array([[0.5], [2.0]]))
    sample = lib.constant(np.array([[1.0, -1.0], [0.5, 2.0], [0.25, 0.75]]))
    penalties = []
    for _ in range(200):
        with lib.GradientTape() as outer:
            with lib.GradientTape() as inner:
                inner.watch(sample)
                score = lib.tanh(lib.matmul(sample, w))
            slope = inner.gradient(score, sample)
            length = lib.sqrt(lib.reduce_sum(slope * slope, axis=1))
            penalty = lib.reduce_mean((length - 1.0) ** 2)
        w.assign_sub(0.1 * outer.gradient(penalty, w))
        penalties.append(float(penalty))

    assert penalties[-1] < 0.5 * penalties[0]


@row("C16")
def test_recurrent_network_learns_the_sum_of_a_sequence(lib):
    generator = np.random.default_rng(0)
    sequences = generator.uniform(-0.5, 0.5, size=(20, 5)).astype("float32")
    truth = lib.constant(sequences.sum(axis=1, keepdims=True))
    u, w = lib.Variable([[0.5]]), lib.Variable([[0.1]])
    losses = []
    for _ in range(150):
        with lib.GradientTape() as tape:
            state = lib.zeros((20, 1))
            for step in range(5):
                given = lib.constant(sequences[:, step : step + 1])
                state = lib.tanh(lib.matmul(given, u) + lib.matmul(state, w))
            loss = lib.reduce_mean((state - truth) ** 2)
        for variable, gradient in zip((u, w), tape.gradient(loss, [u, w]), strict=True):
            variable.assign_sub(0.5 * gradient)
        losses.append(float(loss))

    assert losses[-1] < 0.1 * losses[0]


@row("C17")
def test_accumulated_gradients_are_those_of_the_whole_batch(lib):
    x = np.arange(12.0, dtype="float32").reshape(6, 2) / 10
    w = lib.Variable([[0.3], [-0.7]])

    def slope_of(part):
        with lib.GradientTape() as tape:
            loss = lib.reduce_sum(lib.tanh(lib.matmul(lib.constant(part), w)) ** 2)
        return tape.gradient(loss, w)

    total = slope_of(x[:2])
    for start in (2, 4):
        total = total + slope_of(x[start : start + 2])

    np.testing.assert_allclose(total.numpy(), slope_of(x).numpy(), rtol=1e-5)


@row("C17", spellings=("dg",))
def test_gradients_are_averaged_over_ranks_by_the_same_call(lib):
    import distgrad.distributed as dist

    w = lib.Variable([1.0, 2.0])
    with dist.DistributedGradientTape(lib.GradientTape()) as tape:
        loss = lib.sum(w * w)

    assert tape.gradient(loss, w).numpy().tolist() == [2.0, 4.0]


@row("C19")
@pytest.mark.parametrize(("start", "slope"), [(1.5, 3.0), (-1.5, -1.0)])
def test_control_flow_follows_the_branch_that_was_taken(lib, start, slope):
    x = lib.Variable(start)
    with lib.GradientTape() as tape:
        y = x * x if x > 0.0 else -x

    assert tape.gradient(y, x).numpy() == slope


@row("C19")
def test_loop_of_unknown_length_is_unrolled_as_it_ran(lib):
    x = lib.Variable(2.0)
    with lib.GradientTape() as tape:
        y = x
        while y < 100.0:
            y = y * x
    exponent = 7  # 2**7 = 128 is the first power of two above 100

    assert y.numpy() == 2.0**exponent
    assert tape.gradient(y, x).numpy() == exponent * 2.0 ** (exponent - 1)


@row("C25", spellings=("dg", "tf"), differs="TensorFlow shows its simplified graphs elsewhere")
def test_traced_graph_is_simplified(lib):
    @lib.function
    def f(x):
        unused = lib.exp(x)  # noqa: F841
        return lib.sin(x) * lib.sin(x)

    text = str(f.graph(lib.constant(1.0)))

    assert text.count("sin(") == 1
    assert "exp" not in text


@row("C28")
def test_tensors_print_as_numbers_where_that_is_wanted(lib):
    x, v = lib.constant(6.0), lib.constant([1.0, 2.0])

    assert str(x) == lib.text("6.0")
    assert f"{x}" == f"{x.numpy()}" == "6.0"
    assert f"{v}" == "[1. 2.]"
    assert repr(x).startswith(f"<{lib.prefix}.Tensor: shape=(), dtype=float32,")
    assert isinstance(v.numpy(), np.ndarray)


@row("C29", spellings=("tf", "tensorflow"))
@pytest.mark.parametrize(
    "name",
    ["square", "reduce_mean", "reduce_sum", "matmul", "maximum", "squeeze", "nn.softmax",
     "nn.sigmoid_cross_entropy_with_logits", "math.sin", "math.cos", "math.exp", "random.normal",
     "zeros", "constant"],
)  # fmt: skip
def test_operations_of_the_tutorials_are_there(lib, name):
    module = lib.module
    for part in name.split("."):
        module = getattr(module, part)

    assert callable(module)


@row("C29", spellings=("dg",))
def test_operations_of_the_tutorials_have_our_names(lib):
    names = "square mean sum matmul maximum squeeze softmax sigmoid_cross_entropy sin cos exp zeros"

    assert all(callable(getattr(dg, name)) for name in [*names.split(), "asarray"])


def test_tensorflows_names_are_a_layer_without_mathematics_of_its_own():
    assert issubclass(compat.GradientTape, dg.GradientTape)
    assert issubclass(compat.Variable, dg.Variable)
