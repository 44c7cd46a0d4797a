"""Copy many arrays by few launches: their addresses travel as a kernel's argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad_cupy.running import THREADS, Runner, address_of

Array = Any

_AT_ONCE = 120  # as in copying.cu; arguments of a kernel have 4096 bytes at most
_TABLE = np.dtype(
    [(name, kind, _AT_ONCE) for name, kind in (("source", "u8"), ("target", "u8"), ("bytes", "i8"))]
)
_MOST_BLOCKS = 1024  # for each array: more than run at one time
_WORD = 8


def copy_all(run: Runner, sources: Sequence[Array], targets: Sequence[Array]) -> None:
    """Copy each array into another one, on the current stream.

    Parameters
    ----------
    run : Runner
        What starts the kernel.
    sources, targets : sequence of array
        Contiguous pairs of one shape and dtype.
    """
    rows = [
        (address_of(source), address_of(target), nbytes)
        for source, target in zip(sources, targets, strict=True)
        if (nbytes := source.nbytes)
    ]
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        table, count = np.zeros((), _TABLE), len(some)
        # Whole columns: a training step has hundreds of arrays, each time.
        for name, column in zip(_TABLE.names or (), zip(*some, strict=True), strict=True):
            table[name][:count] = column
        blocks = min(-(-max(row[2] for row in some) // (_WORD * THREADS)), _MOST_BLOCKS)
        run.launch("copying", "copy_arrays", "float32", (blocks, count), THREADS, (table,))
