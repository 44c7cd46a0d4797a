"""Copy many arrays by few launches, their addresses in a kernel's argument; one between devices."""

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


def between_devices(module: Any, array: Array, target: int) -> Array:
    """Return a copy of an array on another device, which nobody waits for on the host.

    The copy is made on the current stream of the target, which waits for what computes the array,
    and for which the array's own stream waits: after it the array's memory may serve others. CuPy
    copies on the target's stream, too, and has neither wait for the other.

    Parameters
    ----------
    module : module
        CuPy.
    array : array
        On another device than the target.
    target : int
        The number of the device.
    """
    cuda = module.cuda
    with array.device:
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            array = module.ascontiguousarray(array)
        computed = cuda.get_current_stream().record(cuda.Event(disable_timing=True))
    with cuda.Device(target):
        stream = cuda.get_current_stream()
        stream.wait_event(computed)
        copied = module.array(array)
        done = stream.record(cuda.Event(disable_timing=True))
    with array.device:
        cuda.get_current_stream().wait_event(done)
    return copied
