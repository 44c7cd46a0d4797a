"""Random numbers for any module: computed on the host from standard bits, and brought over."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from distgrad.backend import counts, philox
from distgrad.backend.philox import Host, Stream

Draw = Callable[[Stream], Host]


def _drawn(backend: Any, streams: Any, shape: tuple[int, ...], draw: Draw) -> Any:
    """Return the numbers of one stream, or of each of an array of streams."""
    host = np.asarray(backend.to_host(streams))
    if host.ndim == 1:
        return backend.asarray(draw(Stream(*host.tolist())).reshape(shape))
    lead = host.shape[:-1]
    each = [draw(Stream(*words)).reshape(shape) for words in host.reshape(-1, 3).tolist()]
    if not each:
        each = [draw(Stream(0, 0, 0)).reshape(shape)]
        return backend.asarray(np.stack(each)[:0].reshape((*lead, *shape)))
    return backend.asarray(np.stack(each).reshape((*lead, *shape)))


def _bits(backend: Any, streams: Any, *, shape: Any, start: int, dtype: Any) -> Any:
    bits = philox.bits64 if np.dtype(dtype).itemsize == 8 else philox.bits32
    return _drawn(backend, streams, shape, lambda s: bits(s, start, prod(shape)))


def _uniform(
    backend: Any, streams: Any, *, shape: Any, start: int, dtype: Any, low: float, high: float
) -> Any:
    def draw(stream: Stream) -> Host:
        u = philox.uniform(stream, start, prod(shape), dtype)
        if (low, high) == (0.0, 1.0):
            return u
        # Each step rounded by itself, which every device does alike; never up to the upper bound.
        kind = u.dtype.type
        u *= kind(high) - kind(low)
        u += kind(low)
        return np.minimum(u, np.nextafter(kind(high), kind(low)), out=u) if low < high else u

    return _drawn(backend, streams, shape, draw)


def _normal(backend: Any, streams: Any, *, shape: Any, start: int, dtype: Any) -> Any:
    return _drawn(backend, streams, shape, lambda s: philox.normal(s, start, prod(shape), dtype))


def _bernoulli(backend: Any, streams: Any, *, shape: Any, start: int, p: float) -> Any:
    return _drawn(backend, streams, shape, lambda s: philox.bernoulli(s, start, prod(shape), p))


def _integers(
    backend: Any, streams: Any, *, shape: Any, start: int, dtype: Any, low: int, high: int
) -> Any:
    def draw(stream: Stream) -> Host:
        return philox.integers(stream, start, prod(shape), low, high, dtype)

    return _drawn(backend, streams, shape, draw)


def _permutation(backend: Any, streams: Any, *, length: int) -> Any:
    return _drawn(backend, streams, (length,), lambda s: philox.permutation(s, length))


def _gamma(backend: Any, streams: Any, concentration: Any, *, start: int) -> Any:
    alpha = np.asarray(backend.to_host(concentration))
    out = np.empty(alpha.shape, np.float64 if alpha.dtype.kind in "biu" else alpha.dtype)
    _fill(backend, streams, alpha, out, lambda s, row: philox.gamma(s, start, row))
    return backend.asarray(out)


def _poisson(backend: Any, streams: Any, rate: Any, *, start: int, dtype: Any) -> Any:
    rates = np.asarray(backend.to_host(rate))
    bad = ~((rates >= 0) & (rates <= counts.LARGEST_RATE))  # NaN too
    if bad.any():
        raise ValueError(f"poisson: a rate is {rates[bad].ravel()[0]}; expected 0 to 2^62")
    chosen = np.dtype(dtype)

    def draw(stream: Stream, row: Host) -> Host:
        numbers = counts.poisson(stream, start, row)
        if chosen.kind not in "iu":
            return numbers
        largest = np.iinfo(chosen).max
        # float(largest) may be the next power of two, which the dtype does not hold.
        over = numbers >= float(largest)
        integers = np.where(over, 0.0, numbers).astype(chosen)
        return np.where(over, chosen.type(largest), integers)

    out = np.empty(rates.shape, chosen)
    _fill(backend, streams, rates, out, draw)
    return backend.asarray(out)


def _fill(
    backend: Any, streams: Any, given: Host, out: Host, draw: Callable[[Stream, Host], Host]
) -> None:
    """Write into `out` what each stream draws for its own row of parameters, as float64."""
    host = np.asarray(backend.to_host(streams))
    if not out.size:
        return
    flat = out.reshape(prod(host.shape[:-1]), -1)
    for place, words in enumerate(host.reshape(-1, 3).tolist()):
        row = given.reshape(flat.shape)[place].astype(np.float64)
        flat[place] = draw(Stream(*words), row)


def _fold(backend: Any, streams: Any, index: Any) -> Any:
    given = index if isinstance(index, int) else backend.to_host(index)
    return backend.asarray(philox.folded(np.asarray(backend.to_host(streams)), given))


def _split(backend: Any, streams: Any, *, count: int) -> Any:
    return backend.asarray(philox.split(np.asarray(backend.to_host(streams)), count))


RANDOM: dict[str, Callable[..., Any]] = {
    "random_bits": _bits,
    "random_uniform": _uniform,
    "random_normal": _normal,
    "random_bernoulli": _bernoulli,
    "random_integers": _integers,
    "random_permutation": _permutation,
    "random_gamma": _gamma,
    "random_poisson": _poisson,
    "random_fold": _fold,
    "random_split": _split,
}
