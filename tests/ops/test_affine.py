"""nn.linear: what matmul and add give, in one record of a tape, in every mode."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("lead", [(), (3,), (40,), (2, 30), (2, 0, 3)])
@pytest.mark.parametrize("widths", [(5, 7), (128, 256)])
def test_values_are_those_of_a_product_and_a_sum(lead, widths):
    x, kernel, bias = normal(*lead, widths[0]), normal(*widths), normal(widths[1])

    result = dg.nn.linear(x, kernel, bias)

    assert result.dtype == np.float32
    np.testing.assert_allclose(result.numpy(), x @ kernel + bias, rtol=1e-5, atol=1e-4)
    alone = dg.nn.linear(x, kernel).numpy()
    np.testing.assert_array_equal(result.numpy(), alone + bias)


def test_a_tape_has_one_record_which_keeps_the_rows_and_the_kernel():
    x, kernel, bias = (dg.Variable(normal(*shape)) for shape in ((30, 5), (5, 7), (7,)))

    with dg.GradientTape() as tape:
        dg.nn.linear(x, kernel, bias)

    summary = tape.summary()
    assert (summary.records, summary.nbytes) == (1, 4 * (30 * 5 + 5 * 7))


def test_a_constant_kernel_keeps_no_rows():
    x, kernel, bias = dg.Variable(normal(30, 5)), normal(5, 7), dg.Variable(normal(7))

    with dg.GradientTape() as tape:
        y = dg.nn.linear(x, kernel, bias)

    assert tape.summary().nbytes == 4 * 5 * 7
    to_x, to_bias = tape.gradient(y, [x, bias])
    np.testing.assert_allclose(
        to_x.numpy(), np.tile(kernel.sum(axis=1), (30, 1)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(to_bias.numpy(), np.full(7, 30, np.float32))


def test_a_constant_input_gets_no_cotangent():
    x, kernel = normal(30, 5), dg.Variable(normal(5, 7))

    with dg.GradientTape() as tape:
        y = dg.nn.linear(x, kernel)

    assert tape.summary().nbytes == x.nbytes
    gradient = tape.gradient(y, kernel).numpy()
    np.testing.assert_allclose(gradient, np.tile(x.sum(axis=0)[:, None], (1, 7)), rtol=1e-5)


def test_large_gradients_are_those_of_a_product_and_a_sum():
    values = [normal(8, 64, 128), normal(128, 256), normal(256)]
    g = normal(8, 64, 256, seed=1)

    def gradients(of, dtype):
        variables = [dg.Variable(each.astype(dtype)) for each in values]
        with dg.GradientTape() as tape:
            y = of(*variables)
        return tape.gradient(y, variables, output_gradients=dg.asarray(g.astype(dtype)))

    found = gradients(dg.nn.linear, np.float32)
    exact = gradients(lambda x, kernel, bias: x @ kernel + bias, np.float64)

    for result, each in zip(found, exact, strict=True):
        np.testing.assert_allclose(result.numpy(), each.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("x", "kernel", "bias"),
    [
        ((3, 4), (5, 4), None),
        ((3, 4), (4,), None),
        ((3, 4), (2, 4, 5), None),
        ((), (4, 5), None),
        ((3, 4), (4, 5), (1,)),
        ((3, 4), (4, 5), (3, 5)),
        ((2, 3, 4), (4, 5), ()),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, kernel, bias):
    operands = [dg.ones(shape) for shape in (x, kernel, bias) if shape is not None]

    with pytest.raises(ShapeError, match="linear: "):
        dg.nn.linear(*operands)


def test_dtypes_promote_as_of_a_product_and_a_sum():
    x, kernel, bias = normal(3, 4), normal(4, 5).astype(np.float64), normal(5)

    assert dg.nn.linear(x, kernel.astype(np.float32), bias.astype(np.float64)).dtype == np.float64
    assert dg.nn.linear(x, kernel, bias).dtype == np.float64
    assert dg.nn.linear(x.astype(np.int32), kernel.astype(np.int32)).dtype == np.int32


def test_autocast_computes_all_of_it_in_the_narrow_dtype():
    layer = dg.nn.Dense(3).build(dg.ones((2, 4)), seed=0)

    with dg.autocast("float16"), dg.GradientTape() as tape:
        y = layer(dg.ones((2, 4)))
        loss = dg.sum(y)

    assert y.dtype == dg.float16
    assert [g.dtype for g in tape.gradient(loss, layer.trainable_variables)] == [dg.float32] * 2


def test_examples_with_a_kernel_each_are_products_of_their_own():
    x, kernels, biases = normal(6, 3, 4), normal(6, 4, 5), normal(6, 5)

    each = dg.vmap(dg.nn.linear)(x, kernels, biases)
    shared = dg.vmap(lambda x: dg.nn.linear(x, kernels[0], biases[0]))(x)

    np.testing.assert_allclose(each.numpy(), x @ kernels + biases[:, None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shared.numpy(), x @ kernels[0] + biases[0], rtol=1e-5, atol=1e-5)


def test_gradients_of_each_example_are_those_of_examples_alone():
    layer = dg.nn.Dense(3).build(dg.ones((2, 4)), seed=0)
    x = normal(5, 4)

    def loss(values, x):
        return dg.sum(dg.nn.functional_call(layer, values, x) ** 2)

    each = dg.vmap(dg.grad(loss), in_axes=(None, 0))(layer.state(), x)

    for place in range(5):
        alone = dg.grad(loss)(layer.state(), x[place])
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(
                each[name].numpy()[place], alone[name].numpy(), rtol=1e-5, atol=1e-6
            )


# --- with relu ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(40,), (2, 30), (), (0,)])
@pytest.mark.parametrize("widths", [(5, 7), (128, 256)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_relu_within_is_relu_of_the_result_in_values_and_gradients(lead, widths, with_bias):
    shapes = ((*lead, widths[0]), widths, widths[1:])[: 2 + with_bias]
    operands = [dg.Variable(normal(*shape)) for shape in shapes]
    cotangent = normal(*lead, widths[1], seed=1)

    with dg.GradientTape(persistent=True) as tape:
        within = dg.nn.linear(*operands, activation="relu")
        after = dg.nn.relu(dg.nn.linear(*operands))

    np.testing.assert_array_equal(within.numpy(), after.numpy())
    ours = tape.gradient(within, operands, output_gradients=cotangent)
    theirs = tape.gradient(after, operands, output_gradients=cotangent)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_the_cotangents_that_are_wanted_are_computed(activation, wanted):
    operands = [normal(40, 128), normal(128, 256), normal(256)]
    sources = [dg.asarray(each) for each in operands]
    with dg.GradientTape(persistent=True) as tape:
        tape.watch([sources[place] for place in wanted])
        y = dg.nn.linear(*sources, activation=activation)

    g = np.where(y.numpy() > 0, 1, 0) if activation else np.ones((40, 256))
    right = [g @ operands[1].T, operands[0].T @ g, g.sum(axis=0)]
    found = tape.gradient(y, sources)
    for place in range(3):
        if place in wanted:
            np.testing.assert_allclose(found[place].numpy(), right[place], rtol=1e-4, atol=1e-4)
        else:
            assert found[place] is None


def test_relu_within_stops_the_gradient_at_0_and_passes_nan_on():
    kernel = dg.Variable(np.array([[0.0, -1.0, 1.0, np.nan]], np.float32))
    with dg.GradientTape() as tape:
        y = dg.nn.linear(dg.ones((1, 1)), kernel, activation="relu")

    np.testing.assert_array_equal(y.numpy(), [[0, 0, 1, np.nan]])
    assert tape.gradient(y, kernel).tolist() == [[0, 0, 1, 0]]


def test_a_dense_layer_with_relu_is_one_record():
    layer = dg.nn.Dense(7, activation=dg.nn.relu)
    with dg.GradientTape() as tape:
        y = layer(normal(30, 5))

    assert tape.summary().records == 1
    assert y.numpy().min() == 0


def test_another_activation_within_is_refused():
    with pytest.raises(ValueError, match="activation is 'gelu'; expected None or 'relu'"):
        dg.nn.linear(normal(3, 5), normal(5, 7), activation="gelu")
