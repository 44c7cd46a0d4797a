"""The whole vocabulary on CuPy gives what it gives on NumPy: results, VJPs and JVPs."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kernels import Kernels
from distgrad.dtypes import as_dtype
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.samples import samples

# Of the device, not of values: where something lies, and where it is moved to.
PLACES = ("transfer", "to_device")
PORTABLE = [sample for sample in samples() if sample.operation not in PLACES]
DIFFERENTIABLE = [sample for sample in PORTABLE if sample.sources]
# Two of each operation, and all whose rules multiply stacks of matrices.
HALVED = [
    sample
    for operation in dict.fromkeys(each.operation for each in DIFFERENTIABLE)
    for place, sample in enumerate(s for s in DIFFERENTIABLE if s.operation == operation)
    if place < 2 or "stack" in sample.variant or operation.startswith("attention")
]
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


@pytest.mark.parametrize("sample", HALVED, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_what_single_gives_on_numpy(sample, dtype, cupy_backend):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")

    with np.errstate(all="ignore"):
        rules.check_half(sample, as_dtype(dtype), cupy_backend)


@pytest.mark.parametrize("sample", HALVED, ids=str)
def test_results_in_bfloat16_have_the_dtypes_that_they_have_on_numpy(sample, cupy_backend):
    pytest.importorskip("ml_dtypes")
    narrow = sample.cast(as_dtype("bfloat16"))

    with np.errstate(all="ignore"):
        found, expected = rules.call(narrow, cupy_backend), rules.call(narrow)

    assert [y.dtype for y in found.outputs] == [y.dtype for y in expected.outputs]


@pytest.mark.parametrize("kind", ["int32", "int64", "bool", "float32"])
def test_bfloat16_beside_other_dtypes_is_what_it_is_on_numpy(kind, cupy_backend):
    pytest.importorskip("ml_dtypes")

    def joined(backend):
        with dg.use_backend(backend):
            a = dg.asarray([[1.0, 2.0], [3.0, 4.0]], dtype="bfloat16")
            b = dg.asarray([[1, 0], [1, 1]], dtype=kind)
            calls = [lambda: a @ b, lambda: dg.concat([a, b]), lambda: a + b, lambda: b * a]
            calls += [lambda: dg.einsum("ij,jk->ik", a, b), lambda: dg.where(b > 0, a, b)]
            found = []
            for call in calls:
                try:
                    y = call()
                except (TypeError, ValueError) as error:
                    found.append(type(error).__name__)
                else:
                    found += [y.dtype.name, y.astype("float32").numpy().tolist()]
            return found

    assert joined(cupy_backend) == joined("numpy")


# What a step of training in bfloat16 is made of.
TRAINED = (
    *("add multiply divide sqrt tanh where maximum relu gelu silu sigmoid dropout".split()),
    *("matmul linear linear_relu contract sum concat getitem reshape permute_dims".split()),
    *("conv conv_transpose max_pool avg_pool attention lstm gru".split()),
    *("softmax label_cross_entropy layer_norm rms_norm".split()),
)


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_is_computed_without_a_copy_in_single(name, cupy_backend, monkeypatch):
    pytest.importorskip("ml_dtypes")
    own, copies = cupy_backend.kernel, []

    def kernel(asked):
        found = own(asked)
        if asked != "astype":
            return found
        return lambda x, **how: copies.append((x.dtype, how)) or found(x, **how)

    monkeypatch.setattr(cupy_backend, "kernel", kernel)
    kernels = Kernels(cupy_backend, VOCABULARY)
    along_rows = (each for each in samples(name) if name != "softmax" or each.params["axis"] == -1)
    sample = next(along_rows).cast(as_dtype("bfloat16"))
    arrays = [cupy_backend.asarray(each) for each in sample.operands]

    results = getattr(kernels, name)(*arrays, **sample.params)

    assert copies == []
    for each in results if isinstance(results, tuple) else (results,):
        assert each.dtype == as_dtype("bfloat16")
