"""Moments of channels, and what is normalized by them: batch norm and its pullback.

The axes that stay are neighbours (the last one, that of channels before an image, or examples and
channels together), or some are in front and the others neighbours: examples, and groups of channels
on the last axis. Memory is read once for moments, and once more for what they normalize.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from distgrad.ops.rules.families import fit
from distgrad_cupy.running import (
    ELEMENTS,
    THREADS,
    Runner,
    addition_dtype,
    blocks_for,
    composed,
    name_of,
)

Array = Any

# These are the source's, too.
_JOINING = 64
_AT_ONCE = 8

_BLOCKS = 1024  # that go through an array: some for each multiprocessor of any device
_TURNS = 4  # of a thread with elements at once, before a part is worth being one
_FEWEST = 16  # elements of a channel that has a block to itself
_MOST_PARTS = 65_535  # along the second axis of a grid
_MOST_CHANNELS = 2**31 - 1  # along the first


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Return the kernels of operations over channels.

    Parameters
    ----------
    run : Runner
        What starts them.
    """
    return {
        "moments": partial(_moments, run),
        "normalize": partial(_normalize, run),
        "normalize_vjp": partial(_normalize_vjp, run),
        "batch_norm": partial(_batch_norm, run),
        "batch_norm_vjp": partial(_batch_norm_vjp, run),
    }


