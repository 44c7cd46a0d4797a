"""Dense layers as they stand in perceptrons and transformers: product with a kernel, and bias."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kernel_cases import OURS, Steps, draw, steps_of

# Rows, inputs and outputs; the first ones are those of `scripts/bench train`.
SHAPES = ((64, 256, 256), (512, 64, 64), (512, 64, 256), (512, 256, 64), (128, 784, 512))


def _linear(shape: tuple[int, int, int], library: str) -> Steps | None:
    """Return what to measure of a layer; oneDNN has no part in it."""
    if library == "onednn":
        return None
    rows, inputs, outputs = shape
    x, kernel, bias = draw(rows, inputs), draw(inputs, outputs), draw(outputs)
    if library == "blas":
        return _bare_products(x, kernel)
    return steps_of(library, _FUNCTIONS["own" if library in OURS else library], (x, kernel, bias))


_FUNCTIONS: dict[str, Any] = {
    "own": lambda dg, x, kernel, bias: dg.nn.linear(x, kernel, bias),
    "torch": lambda torch, x, kernel, bias: torch.addmm(bias, x, kernel),
    "tensorflow": lambda tf, x, kernel, bias: tf.nn.bias_add(x @ kernel, bias),
}


def _bare_products(x: np.ndarray, kernel: np.ndarray) -> Steps:
    y = np.empty((len(x), kernel.shape[1]), x.dtype)
    to_x, to_kernel = np.empty_like(x), np.empty_like(kernel)

    def forward() -> None:
        np.matmul(x, kernel, out=y)

    def with_gradients() -> None:
        forward()
        np.matmul(y, kernel.T, out=to_x)
        np.matmul(x.T, y, out=to_kernel)

    return forward, with_gradients


CASES = {
    f"linear {rows}x{inputs} to {outputs}": partial(_linear, (rows, inputs, outputs))
    for rows, inputs, outputs in SHAPES
}
