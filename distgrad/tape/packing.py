"""Pack what tapes keep: each kept array goes through a hook, and back just before its rule runs.

Nothing of this stands in the way of a tape when no hook is in force: a hook changes the list that
the tape appends its records to, and an operation's rule in the record; not the recorder, not the
walk.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from distgrad.batching import Batched
from distgrad.core.op import Op
from distgrad.core.seam import LISTENERS
from distgrad.dtypes import as_dtype
from distgrad.errors import DTypeError, ShapeError
from distgrad.tensor import Tensor
from distgrad.variable import InPlace

LEAVE: Any = object()  # what a packing returns for an array that stays as it is
MEMORY = "memory"  # the place of arrays that are packed and yet stay: ``packed.array``


class Packing:
    """What becomes of the arrays that tapes keep while it is in force.

    Attributes
    ----------
    where : str
        In which place packed arrays are, for whoever sums up memory: ``"disk"``, ``"host"``, ....
    shares : bool
        Whether an array that several records keep is packed once.
    """

    where = "packed"
    shares = True

    def __init__(self) -> None:
        # By the identity of the array; an entry goes with the last record that holds it.
        self.known: weakref.WeakValueDictionary[int, Stored] = weakref.WeakValueDictionary()

    def pack(self, array: Any, kernels: Any, name: str, is_watched: bool) -> Any:
        """Return anything in place of a raw array that an operation's rule reads, or `LEAVE`.

        `is_watched` says that the array is the value of a variable or watched tensor, which the
        program holds anyhow.
        """
        raise NotImplementedError

    def unpack(self, packed: Any, kernels: Any, name: str) -> Any:
        """Return the array, for the rule of the operation of this name."""
        raise NotImplementedError


# Which packing is in force, if any: for tapes that are made, entered or listen meanwhile.
PACKING: ContextVar[Packing | None] = ContextVar("distgrad_packing", default=None)


class Stored:
    """One array in packed form, shared by all records that keep it.

    Attributes
    ----------
    packed : Any
        What the packing returned.
    nbytes : int
        The memory of the array, in bytes.
    where : str
        See `Packing`.
    """

    __slots__ = (
        *("__weakref__", "_changes", "_dtype", "_packing", "_shape", "_source"),
        *("nbytes", "packed"),
    )

    def __init__(self, packing: Packing, packed: Any, array: Any) -> None:
        self._packing = packing
        self.packed = packed
        self._shape, self._dtype = tuple(array.shape), as_dtype(array.dtype)
        self.nbytes = nbytes_of(array)
        self._changes = InPlace.changes
        self._source: weakref.ref[Any] | None
        try:
            self._source = weakref.ref(array)
        except TypeError:  # a foreign array without weak references is packed each time
            self._source = None

    @property
    def where(self) -> str:
        """In which place it is."""
        return self._packing.where

    def is_of(self, array: Any) -> bool:
        """Return whether this is the packed form of an array, as it is now."""
        if self._source is None or self._changes != InPlace.changes:
            return False
        return self._source() is array

    def unpack(self, kernels: Any, name: str) -> Any:
        """Return the array for the rule of the operation of this name, checked.

        Raises
        ------
        TypeError
            If the hook returned something else than an array of the backend.
        ShapeError, DTypeError
            If it returned an array of another shape or dtype.
        """
        array = self._packing.unpack(self.packed, kernels, name)
        if isinstance(array, Tensor):
            array = array.array
        if not isinstance(array, kernels.array_type):
            raise TypeError(
                f"saved_values: unpack returned a {type(array).__name__} for the rule of "
                f"{name}; expected a {kernels.array_type.__name__}, as pack received it"
            )
        if tuple(array.shape) != self._shape:
            raise ShapeError(
                f"saved_values: unpack returned shape {tuple(array.shape)} for the rule of "
                f"{name}; expected {self._shape}, as pack received it"
            )
        if as_dtype(array.dtype) != self._dtype:
            raise DTypeError(
                f"saved_values: unpack returned {as_dtype(array.dtype)} for the rule of {name}; "
                f"expected {self._dtype}, as pack received it"
            )
        return array


class Held:
    """What a record holds in place of an array: its packed form, and what was around it.

    Parameters
    ----------
    stored : Stored
        The numbers.
    kernels : Kernels
        Whose array they are.
    wrap : callable or None
        Puts them back into the arrays of the transformations (`vmap`) around them.
    """

    __slots__ = ("_kernels", "_wrap", "stored")

    def __init__(self, stored: Stored, kernels: Any, wrap: Callable[[Any], Any] | None) -> None:
        self.stored = stored
        self._kernels = kernels
        self._wrap = wrap

    def unpack(self, name: str, found: dict[int, Any] | None = None) -> Any:
        """Return the array for the rule of an operation.

        Parameters
        ----------
        name : str
            The operation's.
        found : dict, optional
            What was unpacked for this rule already, by the identity of `Stored`.
        """
        array = None if found is None else found.get(id(self.stored))
        if array is None:
            array = self.stored.unpack(self._kernels, name)
            if found is not None:
                found[id(self.stored)] = array
        return array if self._wrap is None else self._wrap(array)


class HoldingOp(Op):
    """An operation whose rule reads arrays that are neither inputs nor outputs.

    Attributes
    ----------
    residuals : list of array
        Those arrays; a packing replaces them by their packed form, see `unpacked_residuals`.
    """

    __slots__ = ("residuals",)

    residuals: list[Any]

    def hold(self, residuals: list[Any]) -> None:
        """Say which arrays; done once, when the operation is made for its one call."""
        object.__setattr__(self, "residuals", residuals)


class PackedOp(Op):
    """An operation of which a record holds packed values: its VJP unpacks them first.

    Attributes
    ----------
    original : Op
        The operation itself.
    """

    __slots__ = ("original",)

    original: Op

    @property
    def residuals(self) -> list[Any]:
        """The arrays that the operation's own rule holds."""
        return getattr(self.original, "residuals", [])


