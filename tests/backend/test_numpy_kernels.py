"""NumPy's own kernels of large arrays give what the compositions give, by any number of threads."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backends_in_force import kernels_of
from distgrad_numpy import (
    activations,
    blocked,
    gaussian,
    normalization,
    selection,
    softmaxes,
    threads,
)

XP = kernels_of("numpy")
GENERATOR = np.random.default_rng(5)


def numbers(*shape, dtype):
    return GENERATOR.normal(0.3, 1.0, shape).astype(dtype)


ROWS, WIDTH = 1501, 83  # more than a piece of rows, and a remainder
EPSILON = {"epsilon": 1e-5}


def moments_of(x):
    return x.mean(0, keepdims=True), x.var(0, keepdims=True)


def operands(name, dtype):
    """Return operands and metadata of a kernel of rows."""
    x, g = numbers(ROWS, WIDTH, dtype=dtype), numbers(ROWS, WIDTH, dtype=dtype)
    scale, shift = numbers(WIDTH, dtype=dtype), numbers(WIDTH, dtype=dtype)
    labels = GENERATOR.integers(0, WIDTH, ROWS)
    return {
        "label_cross_entropy_vjp": ((g[:, 0].copy(), x, labels), {}),
        "softmax": ((3 * x,), {"axis": -1}),
        "softmax_vjp": ((g, x), {"axis": -1}),
        "log_softmax": ((3 * x,), {"axis": 1}),
        "layer_norm": ((x, scale, shift), EPSILON),
        "rms_norm": ((x, scale), EPSILON),
        "layer_norm_vjp": ((g, x, scale, shift), EPSILON),
        "rms_norm_vjp": ((g, x, scale), EPSILON),
        "moments": ((x.reshape(19, 79, WIDTH) + 20,), {"axes": (0, 1)}),
        "normalize": ((x, *(each[None] for each in (scale, shift**2, shift, scale))), EPSILON),
        "normalize_vjp": (
            (g, x, *(each[None] for each in (scale, shift**2, shift, scale))),
            EPSILON,
        ),
        "batch_norm": ((x, scale[None], shift[None]), {"axes": (0,), **EPSILON}),
        "batch_norm_vjp": (
            (g, *(each[None] for each in (scale, shift)), x, *moments_of(x), scale[None]),
            {"axes": (0,), **EPSILON},
        ),
        "label_cross_entropy": ((x, labels), {}),
    }[name]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*normalization.KERNELS, *softmaxes.KERNELS])
def test_kernels_of_rows_give_what_compositions_give(name, dtype, workers, monkeypatch):
    arrays, params = operands(name, dtype)
    monkeypatch.setattr(threads, "available", lambda: workers)

    given = getattr(XP, name)(*arrays, **params)

    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
    expected = XP.vocabulary[name].compose(XP, *wide, **params)
    if not isinstance(given, tuple):
        given, expected = (given,), (expected,)
    tolerance = 30 * np.finfo(dtype).eps
    for mine, theirs in zip(given, expected, strict=True):
        assert mine.dtype == dtype
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["layer_norm_vjp", "moments", "normalize_vjp"])
def test_the_number_of_threads_changes_no_bit(name, monkeypatch):
    arrays, params = operands(name, "float32")
    results = []
    for workers in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda workers=workers: workers)
        results.append(normalization.KERNELS[name](*arrays, **params))

    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["softmax", "label_cross_entropy", "label_cross_entropy_vjp"])
def test_softmaxes_of_large_and_of_infinite_logits_are_exact(name):
    arrays, params = operands(name, "float64")
    x = arrays[1] if name.endswith("vjp") else arrays[0]
    x[2] *= 300
    x[3, 4:] = -np.inf
    expected = XP.vocabulary[name].compose(XP, *arrays, **params)

    given = softmaxes.KERNELS[name](*arrays, **params)

    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12)


def test_log_softmax_of_infinities_is_what_the_composition_gives():
    x = numbers(40, 70, dtype="float64")
    x[3, 5] = -np.inf
    x[4] = -np.inf
    expected = XP.vocabulary["log_softmax"].compose(XP, x[:4], axis=-1)

    with np.errstate(all="ignore"):
        given = softmaxes.KERNELS["log_softmax"](x, axis=-1)

    np.testing.assert_allclose(given[:4], expected, rtol=1e-12)


CHOICES = {
    "arrays": (lambda a, b: (a, b)),
    "zero right": (lambda a, b: (a, 0)),
    "zero left": (lambda a, b: (0, b)),
    "number right": (lambda a, b: (a, 1.5)),
    "minus zero": (lambda a, b: (a, -0.0)),
    "infinity": (lambda a, b: (float("inf"), b)),
    "rows": (lambda a, b: (a, b[:1])),
    "transposed": (lambda a, b: (np.asfortranarray(a), b)),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int8"])
@pytest.mark.parametrize("name", CHOICES)
def test_where_gives_numpys_bits(name, dtype):
    if dtype.startswith("int") and name == "infinity":
        pytest.skip("integers have no infinity")
    a, b = (numbers(150, 1001, dtype="float64") * 9 for _ in range(2))
    a[3, 4], b[7, 8] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        a, b = CHOICES[name](a.astype(dtype), b.astype(dtype))
    condition = numbers(150, 1001, dtype="float32") > 0

    given, expected = selection.where(condition, a, b), np.where(condition, a, b)

    assert given.dtype == expected.dtype
    assert given.tobytes() == expected.tobytes()


def test_blocks_take_integers_and_operands_that_broadcast():
    x = GENERATOR.integers(-5, 5, (300, 301))
    g, row = numbers(300, 301, dtype="float64"), numbers(301, dtype="float64")

    assert blocked.KERNELS["gelu"](x).dtype == np.float64
    np.testing.assert_allclose(
        blocked.KERNELS["silu_vjp"](g, row),
        blocked.KERNELS["silu_vjp"](g, np.broadcast_to(row, g.shape)),
        rtol=1e-13,
    )


IN_PLACE = [(name, "float32") for name in gaussian.IN_FLOAT32]
IN_PLACE += [(name, dtype) for name in activations.IN_PLACE for dtype in ("float32", "float64")]
PARAMS = {
    "leaky_relu": {"slope": 0.3},
    "leaky_relu_vjp": {"slope": 0.3},
    "dropout": {"scale": 1.25},
}


@pytest.mark.parametrize(("name", "dtype"), IN_PLACE)
def test_formulas_in_place_give_what_compositions_give(name, dtype):
    x, g = numbers(301, 307, dtype=dtype) * 3, numbers(301, 307, dtype=dtype)
    arrays = (g, x) if name.endswith("vjp") else (x, g > 0) if name == "dropout" else (x,)
    before = [each.copy() for each in arrays]
    params = PARAMS.get(name, {})

    given = blocked.KERNELS[name](*arrays, **params)

    wide = [each.astype(np.float64) if each.dtype == dtype else each for each in arrays]
    expected = XP.vocabulary[name].compose(XP, *wide, **params)
    tolerance = 60 * np.finfo(dtype).eps  # slopes multiply what rounding leaves of 1 - |tanh|
    assert given.dtype == dtype
    np.testing.assert_allclose(given, expected, rtol=tolerance, atol=tolerance)
    for each, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(each, old)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 3.0])
def test_leaky_relu_chooses_the_slope_at_zero_and_keeps_infinities(slope):
    x = np.resize(np.array([-np.inf, -2, -0.0, 0, 2, np.inf], np.float32), 6000)
    g = np.full_like(x, 7)

    given = blocked.KERNELS["leaky_relu_vjp"](g, x, slope=slope)

    np.testing.assert_array_equal(given, np.where(x > 0, g, g * np.float32(slope)))


def test_gelu_has_its_limits_far_from_zero():
    x = np.linspace(-1e4, 1e4, 20_001, dtype=np.float32)

    given = blocked.KERNELS["gelu"](x)

    np.testing.assert_allclose(given[x > 6], x[x > 6], rtol=1e-6)
    np.testing.assert_allclose(given[x < -6], 0, atol=1e-6)


@pytest.mark.parametrize("value", [np.float32(2), np.ones((1, 1)), np.ones((3, 1))[1:2], 1j])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (0, 2), (2, 1, 2)])
def test_one_number_seen_as_many_takes_no_memory_and_is_not_written_to(value, shape):
    x = np.asarray(value)

    seen = XP.broadcast_to(x, shape=shape)

    np.testing.assert_array_equal(seen, np.broadcast_to(x, shape))
    assert seen.dtype == x.dtype
    assert not seen.flags.writeable
    assert np.may_share_memory(seen, x) or not seen.size


def test_one_number_does_not_lose_an_axis():
    with pytest.raises(ValueError, match="more dimensions"):
        XP.broadcast_to(np.ones((1, 1)), shape=(3,))


@pytest.mark.parametrize(
    "shapes", [((3, 5), (5, 4)), ((5,), (5, 4)), ((2, 3, 5), (5, 4)), ((200, 70), (70, 90))]
)
def test_products_of_half_precision_are_those_of_single_rounded(shapes):
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in shapes)

    found = kernels_of("numpy").matmul(a, b)

    assert found.dtype == np.float16
    wide = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(found, wide, rtol=2**-10, atol=1e-3)


def test_products_of_half_precision_add_up_beyond_its_digits():
    a = np.full((1, 4096), 1.0, np.float16)  # a sum in half precision stops at 2048

    np.testing.assert_array_equal(kernels_of("numpy").matmul(a, a.T), 4096)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5000, 3), 0), ((2, 2500, 3), (0, 1)), ((3, 5000), -1)]
)
def test_sums_of_half_precision_add_up_beyond_its_digits(shape, axis):
    ones = dg.ones(shape, dtype="float16")

    np.testing.assert_array_equal(dg.sum(ones, axis=axis).numpy(), 5000)
    np.testing.assert_array_equal(dg.linalg.vector_norm(ones, axis=axis).numpy(), np.float16(70.7))


def test_the_gradient_of_a_bias_of_half_precision_adds_up_beyond_its_digits():
    x, kernel = dg.ones((5000, 2), dtype="float16"), dg.ones((2, 3), dtype="float16")
    for activation in (None, "relu"):
        gradient = dg.grad(lambda b, a=activation: dg.sum(dg.nn.linear(x, kernel, b, activation=a)))

        np.testing.assert_array_equal(gradient(dg.zeros(3, dtype="float16")).numpy(), 5000)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("odd", [0, np.inf, complex(-np.inf, 2), np.nan, 1e-40, 1e30 + 1e30j])
def test_the_direction_of_complex_numbers_is_numpys(odd, dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(30, 40)) + 1j * rng.normal(size=(30, 40))).astype(dtype).T
    x[3, 5] = odd
    precision = np.finfo(dtype).eps

    with np.errstate(invalid="ignore"):
        expected = np.sign(x)
        found = kernels_of("numpy").sign(x)

    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=4 * precision, atol=precision)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float16, np.float32, np.complex128])
@pytest.mark.parametrize(
    ("a", "b"), [((5, 1), (1, 4)), ((3, 5, 1), (1, 4)), ((2, 1, 5, 1), (3, 1, 4)), ((1, 1), (1, 1))]
)
def test_products_of_one_term_are_those_of_numpy(a, b, dtype):
    draw = np.random.default_rng(5)
    x, y = (draw.integers(-3, 4, shape).astype(dtype) for shape in (a, b))

    found = kernels_of("numpy").matmul(x, y)

    assert found.dtype == dtype
    assert np.array_equal(found, np.matmul(x, y))


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (5,)])
def test_products_of_one_number_that_is_seen_as_many(shape):
    x = np.random.default_rng(6).standard_normal((4, 5))
    seen = np.broadcast_to(np.float64(1.5), shape)

    assert np.array_equal(kernels_of("numpy").matmul(x, seen), x @ seen.copy())
    if len(shape) == 2:
        assert np.array_equal(kernels_of("numpy").matmul(seen, x), seen.copy() @ x)
