"""Variables that rest in parts: each rank holds its own, and all are whole only while in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from distgrad.core.seam import LISTENERS, VALUES
from distgrad.distributed.safety.fingerprint import agree
from distgrad.distributed.sharded.carrying import HostCarrier
from distgrad.distributed.sharded.holdings import Holdings
from distgrad.distributed.sharded.layout import Unit
from distgrad.distributed.sharded.prefetching import Prefetch
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.dtypes import DType, as_dtype
from distgrad.errors import ShardedValueError, UnsupportedOptionError
from distgrad.tensor import Tensor
from distgrad.variable import Variable


class Held:
    """What stands in a variable in place of its value: its spec, and the value while gathered.

    Parameters
    ----------
    holdings : RestingHoldings
        Who can gather it.
    position : int
        Its place among all variables.
    """

    __slots__ = ("device", "dtype", "full", "holdings", "kernels", "key", "position", "shape")

    def __init__(self, holdings: RestingHoldings, position: int) -> None:
        leaf = holdings.leaves[position]
        self.holdings, self.position = holdings, position
        self.shape, self.dtype = tuple(leaf.array.shape), leaf.array.dtype
        self.kernels, self.key, self.device = leaf.kernels, leaf.key, leaf.device
        self.full: Tensor | None = None

    def whole(self, what: str) -> Tensor:
        """Return the value, or raise a `ShardedValueError` if it is not gathered."""
        if self.full is None:
            self.refuse(what)
        return self.full

    def refuse(self, what: str) -> NoReturn:
        """Say that the variable is in parts, and what to do."""
        comm = self.holdings.comm
        piece = self.holdings.piece(self.position)
        raise ShardedValueError(
            f"{what}: variable {self.holdings.names[self.position]!r} is cut over {comm.size} "
            f"ranks, and rank {comm.rank} holds {piece.stop - piece.start} of its "
            f"{self.holdings.size(self.position)} elements; gather it on all ranks with "
            "`with optimizer.gathered(variable):`"
        )

    @property
    def array(self) -> Any:
        """The whole array, while gathered."""
        return self.whole("array").array

    def numpy(self) -> Any:
        """Return the whole value as a NumPy array, while gathered."""
        return self.whole("numpy").numpy()

    def _host(self) -> Any:
        return self.whole("host")._host()

    def put(self, array: Any) -> None:
        """Keep this rank's part of a whole array, and all of it while gathered."""
        holdings, position = self.holdings, self.position
        holdings.set_part(position, holdings._own(array, holdings.piece(position)))
        if self.full is not None:
            self.full = Tensor(array, self.kernels, self.key)


