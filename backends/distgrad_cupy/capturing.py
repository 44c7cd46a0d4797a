"""Run a plan as a CUDA graph: captured from its executor, then launched as one, or let it be.

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
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from distgrad.core.under_way import settle
from distgrad_cupy.captured import Array, Captured, Run, Tools
from distgrad_cupy.graph_memory import Pool
from distgrad_cupy.products import Products
from distgrad_cupy.running import Runner
from distgrad_cupy.transfers import Transfers

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
        self.tools = Tools(run, products, Transfers(run.module))
        self._local = threading.local()

    @property
    def transfers(self) -> Transfers:
        """What refuses copies between host and device during a capture."""
        return self.tools.transfers

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
        cuda = self._graphs.tools.run.module.cuda
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
            with self._graphs.preparing():
                captured = Captured(self._graphs.tools, run, arrays, pool, self._lasting)
            captured.check(expected)
            self._captured = captured
        except Exception as error:  # the executor has just shown that it can
            self._refused = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            _LOG.debug(
                "%s: not captured as a CUDA graph, runs operation by operation (%s)",
                self._name,
                self._refused,
            )
