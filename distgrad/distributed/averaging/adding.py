"""How the ranks' messages are added up: by MPI, in two levels, in fewer bytes, or adaptively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from distgrad.core.spans import COMPUTE, span
from distgrad.distributed.averaging.adasum import add_up_adaptively
from distgrad.distributed.averaging.buckets import Bucket
from distgrad.distributed.averaging.hierarchy import hierarchy_of
from distgrad.distributed.averaging.weights import share
from distgrad.distributed.compression import BF16, FP16, Compression, Int8, PowerSGD, Shares, TopK
from distgrad.distributed.safety.fingerprint import Entry
from distgrad.distributed.verbs.communicator import Array, Communicator
from distgrad.distributed.verbs.slices import SHORTEST
from distgrad.errors import DesyncError, UnsupportedOptionError
from distgrad.sparse import densified

AVERAGES = ("examples", "ranks", "sum", "adasum")
REDUCTIONS = ("native", "hierarchical")
COMPRESSIONS = {"fp16": FP16, "bf16": BF16, "int8": Int8, "topk": TopK, "powersgd": PowerSGD}

_KEPT = 16  # models that train in turn with a compression by name


class Adder(Protocol):
    """Adds up the messages of all ranks; all ranks call the same methods in the same order.

    Attributes
    ----------
    algorithm : str
        For the report.
    takes_sparse : bool
        Whether gradients may also be added up row by row.
    has_weight : bool
        Whether messages begin with a weight, see `plan_buckets`.
    """

    @property
    def algorithm(self) -> str:
        """For the report."""
        ...

    @property
    def takes_sparse(self) -> bool:
        """Whether gradients may also be added up row by row."""
        ...

    @property
    def has_weight(self) -> bool:
        """Whether messages begin with a weight."""
        ...

    def entries(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return what the ranks compare of the sources before they exchange."""
        ...

    def weigh(self, comm: Communicator, weight: float, weights: Sequence[float]) -> float:
        """Return by what this rank's gradients are multiplied, so that the sum is the average.

        Parameters
        ----------
        comm : Communicator
            The ranks, all of which call this once a step.
        weight : float
            Of this rank's gradients.
        weights : sequence of float
            Those of all ranks.

        Raises
        ------
        BatchError
            If all are zero.
        """
        ...

    def prepare(self, comm: Communicator) -> None:
        """Make what adding up on a communicator needs."""
        ...

    def add_up(
        self, comm: Communicator, bucket: Bucket, message: Array, factor: float = 1.0
    ) -> int:
        """Put the sum into the message and return how many bytes this rank sent.

        Parameters
        ----------
        comm : Communicator
            The ranks.
        bucket : Bucket
            What the message carries.
        message : numpy.ndarray
            This rank's.
        factor : float
            By which it is multiplied before: 1 unless the message is a gradient where it lay.
        """
        ...


