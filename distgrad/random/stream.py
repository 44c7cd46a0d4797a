"""A stream of random numbers: a key, how many draws were made under it, and its children."""

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
from distgrad.random.arguments import as_index, as_integer, as_shape, as_words
from distgrad.tensor import Operators, Tensor
from distgrad.variable import Variable

Rows = int | slice | Sequence[int] | None

_ONE_DRAW = np.array([0, 0, 1], np.uint64)


class CountedStream:
    """A key, and how many draws were made under it; what is drawn, its children say.

    Parameters
    ----------
    seed : int
        From 0 up to, but without, 2^128: the key.
    backend : str or Backend, optional
        Where the numbers are made; the backend in force by default.
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
