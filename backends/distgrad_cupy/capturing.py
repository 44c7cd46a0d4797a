"""Run a plan as a CUDA graph: captured from its executor, then launched as one.

The executor of `dg.function` calls kernels in a straight line. After some runs, which compile
kernels, its calls are captured once more on a stream and in a pool of memory of their own, and
from then on the graph is launched. It reads variables where they lie; what else a call needs is
copied into arrays of the graph's, and what it gives is copied out, each by one launch. What cannot
be captured (a kernel that waits for the device, or copies to or from the host) goes on by the
executor.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from distgrad.core.under_way import settle
from distgrad_cupy.comparing import alike
from distgrad_cupy.copying import copy_all
from distgrad_cupy.graph_memory import Pool
from distgrad_cupy.products import STREAM_OF_THREAD, Products
from distgrad_cupy.running import Runner, address_of, line_of
from distgrad_cupy.transfers import Transfers, UncapturableError
from distgrad_cupy.transforming import own_plans

Array = Any
Run = Callable[[Sequence[Array]], list[Array]]

VARIABLE = "DISTGRAD_CUDA_GRAPHS"
_LOG = logging.getLogger("distgrad")

# Runs by the executor before a plan is captured: who calls a function a few times gains nothing.
_RUNS_BEFORE = 2
# So often a plan is captured again because an array that stays where it is has moved, such as by a
# checkpoint that was read; from then on it is copied.
_MOST_MOVES = 2


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

    def __call__(self, name: str, lasting: Sequence[int] = ()) -> Replay | None:
        """Return what runs a plan; None where `DISTGRAD_CUDA_GRAPHS` is 0.

        Parameters
        ----------
        name : str
            The traced function, for messages.
        lasting : sequence of int
            Which of the arrays that it reads lie in the same memory at most calls.
        """
        return None if os.environ.get(VARIABLE) == "0" else Replay(self, name, lasting)

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
    lasting : sequence of int
        Which arrays lie in the same memory at most calls.
    """

    def __init__(self, graphs: Graphs, name: str, lasting: Sequence[int]) -> None:
        self._graphs = graphs
        self._name = name
        self._lasting = set(lasting)
        self._moves: Counter[int] = Counter()
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

    def __call__(
        self, run: Run, arrays: Sequence[Array], targets: Mapping[int, Array] = MappingProxyType({})
    ) -> list[Array]:
        """Return what the plan gives.

        Parameters
        ----------
        run : callable
            The executor.
        arrays : sequence of array
            What the plan reads, of the shapes and dtypes of every call.
        targets : mapping of int to array
            Arrays that a graph's results may be written into, see `CompiledPlan`.
        """
        captured = self._captured
        if captured is not None:
            # Within another capture the kernels themselves are wanted: no event that was recorded
            # before it may be waited for there, nor one within it later.
            if not captured.takes(arrays) or self._graphs.are_busy or captured.is_capturing:
                return run(arrays)
            moved = captured.moved(arrays)
            if not moved:
                return captured.replay(arrays, targets)
            self._let_go(captured, moved)
            del captured  # with its memory, before there is another one
        if self._refused or self._graphs.are_busy:
            return run(arrays)
        found = run(arrays)
        with self._lock:
            self._runs += 1
            if self._runs > _RUNS_BEFORE and self._captured is None and not self._refused:
                self._capture(run, arrays, found)
        return found

    def _let_go(self, captured: Captured, moved: Collection[int]) -> None:
        """Forget a graph that reads arrays where they no longer lie."""
        with self._lock:
            if self._captured is captured:
                self._captured = None
                self._moves.update(moved)
                self._lasting = {p for p in self._lasting if self._moves[p] < _MOST_MOVES}

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
            captured = Captured(self._graphs, run, arrays, pool, self._lasting)
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
    lasting : collection of int
        Which of the arrays the graph reads where they lie, if each is one line in memory.

    Raises
    ------
    Exception
        Whatever the executor, CuPy or CUDA raises where something cannot be captured.
    """

    def __init__(
        self,
        graphs: Graphs,
        run: Run,
        arrays: Sequence[Array],
        pool: Pool,
        lasting: Collection[int],
    ) -> None:
        self._run = graphs.run
        module = graphs.run.module
        cuda = module.cuda
        self._cuda = cuda
        self._lock = threading.Lock()
        self._device = cuda.Device().id
        if not self.takes(arrays):
            raise UncapturableError("arrays lie on several devices")
        self._held = {
            place: line
            for place in sorted(lasting)
            if (line := line_of(arrays[place], self._device)) is not None
        }
        self._copied = [place for place in range(len(arrays)) if place not in self._held]
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
            # The memory of a variable, not its array, to which then only the variable refers.
            self._given = [
                module.ndarray(a.shape, a.dtype, a.data)
                if place in self._held
                else module.empty(a.shape, a.dtype)
                for place, a in enumerate(arrays)
            ]
            self._copy_in(arrays)
            with graphs.products.own() as self._rooms:
                run(self._given)  # so that the pool has memory for all that follows
                with self._pool.keeping():
                    self._graph, outputs = _recorded(graphs, stream, run, self._given)
        stream.synchronize()
        # What a plan hands through is the caller's own array, not a copy.
        places = {id(given): place for place, given in enumerate(self._given)}
        self._handed = [places.get(id(output)) for output in outputs]
        self._outputs = outputs
        self._has_views = self._are_views_of_held(outputs)
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

    def moved(self, arrays: Sequence[Array]) -> list[int]:
        """Return which of the arrays are not where the graph reads them."""
        device = self._device
        return [p for p, line in self._held.items() if line_of(arrays[p], device) != line]

    def _copy_in(self, arrays: Sequence[Array]) -> None:
        own = [self._run.module.asarray(arrays[place], order="C") for place in self._copied]
        copy_all(self._run, own, [self._given[place] for place in self._copied])

    def _are_views_of_held(self, outputs: Sequence[Array]) -> bool:
        """Return whether some result, other than an input itself, lies in memory that is held."""
        spans = [(line, line + self._given[place].nbytes) for place, line in self._held.items()]
        places = [
            address_of(output)
            for output, handed in zip(outputs, self._handed, strict=True)
            if handed is None
        ]
        return any(first <= place < end for first, end in spans for place in places)

    def check(self, expected: list[Array]) -> None:
        """Launch the graph, and compare its results with those of the executor.

        Raises
        ------
        UncapturableError
            If they differ: then some kernel did what no graph repeats.
        """
        module = self._run.module
        found = self.replay(self._given, {})
        for one, other in zip(found, expected, strict=True):
            if not alike(module, one, other):
                raise UncapturableError("the graph gives other numbers than the executor")

    def replay(self, arrays: Sequence[Array], targets: Mapping[int, Array]) -> list[Array]:
        """Return what the plan gives for arrays, in targets or new memory; on the current stream.

        Parameters
        ----------
        arrays : sequence of array
            What the plan reads, none of them `moved`.
        targets : mapping of int to array
            Arrays that results may be written into.
        """
        module = self._run.module
        with self._lock:
            stream = self._cuda.get_current_stream()
            if stream is not self._stream or stream.ptr == STREAM_OF_THREAD:
                stream.wait_event(self._done)  # the last launch still reads and writes the arrays
                self._stream = stream
            self._copy_in(arrays)
            self._graph.launch(stream)
            places = self._writable(arrays, targets)
            found = [
                arrays[place] if place is not None
                else places[number] if number in places
                else module.empty(output.shape, output.dtype)
                for number, (output, place) in enumerate(
                    zip(self._outputs, self._handed, strict=True)
                )
            ]  # fmt: skip
            made = [number for number, place in enumerate(self._handed) if place is None]
            copy_all(
                self._run,
                [self._outputs[number] for number in made],
                [found[number] for number in made],
            )
            self._done.record(stream)
        return found

    def _writable(
        self, arrays: Sequence[Array], targets: Mapping[int, Array]
    ) -> Mapping[int, Array]:
        """Return the targets that fit, and that no other result is, or is seen through."""
        if not targets or self._has_views:
            return {}
        handed = {id(arrays[place]) for place in self._handed if place is not None}
        return {
            number: target
            for number, target in targets.items()
            if id(target) not in handed
            and target.shape == self._outputs[number].shape
            and target.dtype == self._outputs[number].dtype
            and line_of(target, self._device) is not None
        }

    def __del__(self) -> None:
        done = getattr(self, "_done", None)
        if done is None or sys.is_finalizing():
            return
        done.synchronize()  # before the graph's memory is given back
        for name in ("_graph", "_outputs", "_given", "_rooms", "_plans"):
            delattr(self, name)
        self._pool.release()


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
