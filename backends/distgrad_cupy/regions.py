"""Regions of traced functions as one launch each, compiled by NVRTC from their formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.backend.scalar_code import Formula
from distgrad.graph.compiling import Region
from distgrad_cupy.elementwise import compiled
from distgrad_cupy.running import Runner

Kernel = Callable[..., Any]

_DTYPES = frozenset(("float16", "float32", "float64"))


class RegionKernels:
    """What the CuPy backend has as ``fusion``, see `distgrad.graph.compiling.Fuses`.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    """

    fewest = 1 << 12  # elements; below, all the time is the launch, which a CUDA graph saves

    reduces = False  # CuPy's sums read a result once more

    def __init__(self, run: Runner) -> None:
        self._run = run

    def takes(self, formula: Formula) -> bool:
        """Return whether a formula is of half, single or double precision."""
        dtypes = {dtype.name for _, dtype in formula.inputs + formula.outputs if dtype.kind != "b"}
        return dtypes <= _DTYPES

    def kernels(self, name: str, regions: Sequence[Region]) -> list[Kernel]:
        """Return kernels for the regions of a plan; each is compiled when it is first called."""
        return [self._kernel(region) for region in regions]

    def _kernel(self, region: Region) -> Kernel:
        kernel, shape = compiled(self._run, region.formula), region.shape
        if np.broadcast_shapes(*region.shapes) == shape:
            return kernel
        repeat = self._run.module.broadcast_to

        def repeating(first: Any, *rest: Any) -> Any:
            return kernel(repeat(first, shape), *rest)

        return repeating
