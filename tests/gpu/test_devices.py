"""Several devices in one process: where values lie, and that nothing reaches over unnoticed."""

import numpy as np
import pytest

import distgrad as dg
from distgrad_cupy.staging import PIECE

cupy = pytest.importorskip("cupy")

pytestmark = pytest.mark.usefixtures("order_of_work")


@pytest.fixture
def second(cupy_backend):
    """A tensor on the second device."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices; the emulated stage of scripts/test has them")
    x = dg.asarray(np.arange(6, dtype=np.float32), backend=cupy_backend)
    return x.to(device="cuda:1")


def test_a_tensor_goes_to_another_device_and_comes_back(second, cupy_backend):
    home = second.to(device="cuda:0")

    assert (second.device, home.device) == ("cuda:1", "cuda:0")
    np.testing.assert_array_equal(second.numpy(), np.arange(6))
    np.testing.assert_array_equal(home.numpy(), np.arange(6))


@pytest.mark.parametrize("step", [1, 2])
def test_a_copy_to_another_device_is_behind_what_computes_and_before_what_overwrites(
    step, second, cupy_backend
):
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(2):  # the second time memory is there, and nothing is waited for
            x = dg.asarray(np.full(1 << 12, 3.0), backend=cupy_backend) * 2
            there = x[::step].to(device="cuda:1")
            del x
            _ = [cupy.zeros(1 << 12) for _ in range(3)]
        stream.synchronize()

    np.testing.assert_array_equal(there.numpy(), np.full((1 << 12) // step, 6.0))


def test_a_variable_of_a_value_that_another_device_computes_waits_for_it(second, cupy_backend):
    with cupy.cuda.Device(1):
        y = second * 3

    variable = dg.Variable(y)

    assert variable.device == "cuda:0"
    np.testing.assert_array_equal(variable.numpy(), 3 * np.arange(6))


@pytest.mark.parametrize("value", ["array", "number", "tensor"])
def test_a_variable_stays_on_its_device_whatever_is_assigned(value, second, cupy_backend):
    with cupy.cuda.Device(1):
        variable = dg.Variable(second, name="x")
    values = {
        "array": np.full(6, 3.0, np.float32),
        "number": 3.0,
        "tensor": dg.asarray(np.full(6, 3.0, np.float32), backend=cupy_backend),
    }

    variable.assign(values[value])

    assert variable.device == "cuda:1"
    np.testing.assert_array_equal(variable.numpy(), np.full(6, 3.0))


def test_a_tensor_is_read_on_the_stream_of_its_own_device(second, cupy_backend):
    with cupy.cuda.Device(1):
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()
        try:
            x = dg.asarray([1.0, 2.0], backend=cupy_backend) * 3
            with cupy.cuda.Device(0):
                found = x.numpy()
        finally:
            cupy.cuda.Stream.null.use()

    np.testing.assert_array_equal(found, [3, 6])


def test_large_tensors_come_in_pieces_that_are_there(cupy_backend):
    count = 5 * PIECE // 2 // 4
    given = np.arange(count, dtype=np.float32)

    for number in (2.0, 3.0):  # the second time through the same buffers
        x = dg.asarray(given, backend=cupy_backend) * number
        np.testing.assert_array_equal(x.numpy(), given * number)


def test_a_cotangent_returns_to_the_device_its_value_came_from(second, cupy_backend):
    x = second.to(device="cuda:0")
    with dg.GradientTape() as tape:
        tape.watch(x)
        there = x.to(device="cuda:1")
        with cupy.cuda.Device(1):
            y = dg.sum(there * there)

    with cupy.cuda.Device(1):
        gradient = tape.gradient(y, x)

    assert gradient.device == "cuda:0"
    np.testing.assert_array_equal(gradient.numpy(), 2 * np.arange(6))


def test_values_are_made_where_the_current_device_is(second, cupy_backend):
    with cupy.cuda.Device(1), dg.use_backend(cupy_backend):
        made = [dg.zeros((3,)), dg.asarray([1.0]), dg.random.Generator(1).normal((3,))]
        made += [dg.nn.softmax(second), dg.grad(lambda x: dg.sum(dg.tanh(x) * x))(second)]

    assert {each.device for each in made} == {"cuda:1"}


def test_a_graph_runs_on_the_device_it_was_captured_on(second, cupy_backend):
    f = dg.function(lambda x: dg.sum(dg.sin(x) * x))
    with cupy.cuda.Device(1):
        found = [float(f(second)) for _ in range(6)]

    x = np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(found, float((np.sin(x) * x).sum()), rtol=1e-5)
    assert [trace.way for trace in f.explain().traces] == ["as one CUDA graph"]
    # On another device the executor runs, for the graph's memory is not there.
    np.testing.assert_allclose(float(f(second.to(device="cuda:0"))), found[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("softmax", dg.nn.softmax),
        ("matmul", lambda x: x @ x),
        ("rfft", dg.fft.rfft),
        ("fft", lambda x: dg.fft.fft(dg.real(x))),
    ],
)
def test_a_kernel_refuses_arrays_of_another_device(name, call, second, cupy_backend):
    with pytest.raises(ValueError, match=f"{name}: .* current device, cuda:0, got one on cuda:1"):
        call(second)


def test_a_step_refuses_variables_of_another_device(second, cupy_backend):
    with cupy.cuda.Device(1):
        variables = [dg.Variable(second), dg.Variable(second)]
        gradients = [2 * second, second]
        optimizer = dg.optimizers.Adam(0.1)

    with pytest.raises(ValueError, match=r"adam_step: .* cuda:0, got one on cuda:1"):
        optimizer.apply(gradients, variables)

    for variable in variables:
        np.testing.assert_array_equal(variable.numpy(), np.arange(6))
