"""tf.random: numbers by NumPy's counter-based Philox, in TensorFlow's order of seeds.

The numbers are not TensorFlow's own. What holds is that they are fixed by the global seed and the
operation's: after `set_seed` the same calls give the same numbers; with none they differ each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dims, operands, tensor_dtype
from distgrad.compat.tensorflow.dtypes import float32
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor

__getattr__ = refusal("random")

_DEFAULT_SEED = 87654321  # of an operation with a seed of its own and no global one

_global_seed: int | None = None
_streams: dict[tuple[int, int | None], np.random.Generator] = {}


def set_seed(seed: int) -> None:
    """Set the global seed: the numbers that follow are the same whenever it is set."""
    global _global_seed  # noqa: PLW0603  TensorFlow's setting is global
    _global_seed = int(seed)
    _streams.clear()


def _stream(seed: int | None) -> np.random.Generator:
    """Return the generator of an operation's seed, which goes on where its last call stopped."""
    if seed is None and _global_seed is None:
        return np.random.Generator(np.random.Philox())
    first = _DEFAULT_SEED if _global_seed is None else _global_seed
    found = _streams.get((first, seed))
    if found is None:
        found = _streams[first, seed] = _philox(first, 0 if seed is None else int(seed) + 1)
    return found


def _philox(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([s & _MASK for s in seeds])))


_MASK = 2**64 - 1  # seeds are 64 bits, and may be negative


def _normal(stream: np.random.Generator, shape: Any, mean: Any, stddev: Any, dtype: Any) -> Tensor:
    wanted = tensor_dtype(dtype, float32)
    noise = dg.asarray(np.asarray(stream.standard_normal(dims(shape))).astype(wanted))
    return _scaled(noise, mean, stddev)


def _truncated(
    stream: np.random.Generator, shape: Any, mean: Any, stddev: Any, dtype: Any
) -> Tensor:
    wanted = tensor_dtype(dtype, float32)
    noise = np.asarray(stream.standard_normal(dims(shape)))
    while (outside := np.abs(noise) > 2).any():  # one in 22 is drawn again
        noise = np.where(outside, stream.standard_normal(noise.shape), noise)
    return _scaled(dg.asarray(noise.astype(wanted)), mean, stddev)


def _scaled(noise: dg.Tensor, mean: Any, stddev: Any) -> Tensor:
    z, m, s = operands("random", Tensor(noise), mean, stddev)
    return compute(lambda a, b, c: a * c + b, z, m, s)


def _uniform(
    stream: np.random.Generator, shape: Any, minval: Any, maxval: Any, dtype: Any
) -> Tensor:
    wanted = tensor_dtype(dtype, float32)
    if wanted.kind in "iu":
        if maxval is None:
            raise ValueError(
                f"Must specify maxval for integer dtype {wanted.name}; expected a number"
            )
        low, high = (convert_to_tensor(v).numpy() for v in (minval, maxval))
        return convert_to_tensor(
            np.asarray(stream.integers(low, high, size=dims(shape), dtype=np.int64)).astype(wanted)
        )
    # Drawn in the dtype itself: a number just below 1 must not be rounded up to it.
    wide = np.float64 if wanted == np.float64 else np.float32
    noise = np.asarray(stream.random(dims(shape), dtype=wide)).astype(wanted)
    if wanted.itemsize < 4:
        noise = np.minimum(noise, np.nextafter(np.ones((), wanted), np.zeros((), wanted)))
    top = 1 if maxval is None else maxval
    z, low, high = operands("random", Tensor(dg.asarray(noise)), minval, top)
    return compute(lambda a, b, c: a * (c - b) + b, z, low, high)


def normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return numbers drawn from a normal distribution."""
    return _normal(_stream(seed), shape, mean, stddev, dtype)


def truncated_normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return numbers drawn from a normal distribution, within two standard deviations."""
    return _truncated(_stream(seed), shape, mean, stddev, dtype)


def uniform(
    shape: Any,
    minval: Any = 0,
    maxval: Any = None,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return numbers drawn evenly from [minval, maxval), which is [0, 1) for floating ones.

    Raises
    ------
    ValueError
        If the dtype is an integer one and `maxval` is left out.
    """
    return _uniform(_stream(seed), shape, minval, maxval, dtype)


def shuffle(value: Any, seed: int | None = None, name: str | None = None) -> Tensor:
    """Return the rows of a tensor in a random order; as in TensorFlow no gradient flows through."""
    x = convert_to_tensor(value).read()
    order = _stream(seed).permutation(x.shape[0]) if x.ndim else None
    return compute(lambda v: dg.stop_gradient(v if order is None else dg.take(v, order, axis=0)), x)


class Generator:
    """A stream of random numbers of its own, made by `from_seed`.

    Parameters
    ----------
    seed : int, optional
        What fixes the numbers; they differ each time without one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._stream = np.random.Generator(np.random.Philox()) if seed is None else _philox(seed)

    @classmethod
    def from_seed(cls, seed: int, alg: Any = None) -> Generator:
        """Return a generator whose numbers a seed fixes."""
        return cls(int(seed))

    @classmethod
    def from_non_deterministic_state(cls, alg: Any = None) -> Generator:
        """Return a generator whose numbers differ each time."""
        return cls()

    def reset_from_seed(self, seed: int) -> None:
        """Begin anew with a seed."""
        self._stream = _philox(int(seed))

    def normal(
        self,
        shape: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = float32,
        name: str | None = None,
    ) -> Tensor:
        """Return numbers drawn from a normal distribution."""
        return _normal(self._stream, shape, mean, stddev, dtype)

    def truncated_normal(
        self,
        shape: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = float32,
        name: str | None = None,
    ) -> Tensor:
        """Return numbers drawn from a normal distribution, within two standard deviations."""
        return _truncated(self._stream, shape, mean, stddev, dtype)

    def uniform(
        self,
        shape: Any,
        minval: Any = 0,
        maxval: Any = None,
        dtype: Any = float32,
        name: str | None = None,
    ) -> Tensor:
        """Return numbers drawn evenly from [minval, maxval)."""
        return _uniform(self._stream, shape, minval, maxval, dtype)


__all__ = ["Generator", "normal", "set_seed", "shuffle", "truncated_normal", "uniform"]
