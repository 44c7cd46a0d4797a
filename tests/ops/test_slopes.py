"""First and second derivatives where the textbook's formula subtracts, overflows or underflows.

The expected numbers are differences of mpmath's functions with 160 digits.
"""

import numpy as np
import pytest

import distgrad as dg

s = dg.special

# Of each function: points, and there the first and the second derivative.
EXPECTED = {
    "erfcx": (
        s.erfcx,
        (3.0, -0.05437226000717287, 0.03176874231974267),
        (20.0, -0.001405217453459801, 0.0001399993437105926),
        (1e3, -5.641887372654967e-7, 1.128375781970705e-9),
        (1e6, -5.6418958354691e-13, 1.128379167092127e-18),
    ),
    "dawsn": (
        s.dawsn,
        (4.5, -0.02679749204142482, 0.01300020791917343),
        (-20.0, -0.001254717056146878, -0.0001259463930677713),
        (1e3, -5.00000750001875e-7, 1.00000300001125e-9),
        (1e6, -5.0000000000075e-13, 1.000000000003e-18),
    ),
    "log_ndtr": (
        s.log_ndtr,
        (-10.0, 10.09809323396251, -0.9905546221743437),
        (-1e4, 10000.0001, -0.9999999900000006),
    ),
    "i0e": (
        s.i0e,
        (24.0, -0.001724149057495875, 0.0001089589784694696),
        (1e3, -6.310198962627115e-6, 9.467668325601487e-9),
        (-1e3, 6.310198962627115e-6, 9.467668325601487e-9),
        (1e10, -1.994711402081965e-16, 2.992067103197749e-26),
    ),
    "i1e": (
        s.i1e,
        (24.0, -0.001615190079026406, 9.747973884505899e-5),
        (1e3, -6.300731294301514e-6, 9.443993225628657e-9),
        (-1e3, -6.300731294301514e-6, -9.443993225628657e-9),
        (1e10, -1.994711401782758e-16, 2.992067102449733e-26),
    ),
    "k0e": (
        s.k0e,
        (24.0, -0.005249618186677724, 0.0003248799764653767),
        (1e3, -1.980921220599337e-5, 2.970640097347964e-8),
        (1e10, -6.266570686342505e-16, 9.399856029278761e-26),
    ),
    "k1e": (
        s.k1e,
        (24.0, -0.0055744981631431, 0.0003583956282414535),
        (1e3, -1.983891860696685e-5, 2.978064844644742e-8),
        (1e10, -6.26657068728249e-16, 9.399856031628725e-26),
    ),
    "ive, order 2.3": (
        lambda x: s.ive(2.3, x),
        (1e4, -1.993203591205089e-7, 2.988297767027682e-11),
    ),
    "ive, order 30": (
        lambda x: s.ive(30.0, x),
        (1e4, -1.735363306286858e-7, 2.353355897217572e-11),
    ),
    "kve, order 2.3": (
        lambda x: s.kve(2.3, x),
        (1e4, -6.271308814089922e-7, 9.411701948707234e-11),
    ),
    "kve, order 30": (
        lambda x: s.kve(30.0, x),
        (1e4, -7.144628411389272e-7, 1.162798490445293e-10),
    ),
    "wrightomega": (
        s.wrightomega,
        (2.0, 0.6089389667948532, 0.09312426386945529),
        (1e6, 0.9999989999871843, 1.000024631447757e-12),
    ),
    "betaln(x, 1)": (lambda x: s.betaln(x, 1.0), (1e6, -1e-6, 1e-12)),
    "betaln(3.5, x)": (
        lambda x: s.betaln(3.5, x),
        (1e6, -3.49999562500875e-6, 3.49999125002625e-12),
    ),
    "gammainc(x, 0.1)": (
        lambda x: s.gammainc(x, 0.1),
        (1e-12, -1.822923958417524, 1.866137327741682),
        (1e-7, -1.822923771805639, 1.866137705102167),
    ),
    "gammaincc(x, 1)": (
        lambda x: s.gammaincc(x, 1.0),
        (1e-12, 0.2193839343959692, 0.4489500815546785),
    ),
    "gammainc(x, 10)": (
        lambda x: s.gammainc(x, 10.0),
        (1e-12, -4.156968929709972e-6, -2.464803107491835e-5),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXPECTED)
def test_slopes_are_precise_where_their_terms_are_almost_the_same(name, dtype):
    function, *rows = EXPECTED[name]
    numbers, first, second = np.array(rows).T
    x = dg.Variable(numbers, dtype=dtype)
    ones = dg.ones_like(x)

    with dg.GradientTape() as outer:
        with dg.GradientTape() as tape:
            y = dg.sum(function(x))
        slope = tape.gradient(y, x)
    bend = outer.gradient(slope, x)
    _, pushed = dg.jvp(function, [x], [ones])
    _, pushed_twice = dg.jvp(lambda x: dg.jvp(function, [x], [ones])[1], [x], [ones])

    # Half of a thousand roundings: of the kernels, and where both formulas meet.
    rounding = np.finfo(dtype)
    near = {"rtol": 500 * rounding.eps, "atol": float(rounding.tiny)}
    np.testing.assert_allclose(slope.numpy(), first, **near)
    np.testing.assert_allclose(pushed.numpy(), first, **near)
    np.testing.assert_allclose(bend.numpy(), second, **near)
    np.testing.assert_allclose(pushed_twice.numpy(), second, **near)


def test_minors_of_zero_stay_zero_where_the_determinant_overflows():
    a = dg.Variable(1e200 * np.eye(3))

    with dg.GradientTape() as tape, np.errstate(over="ignore", invalid="ignore"):
        y = dg.linalg.det(a)
        g = tape.gradient(y, a).numpy()

    assert g.tolist() == np.where(np.eye(3), np.inf, 0.0).tolist()
