"""Every operation has samples, and they reach what its rules distinguish."""

import numpy as np
import pytest

from distgrad.ops import VOCABULARY
from distgrad.testing.inputs import Sample, values
from distgrad.testing.samples import samples

# The pullback of a fused operation is reached by that operation's own samples: test_fused.py, and
# test_batch_normalization.py.
PULLBACKS = {f"{name}_vjp" for name in ("attention", "lstm", "gru", "batch_norm")}
SAMPLED = [name for name in VOCABULARY if name not in PULLBACKS]


@pytest.mark.parametrize("name", SAMPLED)
def test_every_op_has_a_sample(name):
    assert samples(name), f"{name}: add a line to distgrad/testing/samples/"


def test_every_sample_is_of_an_op():
    assert {sample.operation for sample in samples()} <= VOCABULARY.keys()


def test_no_two_samples_have_one_name():
    names = [str(sample) for sample in samples()]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [name for name in SAMPLED if VOCABULARY[name].vjp is not None])
def test_every_differentiable_op_has_a_sample_with_a_derivative(name):
    assert any(sample.sources for sample in samples(name))


def test_kernels_cannot_change_a_sample_unnoticed():
    writeable = [
        str(sample)
        for sample in samples()
        for operand in sample.operands
        if isinstance(operand, np.ndarray) and operand.flags.writeable
    ]

    assert not writeable


def test_values_are_the_same_each_time_and_all_different():
    once, again = values((3, 4), -2.1, 2.0), values((3, 4), -2.1, 2.0)

    np.testing.assert_array_equal(once, again)
    assert len(set(once.ravel().tolist())) == 12


def test_complex_form_of_a_sample_keeps_absolute_values():
    sample = Sample("sin", "here", (np.array([0.5, -2.0]), 3.0))

    turned, scalar = sample.rotated().operands

    np.testing.assert_allclose(np.abs(turned), [0.5, 2.0], rtol=1e-15)
    assert np.all(np.abs(turned.imag) > 0.1)
    assert scalar == 3.0
