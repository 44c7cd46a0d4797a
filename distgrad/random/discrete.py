"""Bits, integers, truth values, counts, classes and orders drawn at random.

Functions of a source of bits, which is a generator: they are its methods.
"""

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
from distgrad.random.choices import (
    as_probabilities,
    axis_to_back,
    check_without_replacement,
    places_by_weight,
)
from distgrad.random.continuous import uniform
from distgrad.random.source import Rows, Source
from distgrad.shapes import broadcast
from distgrad.tensor import Tensor


def bits(
    source: Source, shape: int | Sequence[int] = (), *, dtype: DTypeLike = uint64, rows: Rows = None
) -> Tensor:
    """Return random bits as uint64 or uint32; parameters as for `uniform`."""
    chosen = as_dtype(dtype)
    if chosen not in (uint64, np.dtype("uint32")):
        raise DTypeError(f"bits: dtype is {chosen}; expected uint32 or uint64")
    return source._draw(RANDOM_BITS, shape, rows, dtype=chosen)


def integers(
    source: Source,
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
    No share is off by more than (high - low) / 2^64 of itsource.
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
    return source._draw(RANDOM_INTEGERS, shape, rows, dtype=chosen, low=first, high=stop)


def bernoulli(
    source: Source, p: Any = 0.5, shape: int | Sequence[int] | None = None, *, rows: Rows = None
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
        return source._draw(RANDOM_BERNOULLI, wanted, rows, p=float(p))
    probability = asarray(p, backend=source._home(p))
    chosen = floating_dtype("bernoulli", probability.dtype)
    return less(uniform(source, wanted, dtype=chosen, rows=rows), probability)


def poisson(
    source: Source,
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
    given = asarray(rate, backend=source._home(rate))
    stream = source._next()
    wanted = given.shape if shape is None else as_shape(shape)
    full = broadcast("poisson", (*stream.shape[:-1], *wanted), given.shape)
    return apply(RANDOM_POISSON, stream, broadcast_to(given, full), start=0, dtype=chosen)


def categorical(
    source: Source, logits: Any, shape: int | Sequence[int] | None = None, *, axis: int = -1
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
    scores = axis_to_back("categorical", asarray(logits, backend=source._home(logits)), axis)
    weights = softmax(scores, axis=-1)
    wanted = weights.shape[:-1] if shape is None else as_shape(shape)
    broadcast("categorical", wanted, weights.shape[:-1])
    return places_by_weight(weights, uniform(source, wanted, dtype=weights.dtype))


def permutation(source: Source, n: int) -> Tensor:
    """Return 0 ... n - 1 in random order, as int64."""
    length = as_integer("permutation", "n", n)
    if length < 0:
        raise ValueError(f"permutation: n is {n}; expected 0 or more")
    return apply(RANDOM_PERMUTATION, source._next(), length=length)


def shuffle(source: Source, x: Any, *, axis: int = 0) -> Tensor:
    """Return x with its slices along an axis in random order; gradients flow through."""
    values = asarray(x, backend=source._home(x))
    if not values.ndim:
        raise ShapeError("shuffle: x has no axes; expected one at least")
    return take(values, permutation(source, values.shape[axis]), axis=axis)


def choice(
    source: Source,
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
        The probability of each option; equal ones by default. They add up to 1, to the square
        root of their dtype's precision. Needs `replace`.
    axis : int
        The axis of the options.

    Raises
    ------
    ValueError
        If more are to be drawn without replacement than there are, or with probabilities; if a
        probability is negative, or they do not add up to 1. In a traced function and in `vmap`,
        where their values are not known, they are taken as shares of their sum.
    """
    among = None if isinstance(options, int) else asarray(options, backend=source._home(options))
    count = options if among is None else among.shape[axis]
    wanted = as_shape(shape)
    if not replace:
        check_without_replacement(prod(wanted), count, p)
        places = reshape(permutation(source, count)[..., : prod(wanted)], wanted)
    elif p is None:
        places = integers(source, 0, count, wanted)
    else:
        weights = as_probabilities(asarray(p, backend=source._home(p)), count)
        places = places_by_weight(weights, uniform(source, wanted, dtype=weights.dtype))
    return places if among is None else take(among, places, axis=axis)
