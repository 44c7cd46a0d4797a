"""While a graph is captured host memory is refused; where it comes from is CuPy's, as before."""

import importlib.util
import sys
import threading

import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad_cupy.transfers import Transfers, UncapturableError


@pytest.fixture
def cuda():
    """What CuPy has, with an allocator that needs no device and is put back in the end."""
    import cupy

    yield cupy.cuda
    cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)


@pytest.fixture
def pool(cuda):
    """The pool in place: CuPy's class, on memory that nobody reads."""

    class Host(cuda.PinnedMemory):
        def __init__(self, nbytes):
            self.ptr, self.size = 4096, nbytes

        def __del__(self):
            pass

    made = cuda.PinnedMemoryPool(lambda nbytes: cuda.PinnedMemoryPointer(Host(nbytes), 0))
    cuda.set_pinned_memory_allocator(made.malloc)
    return made


@pytest.fixture
def transfers(cuda):
    import cupy

    return Transfers(cupy)


def is_in_place(cuda, pool):
    """Return whether pinned memory is of a pool."""
    return cuda.alloc_pinned_memory(3).mem.pool() is pool


def test_host_memory_is_refused_meanwhile_and_comes_from_the_same_pool_then(cuda, pool, transfers):
    with transfers.refused(), pytest.raises(UncapturableError, match="between the host and the"):
        cuda.alloc_pinned_memory(8)

    assert not transfers.are_refused
    assert is_in_place(cuda, pool)


def test_other_threads_get_host_memory_of_the_same_pool_meanwhile(cuda, pool, transfers):
    found = []

    with transfers.refused():
        thread = threading.Thread(target=lambda: found.append(is_in_place(cuda, pool)))
        thread.start()
        thread.join(timeout=30)

    assert found == [True]


def test_the_last_of_two_threads_puts_the_allocator_back(cuda, pool, transfers):
    entered, left = threading.Event(), threading.Event()

    def other():
        with transfers.refused():
            entered.set()
            left.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(30)
    with transfers.refused():
        pass
    with transfers.refused(), pytest.raises(UncapturableError):
        cuda.alloc_pinned_memory(8)
    left.set()
    thread.join(timeout=30)

    assert is_in_place(cuda, pool)


def test_a_function_of_the_users_stays_in_place_and_is_an_error(cuda, pool, transfers):
    asked = []

    def own(nbytes):
        asked.append(nbytes)
        return pool.malloc(nbytes)  # the memory itself looks like the pool's

    cuda.set_pinned_memory_allocator(own)
    with pytest.raises(UncapturableError, match="a function of your own"), transfers.refused():
        pytest.fail("it was entered")
    cuda.alloc_pinned_memory(77)

    assert asked[-1] == 77
    assert sys.getprofile() is None


def test_an_allocator_that_is_set_meanwhile_stays_and_is_an_error(cuda, pool, transfers):
    other = cuda.PinnedMemoryPool(pool.malloc)

    with pytest.raises(UncapturableError, match="was replaced meanwhile"), transfers.refused():
        cuda.set_pinned_memory_allocator(other.malloc)

    assert is_in_place(cuda, other)


def test_what_fails_meanwhile_is_what_is_raised(cuda, pool, transfers):
    with pytest.raises(ZeroDivisionError), transfers.refused():
        raise ZeroDivisionError

    assert is_in_place(cuda, pool)
