"""Arrays of CuPy's beside tensors: in operators, in traced and mapped functions, in any order."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import MixedBackendError, TraceError
from distgrad.testing.inputs import values

cupy = pytest.importorskip("cupy")

pytestmark = pytest.mark.usefixtures("cupy_backend")

OPERATORS = {
    "add": lambda a, x: a + x,
    "subtract": lambda a, x: a - x,
    "multiply": lambda a, x: a * x,
    "divide": lambda a, x: a / x,
    "power": lambda a, x: a**x,
    "matmul": lambda a, x: a @ x,
    "less": lambda a, x: dg.where(a < x, x, 0.0),
}
FUNCTIONS = {
    "multiply": lambda x, a: x * a,
    "add": dg.add,
    "matmul": lambda x, a: a @ x,
    "maximum": lambda x, a: dg.maximum(a, x),
    "where": lambda x, a: dg.where(a > 1, x, a),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_array_before_a_tensor_is_an_operand(name):
    def differentiated(module):
        x, a = (module.asarray(values((3, 3), *range_)) for range_ in ((1.0, 2.0), (0.5, 2.5)))
        x = dg.asarray(x)
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = OPERATORS[name](a, x)
        gradient = tape.gradient(y, x)
        return y.numpy(), gradient.numpy()

    found, expected = differentiated(cupy), differentiated(np)

    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


def test_what_cupy_computes_itself_cuts_no_gradient_in_silence():
    x = dg.Variable(cupy.arange(3.0))

    with dg.GradientTape():
        for cut in (cupy.sin, cupy.asarray, lambda t: cupy.zeros(3).__setitem__(0, t[1])):
            with pytest.raises(TypeError):
                cut(x)
        assert not hasattr(x, "__cuda_array_interface__")
        assert hasattr(dg.stop_gradient(x), "__cuda_array_interface__")
    assert hasattr(x, "__cuda_array_interface__")


@pytest.mark.parametrize("transformed", [dg.function, dg.vmap])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_transformed_reads_arrays(name, transformed):
    def computed(module):
        x, a = (dg.asarray(module.asarray(values((3, 3), *r))) for r in ((1.0, 2.0), (0.5, 2.5)))
        a = a.array
        return transformed(lambda x: FUNCTIONS[name](x, a))(x).numpy()

    np.testing.assert_allclose(computed(cupy), computed(np), rtol=1e-12)


def test_a_transformed_function_keeps_the_dtype_of_an_array_and_refuses_other_backends():
    narrow = dg.asarray(cupy.arange(3), dtype="bfloat16").array
    host = dg.asarray([1.0, 2.0, 3.0], backend="numpy")

    assert dg.function(lambda x: x + narrow)(dg.asarray(narrow)).dtype == dg.bfloat16
    with pytest.raises(TraceError, match="'numpy' and 'cupy'"):
        dg.function(lambda x: x * cupy.arange(3.0))(host)
    with pytest.raises(MixedBackendError, match="'numpy' and 'cupy'"):
        dg.vmap(lambda x: x * cupy.arange(3.0))(dg.stack([host, host]))


def test_an_array_goes_to_the_host_where_it_is_told_to():
    a = cupy.arange(3.0)

    there = dg.asarray(a, backend="numpy", dtype="float32")

    assert (there.backend.name, there.dtype) == ("numpy", dg.float32)
    np.testing.assert_array_equal(there.numpy(), [0, 1, 2])


@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_are_taken_in_either_order_and_backwards(order):
    def computed(module):
        a = module.asarray(np.asarray(values((5, 4), -1.0, 1.2)), order=order)
        results = []
        for part in (a, a.T, a[::-1, ::2]):
            x = dg.Variable(part)
            with dg.GradientTape() as tape:
                y = dg.nn.softmax(x) @ dg.matrix_transpose(x)
            results += [y.numpy(), tape.gradient(y, x).numpy()]
        return results

    for found, expected in zip(computed(cupy), computed(np), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