class RestingVariable(Variable):
    """A variable in parts: what a `Variable` becomes at stage 3.

    An operation that reads it gathers it, if it is not whole already; all ranks run that operation.
    To be looked at otherwise it has to be gathered before, with `ShardedOptimizer.gathered`.
    """

    __slots__ = ()

    _value: Any  # a Held

    def read(self) -> Tensor:
        """Return the value, gathered from all ranks unless it is there."""
        for listener in LISTENERS.get():
            listener.hear_read(self)
        held: Held = self._value
        keeper = VALUES.get()
        if held.full is None:
            if keeper is not None:
                raise UnsupportedOptionError(
                    f"variable {self.name!r} is cut over ranks (stage 3) and read within "
                    "dg.function; call the traced function within a block, "
                    "optimizer.block(function, variables), where it is whole"
                )
            held.holdings.settle(self)
        full = held.whole("read")
        return full if keeper is None else keeper.read(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis of the whole; fixed."""
        held: Held = self._value
        return held.shape

    @property
    def dtype(self) -> DType:
        """The dtype; fixed."""
        return as_dtype(self._value.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes; fixed."""
        return len(self._value.shape)

    def _replace(self, method: str, array: Any) -> Variable:
        kernels = self._value.kernels
        if array.__class__ is not kernels.array_type:
            array = kernels.backend.asarray(array)
        if tuple(array.shape) != self.shape:
            array = kernels.backend.asarray(
                kernels.broadcast_to(array, shape=self.shape), copy=True
            )
        self._value.put(array)
        return self

    def _in_own_dtype(self, method: str, array: Any) -> Any:
        if self._value.full is None and as_dtype(array.dtype) != self.dtype:
            if np.can_cast(as_dtype(array.dtype), self.dtype, "same_kind"):
                return self.kernels.astype(array, dtype=self._value.dtype)
            self._value.refuse(method)
        if self._value.full is None:
            return array
        return super()._in_own_dtype(method, array)

    def _is_alone(self) -> bool:
        return False

    def __copy__(self) -> Variable:
        return Variable(self._value.whole("copy"), trainable=self.trainable, name=self.name)

    def __repr__(self) -> str:
        if self._value.full is not None:
            return super().__repr__()
        piece = self._value.holdings.piece(self._value.position)
        return (
            f"<dg.Variable {self.name!r}: shape={self.shape}, dtype={self.dtype}, "
            f"backend={self.backend.name}, elements {piece.start} to {piece.stop} are here>"
        )


class RestingHoldings(Holdings):
    """Variables that are in parts between uses, and what is whole at the moment.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    overlap : bool, optional
        Whether variables are gathered while others are in use, see `Prefetch`.

    Attributes
    ----------
    gathered_bytes, peak_gathered_bytes, last_peak_bytes : int
        Of whole variables: now, at most since the last step, and at most between the two before.
    """

    def __init__(self, comm: Communicator, overlap: bool | None) -> None:
        super().__init__(comm)
        self._prefetch = Prefetch(comm, overlap)
        self.gathered_bytes = self.peak_gathered_bytes = self.last_peak_bytes = 0
        self._users: dict[Unit, int] = {}
        self._settled: set[Unit] = set()

    def take(self, variables: Sequence[Variable], unit_bytes: int) -> list[Unit]:
        """Cut variables, let go of what the other ranks hold, and return their units."""
        first = len(self.leaves)
        units = super().take(variables, unit_bytes)
        for position in range(first, len(self.leaves)):
            leaf: Any = self.leaves[position]
            leaf._value = Held(self, position)
            leaf.__class__ = RestingVariable
        return units

    def spread(self) -> None:
        """Gather again what is in use; after a step."""
        agree(self.comm, self.plan("parameters after a step"))
        self._prefetch.end_step()
        self.release()
        for unit, users in self._users.items():
            if users:
                self._fetch(unit)
        self.last_peak_bytes = self.peak_gathered_bytes
        self.peak_gathered_bytes = self.gathered_bytes

    def fill(self) -> None:
        """Do nothing: the parts are what there is."""

    def empty(self) -> None:
        """Do nothing: the parts are what there is."""

    @contextmanager
    def whole(self, units: Sequence[Unit], why: str) -> Iterator[None]:
        """Have units whole within a ``with`` block; all ranks enter it together."""
        opened: list[Unit] = []
        try:
            for unit in units:
                self._open(unit, why)
                opened.append(unit)
            yield
        finally:
            for unit in opened:
                self._users[unit] -= 1
                self._let_go(unit)

    def settle(self, variable: Variable) -> None:
        """Have the unit of a variable whole until the next step, or `release`."""
        unit = self.unit_of(variable)
        self._open(unit, f"read of {self.names[self.position(variable)]!r}")
        self._users[unit] -= 1
        self._settled.add(unit)

    def in_use(self) -> list[Unit]:
        """Return the units that are whole, outside of blocks while none runs, in the order of all.

        They are the same on all ranks, which gather together.
        """
        return [unit for unit in self.units if unit in self._settled or self._users.get(unit)]

    def release(self) -> None:
        """Let go of what is whole and not in use."""
        settled, self._settled = self._settled, set()
        for unit in settled:
            self._let_go(unit)

    def _open(self, unit: Unit, why: str) -> None:
        users = self._users.get(unit, 0)
        if not users and unit not in self._settled:
            agree(self.comm, self.plan(f"gather parameters ({why})", unit))
            self._fetch(unit)
            self._users[unit] = users + 1
            self._foresee(unit)
            return
        self._users[unit] = users + 1

    def _foresee(self, unit: Unit) -> None:
        """Have the unit gathered that is asked for after this one, if it is not whole."""
        coming = self._prefetch.after(unit)
        if coming is None or not self._prefetch.is_on or not coming.length:
            return
        if self._users.get(coming) or coming in self._settled:
            return
        if isinstance(self.carrier(coming), HostCarrier):
            self._prefetch.begin(coming, self.row(coming))
            whole = self.gathered_bytes + self._prefetch.bytes
            self.peak_gathered_bytes = max(self.peak_gathered_bytes, whole)

    def parts_may_change(self) -> None:
        """Let go of what was gathered ahead: somebody is given the parts, who may assign them."""
        self._prefetch.forget()

    def set_part(self, position: int, array: Any) -> None:
        """Let a part hold an array; what was gathered of it before has another value."""
        self._prefetch.forget(self.unit_of(self.leaves[position]))
        super().set_part(position, array)

    def _fetch(self, unit: Unit) -> None:
        nbytes = 0
        flat = self._prefetch.take(unit)
        arrays = self.gather(unit) if flat is None else self.cut(unit, flat)
        for position, array in zip(unit.positions, arrays, strict=True):
            held = self._held(position)
            nbytes += array.nbytes if held.full is None else 0
            held.full = Tensor(held.kernels.backend.asarray(array), held.kernels, held.key)
        self.gathered_bytes += nbytes
        self.peak_gathered_bytes = max(self.peak_gathered_bytes, self.gathered_bytes)

    def _let_go(self, unit: Unit) -> None:
        if self._users.get(unit, 0) or unit in self._settled:
            return
        for position in unit.positions:
            held = self._held(position)
            if held.full is not None:
                self.gathered_bytes -= held.full.nbytes
                held.full = None

    def _held(self, position: int) -> Held:
        variable: Any = self.leaves[position]
        held: Held = variable._value
        return held

    @property
    def held_bytes(self) -> int:
        """How many bytes of parameters this rank holds now: its parts, and what is whole."""
        parts: int = sum(part.array.nbytes for part in self.parts)
        return parts + self.gathered_bytes
