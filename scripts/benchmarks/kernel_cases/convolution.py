"""Convolutions and pooling as they stand in image networks, with channels last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import OURS, Steps, draw, switched

_ROWS = 4096  # of one product in bare BLAS: enough that more would not be quicker


@dataclass(frozen=True)
class Convolution:
    """A convolution of square images with padding that keeps their size."""

    examples: int
    size: int
    channels: int
    outputs: int
    window: int
    stride: int = 1
    groups: int = 1

    @property
    def windows(self) -> int:
        """How many windows there are along an axis."""
        return (self.size + 2 * (self.window // 2) - self.window) // self.stride + 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an input, a kernel and a cotangent of the output."""
        generator = np.random.default_rng(0)
        x = draw(self.examples, self.size, self.size, self.channels, generator=generator)
        shape = (self.window, self.window, self.channels // self.groups, self.outputs)
        w = draw(*shape, generator=generator)
        g = draw(self.examples, self.windows, self.windows, self.outputs, generator=generator)
        return x, w, g

    def __call__(self, library: str) -> Steps | None:
        """Return what to measure in a library."""
        return {
            **{name: partial(_distgrad_convolution, library=name) for name in OURS},
            "torch": _torch_convolution,
            "tensorflow": _tensorflow_convolution,
            "blas": _blas,
        }[library](self)


def _distgrad_steps(x: Any, others: tuple[Any, ...], g: Any, f: Any, library: str) -> Steps:
    import distgrad as dg

    switch = switched(library)
    x, g, *others = (dg.asarray(each) for each in (x, g, *others))

    def forward() -> Any:
        switch()
        return f(x, *others)

    def both() -> Any:
        switch()
        with dg.GradientTape() as tape:
            tape.watch([x, *others])
            y = f(x, *others)
        return tape.gradient(y, [x, *others], output_gradients=g)

    return forward, both


def _torch_steps(x: Any, others: tuple[Any, ...], g: Any, f: Any) -> Steps:
    import torch

    sources = [x, *others]
    watched = [each.detach().requires_grad_() for each in sources]

    def forward() -> Any:
        with torch.no_grad():
            return f(*sources)

    def both() -> Any:
        return torch.autograd.grad(f(*watched), watched, g)

    return forward, both


def _images(array: np.ndarray) -> Any:
    """Return a NumPy array with channels last as a tensor of PyTorch's in that layout."""
    import torch

    return torch.from_numpy(array).permute(0, 3, 1, 2)


def _tensorflow_steps(x: Any, others: tuple[Any, ...], g: Any, f: Any) -> Steps:
    import tensorflow as tf

    sources = [tf.constant(each) for each in (x, *others)]
    cotangent = tf.constant(g)

    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = f(*sources)
        return tape.gradient(y, sources, output_gradients=cotangent)

    return lambda: f(*sources), both


def _distgrad_convolution(case: Convolution, library: str) -> Steps:
    import distgrad as dg

    x, w, g = case.arrays()
    slide = {"stride": case.stride, "padding": case.window // 2, "groups": case.groups}
    return _distgrad_steps(x, (w,), g, lambda x, w: dg.nn.conv(x, w, **slide), library)


def _torch_convolution(case: Convolution) -> Steps:
    import torch

    x, w, g = case.arrays()
    kernel = torch.from_numpy(w).permute(3, 2, 0, 1)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    slide = {"stride": case.stride, "padding": case.window // 2, "groups": case.groups}
    convolve = torch.nn.functional.conv2d
    return _torch_steps(
        _images(x), (kernel,), _images(g), lambda x, w: convolve(x, w, None, **slide)
    )


def _tensorflow_convolution(case: Convolution) -> Steps | None:
    import tensorflow as tf

    x, w, g = case.arrays()
    side = case.window // 2
    padding = [[0, 0], [side, side], [side, side], [0, 0]]
    if case.groups == 1:
        return _tensorflow_steps(x, (w,), g, lambda x, w: tf.nn.conv2d(x, w, case.stride, padding))
    strides = [1, case.stride, case.stride, 1]
    turned = np.ascontiguousarray(w.transpose(0, 1, 3, 2))
    same = "SAME" if side else "VALID"
    return _tensorflow_steps(
        x, (turned,), g, lambda x, w: tf.nn.depthwise_conv2d(x, w, strides, same)
    )


def _blas(case: Convolution) -> Steps | None:
    if case.groups > 1:
        return None
    rows = case.examples * case.windows**2
    depth = case.window**2 * case.channels
    step = min(_ROWS, rows)
    generator = np.random.default_rng(0)
    columns = draw(step, depth, generator=generator)
    matrix = draw(depth, case.outputs, generator=generator)
    g = draw(step, case.outputs, generator=generator)
    y, x, w = np.empty_like(g), np.empty_like(columns), np.empty_like(matrix)
    parts = [slice(0, min(step, rows - at)) for at in range(0, rows, step)]

    def forward() -> None:
        for part in parts:
            np.matmul(columns[part], matrix, out=y[part])

    def both() -> None:
        forward()
        for part in parts:
            np.matmul(g[part], matrix.T, out=x[part])
            np.matmul(columns[part].T, g[part], out=w)

    return forward, both


@dataclass(frozen=True)
class Pool:
    """Pooling of square images."""

    kind: str
    examples: int
    size: int
    channels: int
    window: int
    stride: int

    def __call__(self, library: str) -> Steps | None:
        """Return what to measure in a library."""
        generator = np.random.default_rng(0)
        shape = (self.examples, self.size, self.size, self.channels)
        x = draw(*shape, generator=generator)
        windows = (self.size - self.window) // self.stride + 1
        g = draw(self.examples, windows, windows, self.channels, generator=generator)
        if library in ("numpy", "compiled"):  # which are asked before oneDNN
            import distgrad as dg

            pool = getattr(dg.nn, f"{self.kind}_pool")
            return _distgrad_steps(
                x, (), g, lambda x: pool(x, self.window, stride=self.stride), library
            )
        if library == "torch":
            import torch

            pool = getattr(torch.nn.functional, f"{self.kind}_pool2d")
            return _torch_steps(
                _images(x), (), _images(g), lambda x: pool(x, self.window, self.stride)
            )
        if library == "tensorflow":
            import tensorflow as tf

            pool = getattr(tf.nn, f"{self.kind}_pool2d")
            return _tensorflow_steps(x, (), g, lambda x: pool(x, self.window, self.stride, "VALID"))
        return None


CASES: dict[str, Convolution | Pool] = {
    "conv 3x3, 32 x 28² x 32 to 64": Convolution(32, 28, 32, 64, 3),
    "conv 3x3, 8 x 56² x 64 to 64": Convolution(8, 56, 64, 64, 3),
    "conv 3x3, 8 x 14² x 256 to 256": Convolution(8, 14, 256, 256, 3),
    "conv 3x3 stride 2, 8 x 56² x 64 to 128": Convolution(8, 56, 64, 128, 3, 2),
    "conv 1x1, 8 x 28² x 256 to 64": Convolution(8, 28, 256, 64, 1),
    "conv 1x1 stride 2, 8 x 28² x 256 to 512": Convolution(8, 28, 256, 512, 1, 2),
    "conv 5x5, 8 x 28² x 32 to 64": Convolution(8, 28, 32, 64, 5),
    "conv 7x7 stride 2, 2 x 224² x 3 to 64": Convolution(2, 224, 3, 64, 7, 2),
    "conv 3x3, 32 x 28² x 1 to 32": Convolution(32, 28, 1, 32, 3),
    "conv 3x3 depthwise, 8 x 56² x 64": Convolution(8, 56, 64, 64, 3, groups=64),
    "max_pool 2x2, 32 x 28² x 32": Pool("max", 32, 28, 32, 2, 2),
    "max_pool 3x3 stride 2, 4 x 112² x 64": Pool("max", 4, 112, 64, 3, 2),
    "avg_pool 2x2, 32 x 28² x 32": Pool("avg", 32, 28, 32, 2, 2),
    "avg_pool 3x3 stride 1, 8 x 28² x 64": Pool("avg", 8, 28, 64, 3, 1),
}
