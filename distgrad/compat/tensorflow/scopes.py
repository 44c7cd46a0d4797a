"""tf.device and tf.name_scope: blocks that programs open around their operations.

Neither changes a number. Where something is computed is decided by where its operands lie
(`distgrad.use_backend`, `Tensor.to`), and operations have no names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

_scope: ContextVar[str] = ContextVar("tensorflow_name_scope", default="")


@contextmanager
def device(device_name: str | None) -> Iterator[None]:
    """Open a block that TensorFlow would run on a device; here it has no effect.

    Parameters
    ----------
    device_name : str or None
        Such as ``"/GPU:0"``. TensorFlow takes the CPU, too, where there is no such device.

    Raises
    ------
    ValueError
        If the name is neither text nor None.
    """
    if device_name is not None and not isinstance(device_name, str):
        raise ValueError(
            f"device: expecting a string device name, got {device_name!r}; for example '/CPU:0', "
            "or None"
        )
    yield


class name_scope:
    """A block with a name; operations and variables are not named after it.

    Parameters
    ----------
    name : str
        The block's; one that ends in a slash stands by itself, not in the block around it.

    Raises
    ------
    ValueError
        If the name is no text.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise ValueError(f"name for name_scope must be a string, got {name!r}")
        self._name = name
        self._tokens: list[Token[str]] = []

    @property
    def name(self) -> str:
        """The name that was given."""
        return self._name

    def __enter__(self) -> str:
        """Return the name, with those of the blocks around it, and a slash."""
        name = self._name
        whole = name if not name or name.endswith("/") else f"{_scope.get()}{name}/"
        self._tokens.append(_scope.set(whole))
        return whole

    def __exit__(self, *raised: Any) -> None:
        _scope.reset(self._tokens.pop())
