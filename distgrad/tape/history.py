"""Differentiate gradients: how a persistent tape records what its own `gradient` returned.

A gradient becomes one record, which is unfolded only if it is differentiated in turn. Its inputs
are all that the walk read; its VJP walks again, now with operations that a recorder hears, and
walks these back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from distgrad.core.op import Kind, Op
from distgrad.core.seam import LISTENERS
from distgrad.ops import VOCABULARY
from distgrad.tape.arguments import as_gradient
from distgrad.tape.backward import backpropagate
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
    """

    records: list[Any]
    keys: tuple[int, ...]
    until: int


class _GradientOp(Op):
    """The operation of a gradient: what its VJP reads is among its inputs."""

    __slots__ = ()


def history_of(records: Collection[Any], followed: Collection[int]) -> History:
    """Return the history of a tape up to now."""
    return History(list(records), tuple(_read_by_walks(records, followed)), new_key())


def _read_by_walks(records: Collection[Any], followed: Collection[int]) -> Collection[int]:
    """Return the identities of the followed values that the rules of records may read."""
    read: set[int] = set()
    for op, _, output, keys, xs, y, _, kernels in records:
        if VOCABULARY.get(op.name) is not op and not isinstance(op, _GradientOp):
            return followed  # a rule of the user's own: it may hold any value ever computed
        array_type = kernels.array_type
        for key, x in zip(keys, xs or (), strict=False):
            if x.__class__ is array_type and key in followed:
                read.add(key)
        if y.__class__ is array_type:
            read.add(output)
        elif y.__class__ is tuple:
            read.update(key for key, each in zip(output, y, strict=True) if each is not None)
    return read


def record_of_gradient(
    history: History,
    seeds: dict[int, Tensor],
    followed: Collection[int],
    pairs: Sequence[tuple[Any, Tensor]],
    connected: set[int] | None,
) -> Record | None:
    """Return the record of one call of `gradient`; None if the gradients depend on nothing.

    Parameters
    ----------
    history : History
        What the walk went over.
    seeds : dict of int to Tensor
        The cotangents that it started from, by the identity of their target.
    followed : collection of int
        The identities that the tape follows.
    pairs : sequence of (source, gradient)
        The sources, and the gradients that were found for them.
    connected : set of int or None
        See `backpropagate`.
    """
    keys = history.keys
    own = {seed.key for seed in seeds.values() if seed.key in followed}.difference(keys)
    if own:
        keys += tuple(own)
    if not keys:
        return None
    sources = [source for source, _ in pairs]

    def vjp(
        xp: Any, g: Any, y: Any, xs: Any, params: dict[str, Any], needs: Sequence[int]
    ) -> list[Any]:
        asked = [(s, each) for s, each in zip(sources, g, strict=True) if each is not None]
        recorder = Recorder()
        for key in needs:
            if key:
                recorder.follow(key)
        listeners = LISTENERS.get()
        LISTENERS.set((*listeners, recorder))
        try:
            found = backpropagate(
                history.records,
                dict(seeds),
                {source.key for source, _ in asked},
                connected=connected,
                recorded=True,
                consume=False,
            )
            gradients = [as_gradient(source, found[source.key]) for source, _ in asked]
        finally:
            LISTENERS.set(listeners)
        cotangents: dict[int, Any] = {}
        for gradient, (_, each) in zip(gradients, asked, strict=True):
            if recorder.follows(gradient.key):
                present = cotangents.get(gradient.key)
                cotangents[gradient.key] = each if present is None else present + each
        pulled = backpropagate(
            recorder.records,
            cotangents,
            recorder.roots,
            connected=None,
            recorded=isinstance(asked[0][1], Tensor),
            consume=True,
        )
        return [pulled.get(key) for key in keys]

    first = pairs[0][1]
    names = tuple(gradient.key for _, gradient in pairs)
    # In place of specs None: the VJP takes None for a gradient that nobody used.
    unused = (None,) * len(pairs)
    op = _GradientOp("gradient", Kind.OPAQUE, lambda *inputs: inputs, vjp, outputs=None)
    return Record(op, keys, names, keys, None, unused, {}, first.kernels)
