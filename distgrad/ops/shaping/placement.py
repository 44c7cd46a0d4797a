"""Placement: move an array to another device of its backend; its gradient comes back."""

from __future__ import annotations

from typing import Any

from distgrad.core.op import Array, Kind, Namespace, Spec
from distgrad.core.seam import apply
from distgrad.ops.rules.families import linear
from distgrad.shapes import Shape


def _to_device_spec(x: Spec, *, source: str, device: str) -> Spec:
    return Spec(tuple(x.shape), x.dtype)


def _to_device(xp: Namespace, x: Array, source: str, device: str) -> Array:
    backend = xp.backend
    move = getattr(backend, "to_device", None)
    if move is not None:
        return move(x, device)
    if device == backend.device(x):
        return x
    raise ValueError(
        f"to_device: device is {device!r}, but the backend {backend.name!r} has no other device "
        f"than {backend.device(x)!r}; another backend is reached by x.to(backend=...)"
    )


def _to_device_transpose(xp: Namespace, g: Array, primal: Shape, source: str, device: str) -> Array:
    return xp.to_device(g, source=device, device=source)


TO_DEVICE = linear(
    "to_device",
    _to_device_transpose,
    _to_device_spec,
    kind=Kind.ELEMENTWISE,
    compose=_to_device,
)


def to_device(x: Any, device: Any, /) -> Any:
    """Return x on another device of its backend; x itself where it lies there already.

    Parameters
    ----------
    x : Tensor or Variable
        What to move.
    device : str or None
        A device as `Tensor.device` names it, such as ``"cuda:1"``; None for where `x` is.

    Raises
    ------
    ValueError
        If the backend has no such device.
    """
    source = x.device
    if device is None or str(device) == source:
        return x
    return apply(TO_DEVICE, x, source=source, device=str(device))


OPS = (TO_DEVICE,)
