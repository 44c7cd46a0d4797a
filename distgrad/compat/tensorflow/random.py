"""tf.random: numbers of the library's own generators, in TensorFlow's order of seeds.

The numbers are not TensorFlow's own. What holds is that they are fixed by the global seed and the
operation's: after `set_seed` the same calls give the same numbers; with none they differ each time.
Within `tf.function` they go on from call to call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import distgrad as dg
from distgrad.compat.tensorflow.conversion import dims, floating, operands, tensor_dtype
from distgrad.compat.tensorflow.dtypes import float32, int64
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.missing import refusal
from distgrad.compat.tensorflow.values import Tensor, compute, convert_to_tensor
from distgrad.core.seam import VALUES
from distgrad.eager import current_kernels
from distgrad.shapes import broadcast

__getattr__ = refusal("random")

_DEFAULT_SEED = 87654321  # of an operation with a seed of its own and no global one

_global_seed: int | None = None
_streams: dict[Any, dg.random.Generator] = {}


def set_seed(seed: int) -> None:
    """Set the global seed: the numbers that follow are the same whenever it is set."""
    global _global_seed  # noqa: PLW0603  TensorFlow's setting is global
    _global_seed = int(seed)
    _streams.clear()


def stream_of(seed: int | None) -> dg.random.Generator:
    """Return the generator of an operation's seed, which goes on where its last call stopped."""
    home = current_kernels()
    if seed is None and _global_seed is None:
        key: Any = (None, home)
        seeds: tuple[int, ...] = (secrets.randbits(64),)
    else:
        first = _DEFAULT_SEED if _global_seed is None else _global_seed
        key, seeds = (first, seed, home), (first, 0 if seed is None else int(seed) + 1)
    found = _streams.get(key)
    if found is None:
        found = _streams[key] = _made(*seeds)
    return found


def _made(seed: int, *indices: int) -> dg.random.Generator:
    """Return a generator that outlives the trace in which it may be asked for first."""
    token = VALUES.set(None)
    try:
        generator = dg.random.Generator(seed & _MASK)
        for index in indices:
            generator = generator.fold_in(index)
        return generator
    finally:
        VALUES.reset(token)


_MASK = 2**64 - 1  # seeds are 64 bits, and may be negative


def _scaled(
    draw: Callable[..., dg.Tensor], shape: Any, mean: Any, stddev: Any, dtype: Any
) -> Tensor:
    """Return standard numbers, as a method of a stream draws them, with a mean and a deviation."""
    noise = draw(dims(shape), dtype=tensor_dtype(dtype, float32))
    z, m, s = operands("random", Tensor(noise), mean, stddev)
    return compute(lambda a, b, c: a * c + b, z, m, s)


def _uniform(
    stream: dg.random.Generator, shape: Any, minval: Any, maxval: Any, dtype: Any
) -> Tensor:
    wanted = tensor_dtype(dtype, float32)
    if wanted.kind in "iu":
        if maxval is None:
            raise ValueError(
                f"Must specify maxval for integer dtype {wanted.name}; expected a number"
            )
        low, high = (int(convert_to_tensor(v).numpy()) for v in (minval, maxval))
        return Tensor(stream.integers(low, high, dims(shape), dtype=wanted))
    noise = stream.uniform(dims(shape), dtype=wanted)
    top = 1 if maxval is None else maxval
    z, low, high = operands("random", Tensor(noise), minval, top)
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
    return _scaled(stream_of(seed).normal, shape, mean, stddev, dtype)


