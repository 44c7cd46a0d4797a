"""Any shape, dtype, stride and value: results are NumPy's, and the two modes agree."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import distgrad as dg

SETTINGS = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, np.nan, np.inf, -np.inf, 3e4, -7.25])
FLOATS = st.sampled_from(["float16", "float32", "float64"])
INTEGERS = st.sampled_from(["int8", "uint8", "int32", "int64"])

UNARY = {
    **{name: name for name in "exp expm1 log log1p log2 log10 sqrt sin cos tan sinh cosh".split()},
    **{name: name for name in "tanh asinh acosh atanh asin acos atan abs sign floor ceil".split()},
    **{name: name for name in "trunc round square negative positive reciprocal signbit".split()},
    **{name: name for name in "isnan isinf isfinite conj real imag logical_not".split()},
}
BINARY = (
    "add subtract multiply divide maximum minimum atan2 hypot copysign logaddexp remainder "
    "floor_divide nextafter equal not_equal less less_equal greater greater_equal pow "
    "logical_and logical_or logical_xor"
).split()
REDUCTIONS = "sum mean prod max min any all".split()
STRUCTURE = {
    "flip": lambda m, x: m.flip(x),
    "reversed axes": lambda m, x: m.permute_dims(x, tuple(reversed(range(x.ndim)))),
    "reshape": lambda m, x: m.reshape(x, (-1,) if x.size else (0,)),
    "expand_dims": lambda m, x: m.expand_dims(x, axis=0),
    "stack": lambda m, x: m.stack([x, x], axis=-1),
    "concat": lambda m, x: m.concat([m.reshape(x, (x.size,))] * 2),
    "roll": lambda m, x: m.roll(x, 2),
    "broadcast_to": lambda m, x: m.broadcast_to(x, (2, *x.shape)),
    "where": lambda m, x: m.where(x > 0, x, -x),
    "basic index": lambda m, x: x[..., None],
    "step": lambda m, x: x[::-2] if x.ndim else x,
    "sort": lambda m, x: m.sort(x, axis=-1) if x.ndim else x,
    "cumulative_sum": lambda m, x: m.cumulative_sum(x, axis=0) if x.ndim else x,
}


@st.composite
def arrays(draw, dtypes=FLOATS, shapes=SHAPES):
    """Draw an array, often with strides that are not those of its shape."""
    dtype = np.dtype(draw(dtypes))
    elements = SPECIAL if dtype.kind == "f" else st.integers(0 if dtype.kind == "u" else -9, 9)
    x = draw(hnp.arrays(dtype, draw(shapes), elements=elements, fill=st.nothing()))
    layout = draw(st.sampled_from(["plain", "fortran", "reversed", "strided"]))
    if x.ndim == 0 or layout == "plain":
        return x
    if layout == "fortran":
        return np.asfortranarray(x)
    return x[::-1] if layout == "reversed" else np.repeat(x, 2, axis=-1)[..., ::2]


@st.composite
def pairs(draw, dtypes=FLOATS):
    """Draw two arrays of one dtype that broadcast."""
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3))
    dtype = st.just(draw(dtypes))
    return [draw(arrays(dtype, st.just(shape))) for shape in shapes.input_shapes]


def assert_same(given, expected):
    """Compare with NumPy's result: shape, dtype, NaN, infinities, and values to the last digits."""
    given = given.numpy()
    assert (given.shape, given.dtype) == (np.shape(expected), np.asarray(expected).dtype)
    kind = given.dtype.kind
    tolerance = 4 * np.finfo(given.dtype).eps if kind == "f" else 0
    np.testing.assert_allclose(given, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", UNARY)
@SETTINGS
@given(x=arrays())
def test_functions_of_one_array_are_numpys(name, x):
    with np.errstate(all="ignore"):
        assert_same(getattr(dg, name)(dg.asarray(x)), getattr(np, UNARY[name])(x))


@pytest.mark.parametrize("name", BINARY)
@SETTINGS
@given(operands=pairs())
def test_functions_of_two_arrays_are_numpys(name, operands):
    a, b = operands
    if name == "floor_divide":  # of infinities the standard's values, which are not NumPy's
        a, b = (np.where(np.isinf(each), np.ones_like(each), each) for each in operands)
    with np.errstate(all="ignore"):
        expected = getattr(np, {"atan2": "arctan2"}.get(name, name))(a, b)
        assert_same(getattr(dg, name)(dg.asarray(a), dg.asarray(b)), expected)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "maximum", "minimum", "less"])
@SETTINGS
@given(operands=pairs(INTEGERS))
def test_functions_of_two_arrays_of_integers_are_numpys(name, operands):
    a, b = operands

    assert_same(getattr(dg, name)(dg.asarray(a), dg.asarray(b)), getattr(np, name)(a, b))


@pytest.mark.parametrize("name", REDUCTIONS)
@SETTINGS
@given(x=arrays(), data=st.data())
def test_reductions_are_numpys(name, x, data):
    axes = data.draw(st.sampled_from([None, *range(-x.ndim, x.ndim)]))
    keepdims = data.draw(st.booleans())
    numbers = x.size if axes is None else x.shape[axes]
    if name in ("max", "min") and not numbers:
        return  # refused by both, with errors of their own
    with np.errstate(all="ignore"):
        if name == "mean" and not numbers:  # NumPy warns, distgrad does not
            given = dg.mean(dg.asarray(x), axis=axes, keepdims=keepdims).numpy()
            assert np.isnan(given).all()
            return
        expected = getattr(np, name)(x, axis=axes, keepdims=keepdims)
        assert_same(getattr(dg, name)(dg.asarray(x), axis=axes, keepdims=keepdims), expected)


@pytest.mark.parametrize("name", STRUCTURE)
@SETTINGS
@given(x=arrays())
def test_structure_is_numpys(name, x):
    with np.errstate(all="ignore"):
        assert_same(STRUCTURE[name](dg, dg.asarray(x)), np.asarray(STRUCTURE[name](np, x)))


SMOOTH = {
    "add": dg.add,
    "multiply": dg.multiply,
    "divide": lambda a, b: dg.divide(a, 2 + dg.square(b)),
    "atan2": lambda a, b: dg.atan2(a, 2 + dg.square(b)),
    "logaddexp": dg.logaddexp,
    "pow": lambda a, b: dg.pow(1 + dg.square(a), b),
    "summed": lambda a, b: dg.sum(dg.sin(a) * b, axis=-1) if (a * b).ndim else a * b,
    "where": lambda a, b: dg.where(dg.stop_gradient(a) > 0.2, dg.sin(a) * b, b),
}


@pytest.mark.parametrize("name", SMOOTH)
@SETTINGS
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_reverse_and_forward_mode_agree_on_whatever_broadcasts(name, shapes, seed):
    f = SMOOTH[name]
    generator = np.random.default_rng(seed)
    a, b, u, v = (
        dg.asarray(generator.uniform(-1.5, 1.5, shape)) for shape in shapes.input_shapes * 2
    )

    y, pushed = dg.jvp(f, (a, b), (u, v))
    w = dg.asarray(generator.uniform(-1.5, 1.5, y.shape))
    _, pull = dg.vjp(f, a, b)
    to_a, to_b = pull(w)

    assert (to_a.shape, to_b.shape) == (a.shape, b.shape)
    left, right = float(dg.sum(pushed * w)), float(dg.sum(to_a * u) + dg.sum(to_b * v))
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)
