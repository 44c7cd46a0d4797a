"""Elementwise operations of traced functions in one launch on the device, against NumPy."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing.inputs import values

pytestmark = pytest.mark.usefixtures("order_of_work")

SHAPE = (40, 131)

PROGRAMS = {
    "chain": (lambda x, y: dg.tanh(x * y + 0.5) / (1.0 + x * x), [SHAPE, SHAPE]),
    "choices": (lambda x, y: dg.where((x > y) & (x < 1.0), x, dg.maximum(y, 0.2)), [SHAPE, SHAPE]),
    "rows": (lambda x, b: dg.exp(x + b) * b, [SHAPE, SHAPE[1:]]),
    "columns": (lambda x, c: (x - c) * dg.exp(-c), [SHAPE, (SHAPE[0], 1)]),
    "one": (lambda x, s: dg.log1p(x * x) * s - s, [SHAPE, ()]),
    "only repeated": (lambda b, c: dg.sin(b * c) + b, [SHAPE[1:], (SHAPE[0], 1)]),
    "repeated to more": (lambda b: dg.sin(dg.broadcast_to(b, SHAPE)) * b, [SHAPE[1:]]),
    "several": (lambda x: (dg.sin(x) * x, dg.sum(dg.cos(x) * x, axis=0)), [SHAPE]),
}
ERRORS = {"float16": 4e-3, "float32": 4e-6, "float64": 1e-13}


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fused_function_gives_the_numbers_of_the_host(name, dtype, cupy_backend):
    f, shapes = PROGRAMS[name]
    given = [values(s, -1.5, 1.7, seed=i).astype(dtype) for i, s in enumerate(shapes)]
    traced = dg.function(f)
    expected = f(*(dg.asarray(each.astype(np.float64)) for each in given))
    expected = expected if isinstance(expected, tuple) else (expected,)

    for _ in range(4):  # by the executor first, then as a CUDA graph
        found = traced(*(dg.asarray(each, backend="cupy") for each in given))
        found = found if isinstance(found, tuple) else (found,)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            scale = ERRORS[dtype] * max(1.0, float(np.abs(other.numpy()).max()))
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=scale)

    (trace,) = traced.explain().traces
    assert trace.fused
    assert trace.way == "as one CUDA graph"


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "several"])
def test_its_gradients_are_those_of_the_host(name, cupy_backend):
    f, shapes = PROGRAMS[name]
    given = [values(s, -1.5, 1.7, seed=i) for i, s in enumerate(shapes)]
    gradients = dg.grad(lambda *x: dg.sum(dg.sin(f(*x))), argnums=tuple(range(len(given))))
    traced = dg.function(gradients)

    found = traced(*(dg.asarray(each, backend="cupy") for each in given))
    expected = gradients(*map(dg.asarray, given))

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-11, atol=1e-11)
