"""The rules of every operation keep the laws of `distgrad.testing.rules`, on NumPy."""

import numpy as np
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


def needs_no_rule(sample):
    """Return whether how many elements there are, or where they stand, differs by example."""
    masks = [x for x in sample.operands if isinstance(x, np.ndarray) and x.dtype == np.bool_]
    picks = masks and "index" in sample.params
    return not sample.is_static or picks


# The lines of searchsorted are in order, and their reverses, as other examples, would not be.
BATCHED = [s for s in samples() if s.operation not in ("transfer", "searchsorted")]


@pytest.mark.parametrize("sample", BATCHED, ids=str)
def test_batching_rule_gives_what_a_loop_gives(sample):
    rules.check_batching(sample, one_by_one=bool(needs_no_rule(sample)))