def truncated_normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return numbers drawn from a normal distribution, within two standard deviations."""
    return _scaled(stream_of(seed).truncated_normal, shape, mean, stddev, dtype)


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
    return _uniform(stream_of(seed), shape, minval, maxval, dtype)


def gamma(
    shape: Any,
    alpha: Any,
    beta: Any = None,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return gamma-distributed numbers; gradients flow into both parameters.

    Parameters
    ----------
    shape : shape
        How many to draw for each element of the parameters, whose axes follow in the result.
    alpha : Tensor, Variable, array or scalar
        The shape parameter, above 0.
    beta : Tensor, Variable, array or scalar, optional
        The inverse of the scale; 1 by default.
    dtype : DType
        Of the numbers, and of parameters that are not tensors.
    seed : int, optional
        See the module.
    """
    a = convert_to_tensor(alpha, dtype=tensor_dtype(dtype, float32))
    given = operands("Gamma", a, 1.0 if beta is None else beta)

    def of(concentration: Any, rate: Any) -> Any:
        each = broadcast("random_gamma", concentration.shape, rate.shape)
        numbers = stream_of(seed).gamma(concentration, (*dims(shape), *each))
        return numbers if beta is None else dg.divide(numbers, rate)

    return compute(of, *(convert_to_tensor(each) for each in given))


def categorical(
    logits: Any,
    num_samples: Any,
    dtype: Any = None,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Return classes drawn with probabilities softmax(logits), so many for each row.

    Parameters
    ----------
    logits : Tensor, Variable or array of shape (rows, classes)
        Unnormalised log-probabilities, floating.
    num_samples : int
        How many to draw for each row.
    dtype : DType
        int32 or int64, which is the default.
    seed : int, optional
        See the module.

    Returns
    -------
    Tensor
        Of shape ``(rows, num_samples)``; no gradient flows through.

    Raises
    ------
    InvalidArgumentError
        If the logits are no matrix or have no classes, or the number of samples is negative.
    ValueError
        If the dtype is another one.
    """
    wanted = tensor_dtype(dtype, int64)
    if wanted.name not in ("int32", "int64"):
        raise ValueError(
            f"Argument `dtype` got invalid value {wanted.name}; expected tf.int32 or tf.int64"
        )
    rows = floating("categorical", logits)
    count = int(convert_to_tensor(num_samples).numpy())
    shape = tuple(rows.shape)
    if len(shape) != 2 or not shape[1]:
        raise InvalidArgumentError(
            f"logits should be a matrix, got shape {list(shape)}; expected (rows, classes), with a "
            "class at least"
        )
    if count < 0:
        raise InvalidArgumentError(f"num_samples should be non-negative, got {count}")

    def of(x: dg.Tensor) -> Any:
        classes = stream_of(seed).categorical(dg.expand_dims(x, axis=1), (shape[0], count))
        return dg.astype(dg.stop_gradient(classes), wanted)

    return compute(of, rows)


def shuffle(value: Any, seed: int | None = None, name: str | None = None) -> Tensor:
    """Return the rows of a tensor in a random order; as in TensorFlow no gradient flows through."""
    x = convert_to_tensor(value).read()
    order = stream_of(seed).permutation(x.shape[0]) if x.ndim else None
    return compute(lambda v: dg.stop_gradient(v if order is None else dg.take(v, order, axis=0)), x)


class Generator:
    """A stream of random numbers of its own, made by `from_seed`.

    Parameters
    ----------
    seed : int, optional
        What fixes the numbers; they differ each time without one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._stream = _made(secrets.randbits(64) if seed is None else int(seed))

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
        self._stream = _made(int(seed))

    def split(self, count: int = 1) -> list[Generator]:
        """Return generators of their own."""
        children = []
        for stream in self._stream.split(count):
            child = Generator.__new__(Generator)
            child._stream = stream
            children.append(child)
        return children

    def normal(
        self,
        shape: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = float32,
        name: str | None = None,
    ) -> Tensor:
        """Return numbers drawn from a normal distribution."""
        return _scaled(self._stream.normal, shape, mean, stddev, dtype)

    def truncated_normal(
        self,
        shape: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = float32,
        name: str | None = None,
    ) -> Tensor:
        """Return numbers drawn from a normal distribution, within two standard deviations."""
        return _scaled(self._stream.truncated_normal, shape, mean, stddev, dtype)

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


__all__ = [
    "Generator",
    "categorical",
    "gamma",
    "normal",
    "set_seed",
    "shuffle",
    "truncated_normal",
    "uniform",
]
