"""TopK: each rank sends the largest few numbers of each gradient, and remembers the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from distgrad.distributed.compression.feedback import Feedback
from distgrad.distributed.compression.protocol import Shares
from distgrad.distributed.verbs.communicator import Array, Communicator


class TopK:
    """The largest few numbers of each gradient, with where they stand; the rest waits its turn.

    Parameters
    ----------
    ratio : float in (0, 1]
        Which part of each variable's numbers a rank sends; one at least.
    whole_below : int
        Variables of fewer elements are added up whole: biases and the like.

    Raises
    ------
    ValueError
        If the ratio is not in (0, 1].

    Notes
    -----
    A rank sends 8 bytes a number, its place and its value in float32, to all others, so that what
    one *receives* grows with the number of ranks p: it is less than plain averaging's for ratios
    below about 1/p. What was not sent, rounding included, is added to the next step's share (error
    feedback, [1]_ and [2]_). Where any rank's gradient of a variable is not finite, the sum is not
    either, and what is remembered of it stays as it was, on all ranks.

    An instance remembers variables by their names: make one for each model.

    References
    ----------
    .. [1] Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018,
       arXiv:1809.07599, algorithm 2.
    .. [2] Lin, Han, Mao, Wang and Dally, "Deep gradient compression", ICLR 2018, arXiv:1712.01887.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> dist.compression.TopK(0.05)
    <compression topk(ratio=0.05, whole_below=256)>
    """

    def __init__(self, ratio: float = 0.01, *, whole_below: int = 256) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"TopK: ratio is {ratio}; expected a part of all, in (0, 1]")
        self._ratio = float(ratio)
        self._whole_below = int(whole_below)
        self._feedback = Feedback("TopK")

    def __repr__(self) -> str:
        return f"<compression {self.description}>"

    @property
    def description(self) -> str:
        """The name and all settings."""
        return f"topk(ratio={self._ratio:g}, whole_below={self._whole_below})"

    @property
    def agreement(self) -> int:
        """A number that is the same on all ranks as long as they took the same steps."""
        return self._feedback.agreement

    def add_up(self, comm: Communicator, shares: Shares) -> int:
        """Put the sum of all ranks' shares in their place; see `Compression`."""
        self._feedback.stepped()
        whole = [k for k, array in enumerate(shares.arrays) if array.size < self._whole_below]
        few = [k for k, array in enumerate(shares.arrays) if array.size >= self._whole_below]
        sent = add_up_whole(comm, shares, whole)
        if few:
            sent += self._add_up_few(comm, shares, few)
        return sent

    def _add_up_few(self, comm: Communicator, shares: Shares, few: list[int]) -> int:
        sizes = [shares.arrays[k].size for k in few]
        counts = [max(1, math.ceil(self._ratio * size)) for size in sizes]
        width = sum(counts)
        # Places count from the start of each variable: no model's variable has 2**32 elements.
        message = np.empty(2 * width, np.uint32)
        places, values = message[:width], message[width:].view(np.float32)
        wanted, start = [], 0
        for k, count in zip(few, counts, strict=True):
            total = self._feedback.recall(shares.names[k], shares.arrays[k])
            chosen = _largest(total.reshape(-1), count)
            places[start : start + count] = chosen
            with np.errstate(over="ignore"):
                values[start : start + count] = total.reshape(-1)[chosen]
            wanted.append(total)
            start += count
        received = comm.allgather(message)
        start = 0
        for k, count, total in zip(few, counts, wanted, strict=True):
            here = slice(start, start + count)
            self._take(shares.names[k], total, message, received, here, shares.arrays[k])
            start += count
        return message.nbytes

    def _take(
        self, name: str, total: Array, own: Array, received: Array, here: slice, out: Array
    ) -> None:
        """Put the sum of one variable into `out`, and remember what was not sent of it."""
        width = own.size // 2
        summed = np.zeros(total.size, out.dtype)
        finite = True
        for row in received:  # in the order of the ranks: the same bits everywhere
            places, values = row[:width][here], row[width:].view(np.float32)[here]
            summed[places] += values  # each place once a rank
            finite = finite and bool(np.isfinite(values).all())
        out[...] = summed.reshape(out.shape)
        if finite:
            places, values = own[:width][here], own[width:].view(np.float32)[here]
            total.reshape(-1)[places] -= values
            self._feedback.memory[name] = total

    def state(self, comm: Communicator | None = None) -> dict[str, Array]:
        """Return what is remembered; see `PowerSGD.state`."""
        return self._feedback.state(comm)

    def load_state(self, state: Mapping[str, Array], comm: Communicator | None = None) -> None:
        """Remember what `state` returned; see `PowerSGD.load_state`."""
        self._feedback.load_state(state, comm)


def _largest(flat: Array, count: int) -> Array:
    """Return the places of the largest magnitudes, in ascending order; NaN is the largest."""
    if count >= flat.size:
        return np.arange(flat.size)
    magnitudes = np.abs(flat)
    np.nan_to_num(magnitudes, copy=False, nan=np.inf, posinf=np.inf)
    return np.sort(np.argpartition(magnitudes, flat.size - count)[flat.size - count :])


def add_up_whole(comm: Communicator, shares: Shares, which: list[int]) -> int:
    """Put the sums of some of the shares in their place by one plain allreduce."""
    if not which:
        return 0
    message = np.concatenate([shares.arrays[k].reshape(-1) for k in which])
    comm.allreduce(message, "sum", out=message)
    start = 0
    for k in which:
        array = shares.arrays[k]
        array[...] = message[start : start + array.size].reshape(array.shape)
        start += array.size
    return message.nbytes
