"""Convolutions and attention on a device, forward and both ways, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import distgrad as dg
from device_cases.timing import Clock, milliseconds
from distgrad.dtypes import as_dtype

# Batch, length of a side, channels, outputs, window, stride and groups.
CONVOLUTIONS = {
    "3x3, 64 to 64": (32, 56, 64, 64, 3, 1, 1),
    "3x3 of stride 2, 128 to 256": (32, 28, 128, 256, 3, 2, 1),
    "1x1, 256 to 64": (32, 56, 256, 64, 1, 1, 1),
    "7x7 of stride 2, 3 to 64": (32, 224, 3, 64, 7, 2, 1),
    "3x3 depthwise, 256": (32, 28, 256, 256, 3, 1, 256),
}
# Batch, heads, queries and keys, width of a head.
ATTENTIONS = {"attention, 1024 keys": (8, 12, 1024, 64), "attention, 8192 keys": (1, 8, 8192, 64)}


def both_ways(f: Callable[..., Any], *operands: Any) -> Callable[[], Any]:
    """Return what computes a function and the gradients of all operands."""

    def work() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(operands)
            y = f(*operands)
        return tape.gradient(y, operands)

    return work


def convolution_rows(clock: Clock, scale: int) -> Iterator[tuple[str, ...]]:
    """Yield name, dtype, milliseconds forward and both ways, and PyTorch's."""
    for name, (batch, side, inner, outer, window, stride, groups) in CONVOLUTIONS.items():
        length = max(side // scale, window)
        for dtype in ("float32", "bfloat16"):
            shapes = (
                (max(batch // scale, 1), length, length, inner),
                (window, window, inner // groups, outer),
            )
            how = {"stride": stride, "padding": window // 2, "groups": groups}

            def conv(x: Any, w: Any, how: Any = how) -> Any:
                return dg.nn.conv(x, w, **how)

            own = own_times(clock, conv, shapes, dtype)
            peer = torch_times(clock, "conv", shapes, dtype, how)
            yield f"convolution {name}", dtype, *own, *peer


def attention_rows(clock: Clock, scale: int) -> Iterator[tuple[str, ...]]:
    """Yield name, dtype, milliseconds forward and both ways, and PyTorch's."""
    for name, (batch, heads, length, width) in ATTENTIONS.items():
        shape = (batch, heads, max(length // scale, 1), width)
        for causal in (False, True):
            for dtype in ("float32", "bfloat16"):

                def attend(*operands: Any, causal: bool = causal) -> Any:
                    return dg.nn.scaled_dot_product_attention(*operands, causal=causal)

                own = own_times(clock, attend, (shape,) * 3, dtype)
                peer = torch_times(clock, "attention", (shape,) * 3, dtype, {"is_causal": causal})
                yield f"{name}{', causal' if causal else ''}", dtype, *own, *peer


def own_times(
    clock: Clock, f: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], dtype: str
) -> tuple[str, str]:
    """Return the milliseconds of a function and of it with its gradients, in words."""

    def forward() -> Callable[[], Any]:
        operands = [random(clock, shape, dtype) for shape in shapes]
        return lambda: f(*operands)

    def both() -> Callable[[], Any]:
        return both_ways(f, *(random(clock, shape, dtype) for shape in shapes))

    return milliseconds(clock.attempt(forward)), milliseconds(clock.attempt(both))


def random(clock: Clock, shape: tuple[int, ...], dtype: str) -> Any:
    """Return an array of the backend with normal numbers."""
    host = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return dg.asarray(host.astype(as_dtype(dtype)), backend=clock.backend)


def torch_times(
    clock: Clock, name: str, shapes: Any, dtype: str, how: dict[str, Any]
) -> tuple[str, str]:
    """Return the milliseconds of PyTorch's operation forward and both ways, in words."""

    def ready(both: bool) -> Callable[[], Any] | None:
        return torch_work(name, shapes, dtype, how, both=both)

    found = (clock.attempt_torch(lambda both=both: ready(both)) for both in (False, True))
    first, second = map(milliseconds, found)
    return first, second


def torch_work(
    name: str, shapes: Any, dtype: str, how: dict[str, Any], *, both: bool
) -> Callable[[], Any] | None:
    """Return what computes PyTorch's operation, or it with the gradients of its operands."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    operands = [torch.randn(shape, device="cuda", dtype=getattr(torch, dtype)) for shape in shapes]
    functional = torch.nn.functional
    if name == "conv":
        x, w = operands  # channels stay last in memory, as ours
        operands = [x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1)]
        operands = [each.to(memory_format=torch.channels_last) for each in operands]
    operation = functional.conv2d if name == "conv" else functional.scaled_dot_product_attention
    operands = [each.detach().requires_grad_() for each in operands]

    def forward() -> Any:
        with torch.no_grad():
            return operation(*operands, **how)

    def there_and_back() -> Any:
        y = operation(*operands, **how)
        return torch.autograd.grad(y, operands, torch.ones_like(y))

    return there_and_back if both else forward
