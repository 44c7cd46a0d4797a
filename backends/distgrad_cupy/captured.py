"""One CUDA graph of a plan: the arrays that it reads and writes, and its launch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from distgrad_cupy.comparing import alike
from distgrad_cupy.copying import copy_all
from distgrad_cupy.graph_memory import Pool
from distgrad_cupy.products import STREAM_OF_THREAD, Products
from distgrad_cupy.running import Runner, address_of, line_of
from distgrad_cupy.transfers import Transfers, UncapturableError
from distgrad_cupy.transforming import own_plans

Array = Any
Run = Callable[[Sequence[Array]], list[Array]]


class Tools(NamedTuple):
    """What of the backend a capture needs.

    Attributes
    ----------
    run : Runner
        What starts kernels.
    products : Products
        What multiplies matrices, also while a graph is captured.
    transfers : Transfers
        What refuses copies meanwhile.
    """

    run: Runner
    products: Products
    transfers: Transfers


class Captured:
    """A graph with the arrays that it reads and writes, in memory of its own.

    Parameters
    ----------
    tools : Tools
        Of the backend.
    run : callable
        The executor of a plan.
    arrays : sequence of array
        What the plan reads.
    pool : Pool
        For the graph alone.
    lasting : collection of int
        Which of the arrays the graph reads where they lie, if each is one line in memory.

    Notes
    -----
    Of what a plan reads, `_given` are the arrays that the graph reads: those of `_held` share the
    caller's memory, into those of `_copied` each call copies. Of what it gives, `_outputs` are the
    arrays that the graph writes; `_handed` says which of them are inputs as they came.

    Raises
    ------
    Exception
        Whatever the executor, CuPy or CUDA raises where something cannot be captured.
    """

    def __init__(
        self,
        tools: Tools,
        run: Run,
        arrays: Sequence[Array],
        pool: Pool,
        lasting: Collection[int],
    ) -> None:
        self._run = tools.run
        module = tools.run.module
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
            with tools.products.own() as self._rooms:
                run(self._given)  # so that the pool has memory for all that follows
                with self._pool.keeping():
                    self._graph, outputs = _recorded(tools, stream, run, self._given)
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
        with self._lock:
            stream = self._cuda.get_current_stream()
            if stream is not self._stream or stream.ptr == STREAM_OF_THREAD:
                stream.wait_event(self._done)  # the last launch still reads and writes the arrays
                self._stream = stream
            self._copy_in(arrays)
            self._graph.launch(stream)
            found = self._places_of_results(arrays, targets)
            made = [number for number, place in enumerate(self._handed) if place is None]
            copy_all(
                self._run,
                [self._outputs[number] for number in made],
                [found[number] for number in made],
            )
            self._done.record(stream)
        return found

    def _places_of_results(
        self, arrays: Sequence[Array], targets: Mapping[int, Array]
    ) -> list[Array]:
        """Return for each result the caller's own array, a target, or new memory."""
        writable, empty = self._writable(arrays, targets), self._run.module.empty
        found = []
        for number, (output, place) in enumerate(zip(self._outputs, self._handed, strict=True)):
            if place is not None:
                found.append(arrays[place])
            elif number in writable:
                found.append(writable[number])
            else:
                found.append(empty(output.shape, output.dtype))
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


def _recorded(tools: Tools, stream: Any, run: Run, given: list[Array]) -> tuple[Any, list[Array]]:
    """Return the graph of a run on the current stream, and the arrays that it writes."""
    module = tools.run.module
    passed = {id(each) for each in given}
    failure: BaseException | None = None
    outputs: list[Array] = []
    with tools.transfers.refused():
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
