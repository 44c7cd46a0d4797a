"""What NumPy programs call on long arrays: orders, filters, powers, choices, sums, positions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kernel_cases import Steps, draw, steps_of

LENGTH = 100_000
TAPS = 50
ROWS, FEATURES = 1000, 100
WIDE = 512
POSITIONS = np.random.default_rng(1).integers(0, WIDE, 2 * WIDE)


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
        "x**3": lambda dg, x: x**3,
        "clip": lambda dg, x: dg.clip(x, -0.5, 0.5),
        "where": lambda dg, x, y: dg.where(x > 0.5, x, y),
        "sum": lambda dg, x: dg.sum(x, axis=1),
        "max": lambda dg, x: dg.max(x, axis=1),
        "matrix": lambda dg, x, y: x @ y,
        "columns of": lambda dg, x: dg.take(x, POSITIONS, axis=1),
    },
    "torch": {
        "sort": lambda torch, x: torch.sort(x, stable=True).values,
        "modulus": lambda torch, x, y: torch.complex(x, y).abs(),
        "convolve": _convolved_by_torch,
        "prod": lambda torch, x: torch.prod(x, 1),
        "cumulative_sum": lambda torch, x: torch.cumsum(x, 1),
        "cumulative_prod": lambda torch, x: torch.cumprod(x, 1),
        "x**3": lambda torch, x: x**3,
        "clip": lambda torch, x: torch.clamp(x, -0.5, 0.5),
        "where": lambda torch, x, y: torch.where(x > 0.5, x, y),
        "sum": lambda torch, x: torch.sum(x, 1),
        "max": lambda torch, x: torch.amax(x, 1),
        "matrix": lambda torch, x, y: x @ y,
        "columns of": lambda torch, x: torch.index_select(x, 1, torch.from_numpy(POSITIONS)),
    },
    "tensorflow": {
        "sort": lambda tf, x: tf.sort(x),
        "modulus": lambda tf, x, y: tf.abs(tf.complex(x, y)),
        "convolve": _convolved_by_tensorflow,
        "prod": lambda tf, x: tf.reduce_prod(x, 1),
        "cumulative_sum": lambda tf, x: tf.cumsum(x, 1),
        "cumulative_prod": lambda tf, x: tf.math.cumprod(x, 1),
        "x**3": lambda tf, x: x**3,
        "clip": lambda tf, x: tf.clip_by_value(x, -0.5, 0.5),
        "where": lambda tf, x, y: tf.where(x > 0.5, x, y),
        "sum": lambda tf, x: tf.reduce_sum(x, 1),
        "max": lambda tf, x: tf.reduce_max(x, 1),
        "matrix": lambda tf, x, y: tf.linalg.matvec(x, y),
        "columns of": lambda tf, x: tf.gather(x, POSITIONS, axis=1),
    },
}

_SIGNAL, _TABLE, _LARGE = (LENGTH,), (ROWS, FEATURES), (ROWS, WIDE)
_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "sort": (_SIGNAL,),
    "modulus": (_SIGNAL, _SIGNAL),
    "convolve": (_SIGNAL, (TAPS,)),
    "prod": (_TABLE,),
    "cumulative_sum": (_TABLE,),
    "cumulative_prod": (_TABLE,),
    "x**3": (_LARGE,),
    "clip": (_LARGE,),
    "where": (_LARGE, _LARGE),
    "sum": (_LARGE,),
    "max": ((64, 250, 32),),
    "matrix": (_LARGE, (WIDE,)),
    "columns of": (_LARGE,),
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
