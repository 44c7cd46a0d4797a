"""Dtypes: what operations compute in, what gradients come back in, how scalars take part."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.seam import apply
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.inputs import Sample, values
from distgrad.testing.samples import samples

DIFFERENTIABLE = [sample for sample in samples() if sample.sources]


def in_precision(sample, dtype):
    """Return a sample's call in a narrow dtype, and with the same values in the widest."""
    if dtype == "complex64":
        narrow = sample.rotated().cast(np.dtype(dtype))
        return narrow, narrow.cast(np.dtype("complex128"))
    narrow = sample.cast(np.dtype(dtype))
    return narrow, narrow.cast(np.dtype("float64"))


def check_precision(sample, dtype):
    """Check result and cotangents in a narrow dtype against the widest, and their dtypes."""
    narrow, wide = in_precision(sample, dtype)
    given, expected = rules.call(narrow), rules.call(wide)
    for result, wider in zip(given.outputs, expected.outputs, strict=True):
        assert_no_wider(result, wider, dtype)
    for result, wider in zip(given.settled(), expected.settled(), strict=True):
        rules.assert_close(result, np.asarray(wider, result.dtype), "result")
    needs = tuple(int(place in sample.sources) for place in range(len(sample.operands)))
    cotangent = given.random_cotangent()
    pulled = given.pull(cotangent, needs)
    parts = zip(rules.each_of(cotangent), expected.outputs, strict=True)
    widened = tuple(part.astype(y.dtype) for part, y in parts)
    wanted = expected.pull(widened if narrow.op.outputs != 1 else widened[0], needs)
    for place in sample.sources:
        assert pulled[place].dtype == narrow.operands[place].dtype
        rules.assert_close(pulled[place], wanted[place].astype(pulled[place].dtype), "cotangent")


def assert_no_wider(given, expected, dtype):
    if expected.dtype in ("float64", "complex128"):
        # The narrowest complex numbers are those of two float32.
        assert given.dtype in (dtype, np.zeros(0, dtype).real.dtype, np.complex64)


LAYOUTS = ("fortran", "backwards", "strided", "ones", "empty")
NARROW = [
    sample
    for sample in DIFFERENTIABLE
    if sample.operation not in ("astype", "scatter_add", "irfft")
    and sample.variant not in (*LAYOUTS, "integer-exponents")
]


@pytest.mark.parametrize("sample", NARROW, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes_stay_narrow_and_agree_with_float64(sample, dtype):
    check_precision(sample, dtype)


@pytest.mark.parametrize("sample", [s for s in NARROW if s.takes_complex], ids=str)
def test_complex64_stays_narrow_and_agrees_with_complex128(sample):
    check_precision(sample, "complex64")


# Index arrays, labels, masks and bases stay what they are; every other operand is cast.
# The dtype of one_hot is an argument; the functions of the fused operations refuse integers, and so
# do those of label sequences; what is pulled back through a norm or softmax is floating.
NUMERIC = [
    sample
    for name in sorted(
        VOCABULARY.keys()
        - set("one_hot attention lstm gru ctc ctc_vjp normalize_vjp softmax_vjp".split())
    )
    for sample in samples(name)[:1]
    if sample.operands and isinstance(sample.operands[0], np.ndarray)
]


def cast_all(sample, dtype):
    cast = tuple(
        np.abs(x).astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for x in sample.operands
    )
    name = f"{sample.variant}-{dtype}"
    return Sample(sample.operation, name, cast, sample.params, sample.is_static)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float32"])
@pytest.mark.parametrize("sample", NUMERIC, ids=str)
def test_spec_rule_foretells_the_dtype(sample, dtype):
    with np.errstate(all="ignore"):  # integers reach poles, such as log(0)
        rules.check_spec(cast_all(sample, dtype))


PAIRS = [s for s in DIFFERENTIABLE if len(s.sources) == 2 and s.variant in ("same", "matrices")]


@pytest.mark.parametrize("sample", PAIRS, ids=str)
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")], ids=str)
def test_each_gradient_has_the_dtype_of_its_source(sample, dtypes):
    first, second = sample.sources
    operands = list(sample.operands)
    for place, dtype in zip((first, second), dtypes, strict=True):
        operands[place] = dg.asarray(operands[place], dtype=dtype)

    with dg.GradientTape() as tape:
        tape.watch([operands[first], operands[second]])
        y = apply(sample.op, *operands, **sample.params)
    gradients = tape.gradient(y, [operands[first], operands[second]])

    assert y.dtype == np.float64
    assert tuple(g.dtype.name for g in gradients) == dtypes


def test_gradient_passes_a_change_of_dtype_in_the_sources_own():
    x = dg.Variable(values((3,), -2.0, 2.0), dtype="float32")

    with dg.GradientTape() as tape:
        y = dg.sum(dg.square(dg.astype(x, "float64")))
    gradient = tape.gradient(y, x)

    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient.numpy(), 2 * x.numpy(), rtol=1e-6)


def test_gradient_ends_at_integers():
    x = dg.Variable([1.5, 2.5])

    with dg.GradientTape() as tape:
        y = dg.sum(dg.astype(dg.astype(x, "int64"), "float32"))

    assert tape.gradient(y, x) is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_python_scalar_never_widens(dtype):
    x = dg.asarray([1.0, 2.0], dtype=dtype)

    assert {(f(x, 2.5)).dtype.name for f in (dg.add, dg.multiply, dg.pow, dg.maximum)} == {dtype}
    assert dg.where(x > 1.5, x, 0.5).dtype == dtype
    assert (2 * x).dtype == dtype


def test_scalars_alone_get_the_default_dtype():
    condition = dg.asarray([True, False])

    assert dg.where(condition, 1.5, -0.5).dtype == np.float32
    assert dg.where(condition, 1, 0).dtype == np.int64


@pytest.mark.parametrize("name", ["sum", "prod", "cumulative_sum"])
def test_sums_of_small_integers_are_wide(name):
    x = dg.asarray(np.full(5, 100, np.int8))

    assert getattr(dg, name)(x).dtype == np.int64


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool"])
def test_mean_and_quotient_of_integers_are_floating(dtype):
    x = dg.asarray(np.ones((3, 4), dtype))

    assert dg.mean(x).dtype == np.float64
    assert dg.divide(x, x).dtype == np.float64
    np.testing.assert_allclose(dg.var(x, axis=0).numpy(), np.zeros(4))


@pytest.mark.parametrize("name", ["round", "floor", "ceil"])
def test_rounding_integers_leaves_them(name):
    x = dg.asarray([3, -4, 5])

    rounded = getattr(dg, name)(x)

    assert rounded.dtype == np.int64
    np.testing.assert_array_equal(rounded.numpy(), [3, -4, 5])
