"""The generator: a key, and how many draws were made under it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.core.seam import VALUES, apply
from distgrad.dtypes import (
    DTypeLike,
    as_dtype,
    complex64,
    default_dtype,
    float32,
    float64,
    int64,
    is_differentiable,
    uint64,
)
from distgrad.eager import asarray
from distgrad.errors import DTypeError, ShapeError
from distgrad.ops.arithmetic import add, multiply, negative, subtract
from distgrad.ops.comparison import less
from distgrad.ops.indexing import take
from distgrad.ops.neural import softmax
from distgrad.ops.quantiles import normal_quantile
from distgrad.ops.random import (
    RANDOM_BERNOULLI,
    RANDOM_BITS,
    RANDOM_FOLD,
    RANDOM_GAMMA,
    RANDOM_INTEGERS,
    RANDOM_NORMAL,
    RANDOM_PERMUTATION,
    RANDOM_SPLIT,
    RANDOM_UNIFORM,
    draw,
)
from distgrad.ops.structure import astype, broadcast_to, reshape
from distgrad.ops.transcendental import log1p
from distgrad.random.arguments import (
    as_index,
    as_integer,
    as_shape,
    as_words,
    floating_dtype,
    is_number,
)
from distgrad.random.choices import axis_to_back, check_without_replacement, places_by_weight
from distgrad.shapes import broadcast
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

Rows = int | slice | Sequence[int] | None

_ONE_DRAW = np.array([0, 0, 1], np.uint64)


class Generator:
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

    __slots__ = ("_stream",)

    _stream: Variable | Tensor

    def __init__(self, seed: int, *, backend: str | Backend | None = None) -> None:
        number = as_integer("Generator", "seed", seed)
        if not 0 <= number < 2**128:
            raise ValueError(f"Generator: seed is {seed}; expected 0 to 2^128 - 1")
        words = np.array([number % 2**64, number // 2**64, 0], np.uint64)
        self._stream = _kept(asarray(words, backend=backend))

    @classmethod
    def _over(cls, stream: Tensor) -> Generator:
        generator: Generator = cls.__new__(cls)
        generator._stream = _kept(stream)
        return generator

    # --- state ------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The key's two words and the number of draws, as a list of integers.

        For an array of streams, lists of such lists. It may be assigned, to go on from there.
        """
        return self._stream.numpy().tolist()

    @state.setter
    def state(self, words: Any) -> None:
        given = as_words(words)
        if not isinstance(self._stream, Variable) or given.shape != self._stream.shape:
            raise ShapeError(
                f"Generator: a state of shape {given.shape} is assigned to one of shape "
                f"{tuple(self._stream.shape)}; make a new one by Generator.from_state"
            )
        self._stream.assign(given)

    @classmethod
    def from_state(cls, state: Any, *, backend: str | Backend | None = None) -> Generator:
        """Return a generator that goes on from a `state`.

        Parameters
        ----------
        state : sequence of int, or array of uint64, shape (..., 3)
            What `state` gave.
        backend : str or Backend, optional
            Where the numbers are made; the backend in force by default.
        """
        if isinstance(state, Operators):
            return cls._over(state.read())
        return cls._over(asarray(as_words(state), backend=backend))

    def _next(self) -> Tensor:
        """Return the stream of this draw, and count it."""
        stream = self._stream.read()
        if isinstance(self._stream, Variable):
            several = stream.ndim > 1
            self._stream.assign_add(
                np.broadcast_to(_ONE_DRAW, stream.shape) if several else _ONE_DRAW
            )
        else:
            level = stream.kernels.level
            one = _ONE_DRAW if level else asarray(_ONE_DRAW, backend=stream.kernels.backend)
            self._stream = add(stream, one)
        return stream

    # --- children ---------------------------------------------------------------------------------

    def fold_in(self, index: Any) -> Generator:
        """Return the generator of an index, which depends on this one's key and the index only.

        Parameters
        ----------
        index : int or array of int
            Such as a step, a layer or the number of an example, modulo 2^64. An array gives an
            array of streams: each draw has the array's axes in front, and an example's numbers are
            its own, whichever examples stand beside it.

        Notes
        -----
        This generator stays what it is, and how much was drawn from it does not matter.
        """
        return Generator._over(apply(RANDOM_FOLD, self._stream, as_index(index)))

    def split(self, n: int) -> tuple[Generator, ...]:
        """Return n generators of their own; the next split gives others."""
        count = as_integer("split", "n", n)
        if count < 0:
            raise ValueError(f"split: n is {n}; expected 0 or more")
        children = apply(RANDOM_SPLIT, self._next(), count=count)
        return tuple(Generator._over(children[..., i, :]) for i in range(count))

    # --- numbers ----------------------------------------------------------------------------------

    def bits(
        self, shape: int | Sequence[int] = (), *, dtype: DTypeLike = uint64, rows: Rows = None
    ) -> Tensor:
        """Return random bits as uint64 or uint32; parameters as for `uniform`."""
        chosen = as_dtype(dtype)
        if chosen not in (uint64, np.dtype("uint32")):
            raise DTypeError(f"bits: dtype is {chosen}; expected uint32 or uint64")
        return self._draw(RANDOM_BITS, shape, rows, dtype=chosen)

    def uniform(
        self,
        shape: int | Sequence[int] = (),
        low: Any = 0.0,
        high: Any = 1.0,
        *,
        dtype: DTypeLike | None = None,
        rows: Rows = None,
    ) -> Tensor:
        """Return numbers drawn evenly from [low, high).

        Parameters
        ----------
        shape : int or sequence of int
            Of the whole draw.
        low, high : float or Tensor
            The bounds. Gradients flow into tensors, whose shapes broadcast with `shape`.
        dtype : dtype, optional
            Real floating; the default one unless given.
        rows : int, range, slice or sequence of int, optional
            Which rows of the whole draw, along its first axis, to return; all by default. The
            others are not computed. The generator counts one draw either way.

        Returns
        -------
        Tensor
            Of `shape`, with as many rows as were asked for.

        Notes
        -----
        Multiples of 2^-24 for float32 and of 2^-53 for float64, exactly, from [0, 1).
        """
        chosen = floating_dtype("uniform", dtype)
        if not (is_number(low) and is_number(high)):
            unit = self.uniform(shape, dtype=chosen, rows=rows)
            return add(low, multiply(subtract(high, low), unit))
        bounds = {"low": float(low), "high": float(high)}
        return self._draw(RANDOM_UNIFORM, shape, rows, dtype=chosen, **bounds)

    def normal(
        self,
        shape: int | Sequence[int] = (),
        *,
        dtype: DTypeLike | None = None,
        mean: Any = 0.0,
        deviation: Any = 1.0,
        rows: Rows = None,
    ) -> Tensor:
        """Return normally distributed numbers.

        Parameters
        ----------
        shape, rows
            As for `uniform`.
        dtype : dtype, optional
            Floating; the default one unless given. Complex numbers have real and imaginary parts of
            variance 1/2 each.
        mean, deviation : float or Tensor
            Mean and standard deviation; gradients flow into tensors.

        Notes
        -----
        By the transform of Box and Muller; at most 6.8 deviations from the mean in float32.
        """
        chosen = default_dtype() if dtype is None else as_dtype(dtype)
        if chosen.kind == "c":
            real = float32 if chosen == complex64 else float64
            parts = self.normal((*as_shape(shape), 2), dtype=real, rows=rows) * 0.5**0.5
            numbers = parts[..., 0] + parts[..., 1] * 1j
        else:
            chosen = floating_dtype("normal", chosen)
            numbers = self._draw(RANDOM_NORMAL, shape, rows, dtype=chosen)
        if not (is_number(deviation) and deviation == 1):
            numbers = multiply(numbers, deviation)
        return numbers if is_number(mean) and mean == 0 else add(numbers, mean)

    def truncated_normal(
        self,
        shape: int | Sequence[int] = (),
        low: float = -2.0,
        high: float = 2.0,
        *,
        dtype: DTypeLike | None = None,
        rows: Rows = None,
    ) -> Tensor:
        """Return numbers of the standard normal distribution, given that they lie within bounds.

        Parameters
        ----------
        shape, dtype, rows
            As for `uniform`.
        low, high : float
            The bounds, in standard deviations.

        Notes
        -----
        The normal quantile of a uniform number, computed in float64.
        """
        chosen = floating_dtype("truncated_normal", dtype)
        if not low < high:
            raise ValueError(f"truncated_normal: low is {low}, high is {high}; expected low < high")
        u = self.uniform(shape, dtype=float64, rows=rows)
        return astype(normal_quantile(u, low=float(low), high=float(high)), chosen)

    def exponential(
        self, shape: int | Sequence[int] = (), *, dtype: DTypeLike | None = None, rows: Rows = None
    ) -> Tensor:
        """Return exponentially distributed numbers of mean 1; parameters as for `uniform`."""
        chosen = floating_dtype("exponential", dtype)
        return negative(log1p(negative(self.uniform(shape, dtype=chosen, rows=rows))))

    def gamma(
        self,
        concentration: Any,
        shape: int | Sequence[int] | None = None,
        *,
        dtype: DTypeLike | None = None,
    ) -> Tensor:
        """Return gamma-distributed numbers of scale 1; no gradient flows into the concentration.

        Parameters
        ----------
        concentration : float or Tensor
            Above 0 (NaN elsewhere).
        shape : int or sequence of int, optional
            To which the concentration is broadcast; its own by default.
        dtype : dtype, optional
            Real floating; by default the concentration's, or the default one.
        """
        given = asarray(concentration, backend=self._home(concentration))
        own = given.dtype if is_differentiable(given.dtype) else None
        given = astype(given, floating_dtype("gamma", own if dtype is None else dtype))
        stream = self._next()
        lead = stream.shape[:-1]
        # Streams of several examples count their leading axes with those of the concentration.
        wanted = given.shape if shape is None else as_shape(shape)
        full = broadcast("gamma", (*lead, *wanted), given.shape)
        return apply(RANDOM_GAMMA, stream, broadcast_to(given, full), start=0)

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

    def _draw(self, op: Op, shape: int | Sequence[int], rows: Rows, **params: Any) -> Tensor:
        return draw(op, self._next(), as_shape(shape), rows, **params)

    def _home(self, value: Any) -> Backend | None:
        """Return where an argument that is no tensor goes: to the numbers."""
        if isinstance(value, Operators) or self._stream.kernels.level:
            return None
        home: Backend = self._stream.kernels.backend
        return home

    def __repr__(self) -> str:
        stream = self._stream
        if stream.kernels.level or stream.ndim > 1:
            return (
                f"<generator: {stream.shape[:-1]} streams, backend={stream.kernels.backend.name}>"
            )
        low, high, draws = self.state
        return f"<generator: key=({low}, {high}), draws={draws}, backend={stream.backend.name}>"


def _kept(stream: Tensor) -> Variable | Tensor:
    """Return a stream as a variable, so that traced functions count the draws.

    One that is made while a function is traced belongs to that run: it starts anew in each.
    """
    if stream.kernels.level or VALUES.get() is not None:
        return stream
    return Variable(stream, trainable=False, name="generator", backend=stream.kernels.backend)
