"""What NumPy programs call on long arrays: orders, moduli, filters, products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import Steps, draw, steps_of

LENGTH = 100_000
TAPS = 50
ROWS, FEATURES = 1000, 100


def _convolved_by_torch(torch: Any, x: Any, taps: Any) -> Any:
    batch, kernel = x[None, None], taps.flip(0)[None, None]
    return torch.nn.functional.conv1d(batch, kernel, padding=TAPS - 1)[0, 0]


def _convolved_by_tensorflow(tf: Any, x: Any, taps: Any) -> Any:
    padded = tf.pad(x, [[TAPS - 1, TAPS - 1]])[None, :, None]
    return tf.nn.conv1d(padded, taps[::-1, None, None], 1, "VALID")[0, :, 0]


FUNCTIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "distgrad": {
        "sort": lambda dg, x: dg.sort(x),
        "modulus": lambda dg, x, y: dg.abs(x + 1j * y),
        "convolve": lambda dg, x, taps: np.convolve(x, taps),
        "prod": lambda dg, x: dg.prod(x, axis=1),
        "cumulative_sum": lambda dg, x: dg.cumulative_sum(x, axis=1),
        "cumulative_prod": lambda dg, x: dg.cumulative_prod(x, axis=1),
    },
    "torch": {
        "sort": lambda torch, x: torch.sort(x, stable=True).values,
        "modulus": lambda torch, x, y: torch.complex(x, y).abs(),
        "convolve": _convolved_by_torch,
        "prod": lambda torch, x: torch.prod(x, 1),
        "cumulative_sum": lambda torch, x: torch.cumsum(x, 1),
        "cumulative_prod": lambda torch, x: torch.cumprod(x, 1),
    },
    "tensorflow": {
        "sort": lambda tf, x: tf.sort(x),
        "modulus": lambda tf, x, y: tf.abs(tf.complex(x, y)),
        "convolve": _convolved_by_tensorflow,
        "prod": lambda tf, x: tf.reduce_prod(x, 1),
        "cumulative_sum": lambda tf, x: tf.cumsum(x, 1),
        "cumulative_prod": lambda tf, x: tf.math.cumprod(x, 1),
    },
}

_SIGNAL, _TABLE = (LENGTH,), (ROWS, FEATURES)
_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "sort": (_SIGNAL,),
    "modulus": (_SIGNAL, _SIGNAL),
    "convolve": (_SIGNAL, (TAPS,)),
    "prod": (_TABLE,),
    "cumulative_sum": (_TABLE,),
    "cumulative_prod": (_TABLE,),
}


def _steps(name: str, library: str) -> Steps | None:
    functions = FUNCTIONS.get("distgrad" if library in ("numpy", "compiled") else library)
    if functions is None:  # oneDNN has no part in them
        return None
    return steps_of(library, functions[name], tuple(draw(*shape) for shape in _SHAPES[name]))


CASES: dict[str, Callable[[str], Steps | None]] = {
    f"{name} {' by '.join('x'.join(map(str, shape)) for shape in shapes)}": partial(_steps, name)
    for name, shapes in _SHAPES.items()
}
