"""Plans: a graph as a straight-line program of kernels that lets go of each array after its use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import prod
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Acting, Op
from distgrad.core.seam import VALUES, apply
from distgrad.debug import checker_in_force
from distgrad.errors import MissingKernelError, NonFiniteError
from distgrad.graph.compiling import CompiledPlan, Compiles
from distgrad.graph.nodes import OUTPUT_OF, Graph, Node
from distgrad.tensor import Tensor

# One call: how many operands (0 for other than one or two), the kernel with its metadata bound, the
# places of the first two operands, of all, of the result, and of what dies there and is not
# overwritten by the result.
Step = tuple[int, Callable[..., Any], int, int, tuple[int, ...], int, tuple[int, ...]]


class Plan:
    """Run the part of a graph between given nodes and wanted ones, on raw arrays.

    This executor runs on every backend; it is also the reference for those that compile. Values
    live in numbered places, which are used again after a value's last use: a result often takes the
    place of an operand, and so frees it.

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
    places : int
        How many values, numbers and constants among them, are held at most.
    """

    def __init__(
        self, graph: Graph, given: Sequence[Node], wanted: Sequence[Node], kernels: Kernels
    ) -> None:
        self._name = graph.name
        self._kernels = kernels
        self._asarray = kernels.backend.asarray
        self._array_type = kernels.array_type
        self._given = given
        self._wanted = wanted
        self.nodes, constants = self._calls(graph)
        self._last_use = self._last_uses()
        # The first places are the given ones'; then come constants and numbers, which stay.
        places: dict[int, int] = {}
        for node in given:
            places.setdefault(node.index, len(places))
        self._inputs = [places[node.index] for node in given]
        self._template: list[Any] = [None] * len(places)
        for node in constants:
            places[node.index] = len(self._template)
            self._template.append(node.value)
        self._steps: list[Step] = []
        self._lay_out(places)
        self.places = len(self._template)
        self._outputs = [places[node.index] for node in wanted]
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

    def _last_uses(self) -> dict[int, int]:
        last = {
            x.index: place
            for place, node in enumerate(self.nodes)
            for x in node.operands
            if isinstance(x, Node)
        }
        for node in self._wanted:
            last[node.index] = len(self.nodes)
        return last

    def _lay_out(self, places: dict[int, int]) -> None:
        """Give each call's result a place, and write down the steps."""
        stays = {i for i, value in enumerate(self._template) if value is not None}
        free: list[int] = []
        for now, node in enumerate(self.nodes):
            assert node.op is not None  # noqa: S101  for the type checker: a call has one
            operands = []
            for x in node.operands:
                if isinstance(x, Node):
                    operands.append(places[x.index])
                else:
                    operands.append(len(self._template))
                    stays.add(len(self._template))
                    self._template.append(x)
            read = {x.index for x in node.operands if isinstance(x, Node)}
            dying = [
                places[index]
                for index in sorted(read)
                if self._last_use[index] == now and places[index] not in stays
            ]
            if dying:
                out = dying.pop()
            elif free:
                out = free.pop()
            else:
                out = len(self._template)
                self._template.append(None)
            free += dying
            places[node.index] = out
            kernel = bound_kernel(self._kernels, node.op, node.params)
            count = len(operands) if len(operands) in (1, 2) else 0
            first, second = (*operands, 0, 0)[:2]
            self._steps.append((count, kernel, first, second, tuple(operands), out, tuple(dying)))

    def compile(self, lasting: Collection[int]) -> None:
        """Let the backend run this its own way, where it offers one and this but computes.

        Parameters
        ----------
        lasting : collection of int
            The nodes, by their index, whose arrays lie in the same memory at most calls.
        """
        backend = self._kernels.backend
        if isinstance(backend, Compiles) and not any(isinstance(n.op, Acting) for n in self.nodes):
            places = [place for place, node in enumerate(self._given) if node.index in lasting]
            self._compiled = backend.compile(self._name, places)

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
            return self.run(arrays)
        return self._compiled(self.run, arrays, targets)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the wanted arrays from the given ones."""
        values = self._template.copy()
        for place, array in zip(self._inputs, arrays, strict=True):
            values[place] = array
        for count, kernel, first, second, operands, out, dead in self._steps:
            if count == 2:
                values[out] = kernel(values[first], values[second])
            elif count == 1:
                values[out] = kernel(values[first])
            else:
                values[out] = kernel(*[values[place] for place in operands])
            for place in dead:
                values[place] = None
        array_type, asarray = self._array_type, self._asarray
        wanted = [values[place] for place in self._outputs]
        return [array if array.__class__ is array_type else asarray(array) for array in wanted]

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
        values = self._template.copy()
        for place, array in zip(self._inputs, arrays, strict=True):
            values[place] = array
        for node, step in zip(self.nodes, self._steps, strict=True):
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
        wanted = [values[place] for place in self._outputs]
        return [x if x.__class__ is self._array_type else self._asarray(x) for x in wanted]

    def peak_bytes(self) -> int:
        """Return the most memory that the results of calls take at one time, by their specs.

        Given arrays and constants are not counted; each view counts as if it had memory of its own.
        """
        alive = peak = 0
        held: dict[int, int] = {}
        for now, node in enumerate(self.nodes):
            held[node.index] = sum(prod(s.shape) * int(s.dtype.itemsize) for s in node.specs)
            alive += held[node.index]
            peak = max(peak, alive)
            operands = {x.index for x in node.operands if isinstance(x, Node)}
            for index in (*operands, node.index):
                if self._last_use.get(index, now) == now:
                    alive -= held.pop(index, 0)
        return peak


def bound_kernel(kernels: Kernels, op: Op, params: dict[str, Any]) -> Callable[..., Any]:
    """Return an operation's kernel with its metadata; one outside the vocabulary is composed."""
    if op is OUTPUT_OF:
        return itemgetter(params["position"])
    if op in kernels.table:
        kernel = kernels.table[op]
    elif op.compose is None:
        raise MissingKernelError(f"{op.name}: the operation has no kernel and no composition")
    else:
        kernel = partial(op.compose, kernels)
    return partial(kernel, **params) if params else kernel


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
