"""Programs: calls of kernels in a straight line that let go of each array after its use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from operator import itemgetter
from typing import Any

from distgrad.backend.kernels import Kernels
from distgrad.core.op import Op
from distgrad.errors import MissingKernelError
from distgrad.graph.nodes import OUTPUT_OF, Node

# One call: how many operands (0 for other than one or two), the kernel with its metadata bound, the
# places of the first two operands, of all, of the result, and of what dies there and is not
# overwritten by the result.
Step = tuple[int, Callable[..., Any], int, int, tuple[int, ...], int, tuple[int, ...]]


class Program:
    """Calls laid out over numbered places, which are used again after a value's last use.

    A result often takes the place of an operand, and so frees it.

    Parameters
    ----------
    calls : sequence of Node
        In an order in which they can be computed.
    constants, given, wanted : sequence of Node
        The constants among the operands and results, whose arrays `run` is passed, and whose it
        returns.
    kernels : Kernels
        On which backend.

    Attributes
    ----------
    calls : sequence of Node
        As given.
    steps : list of tuple
        What runs, a step for each call.
    places : int
        How many values, numbers and constants among them, are held at most.
    """

    def __init__(
        self,
        calls: Sequence[Node],
        constants: Sequence[Node],
        given: Sequence[Node],
        wanted: Sequence[Node],
        kernels: Kernels,
    ) -> None:
        self.calls = calls
        self._kernels = kernels
        self._asarray = kernels.backend.asarray
        self._array_type = kernels.array_type
        self._wanted = wanted
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
        self.steps: list[Step] = []
        self._lay_out(places)
        self.places = len(self._template)
        self._outputs = [places[node.index] for node in wanted]

    def _last_uses(self) -> dict[int, int]:
        last = {
            x.index: place
            for place, node in enumerate(self.calls)
            for x in node.operands
            if isinstance(x, Node)
        }
        for node in self._wanted:
            last[node.index] = len(self.calls)
        return last

    def _lay_out(self, places: dict[int, int]) -> None:
        """Give each call's result a place, and write down the steps."""
        stays = {i for i, value in enumerate(self._template) if value is not None}
        free: list[int] = []
        for now, node in enumerate(self.calls):
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
            self.steps.append((count, kernel, first, second, tuple(operands), out, tuple(dying)))

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the wanted arrays from the given ones."""
        values = self.start(arrays)
        for count, kernel, first, second, operands, out, dead in self.steps:
            if count == 2:
                values[out] = kernel(values[first], values[second])
            elif count == 1:
                values[out] = kernel(values[first])
            else:
                values[out] = kernel(*[values[place] for place in operands])
            for place in dead:
                values[place] = None
        return self.end(values)

    def start(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the values of all places before the first step."""
        values = self._template.copy()
        for place, array in zip(self._inputs, arrays, strict=True):
            values[place] = array
        return values

    def end(self, values: Sequence[Any]) -> list[Any]:
        """Return the wanted arrays from the values of all places after the last step."""
        array_type, asarray = self._array_type, self._asarray
        wanted = [values[place] for place in self._outputs]
        return [array if array.__class__ is array_type else asarray(array) for array in wanted]

    def peak_bytes(self) -> int:
        """Return the most memory that the results of calls take at one time, by their specs.

        Given arrays and constants are not counted; each view counts as if it had memory of its own.
        """
        alive = peak = 0
        held: dict[int, int] = {}
        for now, node in enumerate(self.calls):
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
