"""bfloat16 on a backend: computed in float32 and rounded, unless the backend has kernels for it."""

import numpy as np
import pytest

from distgrad.backend import ArrayModuleBackend
from distgrad.backend.kernels import Kernels
from distgrad.dtypes import as_dtype
from distgrad.ops import VOCABULARY

pytest.importorskip("ml_dtypes")
NARROW = as_dtype("bfloat16")


class Backend(ArrayModuleBackend):
    """NumPy with kernels of its own for bfloat16, which note what they are asked."""

    def __init__(self, answers=True):
        super().__init__("noting", np)
        self.asked = []
        self.answers = answers
        self.bfloat16_kernels = {"add": self.add, "matmul": self.add}

    def add(self, a, b):
        self.asked.append([getattr(each, "dtype", None) for each in (a, b)])
        return np.full(np.shape(a), 7, NARROW) if self.answers else NotImplemented


def ones(dtype):
    return np.ones((2, 2), dtype)


@pytest.mark.parametrize("other", [ones(NARROW), 2.0, np.ones((2, 2), bool)], ids=type)
def test_a_kernel_for_bfloat16_is_asked_first(other):
    backend = Backend()

    found = Kernels(backend, VOCABULARY).add(ones(NARROW), other)

    assert len(backend.asked) == 1
    np.testing.assert_array_equal(found.astype(float), 7)


@pytest.mark.parametrize("name", ["add", "matmul"])
def test_where_it_does_not_take_the_operands_they_are_widened(name):
    backend = Backend(answers=False)

    found = getattr(Kernels(backend, VOCABULARY), name)(ones(NARROW), ones(NARROW))

    assert len(backend.asked) == 1
    assert found.dtype == NARROW
    np.testing.assert_array_equal(found.astype(float), 2)


@pytest.mark.parametrize("other", ["float32", "float16", "complex64"])
def test_it_is_not_asked_beside_other_floating_dtypes(other):
    backend = Backend()

    found = Kernels(backend, VOCABULARY).add(ones(NARROW), ones(other))

    assert backend.asked == []
    np.testing.assert_array_equal(found, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_it_is_not_asked_for_other_arrays(dtype):
    backend = Backend()

    found = Kernels(backend, VOCABULARY).add(ones(dtype), ones(dtype))

    assert backend.asked == []
    assert found.dtype == dtype
