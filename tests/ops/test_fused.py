"""Fused operations: kernels against compositions, and the orders of derivative that follow."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.seam import apply
from distgrad.eager import kernels_of
from distgrad.ops import VOCABULARY
from distgrad.testing import check_gradients
from distgrad.testing.samples import samples

FUSED = ("attention", "lstm", "gru")
CALLS = [sample for name in FUSED for sample in samples(name)]


def cotangents_of(outputs, seed=0):
    random = np.random.default_rng(seed)
    return [random.uniform(-1, 1, output.shape) for output in outputs]


def unused(outputs):
    """Return zeros as a walk hands them over: one number, seen as many."""
    return [np.broadcast_to(np.zeros((), y.dtype), y.shape) for y in outputs]


@pytest.mark.parametrize("sample", CALLS, ids=str)
@pytest.mark.parametrize(
    "used", [slice(None), slice(1), slice(1, None)], ids=["all", "1st", "rest"]
)
def test_a_pullback_kernel_gives_what_its_composition_gives(sample, used):
    kernels = kernels_of("numpy")
    outputs = getattr(kernels, sample.operation)(*sample.operands, **sample.params)
    cotangents = unused(outputs)
    cotangents[used] = cotangents_of(outputs)[used]
    pullback = VOCABULARY[f"{sample.operation}_vjp"]
    arrays = (*sample.operands, *outputs, *cotangents)
    given = getattr(kernels, pullback.name)(*arrays, **sample.params)
    expected = pullback.compose(kernels, *arrays, **sample.params)
    for place, pair in enumerate(zip(given, expected, strict=True)):
        what = f"{sample}: cotangent of operand {place}"
        np.testing.assert_allclose(*pair, rtol=1e-12, atol=1e-13, err_msg=what)


@pytest.mark.parametrize("sample", [s for s in CALLS if 0 not in s.operands[0].shape], ids=str)
def test_a_fused_operation_has_right_derivatives_to_second_order_in_both_modes(sample):
    count = len(sample.sources)
    rest = sample.operands[count:]
    check_gradients(
        lambda *arrays: apply(sample.op, *arrays, *rest, **sample.params),
        sample.operands[:count],
        order=2,
    )


def test_a_third_derivative_flows_through_the_pullback_of_the_pullback():
    q = dg.asarray(np.random.default_rng(1).normal(size=(3, 2)))

    def energy(x):
        return dg.sum(dg.nn.scaled_dot_product_attention(x, x, x, causal=True) ** 2)

    def second(x):
        return dg.sum(dg.hvp(energy, (x,), (dg.asarray(np.ones((3, 2))),)))

    check_gradients(second, (q.numpy(),), order=1)


@pytest.mark.parametrize("name", FUSED)
def test_bits_of_half_precision_inputs_come_back_in_half_precision(name):
    kernels = kernels_of("numpy")
    sample = samples(name)[0].cast(np.dtype(np.float16))
    outputs = getattr(kernels, name)(*sample.operands, **sample.params)
    assert {y.dtype for y in outputs} == {np.dtype(np.float16)}
    pulled = getattr(kernels, f"{name}_vjp")(
        *sample.operands, *outputs, *(y.copy() for y in outputs), **sample.params
    )
    assert {p.dtype for p in pulled} == {np.dtype(np.float16)}


def test_a_complex_cotangent_of_a_real_result_is_made_real():
    x = dg.asarray(np.random.default_rng(3).normal(size=(3, 4)))

    def attended(x):
        return dg.nn.scaled_dot_product_attention(x, x, x)

    crossed = dg.grad(lambda x: dg.sum(dg.real((attended(x) * (1 + 0.5j)) ** 2)))
    plain = dg.grad(lambda x: dg.sum(0.75 * attended(x) ** 2))

    np.testing.assert_allclose(crossed(x).numpy(), plain(x).numpy())
    np.testing.assert_allclose(
        dg.jvp(crossed, (x,), (x,))[1].numpy(), dg.jvp(plain, (x,), (x,))[1].numpy()
    )
