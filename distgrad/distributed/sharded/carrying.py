"""What carries the messages of units: over the host, or from device to device.

Parts of variables lie where the variables do. Where that is a device, messages are packed there,
and what arrives is there; which way they travel is the line's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from distgrad.distributed.averaging.exchange import on_host
from distgrad.distributed.averaging.on_device import on_device
from distgrad.distributed.averaging.ordered import OrderedSum
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.device_buffers import is_on_device, line_of
from distgrad.distributed.verbs.device_line import Line
from distgrad.variable import Variable

Array = Any

_WIDE = 16  # bytes of a load


class Carrier(Protocol):
    """Carries the messages of units whose variables lie in one place.

    Attributes
    ----------
    module : module
        Whose arrays messages are: NumPy, or CuPy.
    """

    module: Any

    def array_of(self, gradient: Any) -> Array | None:
        """Return a gradient as a dense array where messages are; None of None."""
        ...

    def reduce_scatter(self, rows: Array) -> Array:
        """Return this rank's row of the sum of all ranks' messages."""
        ...

    def allgatherv(self, row: Array, counts: Sequence[int]) -> Array:
        """Return all ranks' elements end to end."""
        ...

    def placed(self, variables: list[Array]) -> list[Array]:
        """Return views of gathered elements, or copies, as whole variables are to lie."""
        ...

    def part(self, total: OrderedSum, bounds: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return this rank's slice of a sum over logical shards, see `OrderedSum.part`."""
        ...

    def number(self, element: Array) -> Any:
        """Return the only element of an array as NumPy's scalar."""
        ...


def carrier_of(comm: Communicator, variable: Variable) -> Carrier:
    """Return what carries a variable's messages.

    All ranks call this together, with the same variables in the same places.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    variable : Variable
        One of those that lie together.
    """
    array, backend = variable.array, variable.backend
    if not is_on_device(array) or not hasattr(backend, "module"):
        return HostCarrier(comm)
    return DeviceCarrier(comm, backend, line_of(comm, backend, array))


class HostCarrier:
    """Carries messages on the host, to which gradients are read.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    """

    module: Any = np

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def array_of(self, gradient: Any) -> Array | None:
        """Return a gradient on the host."""
        return on_host(gradient)

    def reduce_scatter(self, rows: Array) -> Array:
        """Return this rank's row of the sum of all ranks' messages."""
        return self._comm.reduce_scatter(rows)

    def allgatherv(self, row: Array, counts: Sequence[int]) -> Array:
        """Return all ranks' elements end to end."""
        return self._comm.allgatherv(row, counts)

    def placed(self, variables: list[Array]) -> list[Array]:
        """Return the views of gathered elements."""
        return variables

    def part(self, total: OrderedSum, bounds: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return this rank's slice of a sum over logical shards."""
        return total.part(bounds, dtype)

    def number(self, element: Array) -> Any:
        """Return the only element of an array."""
        return element[0]


class DeviceCarrier:
    """Carries messages that lie on a device.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    backend : Backend
        Of the variables.
    line : Line, optional
        The way of its arrays; None for one rank alone.
    """

    def __init__(self, comm: Communicator, backend: Any, line: Line | None) -> None:
        self._comm, self._backend, self._line = comm, backend, line
        self.module = backend.module

    def array_of(self, gradient: Any) -> Array | None:
        """Return a gradient on the device."""
        return on_device(gradient, self._backend)

    def reduce_scatter(self, rows: Array) -> Array:
        """Return this rank's row of the sum of all ranks' messages."""
        return rows[0] if self._line is None else self._line.reduce_scatter(rows)

    def allgatherv(self, row: Array, counts: Sequence[int]) -> Array:
        """Return all ranks' elements end to end."""
        return row if self._line is None else self._line.allgatherv(row, counts)

    def placed(self, variables: list[Array]) -> list[Array]:
        """Return arrays that libraries and kernels read by 16 bytes at a time.

        They lie end to end. Where one begins in between, all are copied: one that is left would
        keep the memory of all.
        """
        if any(start % _WIDE for start in accumulate(each.nbytes for each in variables[:-1])):
            return [each.copy() for each in variables]
        return variables

    def part(self, total: OrderedSum, bounds: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return this rank's slice of a sum over logical shards."""
        line = self._line
        if line is None or (line.way != "host" and line.can_exchange()):
            return total.part(bounds, dtype, line)
        moved = total.on_host([self._backend.to_host(row) for row in total.rows])
        return self._backend.asarray(moved.part(bounds, dtype))

    def number(self, element: Array) -> Any:
        """Return the only element of an array, once the device has it."""
        return self._backend.to_host(element)[0]
