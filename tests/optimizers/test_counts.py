"""Counts of steps: on a device they are remembered, so that no step waits to read one."""

import numpy as np

import distgrad as dg
from distgrad.optimizers.in_place import count_of, count_up
from distgrad.tensor import Tensor


class OnDevice(np.ndarray):
    """An array that notes how often the host read it."""

    reads = 0

    def __int__(self):
        OnDevice.reads += 1
        return super().__int__()


def on_device(count):
    variable = dg.Variable(np.int64(0), trainable=False)
    array = np.ndarray.__new__(OnDevice, (), np.int64)
    array.fill(count)
    variable._value = Tensor(array, variable.kernels, variable.key)
    return variable


def test_a_count_on_a_device_is_read_once():
    variable = on_device(5)
    OnDevice.reads = 0

    for _ in range(3):
        count_up(variable)

    assert count_of(variable) == 8
    assert OnDevice.reads == 1
    assert variable.array.tolist() == 8


def test_a_count_that_was_assigned_is_read_again():
    variable = on_device(5)
    count_up(variable)
    variable._value = on_device(40)._value

    assert count_of(variable) == 40
    count_up(variable)
    assert count_of(variable) == 41


def test_a_count_on_the_host_is_changed_in_its_own_memory():
    variable = dg.Variable(np.int64(3), trainable=False)
    before = variable.array.ctypes.data

    count_up(variable)

    assert (count_of(variable), variable.array.ctypes.data) == (4, before)
