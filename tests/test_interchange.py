"""Arrays handed to other libraries and taken from them, and moved between devices."""

from typing import ClassVar

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.errors import TraceError


@pytest.fixture(scope="module")
def strict():
    return ArrayModuleBackend("strict", array_api_strict)


def test_dlpack_shares_memory_both_ways():
    source = np.array([1.0, 2.0, 3.0])

    t = dg.from_dlpack(source)
    back = np.from_dlpack(t)

    assert np.shares_memory(t.array, source)
    assert np.shares_memory(back, source)
    assert t.__dlpack_device__() == (1, 0)
    assert (t.dtype, t.tolist()) == (np.float64, [1.0, 2.0, 3.0])


def test_dlpack_carries_torch_tensors_without_copying():
    torch = pytest.importorskip("torch")
    source = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    t = dg.from_dlpack(source)
    back = torch.from_dlpack(t * 2.0)

    source[0, 0] = 9.0
    assert t.tolist() == [[9.0, 2.0], [3.0, 4.0]]
    assert back.tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_a_copy_shares_no_memory():
    source = np.array([1.0, 2.0])

    for copied in (
        dg.from_dlpack(source, copy=True),
        dg.asarray(source, copy=True),
        dg.asarray(np.from_dlpack(dg.asarray(source), copy=True)),
    ):
        assert not np.shares_memory(copied.array, source)


def test_copy_false_is_a_promise():
    source = np.array([1.0, 2.0])

    assert np.shares_memory(dg.asarray(source, copy=False).array, source)
    assert dg.asarray(dg.asarray(source), copy=False).tolist() == [1.0, 2.0]
    for value, dtype in ((source, "float32"), ([1.0, 2.0], None), (1.5, None)):
        with pytest.raises(ValueError, match="copy is False"):
            dg.asarray(value, dtype=dtype, copy=False)


def test_a_bool_variable_becomes_a_tensor():
    assert dg.asarray(dg.Variable([True, False]), copy=True).tolist() == [True, False]


def test_what_speaks_no_dlpack_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"list has no __dlpack__.*dg\.asarray"):
        dg.from_dlpack([1.0])


def test_handing_over_what_a_tape_watches_is_refused():
    x = dg.Variable([1.0, 2.0])

    with dg.GradientTape(), pytest.raises(TypeError, match=r"cut its gradient.*stop_gradient"):
        np.from_dlpack(x)
    with dg.GradientTape():
        assert np.from_dlpack(dg.stop_gradient(x)).tolist() == [1.0, 2.0]
    assert np.from_dlpack(x).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_an_element_of_an_array_is_not_set_to_what_a_tape_watches(dtype):
    x = dg.Variable([1.0, 2.0, 3.0])
    squares = np.zeros(3, dtype)

    with dg.GradientTape(), pytest.raises((TypeError, ValueError)) as raised:
        squares[0] = x[0] ** 2

    refusal = raised.value.__cause__ or raised.value  # NumPy wraps it for real numbers
    assert "would cut its gradient; take np.stack" in str(refusal)
    assert not squares.any()


def test_an_element_of_an_array_is_not_set_to_what_forward_mode_follows():
    table = np.zeros((2, 3))

    def fill(x):
        table[0, 1] = x
        return x

    with pytest.raises(ValueError, match="array element"):
        dg.jvp(fill, (1.0,), (1.0,))


def test_an_element_of_an_array_is_set_to_a_number_that_is_asked_for_or_not_watched():
    x = dg.Variable([1.0, 2.0, 3.0])
    kept, listed = np.zeros(4), [None]

    with dg.GradientTape() as tape:
        y = x[1] ** 2
        kept[0] = float(y)
        kept[1] = dg.stop_gradient(y)
        kept[int(x[1])] = 5.0
        listed[0] = y
    kept[3] = y

    assert kept.tolist() == [4.0, 4.0, 5.0, 4.0]
    assert tape.gradient(listed[0], x).numpy().tolist() == [0.0, 4.0, 0.0]


def test_there_is_nothing_to_hand_over_in_a_trace():
    with pytest.raises(TraceError):
        dg.function(np.from_dlpack)(dg.ones(2))


def test_host_arrays_have_no_cuda_interface():
    assert not hasattr(dg.ones(2), "__cuda_array_interface__")


class OnDevice:
    """Stands for an array in device memory."""

    __cuda_array_interface__: ClassVar = {"version": 3, "data": (0, False)}


def test_the_cuda_interface_is_the_arrays_own():
    t = dg.ones(2)
    t.array = OnDevice()

    assert t.__cuda_array_interface__["version"] == 3


def test_devices_of_a_backend_are_listed_and_reached(strict):
    with dg.use_backend(strict):
        devices = dg.__array_namespace_info__().devices()
        there = dg.zeros(3, device=devices[1])
        x = dg.asarray([1.0, 2.0], device=devices[0])

    assert devices[0] == x.device
    assert there.device == devices[1]
    assert x.to_device(x.device) is x
    assert x.to_device(devices[1]).device == devices[1] == x.to(device=devices[1]).device


def test_gradients_come_back_to_the_device_they_belong_to(strict):
    with dg.use_backend(strict):
        x = dg.Variable([1.0, 2.0])
        home, away = dg.__array_namespace_info__().devices()[:2]

    with dg.GradientTape() as tape:
        y = dg.sum(dg.square(x.to_device(away)))
    gradient = tape.gradient(y, x)

    assert y.device == away
    assert gradient.device == home
    assert gradient.tolist() == [2.0, 4.0]


def test_devices_that_do_not_exist_are_named(strict):
    with pytest.raises(ValueError, match=r"no device 'cuda:7'.*expected one of cpu"):
        dg.ones(2).to_device("cuda:7")
    with (
        dg.use_backend(strict),
        pytest.raises(ValueError, match=r"no device 'cuda:7'.*device1"),
    ):
        dg.ones(2, device="cuda:7")
    with pytest.raises(ValueError, match="stream is 3; expected None"):
        dg.ones(2).to_device("cpu", stream=3)


def test_a_value_moves_to_a_backend_and_a_device_at_once(strict):
    with dg.use_backend(strict):
        away = dg.__array_namespace_info__().devices()[1]

    moved = dg.ones(2).to(backend=strict, device=away)

    assert (moved.backend, moved.device) == (strict, away)
