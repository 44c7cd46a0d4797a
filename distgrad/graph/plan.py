"""Plans: the part of a graph between given nodes and wanted ones, and the ways in which it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Acting
from distgrad.core.seam import VALUES, apply
from distgrad.debug import checker_in_force
from distgrad.errors import NonFiniteError
from distgrad.graph.compiling import CompiledPlan, Compiles, Fuses, Run
from distgrad.graph.nodes import OUTPUT_OF, Graph, Node
from distgrad.graph.program import Program
from distgrad.graph.region_calls import fused_calls
from distgrad.graph.regions import Fusion, fusion_of
from distgrad.tensor import Tensor


class Plan:
    """Run the part of a graph between given nodes and wanted ones, on raw arrays.

    Its reference is a call of a kernel for each operation, which runs on every backend. Where the
    backend fuses, another program is made of the calls when it is to run for the first time.

    Parameters
    ----------
    graph : Graph
        The program.
    given : sequence of Node
        Whose arrays are passed to `run`; what they depend on is not computed again.
    wanted : sequence of Node
        Whose arrays `run` returns.
    kernels : Kernels
        On which backend.

    Attributes
    ----------
    nodes : list of Node
        The calls, in order.
    """

    def __init__(
        self, graph: Graph, given: Sequence[Node], wanted: Sequence[Node], kernels: Kernels
    ) -> None:
        self._name = graph.name
        self._kernels = kernels
        self._given = given
        self._wanted = wanted
        self.nodes, self._constants = self._calls(graph)
        self._program = Program(self.nodes, self._constants, given, wanted, kernels)
        self.run = self._program.run  # the reference
        self._fuses = False
        self._compiled: CompiledPlan | None = None

    def _calls(self, graph: Graph) -> tuple[list[Node], list[Node]]:
        given = {node.index for node in self._given}
        needed = {node.index for node in self._wanted}
        calls, constants = [], []
        for node in reversed(graph.nodes):
            if node.index not in needed or node.index in given:
                continue
            if node.op is None:
                if node.value is None:
                    raise ValueError(f"plan: {node} is an input that is not given")
                constants.append(node)
                continue
            calls.append(node)
            needed.update(x.index for x in node.operands if isinstance(x, Node))
        return calls[::-1], constants[::-1]

    @property
    def places(self) -> int:
        """How many values, numbers and constants among them, the reference holds at most."""
        return self._program.places

    def peak_bytes(self) -> int:
        """Return the most memory that results take at one time in the reference, by their specs."""
        return self._program.peak_bytes()

    def fuse(self) -> Plan:
        """Let the backend compute elementwise calls together, where it can, and return this."""
        self._fuses = True
        return self

    def compile(self, lasting: Collection[int]) -> None:
        """Let the backend run this its own way: fuse calls, and what else it offers.

        Parameters
        ----------
        lasting : collection of int
            The nodes, by their index, whose arrays lie in the same memory at most calls.
        """
        self.fuse()
        backend = self._kernels.backend
        # What does more than compute is not run to try something out.
        if isinstance(backend, Compiles) and not any(isinstance(n.op, Acting) for n in self.nodes):
            places = [place for place, node in enumerate(self._given) if node.index in lasting]
            self._compiled = backend.compile(self._name, places)

    @cached_property
    def fusion(self) -> Fusion | None:
        """What is fused; None where nobody fuses, or nothing may be."""
        fuses = self._fuses
        return fusion_of(self.nodes, self._wanted, self._fusing) if fuses and self._fusing else None

    @property
    def _fusing(self) -> Fuses | None:
        return getattr(self._kernels.backend, "fusion", None)

    @cached_property
    def _quickest(self) -> Run:
        """Make kernels of what is fused, and return what runs all calls."""
        fusion, fusing = self.fusion, self._fusing
        if fusion is None or fusing is None or not fusion.parts:
            return self.run
        kernels = fusing.kernels(self._name, [part.region for part in fusion.parts])
        if kernels is None:
            self.fusion = None  # for who asks what is fused
            return self.run
        calls = fused_calls(self.nodes, self._wanted, fusion.parts, kernels)
        return Program(calls, self._constants, self._given, self._wanted, self._kernels).run

    @property
    def way(self) -> str:
        """How the backend runs this, in words; empty where it is by this executor."""
        return "" if self._compiled is None else self._compiled.way

    @property
    def is_compiled(self) -> bool:
        """Whether the backend has a way of its own to run this."""
        return self._compiled is not None

    def execute(
        self, arrays: Sequence[Any], targets: Mapping[int, Any] = MappingProxyType({})
    ) -> list[Any]:
        """Return what `run` does, the backend's own way if it has one.

        Parameters
        ----------
        arrays : sequence of array
            As for `run`.
        targets : mapping of int to array
            Arrays that results may be written into, see `CompiledPlan`.
        """
        if self._compiled is None:
            return self._quickest(arrays)
        return self._compiled(self._quickest, arrays, targets)

    def run_checked(
        self, arrays: Sequence[Any], checker: Any, asked: str | None = None
    ) -> list[Any]:
        """Return the wanted arrays, and look at the result of each operation.

        Parameters
        ----------
        arrays : sequence of array
            As for `run`.
        checker : listener
            Who looks for what is not finite; see `distgrad.debug_nans`.
        asked : str, optional
            The user's line that asks for the run, in place of those where it was traced.

        Raises
        ------
        NonFiniteError
            At the first operation that makes a NaN or an infinity, naming it and the user's line.
        """
        values = self._program.start(arrays)
        for node, step in zip(self.nodes, self._program.steps, strict=True):
            _, kernel, _, _, operands, out, dead = step
            given = [values[place] for place in operands]
            result = kernel(*given)
            values[out] = result
            for place in dead:
                values[place] = None
            assert node.op is not None  # noqa: S101  for the type checker: a call has one
            line = f"{asked or node.where} ({node} of the traced function {self._name!r})"
            results = result if isinstance(result, tuple) else (result,)
            flat = [x for each in given for x in (each if isinstance(each, tuple) else (each,))]
            try:
                checker.check(node.op.name, flat, results, self._kernels, line)
            except NonFiniteError as error:
                origin = node.gradient_of
                if origin is not None and origin.op is not None:
                    error.in_gradient_of(origin.op.name, origin.where)
                raise
        return self._program.end(values)


def replay(graph: Graph, inputs: Sequence[Any], kernels: Kernels) -> list[Tensor]:
    """Return the outputs of a graph by applying its operations to tensors, heard by all.

    Parameters
    ----------
    graph : Graph
        The program.
    inputs : sequence of Tensor
        Of any backend or transformation.
    kernels : Kernels
        The backend of the graph's constants.
    """
    return replay_between(graph, graph.inputs, inputs, graph.outputs, kernels)


def replay_between(
    graph: Graph,
    given: Sequence[Node],
    tensors: Sequence[Any],
    wanted: Sequence[Node],
    kernels: Kernels,
) -> list[Tensor]:
    """Return the tensors of wanted nodes from those of given ones; see `replay`."""
    values: dict[int, Any] = {
        node.index: tensor for node, tensor in zip(given, tensors, strict=True)
    }
    # Operations keep the user's lines, for who traces them again and for who looks for NaNs.
    keepers: list[Any] = [x for x in (VALUES.get(), checker_in_force()) if x is not None]
    before = [keeper.place for keeper in keepers]
    try:
        for node in graph.needed_for(wanted, values.keys()):
            if node.op is OUTPUT_OF:
                values[node.index] = values[node.operands[0].index][node.params["position"]]
            elif node.op is not None:
                for keeper in keepers:
                    keeper.place = node.where
                operands = [values[x.index] if isinstance(x, Node) else x for x in node.operands]
                values[node.index] = apply(node.op, *operands, **node.params)
            elif node.value is not None:
                values[node.index] = Tensor(node.value, kernels)
    finally:
        for keeper, place in zip(keepers, before, strict=True):
            keeper.place = place
    return [values[node.index] for node in wanted]
