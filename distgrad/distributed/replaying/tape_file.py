"""The file in which a communicator's operations stand, one after the other, with what came back.

Each entry is the length of a header (4 bytes, little endian), the header as JSON, and the bytes of
the result. The first entry says who recorded.
"""

from __future__ import annotations

import json
import os
import threading
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from distgrad.errors import DistgradError

VERSION = 2
ABOUT = ("rank", "size", "local_rank", "started")  # of a communicator, when it was made
Array = np.ndarray[Any, Any]


class ReplayError(DistgradError, RuntimeError):
    """A recording cannot be replayed: it ends, or the program does something else now."""


def path_of(folder: Path, rank: int, stream: str) -> Path:
    """Return the file of one rank and one of its communicators."""
    return folder / f"rank{rank:05d}.{stream}.recording"


def checksum(array: Array) -> str:
    """Return what tells an array's bytes from others'."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return blake2b(raw.data, digest_size=8).hexdigest()


class Writer:
    """Writes entries; each is complete on the disk before the program goes on."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("wb", buffering=0)
        finalize(self, self._stream.close)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self.write({"distgrad_recording": VERSION, **about})

    def write(self, header: dict[str, Any], content: Array | None = None) -> None:
        """Append an entry."""
        if self._process != os.getpid():  # a fork shares the file, and is no rank
            return
        raw = b"" if content is None else np.ascontiguousarray(content).tobytes()
        text = json.dumps({**header, "nbytes": len(raw)}).encode()
        with self._lock:
            self._stream.write(len(text).to_bytes(4, "little") + text + raw)


class Reader:
    """Reads entries in their order.

    Raises
    ------
    ReplayError
        If there is no such file, or it is none of a recording.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise ReplayError(
                f"there is no recording {path}; expected what DISTGRAD_RECORD=DIR wrote, and the "
                "same use of communicators as then"
            ) from error
        finalize(self, self._stream.close)
        self.about, _ = self.read()
        if self.about.get("distgrad_recording") != VERSION:
            raise ReplayError(
                f"{path} is no recording of this version; expected what DISTGRAD_RECORD=DIR writes"
            )

    def read(self) -> tuple[dict[str, Any], bytes]:
        """Return the next entry."""
        prefix = self._stream.read(4)
        length = int.from_bytes(prefix, "little")
        text = self._stream.read(length)
        try:
            header: dict[str, Any] = json.loads(text)
            content = self._stream.read(int(header["nbytes"]))
        except (ValueError, KeyError, TypeError):
            content = None
        if len(prefix) < 4 or content is None or len(content) < header["nbytes"]:
            raise ReplayError(
                f"the recording {self._path} ends here: the job did not get any further, or what "
                "it heard last was not written completely"
            )
        return header, content
