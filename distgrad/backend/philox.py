"""Random numbers from the counter-based generator Philox4x64-10, on the host.

A *stream* is three 64-bit words: a key of two, and how many draws were made under it. The bits of a
draw are the blocks Philox(key, counter) with the counter

    (block, draw, part, domain)

so that any element of any draw is computed without those before it, on any machine. The domain
keeps apart what numbers are made of and what keys are made of.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Host = np.ndarray[Any, Any]

NUMBERS, FOLDED, SPLIT, AGAIN = 0, 1, 2, 3  # the domains

_MASK = 2**64 - 1
# The constants of Philox4x64, from table 2 of the reference's source, `philox.h` of Random123.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_FACTORS, _STEPS = np.array(_MULTIPLIERS, np.uint64), np.array(_WEYL, np.uint64)
_ROUNDS = 10

_BLOCK = 4  # words of 64 bits
_FEW = 8  # up to so many keys Python's integers are faster than NumPy's
_PIECE = 1 << 13  # numbers computed at a time, so that their temporaries stay in the cache


class Stream(NamedTuple):
    """The three words of a stream, as Python integers."""

    key_low: int
    key_high: int
    draw: int


def blocks(keys: tuple[Any, Any], counters: tuple[Any, Any, Any, Any]) -> list[Host]:
    """Return the four words of blocks of Philox4x64-10, for keys and counters that broadcast.

    Parameters
    ----------
    keys : tuple of array_like of uint64
        The two words of each key.
    counters : tuple of array_like of uint64
        The four words of each counter.
    """
    words = [np.asarray(word, np.uint64) for word in (*counters, *keys)]
    ndim = max(word.ndim for word in words)
    x0, x1, x2, x3, k0, k1 = (word[(None,) * (ndim - word.ndim)] for word in words)
    # A round does the same with both halves: they lie in one array, for half the calls of NumPy.
    shape = np.broadcast_shapes(*(word.shape for word in words))
    here, there = np.empty((2, *shape), np.uint64), np.empty((2, *shape), np.uint64)
    here[0], here[1], there[0], there[1] = x0, x2, x1, x3
    keys_of_both = np.stack(np.broadcast_arrays(k0, k1))
    columns = (slice(None), *(None,) * ndim)
    factors, steps = _FACTORS[columns], _STEPS[columns]
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64
        for _ in range(_ROUNDS):
            high, low = _wide_product(here, factors)
            here = high[::-1] ^ there
            here ^= keys_of_both
            there = low[::-1]
            keys_of_both = keys_of_both + steps
    return [here[0], there[0], here[1], there[1]]


def _wide_product(x: Host, factor: Any) -> tuple[Host, Host]:
    """Return the upper and the lower 64 bits of products of 64-bit integers."""
    half, lower = np.uint64(32), np.uint64(0xFFFFFFFF)
    b0, b1 = factor & lower, factor >> half
    a0, a1 = x & lower, x >> half
    middle = a0 * b0
    middle >>= half
    middle += a1 * b0
    a0 *= b1
    a0 += middle & lower
    a0 >>= half
    a1 *= b1
    middle >>= half
    a1 += middle
    a1 += a0
    return a1, x * factor


# --- keys made of keys ----------------------------------------------------------------------------


def folded(streams: Host, indices: Any) -> Host:
    """Return streams whose keys are hashed from keys and integers, which broadcast.

    Parameters
    ----------
    streams : uint64, shape (..., 3)
        Only their keys matter.
    indices : array_like of int
        Taken modulo 2^64.
    """
    if isinstance(indices, int):
        indices = indices & _MASK
    index = np.asarray(indices)
    index = index.astype(np.uint64) if index.dtype != np.uint64 else index
    if streams.ndim == 1 and not index.ndim:
        return _key_of(streams.tolist(), (int(index), 0, 0, FOLDED))
    low, high = streams[..., 0], streams[..., 1]
    words = blocks((low, high), (index, 0, 0, FOLDED))
    return np.stack([words[0], words[1], np.zeros_like(words[0])], axis=-1)


def split(streams: Host, count: int) -> Host:
    """Return `count` streams for each, shape (..., count, 3), which depend on its draws so far."""
    if streams.ndim == 1 and 0 < count <= _FEW:
        stream = streams.tolist()
        return np.stack([_key_of(stream, (i, stream[2], 0, SPLIT)) for i in range(count)])
    low, high, draw = (streams[..., i, None] for i in range(3))
    words = blocks((low, high), (np.arange(count, dtype=np.uint64), draw, 0, SPLIT))
    return np.stack([words[0], words[1], np.zeros_like(words[0])], axis=-1)


def _key_of(stream: list[int], counter: tuple[int, int, int, int]) -> Host:
    """Return a new stream's words, by Python's integers: thirty times as fast for a single one."""
    k0, k1, _ = stream
    x0, x1, x2, x3 = counter
    for _ in range(_ROUNDS):
        first, second = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            second >> 64 ^ x1 ^ k0,
            second & _MASK,
            first >> 64 ^ x3 ^ k1,
            first & _MASK,
        )
        k0, k1 = k0 + _WEYL[0] & _MASK, k1 + _WEYL[1] & _MASK
    return np.array([x0, x1, 0], np.uint64)


# --- bits -----------------------------------------------------------------------------------------


class _Local(threading.local):
    """A bit generator of NumPy's for each thread: setting one costs a seventh of making one."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.numbers = np.random.Generator(self.bits)
        self.state: Any = self.bits.state


