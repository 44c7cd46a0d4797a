"""Run a plan as a CUDA graph: captured from its executor, then launched as one.

The executor of `dg.function` calls kernels in a straight line. After some runs, which compile
kernels, its calls are captured once more on a stream and in a pool of memory of their own, and
from then on the graph is launched: what a call needs is copied into the arrays that the graph
reads, and what it gives is copied out, each by one launch. What cannot be captured (a kernel that
waits for the device, or copies to or from the host) goes on by the executor.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.core.under_way import settle
from distgrad_cupy.copying import copy_all
from distgrad_cupy.products import STREAM_OF_THREAD, Products
from distgrad_cupy.running import Runner
from distgrad_cupy.transfers import Transfers, UncapturableError
from distgrad_cupy.transforming import own_plans

Array = Any
Run = Callable[[Sequence[Array]], list[Array]]

VARIABLE = "DISTGRAD_CUDA_GRAPHS"
_LOG = logging.getLogger("distgrad")

# Runs by the executor before a plan is captured: who calls a function a few times gains nothing.
_RUNS_BEFORE = 2
# How far a graph's results may be from the executor's, of the greatest: products may be added up in
# another order.
_TOLERANCES = {2: 5e-2, 4: 1e-3, 8: 1e-8}


class Graphs:
    """What the CuPy backend has as ``compile``, see `distgrad.graph.compiling`.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    products : Products
        What multiplies matrices, also while a graph is captured.
    """

    def __init__(self, run: Runner, products: Products) -> None:
        self.run, self.products = run, products
        self.transfers = Transfers(run.module)
        self._local = threading.local()

    def __call__(self, name: str) -> Replay | None:
        """Return what runs a plan; None where `DISTGRAD_CUDA_GRAPHS` is 0.

        Parameters
        ----------
        name : str
            The traced function, for messages.
        """
        return None if os.environ.get(VARIABLE) == "0" else Replay(self, name)

    @property
    def are_busy(self) -> bool:
        """Whether this thread prepares a graph: plans that it meets meanwhile are part of it."""
        return getattr(self._local, "busy", False)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Note that this thread prepares a graph."""
        self._local.busy = True
        try:
            yield
        finally:
            self._local.busy = False


class Replay:
    """Runs one plan: by its executor at first, then by a graph, or by the executor for good.

    Parameters
    ----------
    graphs : Graphs
        Of the backend.
    name : str
        The traced function.
    """

    def __init__(self, graphs: Graphs, name: str) -> None:
        self._graphs = graphs
        self._name = name
        self._runs = 0
        self._lock = threading.Lock()
        self._captured: Captured | None = None
        self._refused = ""

    @property
    def way(self) -> str:
        """How the plan runs, in words."""
        if self._refused:
            return f"operation by operation; no CUDA graph: {self._refused}"
        if self._captured is None:
            return f"operation by operation; a CUDA graph after {_RUNS_BEFORE} runs"
        return "as one CUDA graph"

    def __call__(self, run: Run, arrays: Sequence[Array]) -> list[Array]:
        """Return what the plan gives.

        Parameters
        ----------
        run : callable
            The executor.
        arrays : sequence of array
            What the plan reads, of the shapes and dtypes of every call.
        """
        captured = self._captured
        if captured is not None:
            # Within another capture the kernels themselves are wanted: no event that was recorded
            # before it may be waited for there, nor one within it later.
            usable = captured.takes(arrays) and not (self._graphs.are_busy or captured.is_capturing)
            return captured.replay(arrays) if usable else run(arrays)
        if self._refused or self._graphs.are_busy:
            return run(arrays)
        found = run(arrays)
        with self._lock:
            self._runs += 1
            if self._runs > _RUNS_BEFORE and self._captured is None and not self._refused:
                self._capture(run, arrays, found)
        return found

    def _capture(self, run: Run, arrays: Sequence[Array], expected: list[Array]) -> None:
        cuda = self._graphs.run.module.cuda
        if cuda.get_current_stream().is_capturing():
            self._runs -= 1  # somebody else's graph, of which these kernels are a part
            return
        settle()  # what fails while a graph is made is taken for a plan that none can be made of
        pool = Pool(cuda)
        try:
            self._try_to_capture(run, arrays, expected, pool)
        finally:
            if self._captured is None:
                pool.release()  # all that lay in it is gone with the error

    def _try_to_capture(
        self, run: Run, arrays: Sequence[Array], expected: list[Array], pool: Pool
    ) -> None:
        try:
            captured = Captured(self._graphs, run, arrays, pool)
            captured.check(expected)
            self._captured = captured
        except Exception as error:  # the executor has just shown that it can
            self._refused = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            _LOG.debug(
                "%s: not captured as a CUDA graph, runs operation by operation (%s)",
                self._name,
                self._refused,
            )


