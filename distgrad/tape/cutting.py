"""Cut derivatives on purpose: the same values, with no path back."""

from __future__ import annotations

from typing import Any

from distgrad.core.seam import LISTENERS
from distgrad.eager import asarray
from distgrad.tape.recorder import Recorder
from distgrad.tensor import Operators, Tensor


def stop_gradient(x: Any) -> Tensor:
    """Return the same values with no path back to where they came from.

    Parameters
    ----------
    x : Tensor, Variable, array or scalar
        The values; they are not copied.
    """
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    result = detach(tensor)
    for listener in LISTENERS.get():
        if isinstance(listener, Recorder):
            listener.hear_cut("stop_gradient", (tensor.key,), result.key)
    return result


def detach(x: Any) -> Tensor:
    """Return the same values under an identity of their own, of which no tape takes notice."""
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    return Tensor(tensor.array, tensor.kernels)
