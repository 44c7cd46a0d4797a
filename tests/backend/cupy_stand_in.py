"""A module that stands for CuPy where streams are captured: what is captured is not computed."""

import ctypes
import weakref
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from distgrad.backend import ArrayModuleBackend


class Array(np.ndarray):
    """An array of the device, in memory of a pool; its operators are work of the device, too."""

    device_id = 0
    pool = None
    module: ClassVar = None

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        def compute():
            given = [np.asarray(x) if isinstance(x, Array) else x for x in inputs]
            return getattr(ufunc, method)(*given, **kwargs)

        made = Array.module.asarray(compute()) if out is None else out[0]
        Array.module.enqueue(lambda: np.copyto(np.asarray(made), compute(), casting="unsafe"))
        return made

    @property
    def data(self):
        """What CuPy has as pointer: the memory, which does not hold the array."""
        memory = self if self.base is None else self.base
        return SimpleNamespace(ptr=self.ctypes.data, device_id=self.device_id, memory=memory)


class Graph:
    def __init__(self, works):
        self.works = works
        self.launches = []

    def upload(self, stream):
        pass

    def launch(self, stream):
        self.launches.append(stream.ptr)
        for work in self.works:
            work()


class Stream:
    def __init__(self, cuda, ptr):
        self.cuda, self.ptr = cuda, ptr
        self.works = None
        self.waited = []

    def __enter__(self):
        self.before, self.cuda.stream = self.cuda.stream, self

    def __exit__(self, *_):
        self.cuda.stream = self.before

    def is_capturing(self):
        return self.works is not None

    def begin_capture(self):
        self.works = []

    def end_capture(self):
        works, self.works = self.works, None
        graph = Graph(works)
        self.cuda.graphs.append(graph)
        return graph

    def wait_event(self, event):
        self.waited.append(event)

    def record(self):
        return "the work so far"

    def synchronize(self):
        assert not self.is_capturing()


class Event:
    def __init__(self, disable_timing):
        self.recorded = []

    def record(self, stream):
        self.recorded.append(stream.ptr)

    def synchronize(self):
        pass


class Pool:
    """A pool of device memory, which keeps what is free until it is told to give it back."""

    def __init__(self, allocate):
        self.allocate = allocate
        self.malloc = object()
        self.bytes = 0
        self.releases = 0
        self.live = []

    def grow(self, nbytes):
        self.allocate(nbytes)
        self.bytes += nbytes

    def total_bytes(self):
        return self.bytes

    def free_all_blocks(self):
        self.releases += 1
        self.bytes = 0
        self.left = sum(each() is not None for each in self.live)  # and stand in the way


class Plans:
    """A thread's plans of transforms, as CuPy keeps them."""

    def __init__(self):
        self.plans, self.size, self.memsize = {}, 16, -1

    def __iter__(self):
        return iter([(k, SimpleNamespace(plan=p)) for k, p in reversed(self.plans.items())])

    def __setitem__(self, key, plan):
        self.plans[key] = plan
        while self.size >= 0 and len(self.plans) > self.size:
            del self.plans[next(iter(self.plans))]

    def clear(self):
        self.plans = {}

    def get_size(self):
        return self.size

    def get_memsize(self):
        return self.memsize

    def set_size(self, size):
        self.size = size

    def set_memsize(self, size):
        self.memsize = size


class Cuda:
    """What is used of `cupy.cuda`."""

    Event = Event

    def __init__(self):
        self.graphs, self.streams, self.pools = [], [], []
        self.stream = Stream(self, 7)
        self.device = 0
        self.pool = None
        # Written in C, as CuPy's is: a Python function would be taken for a user's own.
        self.pinned_pool = SimpleNamespace()
        pointer = SimpleNamespace(mem=SimpleNamespace(pool=lambda: self.pinned_pool))
        self.pinned_pool.malloc = partial(getattr, SimpleNamespace(pointer=pointer), "pointer")
        self.alloc_pinned_memory = self.pinned_pool.malloc
        self.runtime = SimpleNamespace(getDevice=lambda: self.device)

    @contextmanager
    def _on(self, number):
        before, self.device = self.device, number
        try:
            yield
        finally:
            self.device = before

    def Device(self, number=None):
        return SimpleNamespace(id=self.device) if number is None else self._on(number)

    def Memory(self, nbytes):
        return nbytes

    def MemoryPointer(self, memory, offset):
        return memory

    def MemoryPool(self, allocate):
        self.pools.append(Pool(allocate))
        return self.pools[-1]

    def Stream(self, non_blocking):
        assert non_blocking  # others cannot be captured
        self.streams.append(Stream(self, 100 + len(self.streams)))
        return self.streams[-1]

    def get_current_stream(self):
        return self.stream

    @contextmanager
    def using_allocator(self, malloc):
        before, self.pool = self.pool, malloc
        try:
            yield
        finally:
            self.pool = before

    def set_pinned_memory_allocator(self, allocate):
        self.alloc_pinned_memory = allocate


