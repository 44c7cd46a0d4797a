"""What this package's own CUDA kernels add: optimizers, random bits, special functions, copies."""

from copy import deepcopy

import numpy as np
import pytest

import distgrad as dg
from distgrad import optimizers
from distgrad.backends_in_force import kernels_of
from distgrad.ops import VOCABULARY
from distgrad.optimizers.in_place import Change
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples

RULES = [
    optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    optimizers.Adam(0.01, amsgrad=True),
    optimizers.AdamW(0.01),
    optimizers.LAMB(0.01),
    optimizers.RMSprop(0.01, centered=True),
    optimizers.Adagrad(0.01),
]


def stepped(rule, backend, dtype):
    """Return a parameter after some steps of a rule on a backend."""
    with dg.use_backend(backend):
        x = dg.Variable(values((5, 7), -1.0, 1.2).astype(dtype))
        for step in range(3):
            rule_gradient = dg.asarray((values((5, 7), -0.4, 0.9) * (step + 1)).astype(dtype))
            rule.apply(rule_gradient, x)
    return x.numpy().astype(np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("make", RULES, ids=lambda rule: type(rule).__name__)
def test_optimizers_step_as_on_the_cpu(make, dtype, cupy_backend):
    found = stepped(deepcopy(make), cupy_backend, dtype)
    expected = stepped(deepcopy(make), "numpy", dtype)

    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-3}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_a_step_is_one_kernel_where_the_formula_allows(cupy_backend):
    rule = optimizers.Adam(0.01)
    x, g = (cupy_backend.asarray(np.ones(9, np.float32)) for _ in range(2))
    slots = tuple(cupy_backend.asarray(np.zeros(9, np.float32)) for _ in rule.slots)

    assert not cupy_backend.change_in_place(rule, [Change(x, g, slots, None)], rule.numbers(1))
    assert float(x[0]) < 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_many_parameters_step_together_as_on_the_cpu(dtype, cupy_backend):
    # More than a launch holds, of lengths that no load divides; one is not one line in memory.
    shapes = [(n % 7 + 1, n % 5 + 1) for n in range(200)] + [(300_001,), (0, 3)]
    rng = np.random.default_rng(4)
    starts, slopes = ([rng.standard_normal(s).astype(dtype) for s in shapes] for _ in range(2))

    def trained(backend):
        with dg.use_backend(backend):
            variables = [dg.Variable(each) for each in starts]
            gradients = [dg.asarray(each) for each in slopes]
            gradients[3] = dg.asarray(np.ascontiguousarray(slopes[3].T)).mT
            optimizer = optimizers.Adam(0.01)
            for _ in range(3):
                optimizer.apply(gradients, variables)
        return [variable.numpy().astype(np.float64) for variable in variables]

    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3}[dtype]
    for found, expected in zip(trained(cupy_backend), trained("numpy"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ["add", "tanh", "maximum", "less", "sqrt"])
def test_large_arrays_are_computed_as_on_the_cpu(name, dtype, cupy_backend):
    x, y = np.random.default_rng(5).uniform(0.1, 3, (2, 700, 800)).astype(dtype)
    f = getattr(dg, name)
    count = 1 if name in ("tanh", "sqrt") else 2
    given = [dg.asarray(each, backend=cupy_backend) for each in (x, y)][:count]
    calls = [given, [each.mT for each in given], [each[:, 1:] for each in given]]
    if count == 2:  # a row, a column, and a number on either side
        calls += [[given[0], given[1][0]], [given[0], given[1][:, :1]], [given[0], 1.5]]
        calls += [[given[1][0], given[0]], [2, given[0]]]

    for operands in calls:
        host = [dg.asarray(x.numpy()) if isinstance(x, dg.Tensor) else x for x in operands]
        expected = f(*host).numpy()
        found = f(*operands)
        assert found.dtype == expected.dtype
        tolerance = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_and_poisson_numbers_are_the_hosts(dtype, cupy_backend):
    given = (10.0 ** np.random.default_rng(6).uniform(-2, 5, (7, 30_001))).astype(dtype)

    def drawn(backend):
        with dg.use_backend(backend):
            generator = dg.random.Generator(9)
            parameters = dg.asarray(given)
            return generator.gamma(parameters).numpy(), generator.poisson(parameters).numpy()

    (gammas, counts), (expected, right) = drawn(cupy_backend), drawn("numpy")

    np.testing.assert_allclose(gammas, expected, rtol=1e-6 if dtype == "float32" else 1e-11)
    np.testing.assert_array_equal(counts, right)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("draw", ["gamma", "chi_square", "student_t", "dirichlet"])
def test_gradients_of_gamma_numbers_are_the_hosts(draw, dtype, cupy_backend):
    given = (10.0 ** np.random.default_rng(7).uniform(0, 4, (7, 3001))).astype(dtype)

    def slopes(backend):
        with dg.use_backend(backend):
            a = dg.asarray(given)
            return dg.grad(lambda a: dg.sum(getattr(dg.random.Generator(9), draw)(a)))(a).numpy()

    tolerance = 1e-4 if dtype == "float32" else 1e-9
    found, expected = slopes(cupy_backend), slopes("numpy")
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


SPECIAL = {
    "dawsn": np.linspace(-14, 14, 3001),
    "erfi": np.linspace(-26, 26, 3001),
    "fresnel": np.linspace(-20, 20, 3001),
    "spence": np.geomspace(1e-9, 1e9, 3001),
    "ellipe": 1 - np.geomspace(1e-15, 1e9, 3001),
    "wrightomega": np.linspace(-60, 60, 3001),
    "ndtri_exp": -np.geomspace(1e-15, 90, 3001),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_that_cupy_lacks(name, cupy_backend):
    f, x = getattr(dg.special, name), SPECIAL[name]

    places = dg.asarray(x, backend=cupy_backend), dg.asarray(x)
    found, expected = (rules.each_of(f(each)) for each in places)

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["jv", "yv", "iv", "ive", "kv", "kve"])
def test_bessel_functions_of_any_order(name, cupy_backend):
    f, rng = getattr(dg.special, name), np.random.default_rng(8)
    v, x = rng.uniform(-40, 40, 6001), rng.uniform(0.01, 90, 6001)
    v[::2] = np.rint(v[::2])

    found = f(*(dg.asarray(each, backend=cupy_backend) for each in (v, x))).numpy()

    # Absolute where J and Y oscillate, which are of the size of x^-1/2 there.
    expected = f(dg.asarray(v), dg.asarray(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 if name < "k" else 1e-12)


def test_a_rate_that_is_none_is_named(cupy_backend):
    with dg.use_backend(cupy_backend):
        generator, rates = dg.random.Generator(0), dg.asarray([3.0, -1.0])

    with pytest.raises(ValueError, match=r"a rate is -1.0; expected 0 to 2\^62"):
        generator.poisson(rates)


EXACT = {f"random_{name}" for name in ("bits", "integers", "bernoulli", "uniform")}


@pytest.mark.parametrize("sample", [s for s in samples() if s.operation in EXACT], ids=str)
def test_random_numbers_are_the_hosts_bit_for_bit(sample, cupy_backend):
    found, expected = rules.call(sample, cupy_backend), rules.call(sample)

    np.testing.assert_array_equal(found.host(found.output), expected.output)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.5)])
