"""Make sure that all ranks are about to exchange the same things, before they do.

MPI does not: two ranks that send gradients in different order add up the wrong ones, without an
error on any MPI that was tried; different lengths are an error, a hang or silence, as it happens.
So each rank condenses its *plan* into 32 bytes, one small allreduce compares them, and only where
they differ are the plans themselves exchanged, to say who differs and in what.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator, exchange_json
from distgrad.errors import DesyncError

_MOST_SLOTS = 4096  # 32 KiB: more would no longer cost what a small message costs
_SLOTS_A_RANK = 2  # how long it computed, and the weight of its gradients
_SHOWN = 3  # differences shown a rank; a model of another configuration differs everywhere


class Entry(NamedTuple):
    """One array of an exchange."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Plan(NamedTuple):
    """What a rank is about to exchange: the operation in words, and its arrays in order.

    What follows a semicolon in the words, such as how messages are cut, counts where all else is
    equal.
    """

    operation: str
    entries: tuple[Entry, ...] = ()


def agree(
    communicator: Communicator,
    plan: Plan,
    present: Sequence[bool] = (),
    *,
    call: int = 0,
    slots: Array | None = None,
) -> list[bool]:
    """Return once all ranks are known to have the same plan.

    Parameters
    ----------
    communicator : Communicator
        The ranks that exchange.
    plan : Plan
        What this rank is about to do. How many operations it has begun is compared as well.
    present : sequence of bool
        For each entry, whether this rank has it; ranks may differ in this. Further questions may
        follow, answered in the same way, such as whether what it has is dense.
    call : int
        The number of a call in the program that this belongs to: of two equal collectives that a
        backward pass walks through, it tells which.
    slots : numpy.ndarray of uint64 and shape (number_of_slots(size),), optional
        Travels in the same message: each rank fills its own places and leaves the others zero, and
        gets everybody's, in place.

    Returns
    -------
    list of bool
        For each entry, whether any rank has it.

    Raises
    ------
    DesyncError
        On every rank, if the plans differ.

    Notes
    -----
    With words h and their complements ~h, the bitwise or over all ranks of (h, ~h) is (h, ~h)
    again exactly if all are equal: or(h) = h and or(~h) = ~and(h) = ~h.
    """
    if communicator.size == 1:
        return list(present)
    number = communicator.started
    fingerprint = _word(_condensed(plan), number.to_bytes(8, "little"), call.to_bytes(8, "little"))
    having = _word(bytes(present))
    # As long whether it carries slots or not: MPI may crash where lengths differ between ranks.
    message = np.zeros(4 + number_of_slots(communicator.size), np.uint64)
    message[:2] = fingerprint, having
    message[2:4] = ~message[:2]
    if slots is not None:
        message[4:] = slots
    combined = _united(communicator, message, plan, call)
    if slots is not None:
        slots[...] = combined[4:]
    differs = (combined[:4] != message[:4]).tolist()
    if differs[0] or differs[2]:
        _explain(communicator, Plan(_of_call(plan.operation, call), plan.entries), number)
    if differs[1] or differs[3]:
        union = _united(communicator, np.array(present, np.uint8), plan, call)
        return [bool(each) for each in union]
    return list(present)


def _united(communicator: Communicator, message: Array, plan: Plan, call: int) -> Array:
    """Return the bitwise or of all ranks' messages; who waits in vain hears what it was for."""

    def what() -> str:
        operation = _of_call(plan.operation.partition("; ")[0], call)
        return f"{_named(operation, plan.entries)}, which ranks compare first"

    name_next = getattr(communicator, "name_next", None)
    if name_next is not None:
        name_next(what)
    return communicator.allreduce(message, "bor")


def _of_call(operation: str, call: int) -> str:
    return f"{operation}, of call {call}," if call else operation


def number_of_slots(ranks: int) -> int:
    """Return how many slots a comparison carries: two a rank, or none where that were many."""
    return _SLOTS_A_RANK * ranks if _SLOTS_A_RANK * ranks <= _MOST_SLOTS else 0


