"""The manifest: which tensors a checkpoint holds, in which pieces of which files, and their sums.

It is the file that is written last. Its first line is the SHA-256 of all bytes behind that line,
so that a change of any byte is seen; the whole is one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from distgrad.checkpoint.files import created, opened, read_into, write_all
from distgrad.checkpoint.tensor_file import decode_json, is_length, is_safe_name, is_too_wide
from distgrad.dtypes import NAMES
from distgrad.errors import DamagedCheckpointError

NAME = "manifest.json"

_FORMAT, _VERSION = "distgrad.checkpoint", 1
_LONGEST = 1 << 28  # bytes: about a million tensors
_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})", "manifest":\n')
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_MOST_AXES = 64
_KINDS = ("array", "generator")


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a tensor, in a file under a name; the CRC-32 of their bytes.

    A tensor without axes counts as one row.
    """

    file: str
    name: str
    start: int
    stop: int
    crc32: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor: its dtype, its shape on all ranks together, and its pieces in order of the rows."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """The length of the first axis; 1 without axes."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class FileRecord:
    """A file's length in bytes and its SHA-256."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a checkpoint is.

    Attributes
    ----------
    step : int
        The step that it was saved at.
    ranks : int
        How many ranks wrote it; any number can read it.
    tensors : dict of str to TensorRecord
        By path.
    values : dict of str to (bool, int, float, str)
        The Python values of the nest, by path.
    files : dict of str to FileRecord
        By name in the checkpoint's directory.
    metadata : JSON value
        What the caller gave.
    """

    step: int
    ranks: int
    tensors: dict[str, TensorRecord]
    values: dict[str, Any]
    files: dict[str, FileRecord]
    metadata: Any = None
    version: int = _VERSION
    format: str = field(default=_FORMAT)


def write(manifest: Manifest, directory: Path) -> None:
    """Write a manifest into a directory, to the disk."""
    content = asdict(manifest)
    content["values"] = {path: encode_value(value) for path, value in manifest.values.items()}
    body = json.dumps(content, indent=1, allow_nan=False).encode() + b"}\n"
    first = f'{{"sha256": "{hashlib.sha256(body).hexdigest()}", "manifest":\n'.encode()
    with created(directory / NAME) as descriptor:
        write_all(descriptor, memoryview(first + body))


def read(directory: Path) -> Manifest:
    """Return the manifest of a checkpoint's directory.

    Raises
    ------
    DamagedCheckpointError
        If it is missing, changed, foreign, or says what cannot be.
    """
    path = directory / NAME
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > _LONGEST:
            _refuse(path, f"has {size} bytes; a manifest has at most {_LONGEST}")
        text = bytearray(size)
        read_into(descriptor, memoryview(text), 0, path)
    first = _FIRST_LINE.match(text)
    if first is None:
        _refuse(path, "is no manifest of distgrad: its first line is not that of a checksum")
    if hashlib.sha256(memoryview(text)[first.end() :]).hexdigest().encode() != first[1]:
        _refuse(
            path,
            f"bytes {first.end()} to {size} do not have the SHA-256 of its first line: it was "
            "changed or cut off",
        )
    content = decode_json(bytes(text), path, f"bytes 0 to {size}")
    return _Decoder(path).manifest(content["manifest"])


