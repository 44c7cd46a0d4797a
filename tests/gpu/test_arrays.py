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


def test_a_dtype_that_the_interface_cannot_name_is_not_handed_over_as_bytes():
    t = dg.asarray(cupy.arange(3), dtype="bfloat16")
    factor = cupy.full(3, 2, t.dtype)

    assert not hasattr(t, "__cuda_array_interface__")
    assert (factor * t).dtype == dg.bfloat16
    np.testing.assert_array_equal(cupy.asarray(t).get().astype(np.float32), [0, 1, 2])
    np.testing.assert_array_equal((factor * t).numpy().astype(np.float32), [0, 2, 4])


class Described:
    """An array of another library's that tells only where it lies."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


class Spoken:
    """An array of another library's that speaks only DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("library", [Described, Spoken])
def test_arrays_of_other_libraries_are_refused_by_the_name_of_the_way(library):
    x = library(cupy.arange(3.0))

    for taken in (dg.asarray, dg.sin, lambda x: dg.asarray(cupy.ones(3)) * x):
        with pytest.raises(dg.errors.DTypeError, match="of a CUDA device; take dg"):
            taken(x)
    np.testing.assert_array_equal(dg.asarray(cupy.asarray(x.array)).numpy(), [0, 1, 2])


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


BESIDE = {
    "take": lambda xp, x: np.take(x, xp.asarray([2, 0]), axis=1),
    "repeat": lambda xp, x: np.repeat(x, xp.asarray([1, 0, 2]), axis=0),
    "delete": lambda xp, x: np.delete(x, xp.asarray([1]), axis=1),
    "split": lambda xp, x: np.array_split(x, xp.asarray([1, 2]), axis=1)[1],
    "compress": lambda xp, x: np.compress(xp.asarray([True, False, True]), x, axis=0),
    "quantile": lambda xp, x: np.quantile(x, xp.asarray([0.2, 0.7])),
    "piecewise": lambda xp, x: np.piecewise(x, [xp.eye(3) > 0], [np.square, 7.0]),
    "gradient": lambda xp, x: np.gradient(x, xp.asarray([0.0, 0.3, 1.0]), axis=1),
    "bincount": lambda xp, x: np.bincount(xp.asarray([1, 0, 1]), weights=x[0]),
    "reduceat": lambda xp, x: np.add.reduceat(x, xp.asarray([0, 2])),
    "polyval": lambda xp, x: np.polyval(xp.asarray([1.0, 2.0]), x),
}


@pytest.mark.parametrize("name", BESIDE)
def test_numpy_functions_of_tensors_take_arrays_beside_them(name):
    def computed(module):
        x = dg.asarray(module.asarray(values((3, 3), 1.0, 2.0)))
        return BESIDE[name](module, x).numpy()

    np.testing.assert_allclose(computed(cupy), computed(np), rtol=1e-12)


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


def test_counts_and_orders_on_a_device_are_read_from_it():
    x, counts = dg.asarray(cupy.arange(3.0) + 1), cupy.asarray([2, 0, 1])

    for given in (counts, dg.asarray(counts)):
        np.testing.assert_array_equal(dg.repeat(x, given).numpy(), [1, 1, 3])
        np.testing.assert_allclose(
            dg.special.polygamma(given, x).numpy(),
            dg.special.polygamma([2, 0, 1], x.numpy()).numpy(),
            rtol=1e-12,
        )
    np.testing.assert_array_equal(dg.repeat(x, counts[:1]).numpy(), [1, 1, 2, 2, 3, 3])
