"""Every kernel that is written in CUDA or prepares CuPy's, by the operation that it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad_cupy import (
    affine,
    attention,
    channels,
    conforming,
    convolution,
    drawing,
    joining,
    own_special,
    pooling,
    recurrent,
    rows,
    segments,
    variates,
)
from distgrad_cupy.running import Runner

SUBJECTS = (
    *(affine, rows, channels, attention, convolution, pooling, recurrent, segments),
    *(drawing, variates, own_special, joining, conforming),
)


def cuda_kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of all subjects.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {name: kernel for subject in SUBJECTS for name, kernel in subject.kernels(run).items()}