class Captured:
    """A graph with the arrays that it reads and writes, in memory of its own.

    Parameters
    ----------
    graphs : Graphs
        Of the backend.
    run : callable
        The executor of a plan.
    arrays : sequence of array
        What the plan reads.
    pool : Pool
        For the graph alone.

    Raises
    ------
    Exception
        Whatever the executor, CuPy or CUDA raises where something cannot be captured.
    """

    def __init__(self, graphs: Graphs, run: Run, arrays: Sequence[Array], pool: Pool) -> None:
        self._run = graphs.run
        module = graphs.run.module
        cuda = module.cuda
        self._cuda = cuda
        self._lock = threading.Lock()
        self._device = cuda.Device().id
        if not self.takes(arrays):
            raise UncapturableError("arrays lie on several devices")
        # Nobody else allocates here: what a call leaves free stays the graph's, for its results.
        self._pool = pool
        stream = cuda.Stream(non_blocking=True)
        stream.wait_event(cuda.get_current_stream().record())
        with (
            graphs.preparing(),
            cuda.using_allocator(self._pool.malloc),
            stream,
            own_plans(module) as self._plans,
        ):
            self._given = [module.empty(a.shape, a.dtype) for a in arrays]
            copy_all(self._run, [module.asarray(a, order="C") for a in arrays], self._given)
            with graphs.products.own() as self._rooms:
                run(self._given)  # so that the pool has memory for all that follows
                with self._pool.keeping():
                    self._graph, outputs = _recorded(graphs, stream, run, self._given)
        stream.synchronize()
        # What a plan hands through is the caller's own array, not a copy.
        places = {id(given): place for place, given in enumerate(self._given)}
        self._handed = [places.get(id(output)) for output in outputs]
        self._outputs = outputs
        self._graph.upload(stream)
        stream.synchronize()
        self._stream = stream  # and so its number is nobody else's
        self._done = cuda.Event(disable_timing=True)
        self._done.record(stream)

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream is being captured."""
        return bool(self._cuda.get_current_stream().is_capturing())

    def takes(self, arrays: Sequence[Array]) -> bool:
        """Return whether the arrays, and the work, are on the graph's device."""
        device = self._device
        return bool(self._cuda.runtime.getDevice() == device) and all(
            array.data.device_id == device for array in arrays
        )

    def check(self, expected: list[Array]) -> None:
        """Launch the graph, and compare its results with those of the executor.

        Raises
        ------
        UncapturableError
            If they differ: then some kernel did what no graph repeats.
        """
        module = self._run.module
        found = self.replay(self._given)
        for one, other in zip(found, expected, strict=True):
            if not _alike(module, one, other):
                raise UncapturableError("the graph gives other numbers than the executor")

    def replay(self, arrays: Sequence[Array]) -> list[Array]:
        """Return what the plan gives for arrays, in new memory; on the current stream."""
        module = self._run.module
        with self._lock:
            stream = self._cuda.get_current_stream()
            if stream is not self._stream or stream.ptr == STREAM_OF_THREAD:
                stream.wait_event(self._done)  # the last launch still reads and writes the arrays
                self._stream = stream
            own = [module.asarray(array, order="C") for array in arrays]
            copy_all(self._run, own, self._given)
            self._graph.launch(stream)
            found = [
                module.empty(output.shape, output.dtype) if place is None else arrays[place]
                for output, place in zip(self._outputs, self._handed, strict=True)
            ]
            made = [number for number, place in enumerate(self._handed) if place is None]
            copy_all(
                self._run,
                [self._outputs[number] for number in made],
                [found[number] for number in made],
            )
            self._done.record(stream)
        return found

    def __del__(self) -> None:
        done = getattr(self, "_done", None)
        if done is None or sys.is_finalizing():
            return
        done.synchronize()  # before the graph's memory is given back
        for name in ("_graph", "_outputs", "_given", "_rooms", "_plans"):
            delattr(self, name)
        self._pool.release()


class Pool:
    """Memory of a graph, which is not to be given back while the graph is captured.

    Where there is no more, CuPy's pools give back what is free and ask again. What kernels that
    were captured have worked in is free by then, but the graph has its addresses.

    Parameters
    ----------
    cuda : module
        `cupy.cuda`.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._device = cuda.Device().id
        self._taken: list[int] = []  # bytes

        def take(nbytes: int, taken: list[int] = self._taken) -> Any:
            memory = cuda.Memory(nbytes)
            taken.append(nbytes)
            return cuda.MemoryPointer(memory, 0)

        self._pool = cuda.MemoryPool(take)
        self.malloc = self._pool.malloc

    def release(self) -> None:
        """Give back what is free, which a pool of CuPy's that goes away does not do by itself."""
        with self._cuda.Device(self._device):
            self._pool.free_all_blocks()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Raise in the end if memory was given back meanwhile.

        Raises
        ------
        UncapturableError
            Then.
        """
        given_back = sum(self._taken) - self._pool.total_bytes()
        yield
        if sum(self._taken) - self._pool.total_bytes() != given_back:
            raise UncapturableError("the device has not the memory for a graph of its own")


def _recorded(graphs: Graphs, stream: Any, run: Run, given: list[Array]) -> tuple[Any, list[Array]]:
    """Return the graph of a run on the current stream, and the arrays that it writes."""
    module = graphs.run.module
    passed = {id(each) for each in given}
    failure: BaseException | None = None
    outputs: list[Array] = []
    with graphs.transfers.refused():
        stream.begin_capture()
        try:
            outputs = [
                each if id(each) in passed else module.asarray(each, order="C")
                for each in run(given)
            ]
        except BaseException as error:  # raised below, once the stream is free
            failure = error
        try:
            graph = stream.end_capture()
        except Exception as error:  # what broke the capture says more
            failure = failure or error
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # else this frame and the error hold each other, and the memory
    return graph, outputs


def _alike(module: Any, one: Array, other: Array) -> bool:
    """Return whether two arrays hold the same numbers, but for rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    if one.dtype.kind not in "fc":
        return bool(same.all())
    if not one.size:
        return True
    same |= module.isnan(one) & module.isnan(other)
    width = np.dtype(other.real.dtype).itemsize
    sizes = module.where(module.isfinite(other), abs(other), 0)
    bound = _TOLERANCES.get(width, 5e-2) * float(sizes.max())
    return bool((same | (abs(one - other) <= bound)).all())
