"""Which example stands at which place of which epoch: an order that needs no memory of its own.

Each epoch is a permutation of all examples that is computed place by place from the seed, the epoch
and the place. So a training goes on in the middle of an epoch from three integers, whatever the
number of ranks, and an order of 10^12 examples costs no more than one of 10^4.
"""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from distgrad.backend.philox import Stream, bits64, folded, permutation

Places = np.ndarray[Any, np.dtype[np.int64]]

# Up to so many examples an epoch's order is that of as many random words: exactly uniform, quicker,
# and of bounded size. A Feistel network over few bits is far from uniform.
_SORTED = 1 << 12
# Places computed at a time: their temporaries fit the cache, and calls of NumPy's weigh little.
_CHUNK = 1 << 12
_KEPT = 4  # chunks, of which a batch at the end of an epoch needs two
# Black and Rogaway prove little below a handful of rounds; Mitchell et al. needed 24 with a weak
# round function. With a full 64-bit mixer, 12 pass the tests of `tests/data/test_order.py`.
_ROUNDS = 12

_ORDER = int.from_bytes(b"order", "little")  # folded in: no other stream of the seed is this one


class Order:
    """The order of examples, epoch after epoch without an end.

    Parameters
    ----------
    length : int
        How many examples there are.
    seed : int
        From 0 up to, but without, 2^128.
    shuffle : bool
        Whether each epoch has an order of its own; else all go from 0 up.

    Raises
    ------
    ValueError
        If there is no example, or the seed is out of range.
    TypeError
        If one of them is no integer.

    Notes
    -----
    Above 4096 examples the permutation is a Feistel network [1]_ over the bits of the place, whose
    round keys are words of Philox under the epoch's key. What falls outside of the examples is
    permuted again until it falls inside (cycle walking [2]_), less than once on average, which
    keeps it a permutation.

    References
    ----------
    .. [1] Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
       functions", SIAM J. Comput. 17 (1988).
    .. [2] Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 4.
    .. [3] Mitchell, Stokes, Frank and Holmes, "Bandwidth-optimal random shuffling for GPUs", ACM
       Transactions on Parallel Computing 9 (2022).

    Examples
    --------
    >>> order = Order(5, seed=1)
    >>> sorted(order.places(0, 5).tolist())
    [0, 1, 2, 3, 4]
    >>> whole = order.places(0, 20)
    >>> bool((order.places(7, 11) == whole[7:11]).all())
    True
    """

    def __init__(self, length: int, *, seed: int, shuffle: bool = True) -> None:
        try:
            length, seed = operator.index(length), operator.index(seed)
        except TypeError:
            raise TypeError(
                f"Order: length is {length!r}, seed {seed!r}; expected integers"
            ) from None
        if length < 1:
            raise ValueError(f"Order: length is {length}; expected one example at least")
        if not 0 <= seed < 2**128:
            raise ValueError(f"Order: seed is {seed}; expected 0 to 2^128 - 1")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        words = np.array([seed % 2**64, seed // 2**64, 0], np.uint64)
        self._stream = folded(words, _ORDER)
        self._bits = max((length - 1).bit_length(), 2)
        self._chunks: OrderedDict[tuple[int, int], Places] = OrderedDict()
        self._lock = threading.Lock()  # loaders ask from several threads

    def places(self, start: int, stop: int) -> Places:
        """Return the examples at the places `start` up to `stop` of the endless row of epochs.

        Parameters
        ----------
        start, stop : int
            Epoch e has the places from e times the number of examples on.

        Returns
        -------
        numpy.ndarray of int64, shape (stop - start,)
        """
        found = np.empty(stop - start, np.int64)
        done = start
        while done < stop:
            epoch, offset = divmod(done, self.length)
            end = min(offset + stop - done, self.length)
            found[done - start : done - start + end - offset] = self._within(epoch, offset, end)
            done += end - offset
        return found

    def _within(self, epoch: int, start: int, stop: int) -> Places:
        """Return the examples at some places of one epoch."""
        if not self.shuffle:
            return np.arange(start, stop)
        if self.length <= _SORTED:
            return self._chunk(epoch, 0)[start:stop]
        if stop - start >= 2 * _CHUNK:  # more than is worth keeping
            return self._permuted(epoch, start, stop)
        parts = [
            self._chunk(epoch, number)[max(start - number * _CHUNK, 0) : stop - number * _CHUNK]
            for number in range(start // _CHUNK, (stop - 1) // _CHUNK + 1)
        ]
        return np.concatenate(parts)

    def _chunk(self, epoch: int, number: int) -> Places:
        key = epoch, number
        with self._lock:
            known = self._chunks.get(key)
            if known is not None:
                self._chunks.move_to_end(key)
                return known
        if self.length <= _SORTED:
            made = permutation(self._of(epoch), self.length)
        else:
            made = self._permuted(epoch, number * _CHUNK, min((number + 1) * _CHUNK, self.length))
        with self._lock:
            self._chunks[key] = made
            while len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        return made

    def _of(self, epoch: int) -> Stream:
        low, high, draw = folded(self._stream, epoch).tolist()
        return Stream(low, high, draw)

    def _permuted(self, epoch: int, start: int, stop: int) -> Places:
        keys = bits64(self._of(epoch), 0, 2 * _ROUNDS).reshape(_ROUNDS, 2)
        x = _network(np.arange(start, stop, dtype=np.uint64), keys, self._bits)
        outside = np.flatnonzero(x >= self.length)
        while outside.size:
            x[outside] = _network(x[outside], keys, self._bits)
            outside = outside[x[outside] >= self.length]
        places: Places = x.astype(np.int64)
        return places


def _network(x: Any, keys: Any, bits: int) -> Any:
    """Return a permutation of the numbers of so many bits: each half is changed by the other."""
    low = np.uint64(bits // 2)
    high = np.uint64(bits - bits // 2)
    left, right = x >> low, x & np.uint64((1 << int(low)) - 1)
    mask_left, mask_right = np.uint64((1 << int(high)) - 1), np.uint64((1 << int(low)) - 1)
    for number, key in enumerate(keys):
        if number % 2:
            right = right ^ (_mixed(left, key) & mask_right)
        else:
            left = left ^ (_mixed(right, key) & mask_left)
    return left << low | right


def _mixed(x: Any, key: Any) -> Any:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of keyed words."""
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64
        z = (x ^ key[0]) + key[1]
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)