class Device:
    """A module that stands for CuPy; while a stream is captured nothing is computed."""

    isnan, isfinite, where = np.isnan, np.isfinite, staticmethod(np.where)

    def __init__(self):
        Array.module = self
        self.cuda = Cuda()
        self.plans = Plans()
        self.fft = SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: self.plans))
        self.copies = 0
        self.module = self

    def ndarray(self, shape, dtype, memptr):
        """Return an array in the memory of another one, the whole of it."""
        made = memptr.memory.view(Array)
        assert (made.shape, made.dtype, made.ctypes.data) == (shape, dtype, memptr.ptr)
        return made

    def empty(self, shape, dtype):
        made = np.full(shape, 77, dtype).view(Array)
        made.pool = self.cuda.pool
        for pool in self.cuda.pools:
            if pool.malloc is made.pool:
                pool.live.append(weakref.ref(made))
        return made

    def asarray(self, value, order="K"):
        if isinstance(value, Array):
            is_there = order == "K" or value.flags.c_contiguous
            return value if is_there else self.kernel(lambda b: b, value)
        made = self.empty(np.shape(value), np.asarray(value).dtype)
        made[...] = value
        return made

    def ascontiguousarray(self, a):  # which has an axis at least, as CuPy's
        own = self.asarray(a, order="C")
        return own if own.ndim else own.reshape(1)

    def enqueue(self, work):
        if self.cuda.stream.is_capturing():
            self.cuda.stream.works.append(work)
        else:
            work()

    def kernel(self, f, *arrays):
        """Return what a kernel computes, once it has run."""
        spec = np.asarray(f(*(np.asarray(a) for a in arrays)))
        out = self.empty(spec.shape, spec.dtype)

        def work():
            out[...] = f(*arrays)

        self.enqueue(work)
        return out

    def launch(self, source, name, elements, grid, threads, arguments):
        (table,) = arguments
        assert (source, name) == ("copying", "copy_arrays")
        self.copies += 1

        def work():
            for place in range(grid[1]):
                of, to, nbytes = (int(table[column][place]) for column in table.dtype.names)
                ctypes.memmove(to, of, nbytes)

        self.enqueue(work)


class DeferredBackend(ArrayModuleBackend):
    """NumPy's kernels, each of them work for the device: captured, or done at once."""

    def __init__(self, device):
        from distgrad_cupy.capturing import Graphs  # where CuPy is installed, without which
        from distgrad_cupy.products import Products  # this module is imported, too

        self.device_module = device
        super().__init__("deferred", np)
        self.compile = Graphs(device, Products(device, None))

    def asarray(self, value, *, dtype=None, copy=False):
        if not isinstance(value, Array):
            self.compile.transfers.refuse()
        return np.array(value, dtype=dtype, copy=True if copy else None).view(Array)

    def to_host(self, array):
        self.compile.transfers.refuse()
        return np.asarray(array)

    def kernel(self, name):
        plain = super().kernel(name)
        if plain is None:
            return None

        def deferred(*operands, **params):
            def compute():
                given = [np.asarray(o) if isinstance(o, Array) else o for o in operands]
                found = plain(*given, **params)
                return tuple(map(np.asarray, found if isinstance(found, tuple) else (found,)))

            outs = [self.device_module.asarray(each) for each in compute()]
            several = isinstance(plain(*operands, **params), tuple)

            def work():
                for out, each in zip(outs, compute(), strict=True):
                    out[...] = each

            self.device_module.enqueue(work)
            return tuple(outs) if several else outs[0]

        return deferred
