"""The four models in distgrad: a step of each is forward, backward and Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg


class Encoder(dg.nn.Module):
    """A block of a transformer, and a classifier."""

    def __init__(self, width: int) -> None:
        self.before, self.after = dg.nn.LayerNorm(), dg.nn.LayerNorm()
        self.attention = dg.nn.MultiHeadAttention(4)
        self.wide = dg.nn.Dense(4 * width, activation=dg.nn.gelu)
        self.narrow, self.logits = dg.nn.Dense(width), dg.nn.Dense(10)

    def call(self, x: Any) -> Any:
        """Return logits."""
        x = x + self.attention(self.before(x))
        x = x + self.narrow(self.wide(self.after(x)))
        return self.logits(dg.mean(x, axis=1))


def models(scale: int) -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """Return what makes each model, and the shape of its inputs; `scale` makes all smaller."""
    width, batch = 1024 // scale, 256 // scale
    relu = dg.nn.relu

    def mlp() -> Any:
        return dg.nn.Sequential(dg.nn.Dense(width, relu), dg.nn.Dense(width, relu), dg.nn.Dense(10))

    def cnn() -> Any:
        layers = [dg.nn.Conv(32, 3, padding="same", activation=relu), dg.nn.MaxPool(2)]
        layers += [dg.nn.Conv(64, 3, padding="same", activation=relu), dg.nn.MaxPool(2)]
        return dg.nn.Sequential(*layers, dg.nn.Flatten(), dg.nn.Dense(10))

    def lstm() -> Any:
        return dg.nn.Sequential(dg.nn.LSTM(width // 4), dg.nn.Dense(10))

    return {
        "MLP": (mlp, (batch, width)),
        "CNN": (cnn, (batch, 32, 32, 3)),
        "LSTM": (lstm, (batch, 64 // scale, width // 8)),
        "transformer": (lambda: Encoder(width // 4), (batch // 4, 128 // scale, width // 4)),
    }


def step_of(backend: Any, make: Callable[[], Any], shape: tuple[int, ...], dtype: str) -> Any:
    """Return an eager step of training, and the one by `dg.function`."""
    generator = np.random.default_rng(0)
    x = dg.asarray(generator.standard_normal(shape).astype(np.float32), backend=backend)
    labels = dg.asarray(generator.integers(0, 10, shape[0]), backend=backend)
    model = make().build(x, seed=0)
    optimizer = dg.optimizers.Adam(1e-3)
    narrow = "float16" if dtype == "float32" else dtype

    def gradients(x: Any, labels: Any) -> Any:
        with dg.autocast(narrow, enabled=dtype != "float32"), dg.GradientTape() as tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
        return tape.gradient(loss, model.trainable_variables)

    traced = dg.function(gradients)

    def stepping(of: Callable[..., Any]) -> Callable[[], None]:
        return lambda: optimizer.apply(of(x, labels), model.trainable_variables)

    return stepping(gradients), stepping(traced)