@lru_cache(maxsize=256)
def _condensed(plan: Plan) -> bytes:
    return blake2b(json.dumps(plan).encode(), digest_size=16).digest()


def _word(*parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=8).digest(), "little")


def _explain(communicator: Communicator, plan: Plan, number: int) -> None:
    """Exchange the plans and raise the error that names the differences."""
    received = exchange_json(communicator, [plan.operation, number, plan.entries])
    plans = [
        (
            (operation, count),
            tuple(Entry(name, dtype, tuple(shape)) for name, dtype, shape in entries),
        )
        for operation, count, entries in received
    ]
    if len({entries for _, entries in plans}) > 1:  # that says more than how they would travel
        plans = [((name.partition("; ")[0], step), arrays) for (name, step), arrays in plans]
    steps = [step for step, _ in plans]
    common_step = _most_common(steps)
    if len(set(steps)) > 1:
        odd = [rank for rank, step in enumerate(steps) if step != common_step]
        here = in_words([r for r in range(len(plans)) if r not in odd])
        others = "; ".join(f"rank {rank} does {_step(*plans[rank])}" for rank in odd[:_SHOWN])
        common = plans[steps.index(common_step)]
        raise DesyncError(
            f"ranks do different things: {others}; {here} {_does(here)} {_step(*common)}. Do all "
            "ranks run the same operations in the same order, and the same number of steps?",
            tuple(odd),
        )
    lists = [entries for _, entries in plans]
    common_entries = _most_common(lists)
    odd = [rank for rank, entries in enumerate(lists) if entries != common_entries]
    others_text = in_words([r for r in range(len(plans)) if r not in odd])
    differences: list[str] = []
    names: list[str] = []
    for rank in odd[:_SHOWN]:
        found = _differences(rank, lists[rank], common_entries, others_text)
        differences += [text for text, _ in found[:_SHOWN]]
        if len(found) > _SHOWN:
            differences.append(f"and {len(found) - _SHOWN} more on rank {rank}")
        names += [name for _, name in found if name not in names]
    if len(odd) > _SHOWN:
        differences.append(f"and {in_words(odd[_SHOWN:])}")
    permuted = all(sorted(lists[rank]) == sorted(common_entries) for rank in odd)
    advice = (
        "The variables are the same in another order: give them in one order on every rank, such "
        "as sorted by name."
        if permuted
        else "Were the models built from the same configuration?"
        if len(common_entries) > 1
        else "Do all ranks pass the same shape and dtype?"
    )
    raise DesyncError(
        f"{plan.operation.partition('; ')[0]}: {'; '.join(differences)}. {advice}",
        tuple(odd),
        tuple(names),
    )


def _differences(
    rank: int, entries: tuple[Entry, ...], common: tuple[Entry, ...], others: str
) -> list[tuple[str, str]]:
    """Return (text, name) for each position in which a rank's entries differ from the rest's."""
    found = []
    for position in range(max(len(entries), len(common))):
        mine = entries[position] if position < len(entries) else None
        theirs = common[position] if position < len(common) else None
        if mine == theirs:
            continue
        sends = "send" if "ranks" in others else "sends"
        found.append(
            (
                f"rank {rank} sends {mine or 'nothing'}, {others} {sends} {theirs or 'nothing'} "
                f"(position {position})",
                (mine or theirs or Entry("", "", ())).name,
            )
        )
    return found


def _most_common(values: Sequence[Any]) -> Any:
    """Return the most frequent value, the first one of several: rank 0's, of two that differ."""
    return Counter(values).most_common(1)[0][0]


def _step(step: tuple[str, int], entries: tuple[Entry, ...]) -> str:
    operation, number = step
    return f"{_named(operation, entries)} (operation {number + 1})"


def _named(operation: str, entries: tuple[Entry, ...]) -> str:
    return f"{operation} of {entries[0]}" if len(entries) == 1 else operation


def in_words(ranks: Sequence[int]) -> str:
    """Return ranks in words: ``rank 1``, or ``ranks 0, 2-7``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(parts)}"


def _does(ranks: str) -> str:
    return "do" if ranks.startswith("ranks") else "does"
