"""The generator: its stream, the continuous numbers, and here integers, classes and orders."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad.core.seam import apply
from distgrad.dtypes import DTypeLike, as_dtype, int64, uint64
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.elementwise.comparison import less
from distgrad.ops.neural.softmax import softmax
from distgrad.ops.picking.indexing import take
from distgrad.ops.random import (
    RANDOM_BERNOULLI,
    RANDOM_BITS,
    RANDOM_INTEGERS,
    RANDOM_PERMUTATION,
    RANDOM_POISSON,
)
from distgrad.ops.shaping.structure import broadcast_to, reshape
from distgrad.random.arguments import as_integer, as_shape, floating_dtype, is_number
from distgrad.random.choices import axis_to_back, check_without_replacement, places_by_weight
from distgrad.random.continuous import ContinuousDraws
from distgrad.random.stream import Rows
from distgrad.shapes import broadcast
from distgrad.tensor import Tensor


class Generator(ContinuousDraws):
    """A stream of random numbers, fixed by a seed.

    Parameters
    ----------
    seed : int
        From 0 up to, but without, 2^128: the generator's key. Numbers of two seeds are unrelated.
    backend : str or Backend, optional
        Where the numbers are made; the backend in force by default.

    Notes
    -----
    The bits are those of Philox4x64-10 [1]_ under the key (seed mod 2^64, seed div 2^64): block b
    of the d-th draw has the counter (b, d, 0, 0). So a draw is a pure function of the key, of how
    many draws were made before (whatever their shapes), and of the place in it. Hence

    - bits, uniform numbers, integers, choices and permutations are the same on every backend and
      machine; normal numbers are the same up to the last digit of a logarithm, a sine and a cosine;
    - ranks that make the same draws in the same order get the same numbers, and with `rows` each
      its own part of one large draw: nothing depends on how many ranks there are;
    - the state is three integers.

    Within `distgrad.function` a generator counts on as it does outside: its state is read and
    assigned like a variable's. Within `vmap` a draw is the same for every example; for numbers of
    one's own, map over an index and draw from ``generator.fold_in(index)``. A function that is run
    again, as by `recompute_grad`, or in the body of a loop, where nothing may be assigned, takes
    such a child too: `fold_in` changes nothing.

    References
    ----------
    .. [1] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import distgrad as dg
    >>> generator = dg.random.Generator(7)
    >>> whole = dg.random.Generator(7).normal((6, 2))
    >>> part = generator.normal((6, 2), rows=range(2, 4))
    >>> bool((part.numpy() == whole.numpy()[2:4]).all())
    True
    """

    __slots__ = ()

    def bits(
        self, shape: int | Sequence[int] = (), *, dtype: DTypeLike = uint64, rows: Rows = None
    ) -> Tensor:
        """Return random bits as uint64 or uint32; parameters as for `uniform`."""
        chosen = as_dtype(dtype)
        if chosen not in (uint64, np.dtype("uint32")):
            raise DTypeError(f"bits: dtype is {chosen}; expected uint32 or uint64")
        return self._draw(RANDOM_BITS, shape, rows, dtype=chosen)

    def integers(
        self,
        low: int,
        high: int | None = None,
        shape: int | Sequence[int] = (),
        *,
        dtype: DTypeLike = int64,
        rows: Rows = None,
    ) -> Tensor:
        """Return integers drawn evenly from `low` up to, but without, `high`.

        Parameters
        ----------
        low, high : int
            The bounds; with one of them, from 0 up to it.
        shape, rows
            As for `uniform`.
        dtype : dtype
            An integer one that holds the bounds.

        Notes
        -----
        No share is off by more than (high - low) / 2^64 of itself.
        """
        first = as_integer("integers", "low", low)
        first, stop = (0, first) if high is None else (first, as_integer("integers", "high", high))
        chosen = as_dtype(dtype)
        if chosen.kind not in "iu":
            raise DTypeError(f"integers: dtype is {chosen}; expected an integer one")
        limits = np.iinfo(chosen)
        if not limits.min <= first < stop <= int(limits.max) + 1:
            raise ValueError(
                f"integers: low is {first} and high {stop}; expected low < high within {chosen}, "
                f"that is from {limits.min} to {int(limits.max) + 1}"
            )
        return self._draw(RANDOM_INTEGERS, shape, rows, dtype=chosen, low=first, high=stop)

    def bernoulli(
        self, p: Any = 0.5, shape: int | Sequence[int] | None = None, *, rows: Rows = None
    ) -> Tensor:
        """Return booleans that are true with probability p.

        Parameters
        ----------
        p : float or Tensor
            The probability, to 2^-32 where it is a number.
        shape : int or sequence of int, optional
            By default that of `p`.
        rows
            As for `uniform`; `shape` is that of the whole draw, and `p` of what is returned.
        """
        wanted = tuple(getattr(p, "shape", ())) if shape is None else as_shape(shape)
        if is_number(p):
            if not 0 <= p <= 1:
                raise ValueError(f"bernoulli: p is {p}; expected a probability from 0 to 1")
            return self._draw(RANDOM_BERNOULLI, wanted, rows, p=float(p))
        probability = asarray(p, backend=self._home(p))
        chosen = floating_dtype("bernoulli", probability.dtype)
        return less(self.uniform(wanted, dtype=chosen, rows=rows), probability)

    def poisson(
        self,
        rate: Any,
        shape: int | Sequence[int] | None = None,
        *,
        dtype: DTypeLike = int64,
    ) -> Tensor:
        """Return Poisson-distributed counts; no gradient flows into the rate.

        Parameters
        ----------
        rate : float or Tensor
            The mean, from 0 to 2^62, or less where `dtype` is narrower.
        shape : int or sequence of int, optional
            To which the rate is broadcast; its own by default.
        dtype : dtype
            Integer or real floating. Counts beyond an integer dtype become its largest number.

        Raises
        ------
        ValueError
            If a rate is negative, NaN or above 2^62.

        Notes
        -----
        Exact to the rounding of float64: by inversion for rates below 10, otherwise by transformed
        rejection [1]_.

        References
        ----------
        .. [1] Hörmann, "The transformed rejection method for generating Poisson random variables",
           Insurance: Mathematics and Economics 12 (1993), algorithm PTRS.
        """
        chosen = as_dtype(dtype)
        if chosen.kind not in "iuf" and chosen.name != "bfloat16":
            raise DTypeError(f"poisson: dtype is {chosen}; expected integers or real floating ones")
        given = asarray(rate, backend=self._home(rate))
        stream = self._next()
        wanted = given.shape if shape is None else as_shape(shape)
        full = broadcast("poisson", (*stream.shape[:-1], *wanted), given.shape)
        return apply(RANDOM_POISSON, stream, broadcast_to(given, full), start=0, dtype=chosen)

    def categorical(
        self, logits: Any, shape: int | Sequence[int] | None = None, *, axis: int = -1
    ) -> Tensor:
        """Return classes drawn with probabilities softmax(logits), as int64.

        Parameters
        ----------
        logits : Tensor or array
            Unnormalised log-probabilities; the classes lie along `axis`.
        shape : int or sequence of int, optional
            Of the result; that of `logits` without `axis` broadcasts to it, which is the default.
        axis : int
            The axis of the classes.

        Notes
        -----
        The first class whose cumulated probability exceeds a uniform number.
        """
        weights = softmax(asarray(logits, backend=self._home(logits)), axis=axis)
        weights = axis_to_back(weights, axis)
        wanted = weights.shape[:-1] if shape is None else as_shape(shape)
        broadcast("categorical", wanted, weights.shape[:-1])
        return places_by_weight(weights, self.uniform(wanted, dtype=weights.dtype))

    def permutation(self, n: int) -> Tensor:
        """Return 0 ... n - 1 in random order, as int64."""
        length = as_integer("permutation", "n", n)
        if length < 0:
            raise ValueError(f"permutation: n is {n}; expected 0 or more")
        return apply(RANDOM_PERMUTATION, self._next(), length=length)

    def shuffle(self, x: Any, *, axis: int = 0) -> Tensor:
        """Return x with its slices along an axis in random order; gradients flow through."""
        values = asarray(x, backend=self._home(x))
        if not values.ndim:
            raise ShapeError("shuffle: x has no axes; expected one at least")
        return take(values, self.permutation(values.shape[axis]), axis=axis)

    def choice(
        self,
        options: Any,
        shape: int | Sequence[int] = (),
        *,
        replace: bool = True,
        p: Any = None,
        axis: int = 0,
    ) -> Tensor:
        """Return options drawn at random.

        Parameters
        ----------
        options : int or Tensor
            What to draw from along `axis`; a number n stands for 0 ... n - 1.
        shape : int or sequence of int
            How many.
        replace : bool
            Whether an option may be drawn again.
        p : Tensor or array, optional
            The probability of each option; equal ones by default. Needs `replace`.
        axis : int
            The axis of the options.

        Raises
        ------
        ValueError
            If more are to be drawn without replacement than there are, or with probabilities.
        """
        source = None if isinstance(options, int) else asarray(options, backend=self._home(options))
        count = options if source is None else source.shape[axis]
        wanted = as_shape(shape)
        if not replace:
            check_without_replacement(prod(wanted), count, p)
            places = reshape(self.permutation(count)[..., : prod(wanted)], wanted)
        elif p is None:
            places = self.integers(0, count, wanted)
        else:
            weights = asarray(p, backend=self._home(p))
            if weights.shape != (count,):
                raise ShapeError(f"choice: p has shape {weights.shape}; expected ({count},)")
            places = places_by_weight(weights, self.uniform(wanted, dtype=weights.dtype))
        return places if source is None else take(source, places, axis=axis)
