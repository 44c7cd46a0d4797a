"""Mixed precision: products narrow, sums wide, gradients in the variables' own dtype."""

import threading

import numpy as np
import pytest

import distgrad as dg
from distgrad.autocasting import NARROW, WIDE
from distgrad.core.seam import OPEN_KEEPERS
from distgrad.errors import DTypeError
from distgrad.ops import VOCABULARY
from distgrad.testing.inputs import values


def array(*shape, seed=0):
    return dg.asarray(values(shape, -1.0, 1.0, seed), dtype="float32")


NARROW_CALLS = {
    "matmul": lambda: array(3, 4) @ array(4, 2),
    "einsum": lambda: dg.einsum("ij,jk->ik", array(3, 4), array(4, 2)),
    "tensordot": lambda: dg.tensordot(array(3, 4), array(4, 2), axes=1),
    "conv": lambda: dg.nn.conv(array(1, 5, 5, 2), array(3, 3, 2, 3)),
    "attention": lambda: dg.nn.scaled_dot_product_attention(*(array(1, 2, 4, 8),) * 3),
    "variable": lambda: dg.Variable(array(3, 4)) @ array(4, 2),
    "NumPy array": lambda: array(3, 4) @ np.ones((4, 2), np.float32),
}


def narrow_array(*shape):
    return dg.astype(array(*shape), "float16")


WIDE_CALLS = {
    "sum": lambda: dg.sum(narrow_array(3, 4)),
    "softmax": lambda: dg.softmax(narrow_array(3, 4)),
    "layer_norm": lambda: dg.nn.layer_norm(narrow_array(3, 4)),
    "exp": lambda: dg.exp(narrow_array(3)),
    "cross-entropy": lambda: dg.softmax_cross_entropy(
        labels=dg.asarray([0, 3, 1]), logits=narrow_array(3, 4)
    ),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NARROW_CALLS)
def test_products_are_narrow(name, dtype):
    with dg.autocast(dtype):
        y = NARROW_CALLS[name]()

    assert y.dtype.name == dtype
    assert NARROW_CALLS[name]().dtype == "float32"


@pytest.mark.parametrize("name", WIDE_CALLS)
def test_sums_softmax_norms_and_losses_are_wide(name):
    with dg.autocast("float16"):
        y = WIDE_CALLS[name]()

    assert y.dtype == "float32"
    assert WIDE_CALLS[name]().dtype == "float16"


def test_other_operations_compute_in_what_they_are_given():
    with dg.autocast("float16"):
        assert (narrow_array(3) + narrow_array(3)).dtype == "float16"
        assert (narrow_array(3) + array(3)).dtype == "float32"
        assert dg.tanh(array(3)).dtype == "float32"


@pytest.mark.parametrize("dtype", ["float64", "complex64", "int32"])
def test_wide_complex_and_integer_operands_stay(dtype):
    x = dg.ones((2, 2), dtype=dtype)

    with dg.autocast("float16"):
        assert (x @ x).dtype == dtype


def network(weights, bias, x, labels):
    hidden = dg.tanh(x @ weights + bias)
    return dg.mean(dg.softmax_cross_entropy(labels=labels, logits=hidden @ weights))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("wrap", [lambda f: f, dg.function], ids=["eager", "traced"])
