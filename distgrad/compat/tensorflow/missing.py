"""Names that TensorFlow has and this package does not offer yet: say so, and never guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from distgrad.compat.tensorflow.errors import UnimplementedError

# Names of TensorFlow's whose operations distgrad does not have yet, by module.
NOT_OFFERED: dict[str, frozenset[str]] = {
    "": frozenset(),
    "linalg": frozenset("logm lu sqrtm".split()),
    "nn": frozenset(
        "avg_pool conv_transpose convolution local_response_normalization max_pool pool".split()
    ),
}


def refusal(module: str) -> Callable[[str], NoReturn]:
    """Return the ``__getattr__`` of a module of this package.

    Parameters
    ----------
    module : str
        The module's name in TensorFlow, such as ``"math"``; empty for the root.
    """

    def refuse(name: str) -> NoReturn:
        prefix = f"{module}." if module else ""
        if name in NOT_OFFERED.get(module, ()):
            raise AttributeError(
                f"tf.{prefix}{name} is not offered yet by distgrad.compat.tensorflow, which has no "
                "operation for it; the page 'Coming from TensorFlow' lists what is, and an issue "
                f"titled 'not offered yet: tf.{prefix}{name}' asks for it"
            )
        raise AttributeError(
            f"module 'distgrad.compat.tensorflow{'.' + module if module else ''}' has no attribute "
            f"{name!r}; the page 'Coming from TensorFlow' lists the names that it offers"
        )

    return refuse


def refuse_argument(function: str, argument: str, given: Any, offered: str) -> NoReturn:
    """Raise for an argument whose value is not offered yet."""
    raise UnimplementedError(
        f"{function}: {argument}={given!r} is not offered yet; expected {offered}"
    )
