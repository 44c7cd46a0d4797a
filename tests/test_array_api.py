"""`distgrad` is a namespace of the Python array API standard: its names, signatures and results.

The standard's whole public suite takes minutes; docs/reference/array-api.md says how to run it.
"""

import inspect
import types

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError, TraceError

# What came after 2024.12, or is the strict module's own.
BEYOND = {f"{verb}_array_api_strict_flags" for verb in ("get", "set", "reset")}
BEYOND |= {"ArrayAPIStrictFlags", "Device", "broadcast_shapes", "isin", "__version__"}
EXTENSIONS = {"linalg", "fft"}
STANDARD = [name for name in array_api_strict.__all__ if name not in BEYOND | EXTENSIONS]
FUNCTIONS = [
    name for name in STANDARD if inspect.isfunction(inspect.unwrap(getattr(array_api_strict, name)))
]


def test_the_strict_module_knows_the_functions():
    assert len(FUNCTIONS) > 130  # so that the tests below do not run over nothing


@pytest.mark.parametrize("name", STANDARD)
def test_every_name_of_the_standard_is_public(name):
    assert hasattr(dg, name)
    assert name in dg.__all__


def parameters(function):
    kinds = inspect.Parameter
    return {
        # The name of a positional parameter is nobody's business.
        (place if p.kind is kinds.POSITIONAL_ONLY else p.name): p
        for place, p in enumerate(inspect.signature(function).parameters.values())
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_takes_what_the_standard_says(name):
    expected = parameters(getattr(array_api_strict, name))
    given = parameters(getattr(dg, name))

    for parameter, standard in expected.items():
        assert parameter in given, f"{name} takes no {parameter}"
        own = given[parameter]
        if standard.kind is inspect.Parameter.KEYWORD_ONLY:
            assert own.kind in (own.KEYWORD_ONLY, own.POSITIONAL_OR_KEYWORD)
        else:
            assert own.kind is standard.kind
        if standard.default is not inspect.Parameter.empty:
            assert own.default is not inspect.Parameter.empty, f"{parameter} has a default"
            if isinstance(standard.default, (bool, int, float, str, type(None))):
                assert own.default == standard.default


# --- results --------------------------------------------------------------------------------------

A = np.array([[1.5, -2.0, 0.25], [3.0, -0.5, 2.0]])
B = np.array([[0.5, 3.0, -1.25], [-3.0, 0.75, 2.0]])
BITS, PLACES = np.array([[6, -3, 5], [0, 2, 9]]), np.array([[1, 2, 3], [2, 1, 3]])
T, F = np.array([True, True, False]), np.array([True, False, False])
LINE = np.array([3.0, 1.0, 2.0, 1.0])
Z = A + 1j * B

# name: calls, each of a namespace and of arrays in it
UNARY = {
    **dict.fromkeys("abs ceil floor round trunc negative positive sign square".split(), A),
    **dict.fromkeys("cos cosh exp expm1 sin sinh tan tanh atan asinh".split(), A),
    **dict.fromkeys("isfinite isinf isnan signbit reciprocal".split(), A),
    **dict.fromkeys("log log1p log2 log10 sqrt".split(), np.abs(A)),
    **dict.fromkeys("acos asin atanh".split(), A / 4),
    **dict.fromkeys("conj imag real".split(), Z),
    "acosh": np.abs(A) + 1,
    "logical_not": T,
    "bitwise_invert": BITS,
    "matrix_transpose": A,
    "nonzero": BITS,
    "zeros_like": A,
    "ones_like": A,
    "unique_all": LINE,
    "unique_counts": LINE,
    "unique_inverse": LINE,
    "unique_values": LINE,
}
BINARY = {
    **dict.fromkeys("add atan2 copysign divide equal floor_divide greater".split(), (A, B)),
    **dict.fromkeys("greater_equal hypot less less_equal logaddexp maximum".split(), (A, B)),
    **dict.fromkeys("minimum multiply nextafter not_equal remainder subtract".split(), (A, B)),
    **dict.fromkeys("bitwise_and bitwise_or bitwise_xor".split(), (BITS, PLACES)),
    **dict.fromkeys("bitwise_left_shift bitwise_right_shift".split(), (BITS, PLACES)),
    **dict.fromkeys("logical_and logical_or logical_xor".split(), (T, F)),
    "pow": (np.abs(A), B),
    "matmul": (A, B.T.copy()),
    "vecdot": (A, B),
}
OTHERS = {
    "all": lambda xp, a: xp.all(a > -2.5, axis=0, keepdims=True),
    "any": lambda xp, a: xp.any(a > 2.5, axis=1),
    "arange": lambda xp, a: xp.arange(1, 8, 3),
    "argmax": lambda xp, a: xp.argmax(a, axis=1),
    "argmin": lambda xp, a: xp.argmin(a, keepdims=True),
    "argsort": lambda xp, a: xp.argsort(a, axis=0, descending=True),
    "asarray": lambda xp, a: xp.asarray(a, dtype=xp.float32, copy=True),
    "astype": lambda xp, a: xp.astype(a, xp.int32),
    "broadcast_arrays": lambda xp, a: xp.broadcast_arrays(a, a[0, ...]),
    "broadcast_to": lambda xp, a: xp.broadcast_to(a, (2, 2, 3)),
    "can_cast": lambda xp, a: xp.can_cast(xp.int32, xp.int64),
    "clip": lambda xp, a: xp.clip(a, -1.0, max=2.0),
    "concat": lambda xp, a: xp.concat((a, a), axis=None),
    "count_nonzero": lambda xp, a: xp.count_nonzero(a, axis=0, keepdims=True),
    "cumulative_prod": lambda xp, a: xp.cumulative_prod(a, axis=1, include_initial=True),
    "cumulative_sum": lambda xp, a: xp.cumulative_sum(a, axis=0, dtype=xp.float32),
    "diff": lambda xp, a: xp.diff(a, axis=1, n=2, prepend=a, append=a),
    "empty": lambda xp, a: xp.empty((2, 3)).shape,
    "empty_like": lambda xp, a: xp.empty_like(a).shape,
    "expand_dims": lambda xp, a: xp.expand_dims(a, axis=-1),
    "eye": lambda xp, a: xp.eye(3, 4, k=1),
    "finfo": lambda xp, a: [xp.finfo(a).bits, xp.finfo(xp.float32).eps],
    "flip": lambda xp, a: xp.flip(a, axis=0),
    "from_dlpack": lambda xp, a: xp.from_dlpack(a),
    "full": lambda xp, a: xp.full((2,), 7),
    "full_like": lambda xp, a: xp.full_like(a, 7.5),
    "iinfo": lambda xp, a: [xp.iinfo(xp.int8).min, xp.iinfo(xp.uint64).max],
    "isdtype": lambda xp, a: [
        xp.isdtype(xp.float32, kind)
        for kind in ("bool", "real floating", "numeric", ("integral", xp.float32), xp.int8)
    ],
    "linspace": lambda xp, a: xp.linspace(0.0, 1.0, num=5, endpoint=False),
    "max": lambda xp, a: xp.max(a, axis=1),
    "mean": lambda xp, a: xp.mean(a, axis=0),
    "meshgrid": lambda xp, a: xp.meshgrid(a[0, ...], a[:, 0], a[1, :2], indexing="xy"),
    "min": lambda xp, a: xp.min(a, axis=(0, 1)),
    "moveaxis": lambda xp, a: xp.moveaxis(a[None, ...], (0, 1), (-1, 0)),
    "ones": lambda xp, a: xp.ones((2, 0)),
    "permute_dims": lambda xp, a: xp.permute_dims(a, (1, 0)),
    "prod": lambda xp, a: xp.prod(a, axis=1),
    "repeat": lambda xp, a: xp.repeat(a, xp.asarray([2, 0, 1]), axis=1),
    "reshape": lambda xp, a: xp.reshape(a, (3, -1)),
    "result_type": lambda xp, a: xp.zeros(1, dtype=xp.result_type(a, xp.float32)),
    "roll": lambda xp, a: xp.roll(a, (1, -1), axis=(0, 1)),
    "searchsorted": lambda xp, a: xp.searchsorted(xp.sort(a[0, ...]), a, side="right"),
    "sort": lambda xp, a: xp.sort(a, descending=True),
    "squeeze": lambda xp, a: xp.squeeze(a[:, None, :], 1),
    "stack": lambda xp, a: xp.stack([a, a], axis=1),
    "std": lambda xp, a: xp.std(a, axis=1, correction=1.0),
    "sum": lambda xp, a: xp.sum(a, axis=0, dtype=xp.float32),
    "take": lambda xp, a: xp.take(a, xp.asarray([2, 0]), axis=1),
    "take_along_axis": lambda xp, a: xp.take_along_axis(a, xp.argsort(a, axis=1), axis=1),
    "tensordot": lambda xp, a: xp.tensordot(a, a, axes=((0,), (0,))),
    "tile": lambda xp, a: xp.tile(a, (2, 1, 2)),
    "tril": lambda xp, a: xp.tril(a, k=-1),
    "triu": lambda xp, a: xp.triu(a, k=1),
    "unstack": lambda xp, a: xp.unstack(a, axis=1),
    "var": lambda xp, a: xp.var(a, axis=0),
    "where": lambda xp, a: xp.where(a > 0, a, 0.0),
    "zeros": lambda xp, a: xp.zeros(3, dtype=xp.int16),
}
CALLS = {
    **{name: (call, (A,)) for name, call in OTHERS.items()},
    **{name: (None, (x,)) for name, x in UNARY.items()},
    **{name: (None, pair) for name, pair in BINARY.items()},
}
INSPECTION = {"__array_namespace_info__"}


def test_every_function_of_the_standard_is_called():
    assert set(FUNCTIONS) - INSPECTION == set(CALLS)


def outcome(result):
    """Return what a call gave as a list of NumPy arrays."""
    if isinstance(result, (tuple, list)):
        return [part for each in result for part in outcome(each)]
    is_array = hasattr(result, "__dlpack__") and not isinstance(result, np.generic)
    return [np.from_dlpack(result) if is_array else np.asarray(result)]


@pytest.mark.parametrize("name", CALLS)
def test_function_gives_what_the_strict_module_gives(name):
    call, arrays = CALLS[name]

    def result(xp):
        own = [xp.asarray(array) for array in arrays]
        return outcome(call(xp, *own) if call else getattr(xp, name)(*own))

    for given, expected in zip(result(dg), result(array_api_strict), strict=True):
        assert given.shape == expected.shape
        if name not in ("eye", "linspace", "ones", "empty"):  # whose dtype is each one's default
            assert given.dtype == expected.dtype
        np.testing.assert_allclose(given, expected, rtol=1e-6 if given.dtype == "f4" else 1e-13)


TAKING = [name for name, (call, arrays) in CALLS.items() if call is None and len(arrays) == 1]


@pytest.mark.parametrize("name", TAKING)
def test_variables_and_arrays_are_taken_as_tensors_are(name):
    x = CALLS[name][1][0]
    expected = outcome(getattr(dg, name)(dg.asarray(x)))

    for each in (x, dg.Variable(x)):
        for given, wanted in zip(outcome(getattr(dg, name)(each)), expected, strict=True):
            np.testing.assert_array_equal(given, wanted)


# --- the array object and inspection --------------------------------------------------------------


def test_arrays_name_their_namespace():
    for x in (dg.asarray(1.0), dg.Variable(1.0)):
        assert x.__array_namespace__() is dg
        assert x.__array_namespace__(api_version="2024.12") is dg
    with pytest.raises(ValueError, match=r"'1999\.01'; expected one of 2021\.12"):
        dg.asarray(1.0).__array_namespace__(api_version="1999.01")


def test_version_and_constants():
    assert dg.__array_api_version__ == "2024.12"
    assert (dg.e, dg.pi, dg.inf, dg.newaxis) == (np.e, np.pi, np.inf, None)
    assert dg.nan != dg.nan


def test_inspection_says_what_new_arrays_get():
    info = dg.__array_namespace_info__()

    assert info.capabilities()["data-dependent shapes"] is True
    assert info.default_device() == "cpu" == dg.zeros(1).device
    assert info.devices() == ["cpu"]
    assert info.default_dtypes(device="cpu") == {
        "real floating": dg.zeros(1).dtype,
        "complex floating": dg.asarray(1j).dtype,
        "integral": dg.asarray(1).dtype,
        "indexing": dg.argmax(dg.zeros(1)).dtype,
    }
    assert set(info.dtypes(kind="complex floating")) == {"complex64", "complex128"}
    assert set(info.dtypes(kind=("bool", "signed integer"))) == {
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
    }
    with pytest.raises(ValueError, match="'tpu:0'; expected one of cpu"):
        info.dtypes(device="tpu:0")


def test_default_dtypes_follow_the_setting():
    before = dg.get_default_dtype()
    dg.set_default_dtype("float64")
    try:
        found = dg.__array_namespace_info__().default_dtypes()
    finally:
        dg.set_default_dtype(before)

    assert found["real floating"] == np.float64
    assert found["complex floating"] == np.complex128


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_module_has_the_name_of_a_function(name):
    assert not isinstance(getattr(dg, name), types.ModuleType)


# --- questions about dtypes -----------------------------------------------------------------------


def test_result_type_never_widens_for_a_scalar():
    assert dg.result_type(dg.float32, dg.float64) == np.float64
    assert dg.result_type(dg.ones(2), 1e300) == np.float32
    assert dg.result_type(np.ones(2), dg.Variable(1.0)) == np.float64
    assert dg.result_type(dg.int8, 2.5) == np.float32
    assert dg.result_type("float16", dg.complex64) == np.complex64
    with pytest.raises(ValueError, match="nothing is given"):
        dg.result_type()


def test_bfloat16_is_of_the_real_floating_kind():
    pytest.importorskip("ml_dtypes")

    assert dg.isdtype("bfloat16", "real floating")
    assert dg.finfo("bfloat16").bits == 16
    assert not dg.isdtype("bfloat16", "integral")


def test_limits_are_of_the_right_kind():
    with pytest.raises(DTypeError, match="finfo: the dtype is int32"):
        dg.finfo(dg.asarray([1], dtype="int32"))
    with pytest.raises(DTypeError, match="iinfo: the dtype is float32"):
        dg.iinfo(dg.float32)
    with pytest.raises(ValueError, match="kind is 'float'; expected a dtype, or one of bool"):
        dg.isdtype(dg.float32, "float")


# --- what the standard leaves open ----------------------------------------------------------------


def test_infinite_operands_divide_as_the_standard_says():
    infinite = dg.asarray([np.inf, -np.inf, 1.0, -1.0], dtype="float64")
    by = dg.asarray([2.0, 2.0, -np.inf, np.inf], dtype="float64")

    quotient = (infinite // by).numpy()

    np.testing.assert_array_equal(quotient, [np.inf, -np.inf, -0.0, -0.0])
    assert np.signbit(quotient[2:]).all()


def test_exp_of_tiny_complex_numbers_keeps_its_precision():
    z = dg.asarray([1e-12 + 2e-9j])

    given = dg.expm1(dg.astype(z, "complex128")).numpy()

    z = z.numpy().astype(complex)
    np.testing.assert_allclose(given, z + z * z / 2, rtol=1e-15)


@pytest.mark.parametrize("function", [dg.nonzero, dg.unique_values])
def test_shapes_that_depend_on_values_are_refused_in_a_trace(function):
    with pytest.raises(TraceError, match=r"depends on values.*dg\.where"):
        dg.function(lambda x: function(x)[0])(dg.asarray([1.0, 0.0, 2.0]))


def test_shapes_of_arrays_that_do_not_fit_are_explained():
    x = dg.ones((2, 3))

    for call, text in (
        (lambda: dg.moveaxis(x, (0, 1), 0), "moveaxis: source .* differ in length"),
        (lambda: dg.roll(x, (1, 2, 3), axis=(0, 1)), "roll: shift .* one shift for each"),
        (lambda: dg.repeat(x, [1, 2], axis=1), r"repeats has shape \(2,\).* 3 positions"),
        (lambda: dg.repeat(x, -1), "repeats is -1; expected 0 or more"),
        (lambda: dg.meshgrid(x), r"array 0 has shape \(2, 3\); expected one axis"),
        (lambda: dg.tril(dg.ones(3)), "tril: two axes or more"),
        (lambda: dg.unstack(x, axis=2), "unstack: axis is 2"),
        (lambda: dg.searchsorted(x, 1.0), r"x1 has shape \(2, 3\); expected one axis"),
        (lambda: dg.take_along_axis(x, [0], axis=0), "expected as many axes"),
        (lambda: dg.cumulative_prod(x), "cumulative_prod: axis is needed"),
        (lambda: dg.nonzero(dg.asarray(1.0)), "x has no axes"),
    ):
        with pytest.raises(ShapeError, match=text):
            call()
    with pytest.raises(DTypeError, match="bitwise_and: the operands are float32"):
        x & x
    with pytest.raises(IndexError, match="expand_dims: axis is 5"):
        dg.expand_dims(x, axis=5)