def test_gradients_come_back_in_the_variables_dtype_and_are_close(wrap, dtype):
    weights, bias = dg.Variable(array(4, 4)), dg.Variable(array(4, seed=1))
    x, labels = array(6, 4, seed=2), dg.asarray([0, 1, 2, 3, 0, 1])
    step = wrap(lambda given: network(weights, bias, given, labels))

    def gradients():
        with dg.GradientTape() as tape:
            loss = step(x)
        return [loss, *tape.gradient(loss, [weights, bias])]

    expected = gradients()
    with dg.autocast(dtype):
        found = gradients()

    assert [each.dtype.name for each in found] == ["float32"] * 3
    for given, wide in zip(found, expected, strict=True):
        assert not np.array_equal(given.numpy(), wide.numpy())  # something was narrow
        np.testing.assert_allclose(given.numpy(), wide.numpy(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    "joined",
    [
        lambda y, other: y + other,
        lambda y, other: dg.where(other > 0, other, y),
        lambda y, other: dg.concat([other, y]),
    ],
    ids=["sum", "choice", "concat"],
)
def test_cotangents_of_products_are_narrow_where_float32_is_joined_to_them(joined):
    weights, other, seen = dg.Variable(array(4, 4)), array(6, 4, seed=1), []

    @dg.custom_gradient
    def noting(y):
        return y, lambda g: (seen.append(g.dtype.name), g)[1]

    with dg.autocast("bfloat16"), dg.GradientTape() as tape:
        y = joined(noting(array(6, 4, seed=2) @ weights), other)

    assert y.dtype == "float32"
    assert tape.gradient(y, weights).dtype == "float32"
    assert seen == ["bfloat16"]


@pytest.mark.parametrize("layer", [dg.nn.Conv, dg.nn.ConvTranspose, dg.nn.Dense])
def test_layers_of_products_are_narrow_with_their_bias(layer):
    model = (layer(3) if layer is dg.nn.Dense else layer(3, 2)).build(array(2, 5, 4))

    with dg.autocast("bfloat16"):
        assert model(array(2, 5, 4)).dtype == "bfloat16"
    assert model(array(2, 5, 4)).dtype == "float32"


def test_a_traced_function_is_traced_for_each_setting():
    product = dg.function(lambda a, b: a @ b)
    operands = array(3, 4), array(4, 2)

    found = [product(*operands).dtype.name]
    with dg.autocast("float16"):
        found.append(product(*operands).dtype.name)
    found.append(product(*operands).dtype.name)

    assert found == ["float32", "float16", "float32"]


def test_mapped_functions_compute_as_loops_do():
    rows, weights = array(5, 4), array(4, 3)

    with dg.autocast("float16"):
        mapped = dg.vmap(lambda row: row @ weights)(rows)
        looped = dg.stack([row @ weights for row in rows])

    assert mapped.dtype == "float16"
    np.testing.assert_allclose(mapped.numpy(), looped.numpy(), rtol=2**-9, atol=2**-10)


def test_a_block_ends_with_an_error_and_others_may_stand_within():
    with dg.autocast("float16"):
        with dg.autocast("float16", enabled=False):
            assert NARROW_CALLS["matmul"]().dtype == "float32"
        assert NARROW_CALLS["matmul"]().dtype == "float16"
    with pytest.raises(ZeroDivisionError), dg.autocast("float16"):
        _ = 1 / 0

    assert NARROW_CALLS["matmul"]().dtype == "float32"
    assert not OPEN_KEEPERS


def test_other_threads_are_not_touched():
    found = []

    with dg.autocast("float16"):
        thread = threading.Thread(target=lambda: found.append(NARROW_CALLS["matmul"]().dtype.name))
        thread.start()
        thread.join()

    assert found == ["float32"]


def test_the_lists_name_operations_and_share_none():
    assert NARROW.isdisjoint(WIDE)
    assert VOCABULARY.keys() >= NARROW | WIDE


def test_another_dtype_is_refused():
    with (
        pytest.raises(DTypeError, match="autocast: dtype is float32; expected float16 or"),
        dg.autocast("float32"),
    ):
        pass


def recomputed_loss(weights, x):
    return dg.sum(dg.tanh(x @ weights) @ weights)


@pytest.mark.parametrize(("forward", "backward"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("traced", [False, True])
def test_what_is_computed_again_is_computed_in_the_dtypes_of_the_first_time(
    forward, backward, traced
):
    x, weights = array(3, 4), dg.Variable(array(4, 4, seed=1))
    again = dg.recompute_grad(recomputed_loss)
    seen = []
    for f in (dg.function(again) if traced else again, recomputed_loss):
        with dg.GradientTape() as tape, dg.autocast("bfloat16", enabled=forward):
            loss = f(weights, x)
        with dg.autocast("float16", enabled=backward):
            seen.append(tape.gradient(loss, weights).numpy())

    assert np.array_equal(*seen)


def test_a_narrow_result_computed_again_takes_the_cotangent_of_the_first_time():
    x, weights = array(3, 4), array(4, 2, seed=1)
    dtypes = []

    @dg.recompute_grad
    def product(x):
        y = x @ weights
        dtypes.append(y.dtype.name)
        return y

    with dg.GradientTape() as tape:
        tape.watch(x)
        with dg.autocast("float16"):
            y = product(x)
        loss = dg.sum(y)
    tape.gradient(loss, x)
    with dg.ForwardAccumulator(x, x), dg.autocast("bfloat16"):
        product(x)

    assert dtypes[:2] == ["float16", "float16"]
    assert set(dtypes[2:]) == {"bfloat16"}
    assert not OPEN_KEEPERS