@cache
def _local() -> _Local:
    """Return each thread's own; not before numbers are drawn, as NumPy imports these late, too."""
    return _Local()


def _at(stream: Stream, block: int, part: int) -> _Local:
    """Return this thread's generator, about to give the words of a block."""
    # NumPy counts up before it computes a block, with a carry: so it starts one before.
    start = ((block | stream.draw << 64 | part << 128 | NUMBERS << 192) - 1) % 2**256
    local = _local()
    state = local.state
    state["state"] = {
        "counter": np.array([start >> shift & _MASK for shift in (0, 64, 128, 192)], np.uint64),
        "key": np.array([stream.key_low, stream.key_high], np.uint64),
    }
    state["buffer_pos"], state["has_uint32"] = _BLOCK, 0
    local.bits.state = state
    return local


def bits64(stream: Stream, start: int, count: int, part: int = 0) -> Host:
    """Return words of 64 bits, from the word `start` of the draw on."""
    block, skipped = divmod(start, _BLOCK)
    words: Host = _at(stream, block, part).bits.random_raw(skipped + count)
    return words[skipped:]


def bits32(stream: Stream, start: int, count: int, part: int = 0) -> Host:
    """Return words of 32 bits; two are one of 64 bits, its lower half first."""
    first = start // 2
    words = bits64(stream, first, (start + count + 1) // 2 - first, part)
    halves = words.astype("<u8", copy=False).view("<u4")
    skipped = start - 2 * first
    return halves[skipped : skipped + count].astype(np.uint32, copy=False)


# --- numbers --------------------------------------------------------------------------------------


def uniform(stream: Stream, start: int, count: int, dtype: Any, part: int = 0) -> Host:
    """Return the numbers k / 2^p in [0, 1), where p is the precision of the dtype in bits.

    k is the upper p bits of a word: of 64 bits for float64, else of 32.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        precision = _precision(dtype)
        upper = bits32(stream, start, count, part) >> np.uint32(32 - precision)
        return (upper.astype(np.float32) * np.float32(2.0**-precision)).astype(dtype)
    per_block = _BLOCK if dtype == np.float64 else 2 * _BLOCK
    block, skipped = divmod(start, per_block)
    # NumPy's own uniform numbers are these very ones.
    return _at(stream, block, part).numbers.random(skipped + count, dtype=dtype)[skipped:]


def _precision(dtype: Any) -> int:
    """Return how many bits a floating dtype has for its digits, the leading one included."""
    if dtype == np.float16:
        return 11
    one = np.ones((), dtype)
    return 1 - math.frexp(float(np.nextafter(one, dtype.type(2)) - one))[1] + 1


def normal(stream: Stream, start: int, count: int, dtype: Any, part: int = 0) -> Host:
    """Return normal numbers by the transform of Box and Muller: of two words, two numbers.

    The radius comes from the even word, the angle from the odd one. Bits are the same everywhere;
    logarithm, sine and cosine may differ in the last digit between machines.
    """
    dtype = np.dtype(dtype)
    wide = dtype == np.float64
    work: Any = np.float64 if wide else np.float32
    first = start - start % 2
    total = start + count + (start + count) % 2 - first
    out = np.empty(total, work)
    for offset in range(0, total, 2 * _PIECE):
        size = min(2 * _PIECE, total - offset)
        words = (bits64 if wide else bits32)(stream, first + offset, size, part)
        _box_muller(words[0::2], words[1::2], out[offset : offset + size])
    found = out[start - first : start - first + count]
    return found.astype(dtype, copy=False)


def _box_muller(radii: Host, angles: Host, out: Host) -> None:
    work = out.dtype.type
    width = 64 if out.dtype == np.float64 else 32
    digits = 53 if width == 64 else 24
    # In (0, 1]: all bits count, so that the tail reaches to 6.8 deviations for float32, else 9.5.
    radius = radii.astype(work)
    radius *= work(2.0**-width)
    radius += work(2.0 ** -(width + 1))
    np.log(radius, out=radius)
    radius *= work(-2.0)
    np.sqrt(np.abs(radius, out=radius), out=radius)
    angle = (angles >> angles.dtype.type(width - digits)).astype(work)
    angle *= work(2.0 * math.pi * 2.0**-digits)
    np.multiply(radius, np.cos(angle), out=out[0::2])
    np.multiply(radius, np.sin(angle), out=out[1::2])


def bernoulli(stream: Stream, start: int, count: int, p: float) -> Host:
    """Return whether words of 32 bits are below p 2^32, rounded."""
    threshold = round(p * 2.0**32)
    if threshold >= 2**32:
        return np.ones(count, np.bool_)
    return bits32(stream, start, count) < np.uint32(threshold)


def integers(stream: Stream, start: int, count: int, low: int, high: int, dtype: Any) -> Host:
    """Return low + floor(w (high - low) / 2^64), for words w of 64 bits.

    An integer is off its share by less than (high - low) / 2^64 of it: no rejection, so that each
    number has a word of its own.
    """
    out = np.empty(count, np.dtype(dtype))
    span = high - low
    for offset in range(0, count, _PIECE):
        words = bits64(stream, start + offset, min(_PIECE, count - offset))
        if span < 2**64:
            words = _wide_product(words, np.uint64(span))[0]
        with np.errstate(over="ignore"):  # modulo 2^64, which is what two's complement means
            words = words + np.uint64(low & _MASK)
        out[offset : offset + _PIECE] = words.view(np.int64) if low < 0 else words
    return out


def permutation(stream: Stream, length: int) -> Host:
    """Return 0 ... length - 1 in random order: the order of as many words of 64 bits."""
    words = bits64(stream, 0, length)
    order = np.argsort(words)  # ten times as fast as a stable order
    sorted_words = words[order]
    if (sorted_words[1:] == sorted_words[:-1]).any():  # then only a stable one is the same anywhere
        order = np.argsort(words, kind="stable")
    return order.astype(np.int64, copy=False)


def gamma(stream: Stream, start: int, concentration: Host) -> Host:
    """Return gamma-distributed numbers of scale 1 by Marsaglia and Tsang's method, as float64.

    Parameters
    ----------
    stream : Stream
        The draw.
    start : int
        The place of the first number in the draw.
    concentration : float64, one axis
        Above 0, infinity for infinity; NaN elsewhere.

    References
    ----------
    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000).
    """
    count = len(concentration)
    valid = (concentration > 0) & (concentration < np.inf)  # of which no try would be accepted
    alpha = np.where(valid, concentration, 1.0)
    small = alpha < 1
    d = np.where(small, alpha + 1, alpha) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    x = normal(stream, start, count, np.float64, part=1)
    u = 1 - uniform(stream, start, count, np.float64, part=2)
    cube, accepted = _tried(d, c, x, u)
    waiting = np.flatnonzero(~accepted)
    attempt = 1
    while waiting.size:  # one in 20 at most; each tries again with a block of its own
        places = (waiting + start).astype(np.uint64)
        words = blocks(stream[:2], (places, stream.draw, attempt, AGAIN))
        pair = np.empty(2 * len(waiting))
        _box_muller(words[0], words[1], pair)
        u = ((words[2] >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53
        tried, accepted = _tried(d[waiting], c[waiting], pair[0::2], u)
        cube[waiting] = tried
        waiting = waiting[~accepted]
        attempt += 1
    result = d * cube
    if small.any():  # G(a) = G(a + 1) U^(1/a)
        u = 1 - uniform(stream, start, count, np.float64)
        result = np.where(small, result * u ** (1 / alpha), result)
    return np.where(valid, result, np.where(concentration == np.inf, np.inf, np.nan))


def _tried(d: Host, c: Host, x: Host, u: Host) -> tuple[Host, Host]:
    """Return (1 + c x)^3, and where it is accepted."""
    cube = np.maximum(1 + c * x, 0) ** 3
    with np.errstate(divide="ignore"):
        accepted = np.log(u) < x * x / 2 + d - d * cube + d * np.log(cube)
    return cube, accepted & (cube > 0)
