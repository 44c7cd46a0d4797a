"""Derivatives of every operation agree with differences: first and second order, both modes.

The operation stands in the middle of a bent path, ``h(op(b(x)))`` with b and h nonlinear, so that
cotangents and tangents depend on the source too, as they do within a real function.
"""

from dataclasses import replace

import numpy as np
import pytest

import distgrad as dg
from distgrad.core.seam import apply
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values
from distgrad.testing.rules import each_of
from distgrad.testing.samples import samples

DIFFERENTIABLE = [sample for sample in samples() if sample.sources]
# Indexing moves numbers, complex ones as real ones; so it does not matter how memory is laid out.
COMPLEX = [
    sample.rotated()
    for sample in DIFFERENTIABLE
    if sample.takes_complex
    and sample.operation not in ("getitem", "scatter_add")
    and sample.variant not in ("fortran", "backwards", "strided")
]


def bent_path(sample):
    """Return ``h(op(b(x)))``; b leaves 0 where it is and orders its values as before."""

    def function(*operands):
        bent = [
            x + x * x / 16 if place in sample.sources else x for place, x in enumerate(operands)
        ]
        outputs = each_of(apply(sample.op, *bent, **sample.params))
        if sample.invariants:
            outputs = sample.invariants(dg, *outputs)
        return [y + y * y / 4 for y in outputs]

    return function


def tensors(sample):
    return [dg.asarray(x) if isinstance(x, np.ndarray) else x for x in sample.operands]


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_derivatives_agree_with_differences_to_second_order(sample):
    check_gradients(bent_path(sample), tensors(sample))


@pytest.mark.parametrize("sample", COMPLEX, ids=str)
def test_complex_derivatives_agree_with_differences_to_second_order(sample):
    check_gradients(bent_path(sample), tensors(sample))


def with_real_first(sample):
    """Return a sample of complex operands but for the first."""
    return replace(sample, operands=(sample.operands[0], *sample.rotated().operands[1:]))


PAIRS = [
    each
    for each in DIFFERENTIABLE
    if each.takes_complex
    and len(each.sources) == 2
    and each.operation != "index_set"  # which converts its values to the array's dtype before
]


@pytest.mark.parametrize("sample", [with_real_first(each) for each in PAIRS], ids=str)
def test_real_and_complex_operands_mix(sample):
    check_gradients(bent_path(sample), tensors(sample))


REAL_VALUED = {"abs": dg.abs, "real": dg.real, "imag": dg.imag}


@pytest.mark.parametrize("name", REAL_VALUED)
def test_cotangent_of_a_real_value_between_complex_ones_is_real(name):
    # The real value meets a complex factor: its cotangent has an imaginary part to be left out.
    z = dg.asarray(values((3, 4), 0.5, 2.0) * np.exp(1j * values((3, 4), 0.4, 0.9)))

    check_gradients(lambda z: dg.exp(REAL_VALUED[name](z) * (1 + 1j)) * z, [z])


def test_third_order_agrees_with_differences():
    x = dg.asarray(values((3,), 0.5, 2.0))

    check_gradients(lambda x: dg.sum(dg.exp(dg.sin(x) * x) / x), [x], order=3)


def undifferentiable_samples():
    for sample in samples():
        floating = [x for x in sample.operands if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        if sample.op.vjp is None and floating:
            yield sample


@pytest.mark.parametrize("sample", list(undifferentiable_samples()), ids=str)
def test_tape_ends_at_an_op_without_a_derivative(sample):
    operands = tensors(sample)
    floating = [x for x in operands if isinstance(x, dg.Tensor) and x.dtype.kind == "f"]

    with dg.GradientTape() as tape:
        tape.watch(floating)
        y = apply(sample.op, *operands, **sample.params)

    assert tape.gradient(y, floating) == [None] * len(floating)
