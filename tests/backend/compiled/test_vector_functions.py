"""Functions of single elements in vector code: the own ones, and the C library's."""

import ctypes
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import distgrad as dg
from distgrad_numpy.compiled import compiler, library
from distgrad_numpy.compiled import vector_functions as functions

SHAPE = (64, 127)

# For each function of one number where its argument is drawn from.
DOMAINS = {
    "exp": (-80.0, 80.0),
    "expm1": (-5.0, 5.0),
    "log": (1e-30, 1e30),
    "log2": (1e-30, 1e30),
    "log10": (1e-30, 1e30),
    "log1p": (-0.99, 1e3),
    "sin": (-1e4, 1e4),
    "cos": (-1e4, 1e4),
    "tan": (-100.0, 100.0),
    "asin": (-1.0, 1.0),
    "acos": (-1.0, 1.0),
    "atan": (-1e3, 1e3),
    "sinh": (-20.0, 20.0),
    "cosh": (-20.0, 20.0),
    "tanh": (-12.0, 12.0),
    "asinh": (-1e4, 1e4),
    "acosh": (1.0, 1e4),
    "atanh": (-0.999, 0.999),
    "sqrt": (0.0, 1e6),
    "erf": (-5.0, 5.0),
    "erfc": (-3.0, 9.0),
}
DTYPES = ("float32", "float64")
UNITS = 6  # in the last place: 4 of the vector functions, and those of what they are compared with
OWN = {  # those that are there without the library, by what is precise for both dtypes
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=[np.longdouble]),
}


def of_region(name):
    """Return an operation in a region, with one that changes nothing but that it is there."""
    operation = getattr(dg, name, None) or getattr(dg.special, name)
    return operation, dg.function(lambda *x: (operation(*x), dg.negative(operation(*x))))


def outcome(traced, *operands):
    found, negated = traced(*operands)
    assert traced.explain().traces[0].fused
    assert np.array_equal(found.numpy(), -negated.numpy(), equal_nan=True)
    return found.numpy()


def available(name, dtype):
    return name in functions.available(dtype)


@pytest.fixture(params=["with the library", "own functions alone"])
def library_or_not(request, monkeypatch):
    if request.param == "own functions alone":
        without_library(monkeypatch)
    return request.param.split()[0]


def without_library(monkeypatch):
    monkeypatch.setattr(functions, "_links", lambda: False)
    for cached in (functions.available, functions._of_the_library, functions._declarations):
        monkeypatch.setattr(functions, cached.__name__, cached.__wrapped__)


@pytest.mark.usefixtures("library_or_not")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DOMAINS)
def test_vector_functions_are_right_to_a_few_units(name, dtype):
    low, high = DOMAINS[name]
    generator = np.random.default_rng(0)
    if low > 0 and high / low > 1e9:
        x = np.exp(generator.uniform(np.log(low), np.log(high), SHAPE))
    else:
        x = generator.uniform(low, high, SHAPE)
    x = x.astype(dtype)
    operation, traced = of_region(name)
    if not available(name, dtype):
        traced(x)
        assert f"there is no code for it in {dtype}" in str(traced.explain())
        return

    wide = operation(dg.asarray(x.astype(np.float64))).numpy()
    found = outcome(traced, dg.asarray(x))

    units = np.abs(found - wide) / np.spacing(np.abs(wide).astype(dtype))
    assert units.max() <= UNITS


@pytest.mark.usefixtures("library_or_not")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DOMAINS)
def test_vector_functions_have_the_limits_of_numpy(name, dtype):
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-40, 5e-324, 1e38, 1e300, 710.0]
    with np.errstate(all="ignore"):
        x = np.resize(np.array(special), SHAPE).astype(dtype)
        operation, traced = of_region(name)
        expected = operation(dg.asarray(x)).numpy()
        traced(dg.asarray(x))
        found = traced(dg.asarray(x))[0].numpy()

    np.testing.assert_allclose(found, expected, rtol=2e-6 if dtype == "float32" else 2e-15)
    zeros = (expected == 0) & (np.abs(x) < 1e-30)
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(x[zeros]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["pow", "atan2", "hypot"])
def test_vector_functions_of_two_numbers(name, dtype):
    generator = np.random.default_rng(1)
    x, y = (dg.asarray(generator.uniform(0.1, 9.0, SHAPE).astype(dtype)) for _ in range(2))
    operation, traced = of_region(name)
    expected = operation(dg.astype(x, "float64"), dg.astype(y, "float64")).numpy()
    if not available(name, dtype):
        np.testing.assert_allclose(traced(x, y)[0].numpy(), expected, rtol=1e-5)
        return

    found = outcome(traced, x, y)

    units = np.abs(found - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert units.max() <= UNITS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OWN)
def test_functions_are_right_for_small_numbers_as_for_large_ones(name, dtype, library_or_not):
    low, high = {"log": (1e-37, 1e30), "log1p": (-0.99, 50.0)}.get(name, (-12.0, 12.0))
    draw = np.random.default_rng(7)
    small = 10.0 ** draw.uniform(-30, 0, 20_000)
    x = np.concatenate([draw.uniform(low, high, 40_000), small, -small if low < 0 else small])
    x = x[x > low].astype(dtype)
    c_type = {"float32": "float", "float64": "double"}[dtype]
    source = (
        f"{functions.head()}KERNEL void run(index_t n, const {c_type}* x, {c_type}* y) {{\n"
        f"#pragma omp simd\nfor (index_t i = 0; i < n; ++i) y[i] = {name}(x[i]);\n}}\n"
    )
    run = library.from_source(
        f"test-{library_or_not}-{name}-{dtype}", source, exact=True, further=functions.options()
    ).run
    y = np.empty_like(x)
    run(ctypes.c_longlong(x.size), ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))

    expected = OWN[name](x.astype(np.longdouble))
    error = np.abs(y - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert error.max() <= 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compiler_name", lambda: "c++ (/usr/bin/clang++-17)"),
        ("library", lambda *_: (_ for _ in ()).throw(compiler.CompilerError("cannot find"))),
    ],
)
def test_compilers_without_vector_calls_have_the_own_functions_alone(name, value, monkeypatch):
    links = functions._links.__wrapped__
    without_library(monkeypatch)
    monkeypatch.setattr(functions, "_links", links)
    monkeypatch.setattr(compiler, name, value)

    for dtype in DTYPES:
        assert {"exp", "log", "log1p", "tanh", "erf"} <= functions.available(dtype)
        assert "sin" not in functions.available(dtype)
    assert functions.options() == ()


def test_what_is_switched_off_compiles_nothing(tmp_path):
    program = (
        "import numpy as np, distgrad as dg\n"
        "x = dg.Variable(np.linspace(0.1, 1, 6000))\n"
        "f = lambda x: dg.sum(dg.special.erf(x) * dg.sin(x) + x**2.5 + dg.sigmoid(x))\n"
        "_, gradient = dg.value_and_grad(f)(x.value())\n"
        "dg.function(f)(x.value())\n"
        "dg.optimizers.Adam(0.1).apply([gradient], [x])\n"
    )
    settings = {"DISTGRAD_C_KERNELS": "0", "DISTGRAD_CACHE_DIR": str(tmp_path)}

    job = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | settings, capture_output=True, text=True
    )

    assert job.stderr == ""
    assert not list(tmp_path.rglob("*.so"))
