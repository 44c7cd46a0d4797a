"""Decide on averages that are not finite, alike on every rank, and find out whose gradient it was.

A NaN or an infinity of one rank goes into everybody's average. So only averages are looked at, one
sum over each, and as they are the same on every rank, so is the decision, without a message. Who
was it is asked only then: each rank looks through its own gradients, and all hear of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distgrad import tree
from distgrad.distributed.averaging.exchange import describe_sources, on_host
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.verbs.communicator import Communicator, exchange_json
from distgrad.distributed.verbs.device_buffers import is_on_device
from distgrad.errors import NonFiniteGradientError
from distgrad.sparse import IndexedSlices

POLICIES = ("keep", "raise", "skip")
_SHOWN = 3  # variables named a rank

# What a rank's own gradients are, for each source: one array, several, or None.
Own = Callable[[], Sequence[Iterable[Any]]]


class Finiteness:
    """What is done with averages that are not finite.

    Parameters
    ----------
    function : str
        Whose argument the policy is.
    policy : {"keep", "raise", "skip"}
        Leave them alone, raise on every rank, or return no gradients at all.

    Attributes
    ----------
    skipped : bool
        Whether the last averages were left out.

    Raises
    ------
    ValueError
        If there is no such policy.
    """

    def __init__(self, function: str, policy: str) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f"{function}: nonfinite is {policy!r}; expected one of "
                f"{', '.join(map(repr, POLICIES))}"
            )
        self.skipped = False
        self._policy = policy

    @property
    def looks(self) -> bool:
        """Whether averages are looked at at all."""
        return self._policy != "keep"

    @property
    def blames(self) -> bool:
        """Whether each rank's own gradients are looked through where an average is not finite."""
        return self._policy == "raise"

    def judge(
        self,
        comm: Communicator,
        treedef: tree.TreeDef,
        leaves: list[Any],
        averages: list[Any],
        own: Own,
    ) -> list[Any]:
        """Return the averages, or None in place of each if they are to be skipped.

        Parameters
        ----------
        comm : Communicator
            The ranks, all of which call this.
        treedef, leaves :
            The sources.
        averages : list of Tensor, IndexedSlices or None
            The same bits on every rank.
        own : callable
            Returns what this rank gave, for each source; asked only if something is not finite.

        Raises
        ------
        NonFiniteGradientError
            On every rank, with the policy ``"raise"``.
        """
        self.skipped = False
        if not self.looks:
            return averages
        if are_finite(averages):
            return averages
        bad = [p for p, each in enumerate(averages) if each is not None and not is_finite(each)]
        if self._policy == "skip":
            self.skipped = True
            return [None] * len(averages)
        raise _located(comm, treedef, leaves, bad, own())


def are_finite(gradients: Sequence[Any]) -> bool:
    """Return whether all numbers of gradients, None among them, are finite."""
    on_devices, total = [], 0
    for each in gradients:
        if each is None:
            continue
        numbers = _numbers(each)  # of half precision a copy, which goes before the next is made
        if is_on_device(numbers):
            on_devices.append(each)
            total = total + _total(numbers)
        elif not _is_finite(numbers):
            return False
    # Whoever asks for a number waits for the device: once for all of them, as a rule.
    return not on_devices or bool(np.isfinite(total)) or all(map(is_finite, on_devices))


def is_finite(gradient: Any) -> bool:
    """Return whether all numbers of a gradient are finite."""
    return _is_finite(_numbers(gradient))


def _is_finite(array: Any) -> bool:
    # A sum is one pass without a temporary array; of large numbers it may overflow.
    return bool(np.isfinite(_total(array))) or bool(np.isfinite(array).all())


def _total(array: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.sum()


def _numbers(gradient: Any) -> Any:
    """Return a gradient's numbers: on the host, or where they are if NumPy's functions go there."""
    values = gradient.values if isinstance(gradient, IndexedSlices) else gradient
    array = getattr(values, "array", values)
    if not is_on_device(array):
        array = np.asarray(on_host(values))
    # Such as bfloat16, of which NumPy knows no kind.
    return array if array.dtype.kind in "fc" else array.astype(np.float32)


def _located(
    comm: Communicator,
    treedef: tree.TreeDef,
    leaves: list[Any],
    bad: list[int],
    own: Sequence[Iterable[Any]],
) -> NonFiniteGradientError:
    """Return the error that names ranks and variables; all ranks call this."""
    entries = describe_sources(treedef, leaves)
    mine = []
    for position in bad:
        nans = infinities = size = 0
        for each in own[position]:
            numbers = _numbers(each)
            nans += int(np.isnan(numbers).sum())
            infinities += int(np.isinf(numbers).sum())
            size += numbers.size
        if nans or infinities:
            mine.append([position, nans, infinities, size])
    if comm.size > 1:
        # Else ranks of another policy would be left in their next operation.
        agree(comm, Plan("search for gradients that are not finite (nonfinite='raise')", entries))
    everyone = exchange_json(comm, mine) if comm.size > 1 else [mine]
    parts = []
    for rank, found in enumerate(everyone):
        named = [_described(entries[p].name, *counts) for p, *counts in found[:_SHOWN]]
        if len(found) > _SHOWN:
            named.append(f"{len(found) - _SHOWN} more")
        if named:
            parts.append(f"rank {rank}: {', '.join(named)}")
    ranks = tuple(rank for rank, found in enumerate(everyone) if found)
    at_fault = {position for found in everyone for position, *_ in found} or set(bad)
    names = tuple(entries[position].name for position in sorted(at_fault))
    if not ranks:
        listed = ", ".join(names[:_SHOWN])
        return NonFiniteGradientError(
            f"gradient: every rank's own is finite, but their sum overflows in {listed}; scale "
            "the loss down, or clip each rank's gradients before they are averaged",
            ranks,
            names,
        )
    return NonFiniteGradientError(
        f"gradient: not finite on {'; '.join(parts)}; dg.debug_nans() there names the operation, "
        "nonfinite='skip' leaves such steps out",
        ranks,
        names,
    )


def _described(name: str, nans: int, infinities: int, size: int) -> str:
    kinds = [f"{n} {what}" for n, what in ((nans, "NaN"), (infinities, "infinite")) if n]
    return f"{name} ({' and '.join(kinds)} of {size})"


def each_alone(gradients: Sequence[Any]) -> list[list[Any]]:
    """Return gradients, one for each source or None, as `Finiteness.judge` wants its own."""
    return [[] if each is None else [each] for each in gradients]
