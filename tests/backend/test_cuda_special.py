"""Special functions in CUDA, run on the host: as precise as SciPy's, for every argument."""

import importlib.util
import re

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import ArrayModuleBackend, incomplete_gamma
from distgrad.backends_in_force import kernels_of
from distgrad.testing import rules
from distgrad.testing.samples import samples

if importlib.util.find_spec("cupy") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("CuPy or SciPy is not installed", allow_module_level=True)

from scipy import special

from distgrad_cupy import own_special
from distgrad_cupy.running import FOLDER

OF_ONE = own_special.NAMES["special"]
BESSEL = [*own_special.NAMES["bessel"], *own_special.NAMES["modified_bessel"]]
NAMES = ["gammainc_ratio", *OF_ONE, *BESSEL]
SAMPLES = [sample for name in NAMES for sample in samples(name)]
SINGLE = [sample.cast(np.dtype("float32")) for sample in SAMPLES]


@pytest.fixture(scope="module")
def host(host_runner):
    """A backend over NumPy with the kernels of the device, run on the host."""
    return ArrayModuleBackend("host", np, own_special.kernels(host_runner))


def computed(backend, name, *operands, **params):
    with np.errstate(all="ignore"):
        return backend.kernel(name)(*operands, **params)


def by_numpy(name, *operands, **params):
    with np.errstate(all="ignore"):
        return getattr(kernels_of("numpy"), name)(*operands, **params)


def spread(low, high, size=1500, seed=0):
    """Return positive numbers of every order."""
    return 10.0 ** np.random.default_rng(seed).uniform(low, high, size)


def both_signs(numbers):
    return np.concatenate([numbers, -numbers])


@pytest.mark.parametrize("sample", [*SAMPLES, *SINGLE], ids=str)
def test_samples_and_their_derivatives_are_as_on_numpy(sample, host):
    rules.check_agreement(sample, host)


# --- the gamma distribution's shape ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_slopes_in_the_shape_are_the_hosts(order, dtype, host):
    rng = np.random.default_rng(order)
    a = 10.0 ** rng.uniform(-3, 5 if dtype != "float16" else 2, 4000)
    x = special.gammaincinv(a, rng.uniform(0, 1, a.size))
    x[::2] = a[::2] * 10.0 ** rng.uniform(-2, 1, a.size // 2)
    a, x = a.astype(dtype), x.astype(dtype)

    found = computed(host, "gammainc_ratio", a, x, order=order)

    expected = by_numpy("gammainc_ratio", a, x, order=order)
    # Terms cancel in higher orders: their last digits are lost on the host too.
    precise = {1: 1e-12, 2: 1e-9, 3: 1e-7, 4: 1e-5}[order]
    tolerance = max(precise, 2 * np.finfo(dtype).eps)
    smallest = np.finfo(dtype).tiny
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=smallest)
    assert found.dtype == dtype


