"""`tape.jacobian` and `tape.batch_jacobian`: right in every shape, nest and order of derivative."""

import tracemalloc
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad.core import Kind, Op, apply
from distgrad.eager import kernels_of
from distgrad.errors import ShapeError, TapeError, UnconnectedError

RNG = np.random.default_rng(7)
W = RNG.normal(size=(3, 4))
X = RNG.normal(size=3)
HOW = pytest.mark.parametrize(
    "how",
    [{}, {"chunk_size": 3}, {"parallel_iterations": 1}, {"experimental_use_pfor": False}],
    ids=["at once", "in chunks", "one row at a time", "without vmap"],
)


def by_differences(f, x, step=1e-6):
    """Return the Jacobian of a NumPy function, of shape (*f(x).shape, *x.shape)."""
    flat = np.eye(x.size).reshape(x.size, *x.shape) * step
    return np.stack([(f(x + d) - f(x - d)) / (2 * step) for d in flat], -1).reshape(
        *f(x).shape, *x.shape
    )


def taped(f, *values, persistent=False):
    """Return a tape that has recorded ``f(*variables)``, the result and the variables."""
    variables = [dg.Variable(value) for value in values]
    with dg.GradientTape(persistent=persistent) as tape:
        y = f(*variables)
    return tape, y, variables


@HOW
def test_jacobian_agrees_with_differences_for_each_of_a_nest_of_sources(how):
    tape, y, (x, w) = taped(lambda x, w: dg.tanh(x @ w), X, W)

    found = tape.jacobian(y, {"x": x, "w": [w]}, **how)

    np.testing.assert_allclose(
        found["x"].numpy(), by_differences(lambda x: np.tanh(x @ W), X), atol=1e-8
    )
    np.testing.assert_allclose(
        found["w"][0].numpy(), by_differences(lambda w: np.tanh(X @ w), W), atol=1e-8
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (0,), (0, 2)])
def test_axes_are_those_of_the_target_then_those_of_the_source(shape):
    value = RNG.normal(size=shape)
    tape, y, (x,) = taped(lambda x: dg.stack([x * 2.0, x * x]), value)

    found = tape.jacobian(y, x)

    expected = np.stack([np.full(value.shape, 2.0), 2 * value])
    diagonal = np.zeros((2, value.size, value.size))
    for row, slopes in zip(diagonal, expected, strict=True):
        np.fill_diagonal(row, slopes.ravel())
    np.testing.assert_array_equal(found.numpy(), diagonal.reshape(2, *shape, *shape))


def test_nest_of_targets_gives_a_nest_of_nests():
    tape, y, (x,) = taped(lambda x: {"double": x * 2.0, "sum": dg.sum(x)}, X)

    found = tape.jacobian(y, [x])

    np.testing.assert_array_equal(found["double"][0].numpy(), 2 * np.eye(3))
    np.testing.assert_array_equal(found["sum"][0].numpy(), np.ones(3))


def test_source_given_twice_and_the_target_as_its_own_source():
    tape, y, (x,) = taped(lambda x: x * 3.0, X)

    first, second, own = tape.jacobian(y, [x, x, y])

    np.testing.assert_array_equal(first.numpy(), 3 * np.eye(3))
    np.testing.assert_array_equal(second.numpy(), first.numpy())
    np.testing.assert_array_equal(own.numpy(), np.eye(3))


def test_jacobian_has_the_dtype_of_its_source():
    tape, y, (x,) = taped(lambda x: x.astype("float64") * 2.0, X.astype("float32"))

    assert tape.jacobian(y, x).dtype == dg.float32


def test_jacobian_of_complex_values_is_the_conjugate_derivative():
    z = np.array([1 + 2j, 3 - 1j])
    tape, y, (x,) = taped(lambda z: z * z, z)

    np.testing.assert_allclose(tape.jacobian(y, x).numpy(), np.diag(np.conj(2 * z)))


# --- unconnected, spent, misused ------------------------------------------------------------------