class Channels:
    """An array as channels, each with the elements over which it is averaged.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    x : array
        Contiguous.
    kept : tuple of int
        Its shape with 1 for the axes to average over.
    leads : int
        How often there are channels of their own, one after the other; see `_leads`.
    """

    def __init__(self, run: Runner, x: Array, kept: tuple[int, ...], leads: int) -> None:
        self._run = run
        self.x, self.kept = x, kept
        self._elements = name_of(x.dtype)
        self._added = addition_dtype(self._elements)
        last = max((axis for axis, length in enumerate(kept) if length > 1), default=-1)
        inner = prod(x.shape[last + 1 :])
        self.channels = prod(kept)
        self.n = x.size // self.channels
        per = self.channels // leads
        self._shape = tuple(np.int64(each) for each in (self.channels, inner, self.n, per))
        # Of channels on the last axis neighbours are neighbours in memory, too.
        lanes = 1 << (min(self.channels, THREADS) - 1).bit_length() if inner == 1 else 1
        across = -(-self.channels // lanes)
        least = THREADS // lanes * _AT_ONCE * _TURNS
        parts = min(max(_BLOCKS // across, 1), -(-self.n // least), _MOST_PARTS)
        length = -(-self.n // parts)
        self._parts = -(-self.n // length)
        self._cut = (np.int64(length), np.int32(lanes))
        self._grid = (across, self._parts)

    @property
    def is_wasteful(self) -> bool:
        """Whether a block for each channel would leave nearly all of its threads idle."""
        return self._cut[1] == 1 and self.n < _FEWEST and self.channels > 1

    def _launch(self, name: str, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
        self._run.launch("channels", name, self._elements, grid, threads, arguments)

    def numbers(self, count: int = 1) -> list[Array]:
        """Return arrays of a number for each channel, in the dtype in which they are added up."""
        rows = self._run.module.empty((count, self.channels), self._added)
        return [rows[place] for place in range(count)]

    def wide(self, given: Array) -> Array:
        """Return numbers that were given for the channels, in the dtype of `numbers`."""
        flat = self._run.module.ascontiguousarray(given).reshape(-1)
        return flat.astype(self._added, copy=False)

    def own(self, numbers: Array) -> Array:
        """Return numbers of the channels in the dtype and with the axes of x."""
        return numbers.astype(self.x.dtype, copy=False).reshape(self.kept)

    def moments(self, scale: Array | None = None, epsilon: float | None = None) -> list[Array]:
        """Return mean, variance and, if there is an epsilon, factor of each channel."""
        found = self.numbers(2 if epsilon is None else 3)
        parts = self._run.module.empty((self._parts, self.channels, 3), self._added)
        self._launch(
            "channel_moments", self._grid, THREADS, self.x, parts, *self._shape, *self._cut
        )
        arguments = (parts, scale, *found, None)[:5]
        counts = (self._shape[0], self._shape[2], np.int32(self._parts))
        grid = (min(self.channels, _MOST_CHANNELS),)
        self._launch("join_moments", grid, _JOINING, *arguments, *counts, np.float64(epsilon or 0))
        return found

    def factors(self, variance: Array, scale: Array | None, epsilon: float) -> Array:
        """Return by what deviations are multiplied."""
        (found,) = self.numbers()
        grid = (-(-self.channels // THREADS),)
        how = (self._shape[0], np.float64(epsilon))
        self._launch("channel_factors", grid, THREADS, variance, scale, found, *how)
        return found

    def normalized(self, mean: Array, factor: Array, shift: Array | None) -> Array:
        """Return (x - mean) factor + shift."""
        out = self._run.module.empty(self.x.shape, self.x.dtype)
        arguments = (self.x, mean, factor, shift, out, *self._shape)
        self._launch("normalize_channels", (blocks_for(out.size),), THREADS, *arguments)
        return out

    def pulled(
        self,
        g: Array,
        mean: Array,
        variance: Array,
        affine: list[Array],
        epsilon: float,
        *,
        given: tuple[Array | None, Array | None] | None = None,
    ) -> tuple[Array, ...]:
        """Return cotangents of x, of mean and variance unless these are its own, and of affine.

        Parameters
        ----------
        g : array
            Contiguous, of the shape of x.
        mean, variance : array
            Of each channel, in the dtype of `numbers`.
        affine : list of array
            Scale, and shift.
        epsilon : float
            Added to the variance.
        given : tuple of array, optional
            The cotangents of mean and variance that are x's own.
        """
        module, x = self._run.module, self.x
        scale = affine[0] if affine else None
        parts = module.empty((self._parts, self.channels, 2), self._added)
        arguments = (g, x, mean, parts, *self._shape, *self._cut)
        self._launch("channel_sums", self._grid, THREADS, *arguments)
        is_own = given is not None
        factor, *through = self.numbers(3 if is_own else 1)
        to_moments = [None if is_own else module.empty(self.channels, x.dtype) for _ in range(2)]
        to_affine = [module.empty(self.channels, x.dtype) for _ in affine]
        made = (factor, *(through or (None, None)), *to_moments, *(*to_affine, None, None)[:2])
        counts = (self._shape[0], self._shape[2], np.int32(self._parts), np.float64(epsilon))
        taken = (parts, variance, scale, *(given or (None, None)))
        grid = (min(self.channels, _MOST_CHANNELS),)
        self._launch("join_sums", grid, _JOINING, *taken, *made, *counts)
        out = module.empty(x.shape, x.dtype)
        arguments = (g, x, mean, factor, *(through or (None, None)), out, *self._shape)
        self._launch("pull_channels", (blocks_for(out.size),), THREADS, *arguments)
        rest = [each for each in (*to_moments, *to_affine) if each is not None]
        return (out, *(each.reshape(self.kept) for each in rest))


def _channels(
    run: Runner, x: Array, kept: tuple[int, ...], *others: Array, like: tuple[Array, ...] = ()
) -> Channels | None:
    """Return an array as channels; None where no kernel takes it.

    Parameters
    ----------
    run : Runner
        What starts kernels.
    x : array
        The array.
    kept : tuple of int
        Its shape with 1 for the axes to average over.
    *others : array
        Of which kernels read a number for each channel.
    like : tuple of array
        Of which they read as many elements as of x.
    """
    fits = name_of(x.dtype) in ELEMENTS and x.size > 0 and len(kept) == x.ndim
    fits = fits and all(each.dtype == x.dtype for each in (*others, *like))
    fits = fits and all(tuple(each.shape) == kept for each in others)
    if not fits or any(each.shape != x.shape for each in like):
        return None
    if not all(own in (1, length) for own, length in zip(kept, x.shape, strict=True)):
        return None
    leads = _leads(x.shape, kept)
    if leads is None:
        return None
    found = Channels(run, run.module.ascontiguousarray(x), kept, leads)
    return None if found.is_wasteful else found


def _leads(shape: tuple[int, ...], kept: tuple[int, ...]) -> int | None:
    """Return how often there are channels of their own; None where axes stay in other places."""
    stays = [own > 1 for own, length in zip(kept, shape, strict=True) if length > 1]
    lengths = [length for length in shape if length > 1]
    runs = [
        place for place, own in enumerate(stays) if own and (place == 0 or not stays[place - 1])
    ]
    if len(runs) < 2:
        return 1
    if len(runs) > 2 or runs[0] > 0:
        return None
    return prod(lengths[: stays.index(False)])


def _kept(x: Array, axes: tuple[int, ...]) -> tuple[int, ...]:
    averaged = {axis % x.ndim for axis in axes}
    return tuple(1 if axis in averaged else length for axis, length in enumerate(x.shape))


def _flat(run: Runner, given: tuple[Array, ...]) -> list[Array]:
    return [run.module.ascontiguousarray(each).reshape(-1) for each in given]


def _moments(run: Runner, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    found = _channels(run, x, _kept(x, axes)) if axes else None
    if found is None:
        whole: tuple[Array, Array] = composed(run, "moments", x, axes=axes)
        return whole
    mean, variance = found.moments()
    return found.own(mean), found.own(variance)


def _normalize(
    run: Runner, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> Array:
    found = _channels(run, x, tuple(mean.shape), mean, variance, *affine)
    if found is not None:
        scale, shift = (*_flat(run, affine), None, None)[:2]
        factor = found.factors(found.wide(variance), scale, epsilon)
        return found.normalized(found.wide(mean), factor, shift)
    apart = _channels_alone(run, x, mean, variance, affine)
    if apart is None:
        return composed(run, "normalize", x, mean, variance, *affine, epsilon=epsilon)
    xp, result = run.namespace(), _plain(apart, mean, variance, epsilon)
    for name, each in zip(("multiply", "add"), affine, strict=False):
        result = getattr(xp, name)(result, each)
    return result


def _channels_alone(
    run: Runner, x: Array, mean: Array, variance: Array, affine: tuple[Array, ...]
) -> Channels | None:
    """Return an array as channels whose factor and shift are others', as those of groups are.

    None where numbers of half precision would be rounded between the two.
    """
    alike = x.dtype.itemsize >= 4 and all(each.dtype == x.dtype for each in affine)
    return _channels(run, x, tuple(mean.shape), mean, variance) if affine and alike else None


def _plain(found: Channels, mean: Array, variance: Array, epsilon: float) -> Array:
    """Return x normalized, without factor and shift."""
    factor = found.factors(found.wide(variance), None, epsilon)
    return found.normalized(found.wide(mean), factor, None)


def _normalize_vjp(
    run: Runner, g: Array, x: Array, mean: Array, variance: Array, *affine: Array, epsilon: float
) -> tuple[Array, ...]:
    given = (mean, variance, *affine)
    found = _channels(run, x, tuple(mean.shape), *given, like=(g,))
    own = run.module.ascontiguousarray(g)
    if found is not None:
        rows = _flat(run, affine)
        return found.pulled(own, found.wide(mean), found.wide(variance), rows, epsilon)
    apart = _channels_alone(run, x, mean, variance, affine) if g.shape == x.shape else None
    if apart is None or g.dtype != x.dtype:
        whole: tuple[Array, ...] = composed(run, "normalize_vjp", g, x, *given, epsilon=epsilon)
        return whole
    xp, scale = run.namespace(), affine[0]
    along = xp.multiply(own, _plain(apart, mean, variance, epsilon))
    to_affine = [fit(xp, each, of) for each, of in zip((along, own), affine, strict=False)]
    scaled = run.module.ascontiguousarray(xp.multiply(own, scale))
    rest = apart.pulled(scaled, apart.wide(mean), apart.wide(variance), [], epsilon)
    return (*rest, *to_affine)


def _batch_norm(
    run: Runner, x: Array, *affine: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, ...]:
    found = _channels(run, x, _kept(x, axes), *affine) if axes else None
    if found is None:
        whole: tuple[Array, ...] = composed(
            run, "batch_norm", x, *affine, axes=axes, epsilon=epsilon
        )
        return whole
    scale, shift = (*_flat(run, affine), None, None)[:2]
    mean, variance, factor = found.moments(scale, epsilon)
    return found.normalized(mean, factor, shift), found.own(mean), found.own(variance)


def _batch_norm_vjp(
    run: Runner,
    g: Array,
    to_mean: Array,
    to_variance: Array,
    x: Array,
    mean: Array,
    variance: Array,
    *affine: Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> tuple[Array, ...]:
    others = (to_mean, to_variance, mean, variance, *affine)
    found = _channels(run, x, _kept(x, axes), *others, like=(g,)) if axes else None
    if found is None:
        taken = (g, to_mean, to_variance, x, mean, variance, *affine)
        whole: tuple[Array, ...] = composed(
            run, "batch_norm_vjp", *taken, axes=axes, epsilon=epsilon
        )
        return whole
    if x.dtype.itemsize < 4:  # what is left of the moments has lost digits
        centre, spread = found.moments()
    else:
        centre, spread = found.wide(mean), found.wide(variance)
    by_mean, by_variance = _flat(run, (to_mean, to_variance))
    own, affine_rows = run.module.ascontiguousarray(g), _flat(run, affine)
    return found.pulled(own, centre, spread, affine_rows, epsilon, given=(by_mean, by_variance))
