"""Names that TensorFlow has and this package does not offer yet: say so, and never guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from distgrad.compat.tensorflow.errors import UnimplementedError

# Names of TensorFlow's whose operations distgrad does not have yet, by module.
NOT_OFFERED: dict[str, frozenset[str]] = {
    "": frozenset("IndexedSlices argsort einsum optimizers searchsorted sort unique".split()),
    "math": frozenset(
        "argsort bincount cumprod digamma erf erfc erfinv igamma lbeta lgamma polygamma "
        "segment_max segment_mean segment_min segment_prod sort top_k unsorted_segment_max "
        "unsorted_segment_mean zeta".split()
    ),
    "linalg": frozenset(
        "cholesky cholesky_solve cross det eigh eigvalsh einsum expm inv logdet logm lstsq lu pinv "
        "qr slogdet solve sqrtm svd triangular_solve".split()
    ),
    "nn": frozenset(
        "avg_pool avg_pool1d avg_pool2d avg_pool3d conv1d conv2d conv2d_transpose conv3d "
        "conv_transpose convolution ctc_loss depthwise_conv2d gelu local_response_normalization "
        "max_pool max_pool1d max_pool2d max_pool3d pool separable_conv2d top_k".split()
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
