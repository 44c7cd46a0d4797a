"""SciPy's special functions on tensors: the values that SciPy gives, with derivatives."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.special

import distgrad as dg
from distgrad.numpy_functions.special import FUNCTIONS
from distgrad.testing import check_gradients
from distgrad.testing.inputs import values

ANY, POSITIVE, INSIDE = (-2.1, 2.0), (0.6, 3.0), (0.25, 0.8)

# The interval of the arguments; parameters without a derivative are plain numbers.
CALLS = {
    **dict.fromkeys("exp2 exp10 expm1 cosm1 expit log_expit erf erfc erfcx erfi".split(), (ANY,)),
    **dict.fromkeys("dawsn ndtr log_ndtr fresnel wrightomega j0 j1 i0 i1".split(), (ANY,)),
    **dict.fromkeys("cbrt log1p gamma gammaln loggamma psi y0 y1 k0 k1".split(), (POSITIVE,)),
    **dict.fromkeys("i0e i1e k0e k1e entr exp1 expi spence".split(), (POSITIVE,)),
    **dict.fromkeys("erfinv erfcinv ndtri logit ellipk ellipe".split(), (INSIDE,)),
    "ndtri_exp": ((-3.0, -0.2),),
    **dict.fromkeys("beta betaln poch rel_entr kl_div".split(), (POSITIVE, (0.7, 2.8))),
    "binom": ((3.2, 5.0), POSITIVE),
    **dict.fromkeys("xlogy xlog1py".split(), (ANY, POSITIVE)),
    **dict.fromkeys("huber pseudo_huber".split(), (1.3, ANY)),
    **dict.fromkeys("jv yv kv iv ive kve gammainc gammaincc".split(), (1.7, POSITIVE)),
    **dict.fromkeys("yn kn expn".split(), (2, POSITIVE)),
    **dict.fromkeys("gammaincinv gammainccinv".split(), (1.7, INSIDE)),
    **dict.fromkeys("betainc betaincc betaincinv".split(), (1.7, 2.4, INSIDE)),
}
# Written in Python by SciPy, which reaches a ufunc without a copy.
PYTHON = {"zeta": (2.5, POSITIVE), "sinc": (ANY,), "softplus": (ANY,)}


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def arguments(intervals):
    """Return the arguments of a call: an array for each interval, numbers as they are."""
    return [
        values((3, 4), *each, seed=place) if isinstance(each, tuple) else each
        for place, each in enumerate(intervals)
    ]


def test_every_function_that_is_known_is_called_here():
    assert set(FUNCTIONS) - {"_zeta", "_riemann_zeta"} == set(CALLS)


@pytest.mark.parametrize("name", [*CALLS, *PYTHON])
def test_scipys_function_of_tensors_gives_scipys_values(name):
    function = getattr(scipy.special, name)
    numbers = arguments({**CALLS, **PYTHON}[name])

    given = flat(function(*(dg.asarray(n) if isinstance(n, np.ndarray) else n for n in numbers)))

    for one, other in zip(given, flat(function(*numbers)), strict=True):
        assert isinstance(one, dg.Tensor)
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [*CALLS, *PYTHON])
def test_scipys_function_of_tensors_has_right_derivatives_to_second_order(name):
    function = getattr(scipy.special, name)
    numbers = arguments({**CALLS, **PYTHON}[name])
    places = [place for place, n in enumerate(numbers) if isinstance(n, np.ndarray)]

    def of_arrays(*given):
        filled = list(numbers)
        for place, each in zip(places, given, strict=True):
            filled[place] = each
        return flat(function(*filled))

    check_gradients(of_arrays, [dg.asarray(numbers[place]) for place in places], order=2)


@pytest.mark.parametrize("name", dg.special.__all__)
def test_the_namespace_has_scipys_names_and_values(name):
    own, function = getattr(dg.special, name), getattr(scipy.special, name)
    intervals = {
        **CALLS,
        **PYTHON,
        **dict.fromkeys("digamma".split(), (POSITIVE,)),
        **dict.fromkeys("softmax log_softmax logsumexp".split(), (ANY,)),
        "jn": (2, POSITIVE),
        "polygamma": (2, POSITIVE),
        "multigammaln": ((1.6, 4.0), 3),
    }[name]
    numbers = arguments(intervals)

    given = flat(own(*numbers))

    for one, other in zip(given, flat(function(*numbers)), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"axis": axis}) for name in ("softmax", "log_softmax") for axis in (-1, (0, 2))),
        ("logsumexp", {"axis": (0, 2), "keepdims": True}),
        ("logsumexp", {"axis": 1, "b": values((4,), 0.2, 1.5)}),
        ("logsumexp", {"b": np.array([1.0, 0.0, -0.5, 2.0]), "return_sign": True}),
        ("logsumexp", {"axis": -1, "return_sign": True}),
    ],
    ids=str,
)
def test_softmax_and_logsumexp_take_scipys_arguments(name, options):
    x = values((2, 3, 4), *ANY)
    own, function = getattr(dg.special, name), getattr(scipy.special, name)

    for one, other in zip(flat(own(x, **options)), flat(function(x, **options)), strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-14)
    check_gradients(lambda x: flat(own(x, **options))[0], [x])


def test_logsumexp_leaves_out_terms_whose_factor_is_0_and_is_nan_of_a_negative_sum():
    a, b = np.array([1000.0, 999.0, np.inf]), np.array([1.0, -0.5, 0.0])

    assert float(dg.special.logsumexp(a, b=b)) == pytest.approx(scipy.special.logsumexp(a, b=b))
    assert np.isnan(float(dg.special.logsumexp(a[:2], b=[-1.0, 0.5])))
    assert float(dg.special.logsumexp([-np.inf, -np.inf], b=[1.0, 2.0])) == -np.inf


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_what_scipy_copies_first_is_refused_where_a_tape_watches(name):
    x = dg.Variable([0.5, -1.0])

    with dg.GradientTape(), pytest.raises(TypeError, match=r"np\.asarray on a tensor that a tape"):
        getattr(scipy.special, name)(x)


def test_a_function_whose_derivative_is_not_known_is_refused_where_a_tape_watches():
    x = dg.Variable([0.5, 1.0], dtype="float64")

    with dg.GradientTape(), pytest.raises(TypeError, match=r"scipy\.special\.struve.*not known"):
        scipy.special.struve(1.0, x)
    np.testing.assert_array_equal(
        scipy.special.struve(1.0, dg.asarray(x)).numpy(), scipy.special.struve(1.0, x.numpy())
    )


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda p: dg.special.jv(p, 2.0), "v"),
        (lambda p: dg.special.betainc(1.5, p, 0.3), "b"),
        (dg.special.zeta, "s"),
    ],
)
def test_a_gradient_in_a_parameter_without_derivative_is_refused_by_name(call, parameter):
    p = dg.Variable(1.5)
    with dg.GradientTape() as tape:
        y = call(p)

    with pytest.raises(dg.errors.UnsupportedOptionError, match=rf"parameter {parameter} is not"):
        tape.gradient(y, p)


def test_a_watched_parameter_is_no_hindrance_to_a_gradient_in_the_argument():
    a, x = dg.Variable(2.0, dtype="float64"), dg.Variable(1.5, dtype="float64")

    with dg.GradientTape() as tape:
        y = scipy.special.gammainc(a, x)

    np.testing.assert_allclose(tape.gradient(y, x).numpy(), 1.5 * np.exp(-1.5), rtol=1e-14)


def test_complex_tensors_are_scipys_affair_where_nobody_watches():
    z = np.array([1.5 + 0.5j, -0.3 - 1j])

    np.testing.assert_array_equal(
        scipy.special.gamma(dg.asarray(z)).numpy(), scipy.special.gamma(z)
    )
    with dg.GradientTape(), pytest.raises(TypeError, match=r"scipy\.special\.gamma.*not known"):
        scipy.special.gamma(dg.Variable(z))


def test_somebody_elses_ufunc_of_a_known_name_is_not_taken_for_scipys():
    def gamma(x):
        return x + 1.0

    theirs = np.frompyfunc(gamma, 1, 1)

    assert float(theirs(2.0)) == 3.0
    assert theirs.__name__.startswith("gamma")
    with dg.GradientTape(), pytest.raises(TypeError, match=r"^gamma.*of this ufunc is not known"):
        theirs(dg.Variable([2.0]))


def test_a_function_of_steps_ends_the_gradient():
    x = dg.Variable([0.5, 1.0], dtype="float64")

    with dg.GradientTape() as tape:
        y = scipy.special.gammasgn(x)

    assert tape.gradient(y, x) is None


def slopes(function, *numbers):
    variables = [dg.Variable(n, dtype="float64") for n in numbers]
    with dg.GradientTape() as tape:
        y = function(*variables)
    return [g.numpy().tolist() for g in tape.gradient(y, variables)]


def test_slopes_at_singular_points_are_as_documented():
    inf = float("inf")
    s = dg.special

    assert slopes(s.xlogy, [0.0, 0.0], [2.0, 0.0]) == [[np.log(2.0), 0.0], [0.0, 0.0]]
    assert slopes(s.xlog1py, [0.0, 0.0], [1.0, -1.0]) == [[np.log1p(1.0), 0.0], [0.0, 0.0]]
    assert slopes(s.entr, [0.0, -1.0]) == [[inf, 0.0]]
    assert slopes(s.rel_entr, [0.0, -1.0], [2.0, 1.0]) == [[0.0, 0.0], [0.0, 0.0]]
    assert slopes(s.kl_div, [0.0], [2.0]) == [[0.0], [1.0]]
    assert slopes(s.i0e, [0.0]) == [[0.0]]
    assert [slopes(f, [0.0]) for f in (s.j1, s.i1, s.i1e)] == [[[0.5]]] * 3
    assert slopes(s.spence, [1.0]) == [[-1.0]]
    np.testing.assert_allclose(slopes(s.ellipk, [0.0]), [[np.pi / 8]], rtol=1e-15)
    np.testing.assert_allclose(slopes(s.ellipe, [0.0]), [[-np.pi / 8]], rtol=1e-15)


def test_values_at_singular_points_are_scipys():
    inf, nan = float("inf"), float("nan")
    edges = np.array([0.0, -0.0, 1.0, -1.0, inf, nan, 0.3])
    x, y = np.repeat(edges, edges.size), np.tile(edges, edges.size)

    for name in ("xlogy", "xlog1py", "rel_entr", "kl_div"):
        with np.errstate(all="ignore"):
            given = getattr(dg.special, name)(x, y).numpy()
            expected = getattr(scipy.special, name)(x, y)
        np.testing.assert_allclose(given, expected, rtol=1e-14, err_msg=name)
    np.testing.assert_allclose(dg.special.entr(edges).numpy(), scipy.special.entr(edges))
    with np.errstate(all="ignore"):
        ends = dg.special.logit(np.array([0.0, 1.0])).numpy().tolist()
    assert ends == [-inf, inf]


def test_a_third_derivative_at_a_removable_singularity_is_right():
    third = dg.special.j1
    for _ in range(3):
        third = dg.grad(third)

    assert float(third(dg.asarray(0.0, dtype="float64"))) == pytest.approx(-3 / 8, rel=1e-12)


def test_the_slope_of_log_ndtr_is_right_where_ndtr_underflows():
    (slope,) = slopes(dg.special.log_ndtr, [-60.0, 50.0])

    # The inverse of Mills' ratio: x + 1/x - 2/x^3 + ...
    assert slope[0] == pytest.approx(60 + 1 / 60 - 2 / 60**3, rel=1e-8)
    assert slope[1] == 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_second_derivative_of_log_ndtr_is_finite_wherever_it_is(dtype):
    slope = dg.grad(lambda x: np.sum(dg.special.log_ndtr(x)))
    x = dg.asarray(np.array([-3.0, 0.0, 1.0, 5.0, 15.0, 40.0, 1e4], dtype))

    (found,) = slopes(lambda x: np.sum(slope(x)), x.numpy())
    _, along = dg.jvp(slope, [x], [dg.ones_like(x)])

    # With r the density over the distribution function it is -r (x + r).
    numbers = x.numpy().astype("float64")
    ratio = np.exp(-0.5 * numbers**2) / np.sqrt(2 * np.pi) / scipy.special.ndtr(numbers)
    expected = -ratio * (numbers + ratio)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(along.numpy(), expected, rtol=2e-6, atol=1e-38)


def test_logit_is_precise_around_a_half():
    x = 0.5 + np.array([1e-12, -3e-9, 1e-4, 0.19, 0.21])

    np.testing.assert_allclose(dg.special.logit(x).numpy(), scipy.special.logit(x), rtol=4e-15)


@pytest.mark.parametrize("name", ["xlogy", "xlog1py", "rel_entr", "kl_div"])
def test_operands_of_unlike_precision_meet_in_the_wider_one(name):
    x, y = np.array([0.3, 2.0]), np.array([0.7, 0.1], np.float32)

    found = getattr(dg.special, name)(dg.asarray(x), dg.asarray(y)).numpy()

    np.testing.assert_allclose(found, getattr(scipy.special, name)(x, y), rtol=1e-15)


def test_polygamma_takes_an_array_of_orders():
    orders, x = np.array([[0], [1], [3]]), values((4,), *POSITIVE)

    given = dg.special.polygamma(orders, x).numpy()

    np.testing.assert_allclose(given, scipy.special.polygamma(orders, x), rtol=1e-13)
    with pytest.raises(ValueError, match=r"polygamma: n is -1; expected integers of 0 or more"):
        dg.special.polygamma(-1, x)


def test_a_traced_function_holds_scipys_functions():
    x = values((3,), *POSITIVE)

    @dg.function
    def traced(x):
        return dg.sum(scipy.special.gammaln(x) * scipy.special.j1(x))

    np.testing.assert_allclose(
        float(traced(dg.asarray(x))), np.sum(scipy.special.gammaln(x) * scipy.special.j1(x))
    )


def test_without_scipy_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.special'] = None\n"
        "import distgrad as dg\n"
        "print(float(dg.special.xlogy(2.0, 1.0)))\n"  # what is composed needs no SciPy
        "try: dg.special.gammaln(dg.asarray(2.5))\n"
        "except dg.errors.MissingKernelError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "0.0",
        "gammaln: this function is SciPy's, which is not installed here; "
        "pip install 'distgrad[special]'",
    ]


def test_scipy_is_not_imported_with_distgrad():
    code = "import sys, distgrad; print('scipy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
