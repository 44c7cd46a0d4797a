"""float16 on NumPy: sums of many numbers are those of float32, rounded once."""

import numpy as np
import pytest

import distgrad as dg

COUNT = 5000  # a sum of ones in half precision stops at 2048
half = {"dtype": "float16"}


@pytest.fixture
def ones():
    return dg.ones((COUNT, 3), **half)


@pytest.mark.parametrize(
    "total",
    [
        lambda x: dg.sum(x, axis=0),
        lambda x: x.sum(axis=0),
        lambda x: np.add.reduce(x, axis=0),
        lambda x: dg.einsum("ij->j", x),
        lambda x: dg.linalg.vector_norm(x, axis=0, ord=1),
        lambda x: dg.cumulative_sum(x, axis=0)[-1],
        lambda x: dg.zeros((2, 3), **half).at[np.zeros(COUNT, int)].add(x)[0],
        lambda x: dg.softmax(x, axis=0)[0] * COUNT * COUNT,
    ],
)
@pytest.mark.parametrize("traced", [False, True])
def test_many_ones_along_the_first_axis_are_all_counted(total, traced, ones):
    found = (dg.function(total) if traced else total)(ones)

    assert found.dtype == np.float16
    np.testing.assert_allclose(found.numpy(), COUNT, rtol=2e-3)


def test_a_product_of_many_numbers_is_rounded_once():
    near = np.full((600, 2), 1.0 + 2.0**-10, np.float16)  # whose powers half takes for sums

    found = dg.prod(dg.asarray(near), axis=0), dg.cumulative_prod(dg.asarray(near), axis=0)[-1]

    np.testing.assert_allclose(found[0].numpy(), (1 + 2.0**-10) ** 600, rtol=1e-3)
    np.testing.assert_allclose(found[1].numpy(), (1 + 2.0**-10) ** 600, rtol=1e-3)


def test_a_finite_sum_may_pass_what_half_precision_holds():
    x = np.outer([1, 1, -1, -1], np.full(3, 60000.0)).astype(np.float16)

    assert dg.sum(dg.asarray(x), axis=0).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x + w,
        lambda x, w: dg.nn.linear(x, dg.eye(3, **half), w),
        lambda x, w: dg.broadcast_to(w, (COUNT, 3)),
        lambda x, w: w[np.arange(COUNT * 3) % 3],
        lambda x, w: dg.take(w, np.arange(COUNT * 3) % 3),
    ],
)
def test_a_bias_of_many_examples_gets_the_whole_gradient(use, ones):
    bias = dg.Variable(np.zeros(3), **half)

    with dg.GradientTape() as tape:
        loss = dg.sum(dg.astype(use(ones, bias), "float32"))

    assert tape.gradient(loss, bias).tolist() == [COUNT] * 3


@pytest.mark.parametrize("take", [lambda g: g.to_dense(), lambda g: g.coalesce().values])
def test_rows_of_a_table_that_many_examples_read_get_the_whole_gradient(take):
    table = dg.Variable(np.zeros((2, 3)), **half)

    with dg.GradientTape() as tape:
        loss = dg.sum(dg.astype(dg.embedding(table, np.zeros(COUNT, int)), "float32"))

    assert take(tape.gradient(loss, table))[0].tolist() == [COUNT] * 3


@pytest.mark.parametrize("layer", [dg.nn.LSTM, dg.nn.GRU])
def test_gradients_of_recurrent_biases_are_those_of_single_precision(layer):
    x = np.zeros((COUNT, 2, 3), np.float32)
    recurrent = layer(4).build(x[:1], seed=0)
    state = {name: dg.astype(value, "float16") for name, value in recurrent.state().items()}

    def total(state, x):
        return dg.sum(dg.astype(dg.nn.functional_call(recurrent, state, x), "float32"))

    found = dg.grad(total)(state, x.astype(np.float16))
    wide = dg.grad(total)({name: dg.astype(v, "float32") for name, v in state.items()}, x)

    for name in (name for name in state if "bias" in name):
        np.testing.assert_allclose(
            found[name].numpy().astype(float), wide[name].numpy(), rtol=4e-3, atol=2.0
        )


def test_the_cross_entropy_of_columns_counts_all_classes(ones):
    loss = dg.softmax_cross_entropy(labels=np.zeros(3, int), logits=ones.mT)

    np.testing.assert_allclose(loss.numpy(), np.log(COUNT), rtol=2e-3)
