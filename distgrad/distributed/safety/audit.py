"""Find variables that have silently become different on some ranks, and say which, and where.

Averages are compared before they are exchanged, variables never: a rank that changes one by itself,
misses an update or loses a bit trains another model from then on, and nothing fails. An audit
condenses all variables into one word and compares it among the ranks, in 16 bytes. Only where words
differ do the ranks exchange a word for each variable, and a copy of the first that differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.exchange import describe_sources
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Plan, agree, in_words
from distgrad.distributed.verbs.communicator import Array, Communicator, exchange_json
from distgrad.errors import DivergenceError
from distgrad.variable import Variable

_SHOWN = 3  # variables, and groups of ranks, that a message names
_NO_REPAIR, _MAJORITY = "none", "majority"


@dataclass(frozen=True)
class Divergence:
    """What an audit found.

    Attributes
    ----------
    names : tuple of str
        The variables that differ between ranks, in their order.
    groups : tuple of tuple of int
        The ranks, by what they hold of the first of these; the largest group first, and of two
        equal ones that of the lowest rank.
    text : str
        All that in words, with the first element that differs.
    repaired : bool
        Whether all ranks have the majority's values now.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    text: str
    repaired: bool


class DivergenceAudit:
    """Compares variables among all ranks, every so many steps.

    Parameters
    ----------
    variables : Variable or nest of Variable
        What has to be equal on all ranks, bit for bit: parameters, and what an optimizer remembers.
    every : int
        How many calls of `step` make one comparison. It hashes all variables, which takes about a
        second a gigabyte, and sends 16 bytes.
    repair : {"none", "majority"}
        Whether to raise, or to give all ranks the values that more than half of them have, with a
        warning; without such a majority, as with two ranks, it is an error all the same.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Raises
    ------
    ValueError
        If `every` is less than 1, or there is no such repair.
    TypeError
        If the nest holds anything else than variables.

    Examples
    --------
    >>> import distgrad as dg
    >>> import distgrad.distributed as dist
    >>> weights = dg.Variable([1.0, 2.0], name="weights")
    >>> audit = dist.DivergenceAudit([weights], every=100, comm=dist.RecordedCommunicator())
    >>> for step in range(1000):
    ...     found = audit.step()
    >>> found is None
    True
    """

    def __init__(
        self,
        variables: Any,
        *,
        every: int = 1,
        repair: str = _NO_REPAIR,
        comm: Communicator | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"DivergenceAudit: every is {every}; expected 1 or more")
        if repair not in (_NO_REPAIR, _MAJORITY):
            raise ValueError(
                f"DivergenceAudit: repair is {repair!r}; expected {_NO_REPAIR!r} or {_MAJORITY!r}"
            )
        self._leaves, self._treedef = tree.flatten(variables)
        for position, leaf in enumerate(self._leaves):
            if not isinstance(leaf, Variable):
                raise TypeError(
                    f"DivergenceAudit: item {position} is a {type(leaf).__name__}; expected a "
                    "Variable"
                )
        self._every = every
        self._repair = repair
        self._comm = comm
        self._steps = 0

    def step(self) -> Divergence | None:
        """Count a step, and `check` if it is one of every so many; all ranks call this."""
        self._steps += 1
        return None if self._steps % self._every else self.check()

    def check(self) -> Divergence | None:
        """Compare the variables now; all ranks call this.

        Returns
        -------
        Divergence or None
            What differed and was repaired; None where all is equal.

        Raises
        ------
        DivergenceError
            On every rank, if variables differ and are not repaired.
        DesyncError
            On every rank, if the ranks audit different variables.
        """
        comm = ranks_of(self._comm)
        if comm.size == 1 or not self._leaves:
            return None
        entries = describe_sources(self._treedef, self._leaves)
        words = np.array([_word(leaf) for leaf in self._leaves], np.uint64)
        digest = blake2b(words.tobytes() + repr(entries).encode(), digest_size=8).digest()
        own = np.frombuffer(digest, np.uint64)
        # The largest of ~h is ~ the smallest of h: if both are a rank's own, all are equal.
        message = np.concatenate([own, ~own])
        if (comm.allreduce(message, "max") == message).all():
            return None
        agree(comm, Plan("audit of variables", entries))
        everyone = comm.allgather(words)
        places = [int(p) for p in np.flatnonzero((everyone != everyone[0]).any(axis=0))]
        names = tuple(entries[place].name for place in places)
        groups = _groups(everyone[:, places[0]])
        text = self._described(comm, places[0], str(entries[places[0]]), groups)
        if len(names) > 1:
            more = ", ".join(names[1 : 1 + _SHOWN]) + (", ..." if len(names) > 1 + _SHOWN else "")
            text += f"; {len(names) - 1} more variable{'s' if len(names) > 2 else ''}: {more}"
        if self._repair != _MAJORITY:
            raise DivergenceError(
                f"{text}. Did a rank assign variables by itself, or miss an update? If not, "
                "suspect its memory: repair='majority', or go on from a checkpoint",
                names,
                groups,
            )
        self._give_all_the_majority(comm, places, everyone, text, names, groups)
        if comm.rank == 0:
            warnings.warn(f"{text}; all ranks have the majority's values now", RuntimeWarning, 3)
        return Divergence(names, groups, text, True)

    def _described(
        self, comm: Communicator, place: int, entry: str, groups: tuple[tuple[int, ...], ...]
    ) -> str:
        """Return who differs from whom in a variable, and in which elements."""
        own = _host(self._leaves[place])
        theirs = comm.broadcast(own, groups[0][0])
        # As bytes: two NaN may differ, and 0 equals -0.
        width = max(own.dtype.itemsize, 1)
        raw, raw_theirs = (
            each.reshape(-1).view(np.uint8).reshape(-1, width) for each in (own, theirs)
        )
        differ = np.flatnonzero((raw != raw_theirs).any(axis=1))
        first: list[Any] = []
        if len(differ):
            at = [int(n) for n in np.unravel_index(differ[0], own.shape)]
            place_values = own.reshape(-1)[differ[0]], theirs.reshape(-1)[differ[0]]
            first = [len(differ), at, *(f"{value!s}" for value in place_values)]
        found = exchange_json(comm, first)
        parts = [f"{in_words(groups[0])} {'agree' if len(groups[0]) > 1 else 'has one value'}"]
        for group in groups[1 : 1 + _SHOWN]:
            count, at, mine, other = found[group[0]]
            parts.append(
                f"{in_words(group)} {'differ' if len(group) > 1 else 'differs'} in {count} of "
                f"{own.size} elements, first at {at}: {mine} in place of {other}"
            )
        if len(groups) > 1 + _SHOWN:
            parts.append(f"and {len(groups) - 1 - _SHOWN} more groups")
        return f"ranks hold different values of {entry}: {', '.join(parts)}"

    def _give_all_the_majority(
        self,
        comm: Communicator,
        places: list[int],
        everyone: Array,
        text: str,
        names: tuple[str, ...],
        groups: tuple[tuple[int, ...], ...],
    ) -> None:
        """Assign to each variable that differs what more than half of the ranks have."""
        majorities = [_groups(everyone[:, place])[0] for place in places]
        for name, majority in zip(names, majorities, strict=True):
            if 2 * len(majority) <= comm.size:
                raise DivergenceError(
                    f"{text}. No value of {name} is that of more than half of {comm.size} ranks, "
                    "so that none can be repaired; go on from a checkpoint",
                    names,
                    groups,
                )
        for place, majority in zip(places, majorities, strict=True):
            leaf = self._leaves[place]
            values = comm.broadcast(_host(leaf), majority[0])
            if comm.rank not in majority:
                leaf.assign(values)


def _host(variable: Variable) -> Array:
    return np.ascontiguousarray(variable.backend.to_host(variable.array)).reshape(variable.shape)


def _word(variable: Variable) -> int:
    raw = _host(variable).reshape(-1).view(np.uint8).data
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def _groups(words: Sequence[Any] | Array) -> tuple[tuple[int, ...], ...]:
    """Return the ranks that have the same word, the largest group first."""
    found: dict[int, list[int]] = {}
    for rank, word in enumerate(words):
        found.setdefault(int(word), []).append(rank)
    return tuple(tuple(group) for group in sorted(found.values(), key=lambda group: -len(group)))