def test_unconnected_sources_are_none_zeros_or_an_error():
    other = dg.Variable(np.ones((2, 5), "float32"))
    tape, y, (x,) = taped(lambda x: x * 2.0, X, persistent=True)

    assert tape.jacobian(y, [other, x])[0] is None
    zeros = tape.jacobian(y, other, unconnected_gradients="zero")
    assert (zeros.shape, zeros.dtype) == ((3, 2, 5), dg.float32)
    assert not zeros.numpy().any()
    with pytest.raises(UnconnectedError, match=r"jacobian: source 0"):
        tape.jacobian(y, other, unconnected_gradients="error")


@pytest.mark.parametrize("first", ["gradient", "jacobian", "batch_jacobian"])
@pytest.mark.parametrize("second", ["gradient", "jacobian", "batch_jacobian"])
def test_plain_tape_gives_one_set_of_derivatives_of_any_sort(first, second):
    tape, y, (x,) = taped(lambda x: x * 2.0, W)
    getattr(tape, first)(y, x)

    with pytest.raises(TapeError, match="A non-persistent GradientTape can only"):
        getattr(tape, second)(y, x)


def test_tape_that_was_never_entered_or_is_closed_says_so():
    x = dg.Variable(X)
    with pytest.raises(TapeError, match="jacobian: this tape has recorded nothing"):
        dg.GradientTape().jacobian(x, x)
    tape, y, (x,) = taped(lambda x: x * 2.0, X)
    tape.close()
    with pytest.raises(TapeError, match="jacobian: this tape is closed"):
        tape.jacobian(y, x)


@pytest.mark.parametrize("method", ["jacobian", "batch_jacobian"])
def test_misuse_is_refused_by_name(method):
    tape, y, (x,) = taped(lambda x: x * 2.0, W)
    jacobian = getattr(tape, method)

    with pytest.raises(ValueError, match=f"{method}: chunk_size is 0"):
        jacobian(y, x, chunk_size=0)
    with pytest.raises(ValueError, match="Unknown value for unconnected_gradients: 'nonsense'"):
        jacobian(y, x, unconnected_gradients="nonsense")
    with pytest.raises(TypeError, match=f"{method}: target.* is a float"):
        jacobian(2.0, x)
    with pytest.raises(TypeError, match=f"{method}: source.* is a ndarray"):
        jacobian(y, W)


def test_operation_without_batching_rule_warns_and_is_right():
    def triple_vjp(xp, g, y, xs, params, needs):
        return [apply(LONELY, g)]

    LONELY = Op("lonely", Kind.OPAQUE, lambda x: x, triple_vjp)
    kernels_of("numpy").table[LONELY] = lambda x: 3.0 * x  # and no composition to fall back on
    tape, y, (x,) = taped(lambda x: apply(LONELY, x), X)

    with pytest.warns(UserWarning, match="lonely has no batching rule"):
        found = tape.jacobian(y, x)

    np.testing.assert_array_equal(found.numpy(), 3 * np.eye(3))


# --- batches --------------------------------------------------------------------------------------


@HOW
def test_batch_jacobian_is_the_jacobian_of_each_example(how):
    batch = RNG.normal(size=(5, 2, 3))
    tape, y, (x,) = taped(lambda x: dg.tanh(x @ dg.asarray(W)), batch)

    found = tape.batch_jacobian(y, x, **how)

    assert found.shape == (5, 2, 4, 2, 3)
    expected = [by_differences(lambda x: np.tanh(x @ W), each) for each in batch]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-8)


def test_batch_jacobian_of_unconnected_values_is_zero_unless_that_is_an_error():
    other = dg.Variable(np.ones((3, 5)))
    tape, y, _ = taped(lambda w: w * 2.0, W, persistent=True)

    found = tape.batch_jacobian(y, other)

    np.testing.assert_array_equal(found.numpy(), np.zeros((3, 4, 5)))
    with pytest.raises(UnconnectedError, match="batch_jacobian"):
        tape.batch_jacobian(y, other, unconnected_gradients="error")


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        ((2,), (2, 3), r"target: Shape \(2,\) must have rank at least 2"),
        ((2, 3), (2,), r"source: Shape \(2,\) must have rank at least 2"),
        (
            (2, 3),
            (4, 3),
            r"Need first dimension of target shape \(2, 3\) and source shape \(4, 3\)",
        ),
    ],
)
def test_batch_jacobian_refuses_what_is_no_batch(target, source, message):
    with dg.GradientTape() as tape:
        y, x = dg.Variable(np.ones(target)), dg.Variable(np.ones(source))

    with pytest.raises(ShapeError, match=message):
        tape.batch_jacobian(y, x)