def test_slopes_at_the_ends_are_the_hosts(host):
    ends = [0, -1, np.nan, np.inf, -np.inf, 1e-300, 5e-324, 1e-8, 0.5, 1, 2, 1e5]
    a, x = (each.ravel() for each in np.meshgrid(ends, ends))

    found = computed(host, "gammainc_ratio", a, x, order=1)

    expected = by_numpy("gammainc_ratio", a, x, order=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(found[(x == 0) & (a > 0)], 0)


def test_an_order_above_the_kernels_goes_to_the_host(host, monkeypatch):
    seen = []
    monkeypatch.setattr(own_special, "ADAPTERS", {"gammainc_ratio": lambda *a, **k: seen.append(k)})

    computed(host, "gammainc_ratio", np.ones(2), np.ones(2), order=own_special.HIGHEST)
    computed(host, "gammainc_ratio", np.ones(2), np.ones(2), order=own_special.HIGHEST + 1)

    assert seen == [{"order": own_special.HIGHEST + 1}]


def test_the_rules_points_and_weights_are_those_of_the_host():
    text = (FOLDER / "gamma_slopes.cu").read_text()
    tables = [
        [float(each) for each in re.findall(r"[\d.]+", body)]
        for body in re.findall(r"(?:POINTS|WEIGHTS)\[\] = \{([^}]*)\}", text)
    ]
    points, weights = np.polynomial.legendre.leggauss(incomplete_gamma._NODES)

    assert tables == [list(each[points > 0]) for each in (points, weights)]


@pytest.mark.parametrize("draw", ["gamma", "chi_square", "student_t", "dirichlet"])
def test_gradients_of_drawn_numbers_are_those_of_numpy(draw, host):
    def slopes(backend):
        with dg.use_backend(backend):
            # Of few degrees of freedom student_t divides by numbers that are next to 0.
            a = dg.asarray(np.geomspace(1 if draw == "student_t" else 1e-2, 1e4, 40))

            def f(a):
                return dg.sum(dg.sin(getattr(dg.random.Generator(5), draw)(a)))

            tangent = dg.ones_like(a)
            first, pushed = dg.grad(f)(a), dg.jvp(f, (a,), (tangent,))[1]
            return first.numpy(), pushed.numpy(), dg.jvp(dg.grad(f), (a,), (tangent,))[1].numpy()

    for found, expected in zip(slopes(host), slopes("numpy"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


# --- functions of one argument --------------------------------------------------------------------

# Arguments where SciPy is precise to the tolerance; elsewhere there are digits of 50 below.
ONE = {
    "dawsn": (both_signs(np.concatenate([spread(-8, 6), np.linspace(0, 14, 999)])), 2e-14),
    "erfi": (both_signs(np.concatenate([spread(-8, 1.4), np.linspace(0, 26.6, 999)])), 1e-13),
    "fresnel_sin": (both_signs(np.concatenate([spread(-8, 2), np.linspace(0, 9, 999)])), 1e-13),
    "fresnel_cos": (both_signs(np.concatenate([spread(-8, 2), np.linspace(0, 9, 999)])), 1e-13),
    "spence": (np.concatenate([spread(-12, 12), np.linspace(0, 3, 999)]), 1e-14),
    "ellipe": (np.concatenate([-spread(-8, 12), 1 - spread(-15, 0), np.linspace(0, 1, 99)]), 1e-14),
    "wrightomega": (np.concatenate([both_signs(spread(-8, 2)), np.linspace(-60, 9, 999)]), 1e-14),
    "ndtri_exp": (-np.concatenate([spread(-300, 2), spread(200, 308)]), 1e-13),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_functions_of_one_argument_are_scipys(name, host):
    x, tolerance = ONE[name]

    found, expected = computed(host, name, x), getattr(kernels_of("numpy"), name)(x)

    # Next to a zero an argument's own rounding is seen, but for odd functions at 0.
    atol = 1e-15 if name == "ndtri_exp" else 0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=atol)


ENDS = [0.0, -0.0, 1.0, -1.0, 1e-310, -1e-310, 1e17, -1e17, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("name", OF_ONE)
def test_functions_of_one_argument_end_as_scipys_do(name, host):
    # SciPy gives NaN for the dilogarithm's limit.
    x = np.array([each for each in ENDS if not (name == "spence" and each == np.inf)])

    found, expected = computed(host, name, x), by_numpy(name, x)

    np.testing.assert_allclose(found, expected, rtol=1e-13)


# Computed with mpmath 1.4 to 50 digits, where SciPy's last digits are others.
DIGITS = [
    ("dawsn", (0.0116,), 0.011598959458673624),
    ("dawsn", (11.999,), 0.04181638578445126),
    ("dawsn", (12.001,), 0.04180936771460986),
    ("erfi", (22.87,), 3.5044071999512206e225),
    ("erfi", (26.64,), 3.471158964890939e306),
    ("fresnel_sin", (9033.9,), 0.5000114132448041),
    ("fresnel_cos", (7562.84,), 0.5000411542129803),
    ("fresnel_cos", (1000000.1,), 0.5000000049765136),
    ("spence", (0.5133496471392002,), 0.5638421484330979),
    ("ellipe", (-863905.8,), 929.4700215309776),
    ("ellipe", (0.9999999,), 1.000000447267125),
    ("wrightomega", (-33.27,), 3.556498149621979e-15),
    ("wrightomega", (-49.9,), 2.1315982402125517e-22),
    ("ndtri_exp", (-210979.1,), -649.5717123549257),
    ("ndtri_exp", (-3.0,), -1.6469217205277147),
    ("jv", (2.5, 9876.5), 0.00496672654203713),
    ("jv", (0.0, 54321.0), -0.0016617188038973243),
    ("yv", (0.3, 1e-05), -37.052241917585754),
    ("yv", (0.16, 1.78), 0.3740525866458558),
    ("ive", (0.4, 11.588), 0.11767182833670554),
    ("kve", (0.127, 1.748), 0.8979690699089815),
    ("kve", (1.1, 1.949), 1.097227256953594),
    ("iv", (0.0, 712.0), 2.4684110577627523e307),
    ("yv", (-4.50009, 0.0033), 3479477706.4886165),
]


@pytest.mark.parametrize(("name", "operands", "expected"), DIGITS, ids=str)
def test_digits_are_right_where_scipys_are_not(name, operands, expected, host):
    found = computed(host, name, *(np.array([each]) for each in operands))

    np.testing.assert_allclose(found, expected, rtol=2e-15)


# --- Bessel functions -----------------------------------------------------------------------------


def orders_and_arguments(seed, size=3000):
    """Return orders and arguments of all regions, those next to each other's borders among them."""
    rng = np.random.default_rng(seed)
    v = np.concatenate([10.0 ** rng.uniform(-3, 3, size), rng.integers(0, 99, size)])
    x = 10.0 ** rng.uniform(-3, 3.5, 2 * size)
    near = 10.0 ** rng.uniform(-1, 4, size)
    v = np.concatenate([v, np.abs(near + np.cbrt(near) * rng.uniform(-6, 8, size))])
    return v, np.concatenate([x, near])


def sensitivity(v, x, *, oscillates):
    """Return by how many roundings a result moves where order and argument move by one."""
    if not oscillates:
        return 10 + np.abs(v) * np.arcsinh(np.abs(v) / x)
    return 10 + x + np.abs(v) * np.arccosh(np.maximum(np.abs(v) / x, 1))


@pytest.mark.parametrize("name", BESSEL)
@pytest.mark.parametrize("sign", [1, -1])
def test_bessel_functions_are_scipys(name, sign, host):
    v, x = orders_and_arguments(1)
    v = sign * v
    if sign < 0:  # SciPy's sines of orders next to whole numbers have few digits
        v = np.where(np.abs(v - np.rint(v)) < 1e-3, np.rint(v), v)
    oscillates = name in ("jv", "yv")

    found, expected = computed(host, name, v, x), by_numpy(name, v, x)

    if oscillates:
        size = np.maximum(np.abs(expected), np.where(x > np.abs(v), x**-0.5, 0))
    else:
        size = np.abs(expected)
    tested = np.isfinite(expected) & (size > 1e-290) & (size < 1e290)
    error = np.abs(found[tested] - expected[tested]) / size[tested]
    worst = error / sensitivity(v, x, oscillates=oscillates)[tested]
    assert tested.mean() > 0.7
    assert worst.max() < 5e-14
    assert np.median(error) < 5e-15


def test_wronskians_hold_in_every_region(host):
    v, x = orders_and_arguments(2)
    i, ii, k, kk = (computed(host, n, v + d, x) for n in ("ive", "kve") for d in (0, 1))
    j, jj, y, yy = (computed(host, n, v + d, x) for n in ("jv", "yv") for d in (0, 1))

    with np.errstate(all="ignore"):  # of products that leave the range of numbers
        products = (i * kk, ii * k, 1 / x), (jj * y, -j * yy, 2 / (np.pi * x))
    for left, right, expected in products:  # DLMF 10.28.2 and 10.5.2
        tested = np.isfinite(left) & np.isfinite(right) & (np.abs(left) > 1e-290)
        one, other = left[tested], right[tested]
        error = np.abs(one + other - expected[tested]) / (np.abs(one) + np.abs(other))
        bound = [sensitivity(v[tested], x[tested], oscillates=each) for each in (False, True)]
        assert tested.mean() > 0.6
        assert (error < 4e-15 * np.maximum(*bound)).all()


def test_bessel_functions_at_the_ends(host):
    cases = {  # SciPy's where it has a limit, which in places it gives as NaN
        "jv": ([0, 2, -3, 0.5, -0.5, -1.5, 2, 0.5], [0, 0, 0, 0, 0, 0, np.inf, -1]),
        "yv": ([0, 2.5, -3, 0.5, 1], [0, 0, 0, np.inf, -1]),
        "iv": ([0, 2, -3, 0.5, -0.5, -1.5, 2, 3, 0.5], [0, 0, 0, 0, 0, 0, np.inf, -np.inf, -1]),
        "ive": ([0, 2, -3, 0.5, 2, 3, 0.5], [0, 0, 0, 0, np.inf, -np.inf, -1]),
        "kv": ([0, 2.5, -3, 0.5, 1], [0, 0, 0, np.inf, -1]),
        "kve": ([0, 2.5, -3, 0.5, 1], [0, 0, 0, np.inf, -1]),
    }
    nan, inf = np.nan, np.inf
    expected = {
        "jv": [1, 0, 0, 0, inf, -inf, 0, nan],
        "yv": [-inf, -inf, -inf, 0, nan],
        "iv": [1, 0, 0, 0, inf, -inf, inf, -inf, nan],
        "ive": [1, 0, 0, 0, 0, 0, nan],
        "kv": [inf, inf, inf, 0, nan],
        "kve": [inf, inf, inf, 0, nan],
    }

    for name, (v, x) in cases.items():
        found = computed(host, name, np.array(v, float), np.array(x, float))
        np.testing.assert_array_equal(found, expected[name], err_msg=name)
        for missing in ((nan, 1.0), (1.0, nan)):
            assert np.isnan(computed(host, name, *(np.array([each]) for each in missing)))


@pytest.mark.parametrize("name", BESSEL)
def test_bessel_functions_end_for_every_pair_of_numbers(name, host):
    # 5e-324 and 1e300 take the most steps, or would take too many.
    ends = [5e-324, 1e-300, 1e-20, 0.5, 1, 3.3, 30, 150, 713, 1e17, 1e300]
    v, x = (each.ravel() for each in np.meshgrid(both_signs(np.array([0.0, *ends])), ends))

    found = computed(host, name, v, x)

    assert not np.isnan(found).any()


def test_negative_arguments_of_whole_orders_turn_the_sign(host):
    v, x = np.arange(-6.0, 7.0), np.full(13, -2.5)

    for name in ("jv", "iv", "ive"):
        np.testing.assert_allclose(computed(host, name, v, x), by_numpy(name, v, x), rtol=1e-14)


# --- what is given --------------------------------------------------------------------------------


def test_operands_are_broadcast_and_numbers_and_dtypes_joined(host):
    x = np.linspace(0.3, 9, 6).reshape(2, 3)
    turned = np.asarray(x.T.copy().T)  # not one line in memory
    f4, f8, i2 = np.dtype("float32"), np.dtype("float64"), np.dtype("int16")

    for operands, dtype in {
        (0.5, "x"): f8,
        (2, "turned"): f8,
        ("column", "x"): f8,
        ("column", "single"): f8,
        (2.5, "single"): f4,
        (2, "half"): np.dtype("float16"),
        (2, "whole"): f8,
        ("x", 1.5): f8,
    }.items():
        known = {"x": x, "turned": turned, "column": x[:, :1], "single": x.astype(f4)}
        known |= {"half": x.astype("float16"), "whole": x.astype(i2)}
        given = [known.get(each, each) for each in operands]
        found, expected = computed(host, "jv", *given), by_numpy("jv", *given)
        assert found.dtype == expected.dtype == dtype
        assert found.shape == (2, 3)
        tolerance = 4 * np.finfo(dtype).eps if dtype != f8 else 1e-13
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_arrays_of_one_element_and_of_none(shape, host):
    for name in NAMES:
        count = 2 if name not in OF_ONE else 1
        params = {"order": 1} if name == "gammainc_ratio" else {}
        assert computed(host, name, *[np.full(shape, 0.5)] * count, **params).shape == shape


def test_complex_numbers_are_refused(host):
    with pytest.raises(dg.errors.DTypeError, match="dawsn: an operand is complex"):
        host.kernel("dawsn")(np.ones(2, np.complex64))
