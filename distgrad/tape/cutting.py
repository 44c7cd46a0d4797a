"""Cut derivatives on purpose: the same values, with no path back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.core.op import Composed, Kind
from distgrad.core.seam import LISTENERS
from distgrad.eager import asarray, evaluate
from distgrad.tape.recorder import Recorder
from distgrad.tensor import Operators, Tensor


def stop_gradient(x: Any) -> Tensor:
    """Return the same values with no path back to where they came from.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; they are not copied.

    Notes
    -----
    It cuts reverse and forward mode, for every tape and accumulator: also for those around a `vmap`
    or a traced function within which it stands.
    """
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    if tensor.kernels.level:  # whoever listens beneath the transformation must hear of it, too
        cut: Tensor = evaluate(_STOP_GRADIENT, (tensor,), {})
        return cut
    result = detach(tensor)
    for listener in LISTENERS.get():
        if isinstance(listener, Recorder):
            listener.hear_cut("stop_gradient", (tensor.key,), result.key)
    return result


def _cut_below(
    xp: Any, size: int, batched: Sequence[bool], arrays: Sequence[Any], params: dict[str, Any]
) -> Tensor:
    return stop_gradient(arrays[0])


_STOP_GRADIENT = Composed(
    "stop_gradient",
    Kind.OPAQUE,
    lambda x: x,
    compose=lambda xp, x: x,
    batch=_cut_below,
)


def detach(x: Any) -> Tensor:
    """Return the same values under an identity of their own, of which no tape takes notice."""
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    return Tensor(tensor.array, tensor.kernels)
