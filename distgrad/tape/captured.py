"""What a call depends on besides its inputs: the part of its inside that leads to captured values.

A function with a rule of its own may hold on to tensors that somebody differentiates. The rule says
nothing about them, so what the function computed from them is differentiated as usual, with the
inputs held fixed; what the inputs do is left to the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from distgrad.backends_in_force import depth
from distgrad.batching import Batched
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS
from distgrad.errors import TraceError
from distgrad.tape.backward import backpropagate, connected_to
from distgrad.tape.recorder import Recorder
from distgrad.tape.transposition import Values, transposed
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class _Outside:
    """What values are known within a call; what else others follow has been captured.

    Parameters
    ----------
    followers : sequence of Listener
        Who may follow captured values.
    inputs : sequence of Tensor or Variable
        The inputs of the call.
    """

    def __init__(self, followers: Sequence[Any], inputs: Sequence[Any]) -> None:
        self._followers = followers
        self._known: set[int] = {key for each in inputs for key in _identities(each).values()}

    def knows(self, key: int) -> None:
        """Note a value that was computed within, or is left to others."""
        self._known.add(key)

    def knows_result(self, op: Op, output: Any) -> None:
        """Note what an operation has computed within."""
        self._known.update(each.key for each in (output if op.outputs != 1 else (output,)))

    def has(self, key: int) -> bool:
        """Return whether a value is known."""
        return key in self._known

    def follows(self, key: int) -> bool:
        """Return whether somebody follows a value."""
        return any(each.follows(key) for each in self._followers)

    def is_captured(self, key: int) -> bool:
        """Return whether a value turns up for the first time that was captured."""
        if key in self._known:
            return False
        self._known.add(key)
        return self.follows(key)


class CapturedPath(Recorder):
    """A recorder that, while a function runs, follows what others follow and is no input of it.

    Parameters
    ----------
    outside : sequence of Listener
        Who may follow captured values.
    inputs : sequence of Tensor or Variable
        The inputs of the call: the rule answers for them, and for trainable variables that the
        function reads.
    """

    def __init__(self, outside: Sequence[Any], inputs: Sequence[Any]) -> None:
        super().__init__()
        self._outside = _Outside(outside, inputs)
        self._captured: dict[int, Tensor] = {}

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Listen, after whoever does already, in a ``with`` block."""
        before = LISTENERS.get()
        LISTENERS.set((*before, self))
        try:
            yield
        finally:
            LISTENERS.set(before)

    def close(self) -> None:
        """Let go of those outside, once they know the call: their records hold this object."""
        self._outside = _Outside((), ())

    def hear_read(self, variable: Variable) -> None:
        """Leave a trainable variable to the rule (called by the seam)."""
        if variable.trainable:
            self._outside.knows(variable.key)

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Record one operation, if it involves a captured value (called by the seam)."""
        for key, array in zip(keys, arrays, strict=True):
            if key:
                self._meet(key, array, kernels)
        super().hear(op, keys, arrays, params, output, kernels)
        self._outside.knows_result(op, output)

    def _meet(self, key: int, array: Any, kernels: Any) -> None:
        if self._outside.is_captured(key):
            self.follow(key)
            self._captured[key] = Tensor(array, kernels, key)

    def to(self, outputs: Sequence[Tensor]) -> Captured | None:
        """Return the captured values on which outputs of the function depend; None if on none."""
        for output in outputs:  # one may be a captured value itself
            self._meet(output.key, output.array, output.kernels)
        needed = {output.key for output in outputs}
        for record in reversed(self.records):
            made = record[2] if record[2].__class__ is tuple else (record[2],)
            if not needed.isdisjoint(made):
                needed.update(record[1])
        values = [value for key, value in self._captured.items() if key in needed]
        if not values:
            return None
        ends = [_identities(output) for output in outputs]
        return Captured(self.records, values, ends, [_identities(value) for value in values])


class CapturedTensors:
    """A listener that notes which tensors a function reads that others follow and are no inputs.

    Parameters
    ----------
    outside : sequence of Listener
        Who may follow captured values.
    inputs : sequence of Tensor or Variable
        The inputs of the call.

    Attributes
    ----------
    tensors : list of Tensor
        Those that were captured.
    of_batch : bool
        Whether the function reads a value of a batch that is no input, followed or not.
    """

    def __init__(self, outside: Sequence[Any], inputs: Sequence[Any]) -> None:
        self.tensors: list[Tensor] = []
        self.of_batch = False
        self._depth = depth()  # the values of a `vmap` within the function are on a higher level
        self._outside = _Outside(outside, inputs)

    def hear_read(self, variable: Variable) -> None:
        """Take no notice of a trainable variable: others do."""
        if variable.trainable:
            self._outside.knows(variable.key)

    def follows(self, key: int) -> bool:
        """Return whether somebody outside follows a value: calls within ask for what they hold."""
        return self._outside.follows(key)

    def hear(
        self,
        op: Op,
        keys: Sequence[int],
        arrays: tuple[Any, ...],
        params: dict[str, Any],
        output: Any,
        kernels: Any,
    ) -> None:
        """Note what an operation reads (called by the seam)."""
        for key, array in zip(keys, arrays, strict=True):
            if key:
                self.meet(Tensor(array, kernels, key))
        self._outside.knows_result(op, output)

    def meet(self, tensor: Tensor) -> None:
        """Note a tensor, if somebody follows it and it is not known."""
        array, level = tensor.array, tensor.kernels.level
        if isinstance(array, Batched) and array.is_batched and level <= self._depth:
            self.of_batch = self.of_batch or not self._outside.has(tensor.key)
        if self._outside.is_captured(tensor.key):
            self.tensors.append(tensor)


class Captured(NamedTuple):
    """Captured values of a call, and how its outputs depend on them.

    Attributes
    ----------
    records : list of Record
        The operations between the two.
    values : list of Tensor
        The captured values.
    ends : list of dict
        The identity of each output, by the level of transformation.
    sources : list of dict
        The identity of each captured value, likewise.
    """

    records: list[Any]
    values: list[Tensor]
    ends: list[dict[int, int]]
    sources: list[dict[int, int]]

    def pull(self, level: int, cotangents: Values, needs: Sequence[Any]) -> Values:
        """Return the cotangents of the captured values.

        Parameters
        ----------
        level : int
            Of the transformation in which the call is differentiated.
        cotangents : list
            For each output, None for zero; tensors, or raw arrays where nobody listens.
        needs : sequence
            Which captured values are asked for.
        """
        self._refuse_ended_trace()
        seeds: dict[int, Any] = {}
        for end, cotangent in zip(self.ends, cotangents, strict=True):
            if cotangent is not None:
                key = end[level]
                seeds[key] = cotangent if key not in seeds else seeds[key] + cotangent
        keys = [source.get(level, 0) for source in self.sources]
        wanted = {key for key, need in zip(keys, needs, strict=True) if need and key}
        found = backpropagate(
            self.records,
            seeds,
            wanted,
            connected=connected_to(self.records, wanted),
            recorded=any(isinstance(cotangent, Tensor) for cotangent in cotangents),
            consume=False,
        )
        return [found.get(key) for key in keys]

    def push(self, level: int, tangents: Values, outputs: Sequence[Tensor]) -> Values:
        """Return the tangents of the outputs.

        Parameters
        ----------
        level : int
            As in `pull`.
        tangents : list of Tensor or None
            Those of the captured values.
        outputs : sequence of Tensor
            What was computed.
        """
        needs = [tangent is not None for tangent in tangents]
        units = [Tensor(each.kernels.zeros_like(each.array), each.kernels) for each in outputs]
        return transposed(lambda given: self.pull(level, given, needs), tangents, units)

    def _refuse_ended_trace(self) -> None:
        if any(is_of_ended_trace(value) for value in self.values):
            raise TraceError(
                "custom_gradient: the function holds on to a value of a traced function that has "
                "ended, and is differentiated from outside of it; pass the value as an argument"
            )


def is_of_ended_trace(tensor: Tensor) -> bool:
    """Return whether a tensor is a symbol of a trace that has ended."""
    # NumPy's arrays have a method of this name.
    trace = getattr(tensor.array, "trace", None)
    return not getattr(trace, "is_open", True)


def _identities(value: Any) -> dict[int, int]:
    """Return the identities of a value: its own, and within a batch those that it has below."""
    tensor = value
    if isinstance(value, Variable):
        return {0: value.key}
    found = {tensor.kernels.level: tensor.key}
    while isinstance(tensor.array, Batched):
        tensor = tensor.array.value
        found[tensor.kernels.level] = tensor.key
    return found
