"""Batch norm in one piece is what moments and normalize are in two, and so are its derivatives."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.seam import apply
from distgrad.eager import kernels_of
from distgrad.errors import ShapeError
from distgrad.ops.neural.batch_normalization import (
    BATCH_NORM,
    BATCH_NORM_VJP,
    normalize_by_own_moments,
)
from distgrad.testing import check_gradients
from distgrad.testing.samples import samples

CALLS = samples("batch_norm")
GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(2.0, 3.0, (4, 3, 5))
SCALE, SHIFT = GENERATOR.normal(size=(2, 1, 1, 5))
WEIGHTS = [GENERATOR.normal(size=shape) for shape in ((4, 3, 5), (1, 1, 5), (1, 1, 5))]


def in_two(x, *affine):
    mean, variance = dg.nn.moments(x, axis=(0, 1), keepdims=True)
    return dg.nn.normalize(x, mean, variance, *affine, epsilon=0.01), mean, variance


def in_one(x, *affine):
    return normalize_by_own_moments(x, *affine, axis=(0, 1), epsilon=0.01)


def weighed(function, used):
    """Return a function of a number: outputs, of which some count, times weights."""

    def target(*operands):
        outputs = function(*operands)
        return sum(dg.sum(outputs[place] ** 2 * WEIGHTS[place]) for place in used)

    return target


USED = {"output": (0,), "moments": (1, 2), "variance": (2,), "all": (0, 1, 2)}


@pytest.mark.parametrize("used", USED)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_gradients_are_those_of_moments_and_normalize(count, used):
    operands = [dg.asarray(each) for each in (X, SCALE, SHIFT)[: 1 + count]]
    sources = tuple(range(len(operands) if 0 in USED[used] else 1))

    found = dg.grad(weighed(in_one, USED[used]), argnums=sources)(*operands)

    expected = dg.grad(weighed(in_two, USED[used]), argnums=sources)(*operands)
    for mine, own in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), own.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sample", [s for s in CALLS if s.operands[0].size], ids=str)
def test_derivatives_are_right_to_second_order_in_both_modes(sample):
    check_gradients(
        lambda *arrays: apply(sample.op, *arrays, **sample.params), sample.operands, order=2
    )


@pytest.mark.parametrize("sample", CALLS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_pullback_gives_the_shapes_and_dtypes_that_it_foretells(sample, dtype):
    arrays = sample.cast(np.dtype(dtype)).operands
    kernels = kernels_of("numpy")
    outputs = kernels.batch_norm(*arrays, **sample.params)
    cotangents = [np.ones_like(each) for each in outputs]

    given = (*cotangents, arrays[0], *outputs[1:], *arrays[1:])
    pulled = kernels.batch_norm_vjp(*given, **sample.params)

    foretold = BATCH_NORM_VJP.spec(*given, **sample.params)
    assert [(p.shape, p.dtype) for p in pulled] == [tuple(each) for each in foretold]


def test_half_precision_loses_nothing_to_moments_of_half_precision():
    x = (GENERATOR.normal(size=(64, 3)) + 200).astype(np.float16)
    g = GENERATOR.normal(size=x.shape).astype(np.float16)

    def pulled(dtype):
        with dg.GradientTape() as tape:
            watched = dg.asarray(x.astype(dtype))
            tape.watch(watched)
            target = dg.sum(dg.nn.batch_norm(watched).output * g.astype(dtype))
        return tape.gradient(target, watched).numpy()

    found, exact = pulled("float16"), pulled("float64")

    assert found.dtype == np.float16
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())


def test_a_tape_keeps_the_input_and_the_moments_but_not_the_output():
    x = dg.asarray(np.ones((1000, 4), np.float32))

    with dg.GradientTape() as tape:
        tape.watch(x)
        found = dg.nn.batch_norm(x)

    (record,) = [each for each in tape.summary().operations if each.name == "batch_norm"]
    assert record.nbytes == x.nbytes + 2 * 4 * 4
    assert found.output.shape == (1000, 4)


def test_examples_of_a_batch_have_moments_of_their_own():
    x, scale = GENERATOR.normal(size=(6, 7, 3)), GENERATOR.normal(size=(6, 3))

    whole = dg.vmap(dg.nn.batch_norm)(dg.asarray(x), dg.asarray(scale))

    for number in range(6):
        one = dg.nn.batch_norm(x[number], scale[number])
        for mine, own in zip(whole, one, strict=True):
            np.testing.assert_allclose(mine[number].numpy(), own.numpy(), rtol=1e-12, atol=1e-14)


def test_scale_of_another_shape_is_explained():
    with pytest.raises(ShapeError, match=r"scale has shape \(5,\); expected \(1, 1, 5\)"):
        BATCH_NORM.spec(X, SCALE.reshape(5), axes=(0, 1), epsilon=0.01)
