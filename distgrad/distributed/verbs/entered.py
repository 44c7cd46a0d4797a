"""Values on their way into a collective: tensors, or arrays on the host, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS
from distgrad.distributed.verbs.collective_ops import exchange, next_call, record
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.dtypes import as_dtype
from distgrad.eager import asarray
from distgrad.entering import refuse_masked
from distgrad.errors import CommunicationError, TapeError
from distgrad.ops.shaping.structure import astype
from distgrad.tensor import Operators, Tensor


class Entered:
    """A value on its way into a collective: a tensor, or an array on the host.

    Parameters
    ----------
    value : Tensor or numpy.ndarray
        What travels.
    leave : callable
        Makes a result of the argument's kind.
    """

    def __init__(self, value: Any, leave: Callable[[Any], Any]) -> None:
        self._value = value
        self.leave = leave
        self.shape = tuple(value.shape)
        dtype = as_dtype(value.dtype)
        self.dtype_name = dtype.name
        self.is_integer = dtype.kind in "iu"

    def as_float64(self) -> Entered:
        """Return the value as float64."""
        if isinstance(self._value, Tensor):
            return Entered(astype(self._value, "float64"), self.leave)
        return Entered(self._value.astype(np.float64), self.leave)

    def with_axis(self) -> Entered:
        """Return the value with an axis, if it had none."""
        if self.shape:
            return self
        return Entered(self._value.reshape(1), self.leave)

    def through(self, op: Op, comm: Communicator, what: str, **particulars: Any) -> Any:
        """Return the result of a collective."""
        call = next_call(comm)
        if isinstance(self._value, Tensor):
            params = {"comm": comm, "what": what, "call": call, "followed": False}
            return record(op, self._value, params | particulars)
        return exchange(op, self._value, comm, what, **particulars)


def enter(function: str, x: Any) -> Entered:
    """Return a value as what travels, with what makes a result of the same kind."""
    host = _as_host(function, x)
    if host is not None:
        return Entered(*host)
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    return Entered(tensor, lambda result: result)


def enter_host(function: str, x: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Return a value on the host, and what makes a result of the same kind from a host array.

    Raises
    ------
    TapeError
        If a tape follows the value.
    """
    host = _as_host(function, x)
    if host is not None:
        return host
    tensor = x.read() if isinstance(x, Operators) else asarray(x)
    if any(listener.follows(tensor.key) for listener in LISTENERS.get()):
        raise TapeError(
            f"{function}: a tape watches x, but {function} has no gradient; pass "
            "dg.stop_gradient(x) to cut on purpose, take dist.allreduce of weighted sums, or "
            "average gradients with dist.DistributedGradientTape"
        )
    kernels = tensor.kernels
    return kernels.backend.to_host(tensor.array), lambda host: Tensor(
        kernels.backend.asarray(host), kernels
    )


def _as_host(function: str, x: Any) -> tuple[Array, Callable[[Array], Any]] | None:
    """Return a value that is no tensor on the host, with what makes a result of its kind."""
    if isinstance(x, (bool, int, float, complex)):
        return np.asarray(x), lambda host: host.item() if host.ndim == 0 else host
    if isinstance(x, np.generic):
        return np.asarray(x), lambda host: host[()]
    if isinstance(x, np.ndarray):
        if x.dtype.kind in "OSU":
            raise CommunicationError(
                f"{function}: x has dtype {x.dtype}; expected an array of numbers"
            )
        refuse_masked(function, x)
        # MPI adds up in the machine's byte order alone, and bytes have to mean the same everywhere.
        native = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
        return native, lambda host: host
    return None