class Native:
    """By one allreduce.

    Parameters
    ----------
    as_sum : bool
        Whether the gradients are added up only, and nothing is divided.
    """

    algorithm = "allreduce"
    takes_sparse = True
    has_weight = False

    def __init__(self, *, as_sum: bool = False) -> None:
        self._as_sum = as_sum

    def entries(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return the entries."""
        return entries

    def weigh(self, comm: Communicator, weight: float, weights: Sequence[float]) -> float:
        """Return this rank's share of all examples; the weight itself for a sum."""
        return share(weight, weights, as_sum=self._as_sum)

    def prepare(self, comm: Communicator) -> None:
        """Need nothing."""

    def add_up(
        self, comm: Communicator, bucket: Bucket, message: Array, factor: float = 1.0
    ) -> int:
        """Put the sum into the message."""
        is_long = factor != 1 and message.nbytes >= SHORTEST
        by_comm = getattr(comm, "add_up_weighed", None) if is_long else None
        if by_comm is not None:  # which may save a pass over the message
            by_comm(message, factor)
            return message.nbytes
        weigh(message, factor)
        comm.allreduce(message, "sum", out=message)
        return message.nbytes


class Hierarchical(Native):
    """Within machines and then between them, see `Hierarchy`."""

    algorithm = "hierarchical"

    def prepare(self, comm: Communicator) -> None:
        """Find out the machines."""
        hierarchy_of(comm)

    def add_up(
        self, comm: Communicator, bucket: Bucket, message: Array, factor: float = 1.0
    ) -> int:
        """Put the sum into the message."""
        weigh(message, factor)
        return hierarchy_of(comm).add_up(comm, message)


class Adaptive(Native):
    """By Adasum, see `add_up_adaptively`."""

    algorithm = "adasum"
    takes_sparse = False
    has_weight = True

    def weigh(self, comm: Communicator, weight: float, weights: Sequence[float]) -> float:
        """Return the weight: 1 of a rank with examples, whose gradient counts as it is."""
        share(weight, weights, as_sum=True)  # which raises if no rank has an example
        return weight

    def add_up(
        self, comm: Communicator, bucket: Bucket, message: Array, factor: float = 1.0
    ) -> int:
        """Put the adaptive sum into the message."""
        weigh(message, factor)
        return add_up_adaptively(comm, bucket, message)


class Compressed(Native):
    """By a compression, of shares whose sum is the average.

    Parameters
    ----------
    compression : Compression
        Does it.
    entries : tuple of Entry
        All sources, at whose positions the buckets' variables are.
    as_sum : bool
        Whether the gradients are added up only, so that a share is all that a rank has.
    """

    has_weight = True

    def __init__(
        self, compression: Compression, entries: tuple[Entry, ...], *, as_sum: bool
    ) -> None:
        super().__init__(as_sum=as_sum)
        self._compression = compression
        self._description = compression.description
        self._names = _distinct_names(entries)
        self.algorithm = self._description.partition("(")[0]

    def entries(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return the entries with how each travels: an error then names rank and variable."""
        return _described(entries, self._description)

    def weigh(self, comm: Communicator, weight: float, weights: Sequence[float]) -> float:
        """Return this rank's share of all examples, which no compression has rounded.

        Raises
        ------
        BatchError
            If no rank has an example.
        DesyncError
            If the ranks' compressions remember what should be the same, and is not.
        """
        agreement = float(getattr(self._compression, "agreement", 0))
        known = comm.allgather(np.array(agreement)).tolist()
        if len(set(known)) > 1:
            common = max(known, key=known.count)
            odd = tuple(rank for rank, each in enumerate(known) if each != common)
            raise DesyncError(
                f"gradient: the memory of {self._description} on rank{'s' * (len(odd) > 1)} "
                f"{', '.join(map(str, odd))} is that of another step than the other ranks'; load "
                "its state on all ranks, or on none",
                odd,
            )
        return super().weigh(comm, weight, weights)

    def add_up(
        self, comm: Communicator, bucket: Bucket, message: Array, factor: float = 1.0
    ) -> int:
        """Put the sum of the shares into the message, and 1 as the sum of their weights."""
        weigh(message, factor)
        if message.dtype.kind == "c":  # rare, and no compression knows what is large of them
            sent = super().add_up(comm, bucket, message)
        else:
            names = tuple(self._names[position] for position in bucket.positions)
            shares = Shares(names, message[1:], bucket.unpack(message))
            sent = self._compression.add_up(comm, shares)
        message[0] = 1
        return sent


@dataclass(frozen=True)
class Manner:
    """What a program asked for: how to weigh, along which way to add up, and in how many bytes.

    Attributes
    ----------
    average, reduction : str
        One of `AVERAGES` and of `REDUCTIONS`.
    compression : Compression or str, optional
        An instance, or one of the names of `COMPRESSIONS`.
    """

    average: str = "examples"
    reduction: str = "native"
    compression: Any = None

    @property
    def as_sum(self) -> bool:
        """Whether nothing is divided."""
        return self.average == "sum"

    @property
    def words(self) -> str:
        """What ranks compare of it, but for the compression, which stands at each variable."""
        way = "" if self.reduction == "native" else f", reduction={self.reduction!r}"
        return f"average={self.average!r}{way}"

    def adder(self, comm: Communicator, entries: tuple[Entry, ...]) -> Adder:
        """Return what adds up messages of these sources."""
        if self.average == "adasum":
            return Adaptive()
        if self.compression is not None:
            compression = _instance(comm, self.compression, entries)
            return Compressed(compression, entries, as_sum=self.as_sum)
        way = Native if self.reduction == "native" else Hierarchical
        return way(as_sum=self.as_sum)


def manner(
    function: str,
    average: str,
    *,
    reduction: str = "native",
    compression: Any = None,
    is_deterministic: bool = False,
) -> Manner:
    """Return what a program asks for.

    Raises
    ------
    ValueError, TypeError
        If there is no such average, reduction or compression.
    UnsupportedOptionError
        If what is asked for does not go together.
    """
    for argument, given, known in (
        ("average", average, AVERAGES),
        ("reduction", reduction, REDUCTIONS),
    ):
        if given not in known:
            raise ValueError(
                f"{function}: {argument} is {given!r}; expected one of "
                f"{', '.join(map(repr, known))}"
            )
    if isinstance(compression, str):
        if compression not in COMPRESSIONS:
            raise ValueError(
                f"{function}: compression is {compression!r}; expected one of "
                f"{', '.join(map(repr, COMPRESSIONS))}, or an instance of a compression"
            )
    elif compression is not None and (
        isinstance(compression, type) or not isinstance(compression, Compression)
    ):
        hint = f"{compression.__name__}()" if isinstance(compression, type) else "'fp16'"
        raise TypeError(
            f"{function}: compression is {compression!r}; expected a name or an instance, such as "
            f"{hint}"
        )
    asked = {
        "compression": compression is not None,
        f"reduction={reduction!r}": reduction != "native",
        "average='adasum'": average == "adasum",
        "deterministic": is_deterministic,
    }
    both = [name for name, is_asked in asked.items() if is_asked]
    if len(both) > 1:
        why = (
            "the same bits for any number of ranks come from one way to add up, that of the "
            "logical shards"
            if is_deterministic
            else "each is a way to add up of its own"
        )
        raise UnsupportedOptionError(
            f"{function}: {both[0]} and {both[1]} do not go together: {why}; leave one out"
        )
    return Manner(average, reduction, compression)


def weigh(message: Array, factor: float) -> None:
    """Multiply a message by a factor, where it lies."""
    if factor != 1:
        with span("weigh", COMPUTE):
            np.multiply(message, factor, out=message)


def all_dense(gradients: Sequence[Any]) -> list[Any]:
    """Return gradients with sparse ones made dense."""
    return [None if gradient is None else densified(gradient) for gradient in gradients]


_by_name: WeakKeyDictionary[Communicator, dict[Any, Compression]] = WeakKeyDictionary()


def _instance(comm: Communicator, given: Any, entries: tuple[Entry, ...]) -> Compression:
    """Return a compression; for a name always the same one, since it may have a memory."""
    if not isinstance(given, str):
        instance: Compression = given
        return instance
    known = _by_name.setdefault(comm, {})
    found = known.get((given, entries))
    if found is None:
        found = known[given, entries] = COMPRESSIONS[given]()
        if len(known) > _KEPT:
            del known[next(iter(known))]
    return found


@lru_cache(maxsize=64)  # a training loop asks for the same at every step
def _described(entries: tuple[Entry, ...], description: str) -> tuple[Entry, ...]:
    return tuple(Entry(each.name, f"{each.dtype} as {description}", each.shape) for each in entries)


@lru_cache(maxsize=64)
def _distinct_names(entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """Return the names of the variables, with a number where several have the same."""
    seen: dict[str, int] = {}
    names = []
    for entry in entries:
        seen[entry.name] = count = seen.get(entry.name, 0) + 1
        names.append(entry.name if count == 1 else f"{entry.name}#{count}")
    return tuple(names)
