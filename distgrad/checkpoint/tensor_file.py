"""The safetensors format: write arrays to one file, and read files of anybody with suspicion.

A file is the length of its header (8 bytes, little-endian), the header (JSON: for each name dtype,
shape and byte range) and the arrays' bytes in row-major order, end to end. [1]_

The package `safetensors` is not used for it. Its version 0.8.0 writes NumPy arrays that are not
contiguous wrongly and in silence, takes duplicate names, cannot tell the byte that is wrong, and
builds a file in memory before the first byte is written; here each write can fail by itself.

References
----------
.. [1] https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distgrad.checkpoint.files import CHUNK, read_into, write_all
from distgrad.dtypes import as_dtype
from distgrad.errors import DamagedCheckpointError

Array = np.ndarray[Any, Any]

_LONGEST_HEADER = 100_000_000  # bytes: the format's own limit
_MOST_AXES = 64  # NumPy's limit

_NAMES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_DTYPES = {code: name for name, code in _NAMES.items()}
_SIZES = {code: 2 if code == "BF16" else np.dtype(name).itemsize for code, name in _DTYPES.items()}
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Written:
    """What was written: the file's length and checksum, and the CRC-32 of each array's bytes."""

    nbytes: int
    sha256: str
    crc32: dict[str, int]


@dataclass(frozen=True)
class Entry:
    """An array in a file: dtype, shape, and where its bytes lie, counted from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def numpy_dtype(self) -> np.dtype[Any]:
        """Return the dtype; for bfloat16 the package ml_dtypes is needed."""
        return as_dtype(_DTYPES[self.dtype])


@dataclass(frozen=True)
class Header:
    """What a file holds by name, and the text that its writer added."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def storable(array: Array) -> Array:
    """Return an array as the format can hold it: row-major, little-endian, complex128 as pairs.

    The format has no complex128: its numbers become a last axis of length 2, real and imaginary.
    """
    if array.dtype.name == "complex128":
        pairs = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
        return pairs.view("<f8").reshape(*array.shape, 2)
    if array.dtype.name == "bfloat16":  # not one of NumPy's own, so without a byte order
        return np.require(array, requirements="C")
    # Not ascontiguousarray: that gives a scalar an axis.
    return np.require(array, array.dtype.newbyteorder("<"), "C")


def stored_as(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape that `storable` gives an array, as a header has them."""
    if dtype == "complex128":
        return _NAMES["float64"], (*shape, 2)
    return _NAMES[dtype], shape


def encode_header(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return the first bytes of a file: the header's length and the header."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise ValueError(
            f"safetensors: the names of {len(arrays)} arrays make a header of {len(text)} bytes, "
            f"but files have at most {_LONGEST_HEADER}; stack small arrays, or give shorter keys"
        )
    return struct.pack("<Q", len(text)) + text


