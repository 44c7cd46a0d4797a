"""The whole vocabulary on CuPy gives what it gives on NumPy: results, VJPs and JVPs."""

import numpy as np
import pytest

from distgrad.dtypes import as_dtype
from distgrad.testing import rules
from distgrad.testing.samples import attention, linalg, samples

# Of the device, not of values: where something lies, and where it is moved to.
PLACES = ("transfer", "to_device")
PORTABLE = [sample for sample in samples() if sample.operation not in PLACES]
DIFFERENTIABLE = [sample for sample in PORTABLE if sample.sources]
COMPLEX = [sample.rotated() for sample in DIFFERENTIABLE if sample.takes_complex]

# Their rules multiply stacks of matrices and choose numbers by the dtype.
OF_STACKS = [
    sample
    for family in (*linalg.FAMILIES, *attention.FAMILIES)
    for sample in family()
    if sample.sources and sample.variant in ("stack", "stack-lower", "causal", "mask-each")
]


@pytest.mark.parametrize("sample", PORTABLE, ids=str)
def test_kernel_and_rules_give_what_they_give_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample, cupy_backend)


@pytest.mark.parametrize("sample", COMPLEX, ids=str)
def test_complex_kernel_and_rules_give_what_they_give_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample, cupy_backend)


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_single_precision_gives_what_it_gives_on_numpy(sample, cupy_backend):
    rules.check_agreement(sample.cast(np.dtype("float32")), cupy_backend)


@pytest.mark.parametrize("sample", OF_STACKS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_what_single_gives_on_numpy(sample, dtype, cupy_backend):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")

    with np.errstate(all="ignore"):
        rules.check_half(sample, as_dtype(dtype), cupy_backend)
