"""Activations, softmax, norms, losses and dropout, on arrays as they stand in a transformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import Steps, draw, steps_of

ROWS, FEATURES = 2048, 512  # 4 MiB of float32: the tokens of a batch
CLASSES = 10_000


def _steps(library: str, name: str, arrays: tuple[Any, ...]) -> Steps | None:
    """Return what to measure of one of `FUNCTIONS`."""
    functions = FUNCTIONS.get("distgrad" if library in ("numpy", "compiled") else library)
    if functions is None:  # compiled kernels are asked before oneDNN's
        return None
    return steps_of(library, functions[name], arrays)


def _activation(name: str, library: str) -> Steps | None:
    return _steps(library, name, (draw(ROWS, FEATURES),))


def _ours_dropout(dg: Any, x: Any) -> Any:
    return dg.nn.dropout(x, 0.1, generator=dg.random.Generator(0))


def _their_batch_norm(tf: Any, x: Any, s: Any, b: Any) -> Any:
    return tf.nn.batch_normalization(x, *tf.nn.moments(x, [0]), b, s, 1e-5)


def _their_rms_norm(tf: Any, x: Any, s: Any) -> Any:
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-5) * s


def _their_layer_norm(tf: Any, x: Any, s: Any, b: Any) -> Any:
    moments = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, *moments, b, s, 1e-5)


FUNCTIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "distgrad": {
        "gelu": lambda dg, x: dg.nn.gelu(x),
        "gelu by tanh": lambda dg, x: dg.nn.gelu(x, approximate=True),
        "silu": lambda dg, x: dg.nn.silu(x),
        "relu": lambda dg, x: dg.nn.relu(x),
        "leaky_relu": lambda dg, x: dg.nn.leaky_relu(x, slope=0.2),
        "softmax": lambda dg, x: dg.nn.softmax(x),
        "layer_norm": lambda dg, x, s, b: dg.nn.layer_norm(x, s, b),
        "rms_norm": lambda dg, x, s: dg.nn.rms_norm(x, s),
        "batch_norm": lambda dg, x, s, b: dg.nn.batch_norm(x, s, b).output,
        "cross entropy": lambda dg, x, c: dg.nn.softmax_cross_entropy(labels=c, logits=x),
        "dropout": _ours_dropout,
        "normal": lambda dg, x: x + dg.random.Generator(0).normal(x.shape, dtype=x.dtype),
    },
    "torch": {
        "gelu": lambda torch, x: torch.nn.functional.gelu(x),
        "gelu by tanh": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
        "silu": lambda torch, x: torch.nn.functional.silu(x),
        "relu": lambda torch, x: torch.nn.functional.relu(x),
        "leaky_relu": lambda torch, x: torch.nn.functional.leaky_relu(x, 0.2),
        "softmax": lambda torch, x: torch.nn.functional.softmax(x, -1),
        "layer_norm": lambda torch, x, s, b: torch.nn.functional.layer_norm(x, (FEATURES,), s, b),
        "rms_norm": lambda torch, x, s: torch.nn.functional.rms_norm(x, (FEATURES,), s, 1e-5),
        "batch_norm": lambda torch, x, s, b: torch.nn.functional.batch_norm(
            x, None, None, s, b, training=True
        ),
        "cross entropy": lambda torch, x, c: torch.nn.functional.cross_entropy(
            x, c, reduction="none"
        ),
        "dropout": lambda torch, x: torch.nn.functional.dropout(x, 0.1),
        "normal": lambda torch, x: x + torch.randn(*x.shape, dtype=x.dtype),
    },
    "tensorflow": {
        "gelu": lambda tf, x: tf.nn.gelu(x),
        "gelu by tanh": lambda tf, x: tf.nn.gelu(x, approximate=True),
        "silu": lambda tf, x: tf.nn.silu(x),
        "relu": lambda tf, x: tf.nn.relu(x),
        "leaky_relu": lambda tf, x: tf.nn.leaky_relu(x, 0.2),
        "softmax": lambda tf, x: tf.nn.softmax(x),
        "layer_norm": _their_layer_norm,
        "rms_norm": _their_rms_norm,
        "batch_norm": _their_batch_norm,
        "cross entropy": lambda tf, x, c: tf.nn.sparse_softmax_cross_entropy_with_logits(c, x),
        "dropout": lambda tf, x: tf.nn.dropout(x, 0.1),
        "normal": lambda tf, x: x + tf.random.normal(x.shape, dtype=x.dtype),
    },
}


def _norm(name: str, library: str) -> Steps | None:
    affine = [draw(FEATURES) for _ in range(1 if name == "rms_norm" else 2)]
    return _steps(library, name, (draw(ROWS, FEATURES), *affine))


def _cross_entropy(library: str) -> Steps | None:
    labels = np.random.default_rng(1).integers(0, CLASSES, 128)
    return _steps(library, "cross entropy", (draw(128, CLASSES), labels))


CASES: dict[str, Callable[[str], Steps | None]] = {
    **{
        f"{name} {ROWS} x {FEATURES}": partial(_activation, name)
        for name in (
            *("gelu", "gelu by tanh", "silu", "relu", "leaky_relu", "softmax"),
            *("dropout", "normal"),
        )
    },
    **{
        f"{name} {ROWS} x {FEATURES}": partial(_norm, name)
        for name in ("layer_norm", "rms_norm", "batch_norm")
    },
    f"cross entropy 128 x {CLASSES}": _cross_entropy,
}
