"""The rules of every operation keep the laws of `distgrad.testing.rules`, on NumPy."""

import pytest

from distgrad.testing import rules
from distgrad.testing.samples import samples

DIFFERENTIABLE = [sample for sample in samples() if sample.sources]
COMPLEX = [sample.rotated() for sample in DIFFERENTIABLE if sample.takes_complex]


@pytest.mark.parametrize("sample", samples(), ids=str)
def test_spec_rule_foretells_shape_and_dtype(sample):
    rules.check_spec(sample)


@pytest.mark.parametrize("sample", [each for each in samples() if each.op.compose], ids=str)
def test_composition_gives_what_the_kernel_gives(sample):
    rules.check_composition(sample)


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_jvp_and_vjp_are_adjoint(sample):
    rules.check_adjoint(sample)


@pytest.mark.parametrize("sample", COMPLEX, ids=str)
def test_jvp_and_vjp_are_adjoint_for_complex_operands(sample):
    rules.check_adjoint(sample)


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_vjp_needs_no_more_than_a_tape_keeps(sample):
    rules.check_keep(sample)