class PackingRecords(list[Any]):
    """A tape's list of records that packs what they keep as they are appended."""

    __slots__ = ("_roots", "packing")

    def __init__(self, records: Sequence[Any], packing: Packing, roots: set[int]) -> None:
        super().__init__(records)
        self.packing = packing
        self._roots = roots

    def append(self, record: Any) -> None:
        """Append a record with its arrays packed."""
        super().append(_packed(self.packing, record, self._roots))


def records_in_force(records: list[Any], roots: set[int]) -> list[Any]:
    """Return records as a list that packs what is appended, if a packing is in force.

    Parameters
    ----------
    records : list of Record
        What was recorded so far; the list itself is returned where it fits.
    roots : set of int
        The identities of values that the program holds anyhow: variables and watched tensors.
    """
    packing = PACKING.get()
    if packing is None:
        return records if records.__class__ is list else list(records)
    if isinstance(records, PackingRecords) and records.packing is packing:
        return records
    return PackingRecords(records, packing, roots)


@contextmanager
def packing_in_force(packing: Packing) -> Iterator[None]:
    """Pack what tapes keep within a ``with`` block; of nested blocks the innermost counts."""
    token = PACKING.set(packing)
    try:
        _tell_listeners()
        yield
    finally:
        PACKING.reset(token)
        _tell_listeners()


def _tell_listeners() -> None:
    for listener in LISTENERS.get():
        adopt = getattr(listener, "adopt_packing", None)
        if adopt is not None:
            adopt()


# --- one record ---------------------------------------------------------------------------------


