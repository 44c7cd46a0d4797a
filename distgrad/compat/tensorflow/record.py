"""Say what tapes write down (`tensorflow.python.eager.record`): operations that users compute.

For code that was written on these functions of TensorFlow's; `custom_gradient` says the same with
less, and its rule is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import distgrad as dg
from distgrad.compat.tensorflow.errors import InternalError
from distgrad.compat.tensorflow.values import on_native, unwrap_nest
from distgrad.core.op import Keep, Kind, Op, Spec
from distgrad.core.seam import LISTENERS
from distgrad.eager import emit
from distgrad.tape.handmade import as_given, to_tensors
from distgrad.tape.recorder import Recorder
from distgrad.tape.transposition import transposed


def record_operation(
    op_type: str,
    output_tensors: Sequence[Any],
    input_tensors: Sequence[Any],
    backward_function: Callable[..., Any],
    forward_function: Callable[..., Any] | None = None,
) -> None:
    """Tell all tapes and accumulators that tensors were computed from others by one operation.

    Parameters
    ----------
    op_type : str
        The operation's name, for messages.
    output_tensors, input_tensors : sequence of Tensor
        What was computed, and from what. An output that a tape knows already is known by this
        operation from now on.
    backward_function : callable
        Takes the cotangent of each output, zeros for one that is not used; returns a sequence with
        a cotangent or None for each input.
    forward_function : callable, optional
        Takes the tangent of each input, or None; returns those of the outputs. By default the
        backward function is transposed.

    Raises
    ------
    InternalError
        During the backward pass, if the function gives too few gradients, or too many.
    """
    outputs, inputs = list(unwrap_nest(output_tensors)), list(unwrap_nest(input_tensors))
    pull, push = on_native(backward_function), forward_function

    def pulled(*cotangents: Any) -> list[Any]:
        found = pull(*cotangents)
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(found) != len(inputs):
            raise InternalError(
                f"Recorded operation {op_type!r} returned too "
                f"{'few' if len(found) < len(inputs) else 'many'} gradients. Expected "
                f"{len(inputs)} but received {len(found)}; return None for an input without one"
            )
        return found

    def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Sequence[int]) -> list[Any]:
        cotangents, raw = to_tensors(g, outputs)
        return as_given(pulled(*cotangents), raw)

    def jvp(xp: Any, tangents: Sequence[Any], y: Any, xs: Any, params: Any) -> Any:
        given, raw = to_tensors(list(tangents), [each.read() for each in inputs])
        if push is not None:
            pushed = on_native(push)(*given)
            pushed = list(pushed) if isinstance(pushed, (list, tuple)) else [pushed]
        else:
            units = [dg.zeros_like(each) for each in outputs]
            found = transposed(lambda cotangents: pulled(*cotangents), given, units)
            pairs = zip(found, units, strict=True)
            pushed = [zeros if each is None else each for each, zeros in pairs]
        results = as_given(pushed, raw)
        return results[0] if len(outputs) == 1 else results

    specs = tuple(Spec(each.shape, each.dtype) for each in outputs)
    single = len(outputs) == 1
    op = Op(
        op_type,
        Kind.OPAQUE,
        lambda *_: specs[0] if single else specs,
        vjp,
        jvp,
        Keep.SPECS,
        outputs=1 if single else None,
    )
    emit(op, inputs, outputs[0] if single else tuple(outputs))


def record_operation_backprop_only(
    op_type: str,
    output_tensors: Sequence[Any],
    input_tensors: Sequence[Any],
    backward_function: Callable[..., Any],
) -> None:
    """Tell all tapes, and no accumulator, of an operation; see `record_operation`."""
    with _only(lambda each: isinstance(each, Recorder)):
        record_operation(op_type, output_tensors, input_tensors, backward_function)


def record_operation_forwardprop_only(
    op_type: str,
    output_tensors: Sequence[Any],
    input_tensors: Sequence[Any],
    backward_function: Callable[..., Any],
    forwardprop_output_indices: Any = None,
) -> None:
    """Tell all accumulators, and no tape, of an operation; see `record_operation`."""
    with _only(lambda each: isinstance(each, dg.ForwardAccumulator)):
        record_operation(op_type, output_tensors, input_tensors, backward_function)


@contextmanager
def stop_recording() -> Iterator[None]:
    """Let no tape and no accumulator of this thread hear anything within a ``with`` block."""
    with _only(lambda each: not isinstance(each, (Recorder, dg.ForwardAccumulator))):
        yield


@contextmanager
def _only(stays: Callable[[Any], bool]) -> Iterator[None]:
    before = LISTENERS.get()
    kept = tuple(each for each in before if stays(each))
    LISTENERS.set(kept)
    try:
        yield
    finally:
        # Those entered meanwhile and not left are still there; those left meanwhile are not.
        new = tuple(each for each in LISTENERS.get() if each not in kept)
        LISTENERS.set((*(each for each in before if getattr(each, "_recording", True)), *new))


def should_record_backprop(tensors: Sequence[Any]) -> bool:
    """Return whether some tape of this thread follows one of the tensors."""
    tapes = [each for each in LISTENERS.get() if isinstance(each, Recorder)]
    return any(tape.follows(tensor.key) for tape in tapes for tensor in tensors)


def could_possibly_record() -> bool:
    """Return whether any tape or accumulator of this thread listens."""
    return any(isinstance(each, (Recorder, dg.ForwardAccumulator)) for each in LISTENERS.get())


class VariableWatcher:
    """Note which trainable variables are read within a ``with`` block."""

    def __init__(self) -> None:
        self._variables: dict[int, Any] = {}

    def __enter__(self) -> Self:
        LISTENERS.set((*LISTENERS.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        LISTENERS.set(tuple(each for each in LISTENERS.get() if each is not self))

    def watched_variables(self) -> tuple[Any, ...]:
        """Return the variables, in the order in which they were first read."""
        return tuple(self._variables.values())

    # --- what the seam calls --------------------------------------------------------------------

    def hear_read(self, variable: Any) -> None:
        """Note a variable that is about to be read (called by the seam)."""
        if variable.trainable:
            self._variables.setdefault(variable.key, variable)

    def hear(self, *_: Any) -> None:
        """Take no notice of operations (called by the seam)."""

    def follows(self, key: int) -> bool:
        """Return False: nothing is differentiated here."""
        return False


__all__ = [
    "VariableWatcher",
    "could_possibly_record",
    "record_operation",
    "record_operation_backprop_only",
    "record_operation_forwardprop_only",
    "should_record_backprop",
    "stop_recording",
]
