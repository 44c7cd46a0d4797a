"""The whole vocabulary on CuPy gives what it gives on NumPy: results, VJPs and JVPs."""

import numpy as np
import pytest

from distgrad.testing import rules
from distgrad.testing.samples import samples

# Of the device, not of values: where something lies, and where it is moved to.
PLACES = ("transfer", "to_device")
PORTABLE = [sample for sample in samples() if sample.operation not in PLACES]
DIFFERENTIABLE = [sample for sample in PORTABLE if sample.sources]
COMPLEX = [sample.rotated() for sample in DIFFERENTIABLE if sample.takes_complex]


@pytest.mark.parametrize("sample", PORTABLE, ids=str)
def test_kernel_and_rules_give_what_they_give_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample, cupy_backend)


@pytest.mark.parametrize("sample", COMPLEX, ids=str)
def test_complex_kernel_and_rules_give_what_they_give_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample, cupy_backend)


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_single_precision_gives_what_it_gives_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample.cast(np.dtype("float32")), cupy_backend)