def test_batch_jacobian_takes_one_source():
    tape, y, (x,) = taped(lambda x: x * 2.0, W)

    with pytest.raises(TypeError, match="source is a list"):
        tape.batch_jacobian(y, [x])


# --- further derivatives --------------------------------------------------------------------------


def quartic(x):
    return dg.sum(x**4) + dg.sum(x) ** 2


HESSIAN = np.diag(12 * X**2) + 2.0


def test_outer_jacobian_of_an_inner_gradient_is_the_hessian():
    x = dg.Variable(X)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = quartic(x)
        slope = inner.gradient(y, x)

    np.testing.assert_allclose(outer.jacobian(slope, x).numpy(), HESSIAN)


def test_persistent_tape_takes_the_jacobian_of_its_own_gradient_and_differentiates_that():
    tape, y, (x,) = taped(quartic, X, persistent=True)

    hessian = tape.jacobian(tape.gradient(y, x), x)
    third = tape.gradient(hessian, x)

    np.testing.assert_allclose(hessian.numpy(), HESSIAN)
    np.testing.assert_allclose(third.numpy(), 24 * X)


@pytest.mark.parametrize("how", [{}, {"experimental_use_pfor": False}], ids=["vmap", "rows"])
def test_outer_tape_and_accumulator_go_through_a_jacobian(how):
    x = dg.Variable(X)
    with dg.ForwardAccumulator(x, np.ones(3)) as accumulator, dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = x**3
        rows = inner.jacobian(y, x, **how)

    np.testing.assert_allclose(outer.gradient(rows, x).numpy(), 6 * X)
    np.testing.assert_allclose(accumulator.jvp(rows).numpy(), np.diag(6 * X))


def test_jacobian_within_vmap():
    def rows(x):
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = x**2
        return tape.jacobian(y, x)

    found = dg.vmap(rows)(dg.asarray(W))

    np.testing.assert_allclose(found.numpy(), [np.diag(2 * row) for row in W])


def test_jacobian_within_the_block_stops_a_plain_tape_and_not_a_persistent_one():
    x = dg.Variable(X)
    with dg.GradientTape() as plain, dg.GradientTape(persistent=True) as persistent:
        y = x * 2.0
        plain.jacobian(y, x)
        z = x * 5.0
        persistent.jacobian(y, x)
        u = x * 7.0

    with pytest.raises(TapeError):
        plain.gradient(z, x)
    np.testing.assert_array_equal(persistent.gradient(u, x).numpy(), [7.0] * 3)


def test_jacobian_of_a_persistent_tape_leaves_what_it_recorded():
    tape, y, (x,) = taped(lambda x: dg.tanh(x) * 2.0, X, persistent=True)

    first = tape.jacobian(y, x).numpy()

    np.testing.assert_array_equal(tape.jacobian(y, x).numpy(), first)
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), np.diag(first))


def test_jacobian_on_another_backend(strict):
    with dg.use_backend(strict), warnings.catch_warnings():
        warnings.simplefilter("error")
        tape, y, (x,) = taped(lambda x: x * x, X)
        found = tape.jacobian(y, x)

    assert found.backend is strict
    np.testing.assert_allclose(found.numpy(), np.diag(2 * X))


@pytest.mark.parametrize("method", ["jacobian", "batch_jacobian"])
def test_chunks_bound_the_memory_of_the_unit_cotangents_too(method):
    size = 3000
    tape, y, (x,) = taped(lambda x: x * dg.ones((1, size), dtype="float64"), np.ones((1, 1)))

    tracemalloc.start()
    try:
        getattr(tape, method)(y, x, chunk_size=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < size * size * 8 / 20  # a twentieth of the identity matrix