def encode_value(value: Any) -> Any:
    """Return a Python value as JSON; infinities and NaN as ``{"float": "inf"}``."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


class _Decoder:
    """Reads what a manifest says, and refuses what cannot be; the checksum stops no forger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, given: Any) -> Manifest:
        if not isinstance(given, dict) or given.get("format") != _FORMAT:
            _refuse(self.path, f"is not of the format {_FORMAT!r}")
        if given.get("version") != _VERSION:
            _refuse(
                self.path,
                f"has version {str(given.get('version'))[:20]} of the format; this distgrad reads "
                f"version {_VERSION}",
            )
        files = {
            self._file_name(name): self._file(name, each)
            for name, each in self._table(given, "files").items()
        }
        return Manifest(
            step=self._length(given, "step", "the manifest"),
            ranks=self._length(given, "ranks", "the manifest"),
            tensors={
                path: self._tensor(path, each, files)
                for path, each in self._table(given, "tensors").items()
            },
            values={
                path: self._value(path, each) for path, each in self._table(given, "values").items()
            },
            files=files,
            metadata=given.get("metadata"),
        )

    def _tensor(self, path: str, given: Any, files: dict[str, FileRecord]) -> TensorRecord:
        what = f"tensor {path[:100]!r}"
        if not isinstance(given, dict):
            _refuse(self.path, f"{what} is no JSON object")
        kind, dtype, shape = given.get("kind"), given.get("dtype"), given.get("shape")
        if kind not in _KINDS or dtype not in (*NAMES, "bfloat16"):
            _refuse(self.path, f"{what}: kind {str(kind)[:40]!r}, dtype {str(dtype)[:40]!r}")
        if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(is_length, shape)):
            _refuse(self.path, f"{what} has no shape: {str(shape)[:80]}")
        if is_too_wide(shape):
            _refuse(self.path, f"{what} has the shape {str(shape)[:80]}, which no memory holds")
        pieces = given.get("pieces")
        if not isinstance(pieces, list):
            _refuse(self.path, f"{what} has no pieces")
        record = TensorRecord(
            kind, dtype, tuple(shape), tuple(self._piece(what, each, files) for each in pieces)
        )
        wrong = uncovered(record.pieces, record.rows)
        if wrong:
            _refuse(self.path, f"{what}: {wrong}")
        return record

    def _piece(self, what: str, given: Any, files: dict[str, FileRecord]) -> Piece:
        if not isinstance(given, dict):
            _refuse(self.path, f"{what} has a piece that is no JSON object")
        file, name = given.get("file"), given.get("name")
        if not isinstance(file, str) or file not in files:
            _refuse(self.path, f"{what} lies in {str(file)[:100]!r}, which is not in its files")
        if not isinstance(name, str) or not is_safe_name(name):
            _refuse(self.path, f"{what} has the unsafe name {str(name)[:100]!r} in {file}")
        numbers = [self._length(given, key, what) for key in ("start", "stop", "crc32")]
        return Piece(file, name, *numbers)

    def _file_name(self, name: str) -> str:
        if not _FILE_NAME.fullmatch(name):
            _refuse(
                self.path,
                f"the file name {name[:100]!r} is refused: expected one in the same directory, of "
                "letters, digits, '-', '_' and '.'",
            )
        return name

    def _file(self, name: str, given: Any) -> FileRecord:
        sha256 = given.get("sha256") if isinstance(given, dict) else None
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            _refuse(self.path, f"file {name!r} has no SHA-256")
        return FileRecord(self._length(given, "nbytes", f"file {name!r}"), sha256)

    def _value(self, path: str, given: Any) -> Any:
        if isinstance(given, dict) and given.get("float") in ("inf", "-inf", "nan"):
            return float(given["float"])
        if not isinstance(given, (bool, int, float, str)):
            _refuse(self.path, f"value {path[:100]!r} is neither a number nor a string")
        return given

    def _table(self, given: dict[str, Any], key: str) -> dict[str, Any]:
        table = given.get(key)
        if not isinstance(table, dict):
            _refuse(self.path, f"{key!r} is missing")
        return table

    def _length(self, given: dict[str, Any], key: str, what: str) -> int:
        number = given.get(key)
        if not is_length(number):
            _refuse(self.path, f"{what}: {key!r} is {str(number)[:40]}; expected 0 or more")
        return int(str(number))


def uncovered(pieces: Sequence[Piece], rows: int) -> str:
    """Return what is wrong with how pieces cover rows 0 to `rows`; empty if each is there once."""
    place = 0
    for piece in pieces:
        if piece.start != place or piece.stop < piece.start:
            wrong = "twice" if piece.start < place else "not at all"
            low, high = sorted((piece.start, place))
            return f"rows {low} to {high} are there {wrong}"
        place = piece.stop
    return "" if place == rows else f"its pieces end at row {place}; expected {rows} rows"


def _refuse(path: Path, what: str) -> NoReturn:
    raise DamagedCheckpointError(f"{path}: {what}")