def _packed(packing: Packing, record: Any, roots: set[int]) -> Any:
    """Return a record with its arrays packed; the record itself where nothing is."""
    op, follows, output, keys, xs, y, params, kernels = record
    residuals = getattr(op, "residuals", None)
    if residuals:  # arrays that the rule itself holds; every tape that hears it shares them
        residuals[:] = [_hold(packing, op.name, kernels, each, False) for each in residuals]
    packed_xs, packed_y = xs, y
    if xs is not None:
        packed_xs = tuple(
            [
                _hold(packing, op.name, kernels, x, k in roots)
                for x, k in zip(xs, keys, strict=False)
            ]
        )
    if y.__class__ is tuple:
        packed_y = tuple([_hold(packing, op.name, kernels, each, False) for each in y])
    elif y is not None:
        packed_y = _hold(packing, op.name, kernels, y, False)
    in_xs = packed_xs is not None and any(each.__class__ is Held for each in packed_xs)
    in_y = packed_y.__class__ is Held or (
        packed_y.__class__ is tuple and any(each.__class__ is Held for each in packed_y)
    )
    if not in_xs and not in_y:
        return record
    packed_op = _packed_op(op, keys, output, kernels)
    return (packed_op, follows, output, keys, packed_xs, packed_y, params, kernels)


def _hold(packing: Packing, name: str, kernels: Any, value: Any, is_watched: bool) -> Any:
    """Return a kept value in packed form; specs, numbers and what the packing leaves stay."""
    if not isinstance(value, kernels.array_type):
        return value
    array, home, wrap = _peeled(value, kernels)
    if home.level:  # a symbol of a trace: there are no numbers yet
        return value
    stored = packing.known.get(id(array)) if packing.shares else None
    if stored is None or not stored.is_of(array):
        packed = packing.pack(array, home, name, is_watched)
        if packed is LEAVE:
            return value
        stored = Stored(packing, packed, array)
        if packing.shares:
            packing.known[id(array)] = stored
    return Held(stored, home, wrap)


def _peeled(array: Any, kernels: Any) -> tuple[Any, Any, Callable[[Any], Any] | None]:
    """Return the numbers inside of a batch, their kernels, and what makes a batch of them again."""
    if not isinstance(array, Batched):
        return array, kernels, None
    value = array.value
    inner, home, wrap = _peeled(value.array, value.kernels)
    below, key, is_batched, backend = value.kernels, value.key, array.is_batched, array.backend

    def again(numbers: Any) -> Batched:
        lower = numbers if wrap is None else wrap(numbers)
        return Batched(Tensor(lower, below, key), is_batched, backend)

    return inner, home, again


def _packed_op(op: Op, keys: Sequence[int], output: Any, kernels: Any) -> PackedOp:
    def vjp(xp: Any, g: Any, y: Any, xs: Any, params: Any, needs: Any) -> Any:
        found: dict[int, Any] = {}  # x * x reads one array from its place, not two
        recorded = xp is not kernels

        def unpacked(value: Any, key: int) -> Any:
            if value.__class__ is not Held:
                return value
            array = value.unpack(op.name, found)
            return Tensor(array, kernels, key or None) if recorded else array

        if xs is not None:
            xs = tuple([unpacked(x, key) for x, key in zip(xs, keys, strict=False)])
        if y.__class__ is tuple:
            y = tuple([unpacked(each, key) for each, key in zip(y, output, strict=True)])
        elif y is not None:
            y = unpacked(y, output)
        if not recorded and op in kernels.pulled:
            terms = kernels.pullback(op, g, y, xs, params, needs)
            if terms is not None:
                return terms
        return op.vjp(xp, g, y, xs, params, needs)  # type: ignore[misc]  # what is recorded has one

    packed = PackedOp(op.name, op.kind, op.spec, vjp, None, op.keep, outputs=op.outputs)
    object.__setattr__(packed, "original", op)
    return packed


def unpacked_residuals(residuals: Sequence[Any], name: str) -> list[Any]:
    """Return what a `HoldingOp` holds as arrays, for the rule of the operation of this name."""
    return [each.unpack(name) if each.__class__ is Held else each for each in residuals]


def nbytes_of(array: Any) -> int:
    """Return the memory of an array's elements, in bytes."""
    count = as_dtype(array.dtype).itemsize
    for length in array.shape:
        count *= length
    return count
