"""Buffers are used again exactly when nobody looks at them any more."""

import numpy as np

from distgrad.distributed import RecordedCommunicator, SerialCommunicator
from distgrad.distributed.averaging.buffers import Buffers, buffers_of

FLOAT = np.dtype(np.float32)


def address(array):
    return array.__array_interface__["data"][0]


def test_a_buffer_that_nobody_holds_is_given_out_again():
    pool = Buffers()
    first = address(pool.take(5, FLOAT))

    assert address(pool.take(5, FLOAT)) == first
    assert pool.nbytes == 20


def test_a_view_keeps_its_buffer():
    pool = Buffers()
    view = pool.take(6, FLOAT)[2:4].reshape(2, 1)
    view[...] = 7
    other = pool.take(6, FLOAT)
    other[...] = 0

    assert view.ravel().tolist() == [7, 7]


def test_lengths_and_dtypes_have_buffers_of_their_own():
    pool = Buffers()

    for dtype, length in ((np.float64, 5), (np.float32, 4)):
        taken = pool.take(length, np.dtype(dtype))
        assert (taken.dtype, taken.shape) == (dtype, (length,))


def test_lengths_that_are_asked_for_no_more_are_forgotten():
    pool = Buffers()
    pool.take(1000, FLOAT)
    for _ in range(300):
        pool.take(5, FLOAT)
    pool.take(6, FLOAT)

    assert pool.nbytes == 4 * (5 + 6)


def test_each_communicator_has_a_pool():
    serial, recorded = SerialCommunicator(), RecordedCommunicator()

    assert buffers_of(serial) is buffers_of(serial)
    assert buffers_of(serial) is not buffers_of(recorded)
