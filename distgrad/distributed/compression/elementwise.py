"""Fewer bytes a number: slices travel as codes, are added up in float32, and travel as codes again.

MPI's own sum of half precision rounds at every addition, is slower than that of twice the bytes in
the common MPIs, and does not exist for bfloat16 and int8 with a scale. So no rank lets MPI add:
each one adds up one slice of the message in float32, in the order of the ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from distgrad.distributed.compression.protocol import Shares
from distgrad.distributed.verbs.communicator import Array, Communicator

_HALF_EXPONENT = 15  # below 2**15 nothing overflows: the largest of float16 is 65504
_INT8_MOST = 127

# Numbers coded at a time: what is in between stays in the cache. Coding 4 million as bfloat16 takes
# 45 ms at once and 8 ms so, with 2**13 12 and with 2**18 13 ms (one core, measured alone).
_AT_A_TIME = 2**15


class Elementwise(ABC):
    """A compression that codes a run of numbers by itself, whatever variables they belong to.

    Subclasses say how many bytes a run of numbers takes, which its length alone may decide, and how
    to code and decode one; then ``add_up`` is complete.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """The name and all settings."""

    @abstractmethod
    def code_bytes(self, length: int) -> int:
        """Return how many bytes stand for so many numbers."""

    @abstractmethod
    def encode(self, values: Array) -> Array:
        """Return what stands for a run of float32 numbers, as uint8 of shape (code_bytes,)."""

    @abstractmethod
    def decode(self, code: Array, length: int) -> Array:
        """Return the numbers, as float32 of shape (length,), that a code stands for."""

    def __repr__(self) -> str:
        return f"<compression {self.description}>"

    def add_up(self, comm: Communicator, shares: Shares) -> int:
        """Put the sum of all ranks' shares in their place; see `Compression`.

        Notes
        -----
        A number is rounded twice: what a rank sends, and the sum. No rounding depends on what the
        other ranks send, and the sum in between is one in float32.
        """
        flat, size = shares.flat, comm.size
        bounds = [rank * flat.size // size for rank in range(size + 1)]
        lengths = [stop - start for start, stop in pairwise(bounds)]
        sizes = [self.code_bytes(length) for length in lengths]
        with np.errstate(over="ignore"):  # float64 that float32 does not hold becomes infinite
            pieces = [flat[a:b].astype(np.float32, copy=False) for a, b in pairwise(bounds)]
        sent = np.concatenate([self.encode(piece) for piece in pieces])
        received = comm.alltoallv(sent, np.tile(np.array(sizes, np.int64), (size, 1)))
        own, width = lengths[comm.rank], sizes[comm.rank]
        total = self.decode(received[:width], own)
        for rank in range(1, size):
            total += self.decode(received[rank * width : (rank + 1) * width], own)
        codes = comm.allgatherv(self.encode(total), sizes)
        start = 0
        for (a, b), width in zip(pairwise(bounds), sizes, strict=True):
            flat[a:b] = self.decode(codes[start : start + width], b - a)
            start += width
        return sum(sizes)


class InBlocks(Elementwise):
    """Numbers coded in blocks that share a scale, in float32, before the codes.

    Parameters
    ----------
    function : str
        Whose argument the block is.
    block : int
        How many numbers share a scale.
    dtype : numpy.dtype
        Of a number's code.

    Raises
    ------
    ValueError
        If `block` is less than 1.
    """

    def __init__(self, function: str, block: int, dtype: Any) -> None:
        if block < 1:
            raise ValueError(f"{function}: block is {block}; expected 1 number or more a scale")
        self._block = int(block)
        self._dtype: np.dtype[Any] = np.dtype(dtype)

    @abstractmethod
    def _scales_of(self, largest: Array) -> Array:
        """Return the scales of blocks from their largest magnitudes, which may not be finite."""

    @abstractmethod
    def _code(self, values: Array, scales: Array) -> Array:
        """Return the codes of blocks of shape (n, block) for scales of shape (n, 1)."""

    @abstractmethod
    def _value(self, codes: Array, scales: Array) -> Array:
        """Return what codes of shape (n, block) stand for."""

    def code_bytes(self, length: int) -> int:
        """Return how many bytes stand for so many numbers."""
        return 4 * -(-length // self._block) + int(self._dtype.itemsize) * length

    def encode(self, values: Array) -> Array:
        """Return scales, then codes."""
        code = np.empty(self.code_bytes(values.size), np.uint8)
        scales, codes = self._parted(code, values.size)
        for blocks, numbers in self._runs(values.size):
            rows = values[numbers].reshape(blocks.stop - blocks.start, -1)
            largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
            scales[blocks] = self._scales_of(largest)
            codes[numbers] = self._code(rows, scales[blocks, np.newaxis]).reshape(-1)
        return code

    def decode(self, code: Array, length: int) -> Array:
        """Return what scales and codes stand for."""
        # Copied where it starts at an odd place: messages lie end to end.
        aligned = code if code.ctypes.data % 4 == 0 else code.copy()
        scales, codes = self._parted(aligned, length)
        result = np.empty(length, np.float32)
        for blocks, numbers in self._runs(length):
            rows = codes[numbers].reshape(blocks.stop - blocks.start, -1)
            result[numbers] = self._value(rows, scales[blocks, np.newaxis]).reshape(-1)
        return result

    def _parted(self, code: Array, length: int) -> tuple[Array, Array]:
        """Return views of the scales and of the numbers of a code."""
        scales = -(-length // self._block) * 4
        return code[:scales].view(np.float32), code[scales:].view(self._dtype)

    def _runs(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Yield runs of whole blocks, as blocks and as numbers; then the rest, shorter than one."""
        block, whole = self._block, length // self._block
        at_once = max(_AT_A_TIME // block, 1)
        for first in range(0, whole, at_once):
            last = min(first + at_once, whole)
            yield slice(first, last), slice(first * block, last * block)
        if whole * block < length:
            yield slice(whole, whole + 1), slice(whole * block, length)


class FP16(InBlocks):
    """Half precision: 2 bytes a number, of 11 significant bits.

    Parameters
    ----------
    block : int
        How many numbers share a scale, a power of two, by which the largest of them comes close to
        the largest that half precision holds: none overflows, and only what is less than 10⁻⁸
        of its block's largest loses digits. 4 bytes a block.

    Raises
    ------
    ValueError
        If `block` is less than 1.

    Notes
    -----
    Without scales, sums beyond 65504 would become infinite and numbers below 6e-8 zero. NaN and
    infinities stay what they are.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> dist.compression.FP16()
    <compression fp16(block=4096)>
    """

    def __init__(self, block: int = 4096) -> None:
        super().__init__("FP16", block, np.float16)

    @property
    def description(self) -> str:
        """The name and all settings."""
        return f"fp16(block={self._block})"

    def _scales_of(self, largest: Array) -> Array:
        finite = np.isfinite(largest)
        # 2**(15 - e) with largest = m 2**e and m < 1, so that all lies below 2**15.
        exponents = _HALF_EXPONENT - np.frexp(np.where(finite, largest, 1.0))[1]
        # What is smaller than float32's normal numbers cannot be scaled up by so much.
        scales = np.ldexp(np.float32(1), np.clip(exponents, -126, 126))
        return np.where(finite, scales, 1).astype(np.float32)

    def _code(self, values: Array, scales: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # beside what is infinite already
            return (values * scales).astype(np.float16)

    def _value(self, codes: Array, scales: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return codes.astype(np.float32) * (1 / scales)


class BF16(Elementwise):
    """bfloat16, the upper half of float32: 2 bytes a number, of 8 significant bits.

    Notes
    -----
    Rounds to the nearest, ties to even. All that float32 holds is in range, but for what rounds up
    beyond its largest number; NaN and infinities stay what they are. Needs no ``ml_dtypes``.
    """

    @property
    def description(self) -> str:
        """The name."""
        return "bf16"

    def code_bytes(self, length: int) -> int:
        """Return how many bytes stand for so many numbers."""
        return 2 * length

    def encode(self, values: Array) -> Array:
        """Return the upper halves, rounded."""
        code = np.empty(values.size, np.uint16)
        for start in range(0, values.size, _AT_A_TIME):
            bits = np.ascontiguousarray(values[start : start + _AT_A_TIME]).view(np.uint32)
            # Half of the last place, less one where the last place is even already, then cut off.
            rounded = (bits >> 16) & 1
            rounded += 0x7FFF
            rounded += bits
            rounded >>= 16
            # Adding may carry a NaN's digits into its sign: it keeps its upper ones, and one set.
            not_numbers = np.isnan(bits.view(np.float32))
            if not_numbers.any():
                rounded = np.where(not_numbers, (bits >> 16) | 0x40, rounded)
            code[start : start + _AT_A_TIME] = rounded
        return code.view(np.uint8)

    def decode(self, code: Array, length: int) -> Array:
        """Return the numbers with zeros as their lower halves."""
        aligned = code if code.ctypes.data % 2 == 0 else code.copy()
        bits = aligned.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


class Int8(InBlocks):
    """Whole numbers from -127 to 127 times a scale: 1 byte a number.

    Parameters
    ----------
    block : int
        How many numbers share a scale, their largest magnitude over 127. 4 bytes a block.

    Raises
    ------
    ValueError
        If `block` is less than 1.

    Notes
    -----
    A number is off by half a scale at most, for each of the two roundings. A NaN or an infinity
    makes all numbers of its block NaN, so that it is seen.
    """

    def __init__(self, block: int = 256) -> None:
        super().__init__("Int8", block, np.int8)

    @property
    def description(self) -> str:
        """The name and all settings."""
        return f"int8(block={self._block})"

    def _scales_of(self, largest: Array) -> Array:
        scales = largest / np.float32(_INT8_MOST)
        return np.where(np.isfinite(scales), scales, np.nan).astype(np.float32)

    def _code(self, values: Array, scales: Array) -> Array:
        finite = np.isfinite(scales)
        if not finite.all():
            values = np.where(finite, values, 0)
        # Zero also where the largest is so small that dividing it leaves nothing.
        whole = values / np.where(finite & (scales > 0), scales, np.inf)
        np.rint(whole, out=whole)
        # The least numbers of float32 have few digits, so that a quotient may be beyond 127.
        np.clip(whole, -_INT8_MOST, _INT8_MOST, out=whole)
        return whole.astype(np.int8)

    def _value(self, codes: Array, scales: Array) -> Array:
        return codes.astype(np.float32) * scales