def write_arrays(
    descriptor: int, arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> Written:
    """Write a whole file.

    Parameters
    ----------
    descriptor : int
        Of an empty file.
    arrays : mapping of str to numpy.ndarray
        As `storable` gives them.
    metadata : mapping of str to str
        What to add to the header.
    """
    # Wide elements first, so that all lie at multiples of their size (as other writers do it).
    ordered = dict(sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    head = encode_header(ordered, metadata)
    whole = hashlib.sha256(head)
    write_all(descriptor, memoryview(head))
    nbytes, checksums = len(head), {}
    for name, array in ordered.items():
        data = bytes_of(array)
        crc = 0
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            write_all(descriptor, chunk)
            whole.update(chunk)
            crc = zlib.crc32(chunk, crc)
        checksums[name] = crc
        nbytes += len(data)
    return Written(nbytes, whole.hexdigest(), checksums)


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of a row-major array, which stay its own."""
    return array.reshape(-1).view(np.uint8).data


def read_header(descriptor: int, path: Path) -> Header:
    """Return what a file holds, once all of it has been checked against the file's length.

    Raises
    ------
    DamagedCheckpointError
        If the file breaks the format: too short, a header that is too long, no JSON, names given
        twice or that would lead out of a directory, byte ranges that overlap, leave a gap, or do
        not fit the shape.
    """
    size = os.fstat(descriptor).st_size
    if size < 8:
        _refuse(path, f"has {size} bytes; a safetensors file begins with 8 bytes of header length")
    first = bytearray(8)
    read_into(descriptor, memoryview(first), 0, path)
    (length,) = struct.unpack("<Q", first)
    if length > min(_LONGEST_HEADER, size - 8):
        _refuse(
            path,
            f"bytes 0 to 8 announce a header of {length} bytes; the file has {size} bytes, and "
            f"headers have at most {_LONGEST_HEADER}",
        )
    text = bytearray(length)
    read_into(descriptor, memoryview(text), 8, path)
    where = f"the header, bytes 8 to {8 + length}"
    content = decode_json(bytes(text), path, where)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, f"{where}: __metadata__ is not a table of strings")
    entries = {name: _entry(name, each, length + 8, path) for name, each in content.items()}
    _check_ranges(entries, length + 8, size, path)
    return Header(entries, metadata)


def decode_json(text: bytes, path: Path, where: str) -> dict[str, Any]:
    """Return the JSON object of a file's bytes; `parse_json` says what else is refused."""
    try:
        content = parse_json(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: {where}, is no JSON: {error}") from error
    if not isinstance(content, dict):
        _refuse(path, f"{where}, is a JSON {type(content).__name__}; expected an object")
    return content


def parse_json(text: str) -> Any:
    """Return what JSON says; a ValueError where a name stands twice, or for NaN and infinities."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the name {twice[:80]!r} is there twice")
        return table

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)


def is_safe_name(name: str) -> bool:
    """Return whether a name would stay inside of a directory, were it ever taken for a path."""
    return (
        0 < len(name) <= 1024
        and name.isprintable()
        and name != "__metadata__"
        and "\\" not in name
        and not name.startswith("/")
        and ".." not in name.split("/")
    )


def is_length(value: Any) -> bool:
    """Return whether a value from JSON is a whole number from 0 up; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_too_wide(shape: Sequence[int]) -> bool:
    """Return whether NumPy could not hold such a shape, even where one of its axes is empty."""
    return math.prod(max(length, 1) for length in shape) >= 1 << 58  # times 16 bytes: an address


def _entry(name: str, given: Any, payload: int, path: Path) -> Entry:
    shown = name if len(name) < 100 else name[:100] + "..."
    if not is_safe_name(name):
        _refuse(
            path,
            f"the tensor name {shown!r} is refused: empty, not printable, absolute, or with '..'",
        )
    if not isinstance(given, dict) or set(given) != _KEYS:
        _refuse(path, f"tensor {shown!r}: expected dtype, shape and data_offsets alone")
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        _refuse(
            path,
            f"tensor {shown!r} has the dtype {str(dtype)[:40]!r}; expected one of "
            f"{', '.join(_DTYPES)}",
        )
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(is_length, shape)):
        _refuse(path, f"tensor {shown!r} has no shape: {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_length, offsets)):
        _refuse(path, f"tensor {shown!r} has no byte range: {str(offsets)[:80]}")
    if is_too_wide(shape):
        _refuse(path, f"tensor {shown!r} has the shape {str(shape)[:80]}, which no memory holds")
    start, stop = offsets
    expected = math.prod(shape) * _SIZES[dtype]
    if stop - start != expected:
        _refuse(
            path,
            f"tensor {shown!r}: bytes {payload + start} to {payload + stop} do not hold {dtype} "
            f"of shape {tuple(shape)}, which takes {str(expected)[:40]} bytes",
        )
    return Entry(dtype, tuple(shape), payload + start, payload + stop)


def _check_ranges(entries: dict[str, Entry], payload: int, size: int, path: Path) -> None:
    place = payload
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != place:
            wrong = "overlap those of another tensor" if entry.start < place else "leave a gap"
            _refuse(
                path,
                f"bytes {entry.start} to {entry.stop} of tensor {name[:100]!r} {wrong}; expected "
                f"them to begin at {place}",
            )
        place = entry.stop
    if place != size:
        _refuse(
            path,
            f"the tensors end at byte {place}, the file at {size}: "
            + (f"bytes {size} to {place} are missing" if place > size else "it has bytes too many"),
        )


def read_entry(descriptor: int, entry: Entry, path: Path) -> Array:
    """Return an array of a file; in truth values each byte is 0 or 1."""
    array = np.empty(entry.shape, entry.numpy_dtype())
    read_into(descriptor, bytes_of(array), entry.start, path)
    check_truth_values(array, entry.start, path)
    return array


def check_truth_values(array: Array, start: int, path: Path) -> None:
    """Refuse truth values of other bytes than 0 and 1, which NumPy would take to be both."""
    if array.dtype.kind == "b" and array.size:
        raw = array.reshape(-1).view(np.uint8)
        if raw.max() > 1:
            place = int(np.argmax(raw > 1))
            _refuse(path, f"byte {start + place} is {raw[place]}; a truth value is 0 or 1")


def digest(descriptor: int) -> str:
    """Return the SHA-256 of a file."""
    whole = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        whole.update(buffer[:count])
        offset += count
    return whole.hexdigest()


def _refuse(path: Path, what: str) -> NoReturn:
    raise DamagedCheckpointError(f"{path}: {what}")
