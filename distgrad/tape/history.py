"""Differentiate gradients: how a persistent tape records what its own `gradient` returned.

A gradient becomes one record, which is unfolded only if it is differentiated in turn. Its inputs
are all that the walk read; its VJP walks again, now with operations that a recorder hears, and
walks these back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from distgrad.core.op import Kind, Op
from distgrad.core.seam import LISTENERS
from distgrad.ops import VOCABULARY
from distgrad.tape.backward import backpropagate
from distgrad.tape.packing import Held, PackedOp
from distgrad.tape.recorder import Recorder
from distgrad.tape.records import Record
from distgrad.tensor import Tensor, new_key


class History(NamedTuple):
    """What a walk went over, and what it read there.

    The gradients of one tape share it, so that the thousandth costs no more memory than the first.

    Attributes
    ----------
    records : list of Record
        A copy of a tape's records: none of them refers to this list, so there is no cycle.
    keys : tuple of int
        The identities of the followed values that a walk may read.
    until : int
        Identities grow in time: this one is younger than all that the records computed.
    producers : dict
        The place of the record that computed a value, by its identity; filled by `reached`.
    """

    records: list[Any]
    keys: tuple[int, ...]
    until: int
    producers: dict[int, int]

    def reached(self, targets: Collection[int]) -> list[Any]:
        """Return the records that some values depend on, in their order; all where those are many.

        A tape of many targets is asked for one after the other, and walks over each one's records
        alone. The first time nothing is known of the others, and it goes over all.
        """
        records, producers = self.records, self.producers
        if not producers:
            producers[_ASKED] = -1
            return records
        if len(producers) == 1:
            self._find_producers()
        if producers[_ASKED] != len(records):
            return records  # a value was computed twice, such as that of a variable
        found: set[int] = set()
        awaited = list(targets)
        while awaited:
            place = producers.get(awaited.pop())
            if place is None or place in found:
                continue
            found.add(place)
            if 2 * len(found) > len(records):
                return records
            awaited += [key for key in records[place][1] if key]
        return [records[place] for place in sorted(found)]

    def _find_producers(self) -> None:
        producers, values = self.producers, 0
        for place, (_, _, output, *_) in enumerate(self.records):
            names = (output,) if output.__class__ is int else output
            values += len(names)
            producers.update(dict.fromkeys(names, place))
        if len(producers) == values + 1:
            producers[_ASKED] = len(self.records)


_ASKED = 0  # no identity: stands in `producers` for the records among which all are known


class _GradientOp(Op):
    """The operation of a gradient: what its VJP reads is among its inputs."""

    __slots__ = ()


def history_of(records: Collection[Any], followed: Collection[int]) -> History:
    """Return the history of a tape up to now."""
    return History(list(records), tuple(_read_by_walks(records, followed)), new_key(), {})


def _read_by_walks(records: Collection[Any], followed: Collection[int]) -> Collection[int]:
    """Return the identities of the followed values that the rules of records may read."""
    read: set[int] = set()
    for recorded_op, _, output, keys, xs, y, _, kernels in records:
        op = recorded_op.original if isinstance(recorded_op, PackedOp) else recorded_op
        if VOCABULARY.get(op.name) is not op and not isinstance(op, _GradientOp):
            return followed  # a rule of the user's own: it may hold any value ever computed
        array_type = kernels.array_type
        for key, x in zip(keys, xs or (), strict=False):
            if (x.__class__ is array_type or x.__class__ is Held) and key in followed:
                read.add(key)
        if y.__class__ is array_type or y.__class__ is Held:
            read.add(output)
        elif y.__class__ is tuple:
            read.update(key for key, each in zip(output, y, strict=True) if each is not None)
    return read


def record_of(
    history: History,
    seeds: Collection[int],
    followed: Collection[int],
    results: Sequence[Tensor],
    again: Callable[[Sequence[int]], list[Tensor]],
) -> Record | None:
    """Return the record of derivatives that a walk gave; None if they depend on nothing.

    Parameters
    ----------
    history : History
        What the walk went over.
    seeds : collection of int
        The identities of the cotangents that it started from.
    followed : collection of int
        The identities that the tape follows.
    results : sequence of Tensor
        The gradients or Jacobians.
    again : callable
        ``again(positions)``: compute the results at these positions anew, by recorded operations.
    """
    keys = history.keys
    own = {key for key in seeds if key in followed}.difference(keys)
    if own:
        keys += tuple(own)
    if not keys:
        return None

    def vjp(
        xp: Any, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> list[Any]:
        asked = [position for position, each in enumerate(g) if each is not None]
        recorder = Recorder()
        for key in needs:
            if key:
                recorder.follow(key)
        listeners = LISTENERS.get()
        LISTENERS.set((*listeners, recorder))
        try:
            derivatives = again(asked)
        finally:
            LISTENERS.set(listeners)
        cotangents: dict[int, Any] = {}
        for position, derivative in zip(asked, derivatives, strict=True):
            if recorder.follows(derivative.key):
                present = cotangents.get(derivative.key)
                each = g[position]
                cotangents[derivative.key] = each if present is None else present + each
        pulled = backpropagate(
            recorder.records,
            cotangents,
            recorder.roots,
            connected=None,
            recorded=isinstance(g[asked[0]], Tensor),
            consume=True,
        )
        return [pulled.get(key) for key in keys]

    names = tuple(result.key for result in results)
    # In place of specs None: the VJP takes None for a result that nobody used.
    unused = (None,) * len(results)
    op = _GradientOp("gradient", Kind.OPAQUE, lambda *inputs: inputs, vjp, outputs=None)
    return Record(op, keys, names, keys, None, unused, {}, results[0].kernels)


class _Entry(NamedTuple):
    """The record of a derivative at the end of a tape: whether it lives, and what it may read."""

    record: Record
    arrays: tuple[weakref.ref[Any], ...]
    until: int


class Derivatives:
    """The records of derivatives at the end of a persistent tape, until their results are dropped.

    A derivative that nobody holds any more cannot be differentiated: its record goes when the next
    one comes, so that a loop of gradients needs no more memory than one of them.
    """

    _LOOKED_AT = 8  # records; what a program holds longer than that stays with the tape

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(
        self, recorder: Recorder, record: Record, results: Sequence[Tensor], until: int
    ) -> None:
        """Append the record of a derivative to a recorder, in place of those that nobody holds.

        Parameters
        ----------
        recorder : Recorder
            The tape.
        record : Record
            What `record_of` returned.
        results : sequence of Tensor
            The derivatives.
        until : int
            See `History`: younger values are no inputs of the record but as cotangents.
        """
        self._drop(recorder)
        recorder.records.append(record)
        recorder.followed.update(record.output)
        try:
            # Arrays and not tensors: other tapes keep arrays, and make tensors of them again.
            arrays = tuple(weakref.ref(result.array) for result in results)
        except TypeError:  # a foreign array without weak references: the record stays
            self._entries.clear()
            return
        self._entries = [*self._entries[1 - self._LOOKED_AT :], _Entry(record, arrays, until)]

    def _drop(self, recorder: Recorder) -> None:
        if not self._entries:
            return
        if not recorder.records or recorder.records[-1] is not self._entries[-1].record:
            self._entries.clear()  # something else was recorded since, perhaps from these
            return
        kept: list[_Entry] = []
        for entry in reversed(self._entries):
            held = any(reference() is not None for reference in entry.arrays)
            if held or self._is_read(entry, kept):
                kept.append(entry)
            else:
                recorder.followed.difference_update(entry.record.output)
        kept.reverse()
        if len(kept) < len(self._entries):
            recorder.records[-len(self._entries) :] = [entry.record for entry in kept]
            self._entries = kept

    @staticmethod
    def _is_read(entry: _Entry, later: Sequence[_Entry]) -> bool:
        """Return whether later records may have an entry's results among their inputs."""
        names = entry.record.output
        return any(
            min(names) < each.until or not set(names).isdisjoint(each.record.keys) for each in later
        )
