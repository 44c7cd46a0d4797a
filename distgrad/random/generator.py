"""The generator: a key, how many draws were made under it, its children, and what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.core.seam import VALUES, apply
from distgrad.eager import asarray
from distgrad.errors import ShapeError
from distgrad.ops.elementwise.arithmetic import add
from distgrad.ops.random import RANDOM_FOLD, RANDOM_SPLIT, draw
from distgrad.random import continuous, discrete, gammas
from distgrad.random.arguments import as_index, as_integer, as_shape, as_words
from distgrad.random.source import Rows
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

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
    def _over(cls, stream: Tensor) -> Self:
        generator = cls.__new__(cls)
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
    def from_state(cls, state: Any, *, backend: str | Backend | None = None) -> Self:
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

    def fold_in(self, index: Any) -> Self:
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
        return self._over(apply(RANDOM_FOLD, self._stream, as_index(index)))

    def split(self, n: int) -> tuple[Self, ...]:
        """Return n generators of their own; the next split gives others."""
        count = as_integer("split", "n", n)
        if count < 0:
            raise ValueError(f"split: n is {n}; expected 0 or more")
        children = apply(RANDOM_SPLIT, self._next(), count=count)
        return tuple(self._over(children[..., i, :]) for i in range(count))

    # --- draws: functions of this generator, in a file a subject ----------------------------------

    uniform = continuous.uniform
    normal = continuous.normal
    truncated_normal = continuous.truncated_normal
    exponential = continuous.exponential
    gumbel = continuous.gumbel

    gamma = gammas.gamma
    beta = gammas.beta
    dirichlet = gammas.dirichlet
    chi_square = gammas.chi_square
    student_t = gammas.student_t

    bits = discrete.bits
    integers = discrete.integers
    bernoulli = discrete.bernoulli
    poisson = discrete.poisson
    categorical = discrete.categorical
    permutation = discrete.permutation
    shuffle = discrete.shuffle
    choice = discrete.choice

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
