"""oneDNN's activations, and their pullbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad_numpy.onednn import primitive as of
from distgrad_numpy.onednn.library import Library, ready

Array = np.ndarray[Any, Any]

# Values of oneDNN's enumeration of algorithms.
_RELU, _RELU_OF_TARGET, _LOGISTIC = 0x20, 0x100, 0x29
_GELU_TANH, _SWISH, _GELU_ERF = 0x2B, 0x2C, 0x31


class Activation(NamedTuple):
    """What the code of an activation depends on."""

    algorithm: int
    alpha: float
    pulls: bool
    size: int
    threads: int

    def make(self, library: Library) -> _Activation:
        """Return the primitive."""
        return _Activation(library, self)


class _Activation(of.Primitive):
    def __init__(self, library: Library, key: Activation) -> None:
        super().__init__(library)
        self.flat = flat = self.layout((key.size,), (1,))
        numbers = (of.real(key.alpha), of.real(0.0))
        description = self.operation(
            "eltwise_forward", of.FORWARD, key.algorithm, flat, flat, *numbers
        )
        self.kept = of.TARGET if key.algorithm == _RELU_OF_TARGET else of.SOURCE
        if key.pulls:
            description = self.operation(
                "eltwise_backward", key.algorithm, flat, flat, flat, *numbers, description
            )
        self.code = self.compiled(description)

    def forward(self, x: Array, out: Array) -> None:
        """Write the activation of x."""
        self.run((self.code, {of.SOURCE: (self.flat, x), of.TARGET: (self.flat, out)}))

    def pull(self, g: Array, kept: Array, out: Array) -> None:
        """Write the cotangent of x from that of the activation, and x or the activation."""
        self.run(
            (
                self.code,
                {
                    self.kept: (self.flat, kept),
                    of.TARGET + of.GRADIENT: (self.flat, g),
                    of.SOURCE + of.GRADIENT: (self.flat, out),
                },
            )
        )


def _primitive(algorithm: int, alpha: float, pulls: bool, size: int) -> _Activation | None:
    if (found := ready()) is None:
        return None
    library, threads = found
    made = library.primitive(Activation(algorithm, alpha, pulls, size, threads))
    return made if isinstance(made, _Activation) else None


def _forward(algorithm: int) -> Callable[..., Array | None]:
    def offer(x: Array, slope: float = 1.0) -> Array | None:
        if not x.flags.c_contiguous or not slope:
            return None
        activation = _primitive(algorithm, slope, False, x.size)
        if activation is None:
            return None
        out = np.empty(x.shape, x.dtype)
        activation.forward(x, out)
        return out

    return offer


def _pull(algorithm: int) -> Callable[..., Array | None]:
    def offer(g: Array, kept: Array, slope: float = 1.0) -> Array | None:
        if kept.dtype != np.float32 or kept.shape != g.shape or not slope:
            return None
        if not (g.flags.c_contiguous and kept.flags.c_contiguous):
            return None
        activation = _primitive(algorithm, slope, True, g.size)
        if activation is None:
            return None
        out = np.empty(g.shape, g.dtype)
        activation.pull(g, kept, out)
        return out

    return offer


# Not relu, nor a leaky one without slope: oneDNN makes 0 of NaN. Its softplus is off by 1e-6, and
# its mish has an infinite slope far out.
OFFERS: dict[str, Callable[..., Array | None]] = {
    "gelu": _forward(_GELU_ERF),
    "gelu_tanh": _forward(_GELU_TANH),
    "leaky_relu": _forward(_RELU),
    "sigmoid": _forward(_LOGISTIC),
    "silu": _forward(_SWISH),
    "gelu_vjp": _pull(_GELU_ERF),
    "gelu_tanh_vjp": _pull(_GELU_TANH),
    "leaky_relu_vjp": _pull(_RELU_OF_TARGET),
    "silu_vjp": _pull(_SWISH),
}