def test_uniform_numbers_of_half_precision_are_the_hosts(bounds, dtype, cupy_backend):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    generator = dg.random.Generator(3)

    expected = generator.uniform((1001,), *bounds, dtype=dtype).numpy()
    with dg.use_backend(cupy_backend):
        found = dg.random.Generator(3).uniform((1001,), *bounds, dtype=dtype).numpy()

    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


ROUNDED = ("softmax", "log_softmax", "layer_norm", "rms_norm", "max_pool", "avg_pool")
HALF = [sample for sample in samples() if sample.operation in ROUNDED]


@pytest.mark.parametrize("sample", HALF, ids=str)
def test_half_precision_is_that_of_single_rounded(sample, cupy_backend):
    half = rules.call(sample.cast(np.dtype("float16")), cupy_backend)
    single = rules.call(sample.cast(np.dtype("float32")))

    for found, expected in zip(half.settled(), single.settled(), strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found.astype(np.float32), expected, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_long_sums_of_half_precision_are_added_up_in_single(axis, cupy_backend):
    x = np.full((2, 1 << 18), 0.1, np.float16)

    found = dg.sum(dg.asarray(x, backend=cupy_backend), axis=axis).numpy()

    assert found.dtype == np.float16
    np.testing.assert_allclose(found, x.astype(np.float64).sum(axis=axis), rtol=2e-3)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize("lead", [(4,), (1,), (2, 4), (2, 1), (1, 1)])
def test_integers_of_stacks_are_multiplied_as_numpy_does(lead, dtype, cupy_backend):
    a = (np.arange(np.prod(lead) * 15).reshape(*lead, 3, 5) % 7 % 3).astype(dtype)
    b = (np.arange(4 * 10).reshape(4, 5, 2) % 5 % 3).astype(dtype)

    there = dg.asarray(a, backend=cupy_backend)
    found = there @ dg.asarray(b, backend=cupy_backend)
    turned = there[::-1] @ dg.asarray(b, backend=cupy_backend)

    np.testing.assert_array_equal(found.numpy(), a @ b)
    np.testing.assert_array_equal(turned.numpy(), a[::-1] @ b)


@pytest.mark.parametrize("shape", [(3_000_001,), (1500, 1501), (0, 3), ()])
def test_arrays_come_back_from_the_device_unchanged(shape, cupy_backend):
    x = np.random.default_rng(0).standard_normal(shape)

    there = cupy_backend.asarray(x)

    np.testing.assert_array_equal(cupy_backend.to_host(there), x)
    np.testing.assert_array_equal(cupy_backend.to_host(there.T), x.T)


@pytest.mark.parametrize("name", ["scatter_add", "scatter_max", "scatter_min"])
@pytest.mark.parametrize(
    "dtype", "float64 float32 float16 int64 int32 int16 int8 uint8 uint32 bool".split()
)
def test_numbers_at_places_are_joined_as_numpy_does(name, dtype, cupy_backend):
    given = (50 * np.random.default_rng(7).standard_normal((6, 3))).astype(dtype)
    if given.dtype.kind == "f":
        given[0, :2], given[4] = (np.inf, -0.0), 3.0 + np.arange(3) / 7
        if name != "scatter_add":  # of which NumPy's order says what NaN there is
            given[1, 2] = np.nan
    places = np.array([2, 0, -3, 1, 2, 1])  # of five: two of them get nothing
    found, expected = (joined(name, backend, given, places) for backend in (cupy_backend, "numpy"))

    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=4e-3 if dtype == "float16" else 1e-6)


