"""Event files for TensorBoard: a record a step, each with the scalars of the step.

TensorBoard's own writer comes with a web server and ten packages, tensorboardX with protobuf and a
process-wide queue that pickles. Scalars need five message types, written here by hand; the test
reads them back by the published format, and by TensorBoard where it is installed.

References
----------
``tensorflow/core/lib/io/record_writer.h`` (the record), ``tensorflow/core/util/event.proto`` and
``summary.proto`` (the messages), RFC 3720 appendix B.4 (CRC-32C).
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Field numbers with their wire types, as the .proto files state them.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 0x09, 0x10, 0x1A, 0x2A, 0x3A
_VALUE, _TAG, _SIMPLE_VALUE, _STATUS = 0x0A, 0x0A, 0x15, 0x08
_START = 1

_MASK_DELTA = 0xA282EAD8
_FLUSH_SECONDS = 5.0


class EventFile:
    """An event file of one run.

    Parameters
    ----------
    directory : path
        Made if it is missing; each run of the job writes a file of its own there.
    begun : int
        The step after which this run begins. TensorBoard drops what an earlier file has after it.

    Raises
    ------
    OSError
        If the file cannot be created.
    """

    def __init__(self, directory: str | os.PathLike[str], *, begun: int = 0) -> None:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        # The readers sort by name: the time comes first, with all its digits.
        self.path = folder / f"events.out.tfevents.{now // 10**9}.{now % 10**9:09}.distgrad"
        self._file = self.path.open("xb")
        self._flushed = time.monotonic()
        self._record(_bytes(_FILE_VERSION, b"brain.Event:2"))
        if begun:
            started = _bytes(_SESSION_LOG, bytes([_STATUS, _START]))
            self._record(bytes([_STEP]) + _varint(begun + 1) + started)
        self._file.flush()

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a step's record under their names."""
        values = b"".join(
            _bytes(_VALUE, _bytes(_TAG, name.encode()) + bytes([_SIMPLE_VALUE]) + _single(value))
            for name, value in record.items()
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
        )
        self._record(bytes([_STEP]) + _varint(record["step"]) + _bytes(_SUMMARY, values))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _record(self, rest: bytes) -> None:
        event = struct.pack("<Bd", _WALL_TIME, time.time()) + rest
        length = struct.pack("<Q", len(event))
        self._file.write(
            length
            + struct.pack("<I", masked_crc32c(length))
            + event
            + struct.pack("<I", masked_crc32c(event))
        )


def _bytes(key: int, payload: bytes) -> bytes:
    """Return a field of bytes, a string or a message."""
    return bytes([key]) + _varint(len(payload)) + payload


def _single(number: float) -> bytes:
    """Return a number in single precision; infinite where it is too large for that."""
    try:
        return struct.pack("<f", float(number))
    except OverflowError:
        return struct.pack("<f", math.inf if number > 0 else -math.inf)


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes, masked so that a CRC of data with CRCs stays a good one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    """Return the CRC-32C of each byte: the polynomial of Castagnoli, bits reversed."""
    entries = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


_TABLE = _table()
