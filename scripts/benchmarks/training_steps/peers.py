"""The same four models in PyTorch and in TensorFlow, eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def torch_step(
    name: str, shape: tuple[int, ...], scale: int, dtype: str = "float32", device: str = "cpu"
) -> Callable[[], Any] | None:
    """Return PyTorch's eager step of a model on a device; None where there is no such PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    if device == "cuda" and not torch.cuda.is_available():
        return None
    nn, width = torch.nn, 1024 // scale

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(width // 8, width // 4, batch_first=True)
            self.logits = nn.Linear(width // 4, 10)

        def forward(self, x: Any) -> Any:
            return self.logits(self.cells(x)[0][:, -1])

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            own = width // 4
            self.layer = nn.TransformerEncoderLayer(
                own, 4, 4 * own, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.logits = nn.Linear(own, 10)

        def forward(self, x: Any) -> Any:
            return self.logits(self.layer(x).mean(1))

    def dense(*lengths: int) -> list[Any]:
        return [nn.Linear(lengths[0], lengths[1]), nn.ReLU()]

    made = {
        "MLP": lambda: nn.Sequential(
            *dense(width, width), *dense(width, width), nn.Linear(width, 10)
        ),
        "CNN": lambda: nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 64, 10)),
        ),
        "LSTM": Last,
        "transformer": Block,
    }[name]().to(device)
    own = (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape
    x = torch.randn(own, device=device)
    labels = torch.randint(0, 10, (shape[0],), device=device)
    # Capturable: its steps are counted on the device, so that a CUDA graph may hold them.
    optimizer = torch.optim.Adam(made.parameters(), 1e-3, fused=True, capturable=device == "cuda")
    narrow = getattr(torch, dtype)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, narrow, enabled=dtype != "float32"):
            loss = torch.nn.functional.cross_entropy(made(x), labels)
        loss.backward()
        optimizer.step()

    return step


def torch_graphed(
    name: str, shape: tuple[int, ...], scale: int, dtype: str, device: str
) -> Callable[[], Any] | None:
    """Return PyTorch's whole step as a CUDA graph; None where there is no such PyTorch."""
    step = torch_step(name, shape, scale, dtype, device)
    if step is None:
        return None
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(_: Any = step) -> None:  # the graph has the addresses of what the step refers to
        graph.replay()

    return replay


def tensorflow_step(name: str, shape: tuple[int, ...], scale: int) -> Callable[[], Any] | None:
    """Return TensorFlow's eager step of a model on the CPU; None where it is not installed."""
    try:
        import tensorflow as tf
    except ImportError:
        return None
    layers, width = tf.keras.layers, 1024 // scale

    def block(inputs: Any) -> Any:
        own = width // 4
        before = layers.LayerNormalization()(inputs)
        x = inputs + layers.MultiHeadAttention(4, own // 4)(before, before)
        after = layers.LayerNormalization()(x)
        x = x + layers.Dense(own)(layers.Dense(4 * own, "gelu")(after))
        return layers.Dense(10)(layers.GlobalAveragePooling1D()(x))

    def stacked(*each: Any) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            for layer in each:
                x = layer(x)
            return x

        return call

    made = {
        "MLP": lambda: stacked(
            layers.Dense(width, "relu"), layers.Dense(width, "relu"), layers.Dense(10)
        ),
        "CNN": lambda: stacked(
            *(layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPool2D(2)),
            *(layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPool2D(2)),
            *(layers.Flatten(), layers.Dense(10)),
        ),
        "LSTM": lambda: stacked(layers.LSTM(width // 4), layers.Dense(10)),
        "transformer": lambda: block,
    }[name]()
    inputs = tf.keras.Input(shape[1:])
    model = tf.keras.Model(inputs, made(inputs))
    x = tf.random.normal(shape)
    labels = tf.random.uniform((shape[0],), 0, 10, tf.int64)
    optimizer = tf.keras.optimizers.Adam(1e-3)

    def step() -> None:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return step