def joined(name, backend, given, places):
    """Return what an operation makes of values at places of five, in host memory."""
    kernels = kernels_of(backend)
    index = next(s for s in samples() if str(s) == "scatter_max-repeats-1").params["index"]
    kernel = kernels.table.get(VOCABULARY[name]) or kernels.resolve(VOCABULARY[name])
    arrays = (kernels.backend.asarray(each) for each in (given, places))
    with np.errstate(invalid="ignore"):
        return np.asarray(kernels.backend.to_host(kernel(*arrays, index=index, shape=(5, 3))))


def test_powers_are_the_same_for_few_and_for_many_elements(cupy_backend):
    x = np.array([-np.inf, -0.0, 0.0, 4.0, np.nan, np.inf, -8.0], np.float32)
    many = np.resize(x, 7 << 16)

    for exponent in (0.5, 2, -1, 3, 1.5, 0):
        few = (dg.asarray(x, backend=cupy_backend) ** exponent).numpy()
        found = (dg.asarray(many, backend=cupy_backend) ** exponent).numpy()
        np.testing.assert_allclose(found, np.resize(few, many.shape), rtol=1e-6)
        np.testing.assert_array_equal(np.signbit(found), np.resize(np.signbit(few), many.shape))


def test_metadata_of_zero_has_a_sign(cupy_backend):
    x = dg.asarray(np.array([-1.0, 1.0], np.float32), backend=cupy_backend)

    found = [np.signbit(dg.nn.leaky_relu(x, slope=slope).numpy()[0]) for slope in (0.0, -0.0)]

    assert found == [True, False]


def test_memory_that_another_library_owns_is_not_changed_in_place(cupy_backend):
    source = cupy_backend.asarray(np.arange(3.0, dtype=np.float32))
    v = dg.Variable(np.zeros(3, np.float32), backend=cupy_backend)
    v.assign(dg.from_dlpack(source))

    optimizers.SGD(1.0).apply([dg.asarray(np.ones(3, np.float32), backend=cupy_backend)], [v])

    np.testing.assert_array_equal(cupy_backend.to_host(source), [0, 1, 2])
    np.testing.assert_array_equal(v.numpy(), [-1, 0, 1])
