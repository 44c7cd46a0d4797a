"""Random numbers for each example of a batch, which depend on nothing but the example."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.backend.philox import blocks, folded

Array = np.ndarray[Any, Any]

# The domain of these counters: 0 to 3 are those of `distgrad.backend.philox`.
_EXAMPLES = 4

_MAP = int.from_bytes(b"map", "little")


class Draws:
    """A stream of random numbers for each example; each draw has the examples' axis in front.

    Parameters
    ----------
    seed : int
        From 0 up to, but without, 2^128.
    depth, epoch : int
        The step of a chain of maps, and the epoch: each has numbers of its own.
    places : numpy.ndarray of int64, shape (n,)
        The examples' numbers.

    Notes
    -----
    Block b of the d-th draw of example i is Philox4x64-10 of the counter (b, d, i, 4), under a key
    hashed from seed, depth and epoch. So an example's numbers are the same whichever examples stand
    beside it: for any number of ranks, threads and micro-batches, and after a resume.

    Examples
    --------
    >>> both = Draws(0, depth=0, epoch=2, places=np.array([7, 3])).uniform((2,))
    >>> one = Draws(0, depth=0, epoch=2, places=np.array([3])).uniform((2,))
    >>> both.shape, bool((both[1] == one[0]).all())
    ((2, 2), True)
    """

    def __init__(self, seed: int, *, depth: int, epoch: int, places: Array) -> None:
        key = np.array([seed % 2**64, seed // 2**64, 0], np.uint64)
        for index in (_MAP, depth, epoch):
            key = folded(key, index)
        self._key = key[0], key[1]
        self._places = np.asarray(places).astype(np.uint64)
        self._draw = 0

    def __len__(self) -> int:
        return len(self._places)

    def uniform(
        self, shape: int | tuple[int, ...] = (), *, low: float = 0.0, high: float = 1.0
    ) -> Array:
        """Return numbers k / 2^53 in [0, 1), brought to [low, high).

        Parameters
        ----------
        shape : int or tuple of int
            Of what each example gets.
        low, high : float
            The bounds.

        Returns
        -------
        numpy.ndarray of float64, shape ``(n, *shape)``
        """
        numbers = (self._words(shape) >> np.uint64(11)) * 2.0**-53
        return numbers if (low, high) == (0.0, 1.0) else low + (high - low) * numbers

    def integers(self, low: int, high: int, shape: int | tuple[int, ...] = ()) -> Array:
        """Return integers from `low` up to, but without, `high`, as int64 of shape ``(n, *shape)``.

        No share is off by more than (high - low) / 2^53 of itself.

        Raises
        ------
        ValueError
            If `low` is not less than `high`, or they are more than 2^53 apart.
        """
        if not 0 < high - low <= 2**53:
            raise ValueError(
                f"integers: low is {low} and high {high}; expected low < high, 2^53 apart at most"
            )
        return low + (self.uniform(shape) * (high - low)).astype(np.int64)

    def bernoulli(self, p: float, shape: int | tuple[int, ...] = ()) -> Array:
        """Return booleans of shape ``(n, *shape)`` that are true with probability p.

        Raises
        ------
        ValueError
            If `p` is no probability.
        """
        if not 0 <= p <= 1:
            raise ValueError(f"bernoulli: p is {p}; expected a probability from 0 to 1")
        return self.uniform(shape) < p

    def normal(self, shape: int | tuple[int, ...] = ()) -> Array:
        """Return normal numbers of shape ``(n, *shape)``, by Box and Muller's transform."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        pairs = self.uniform((*shape, 2))
        radius = np.sqrt(-2 * np.log1p(-pairs[..., 0]))
        normal: Array = radius * np.cos(2 * math.pi * pairs[..., 1])
        return normal

    def _words(self, shape: int | tuple[int, ...]) -> Array:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(shape)
        block = np.arange(-(-count // 4), dtype=np.uint64)
        four = blocks(self._key, (block, self._draw, self._places[:, None], _EXAMPLES))
        self._draw += 1
        words = np.stack(four, axis=-1).reshape(len(self), 4 * len(block))[:, :count]
        return words.reshape(len(self), *shape)
