"""Load: read what any number of ranks wrote, check every byte, and assign only then."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.checkpoint.agreement import conclude, warn_once
from distgrad.checkpoint.files import opened, read_into
from distgrad.checkpoint.leaves import Leaf, collect, place, rebuild
from distgrad.checkpoint.listing import Found, listed, newest_first
from distgrad.checkpoint.manifest import Manifest, Piece, TensorRecord
from distgrad.checkpoint.tensor_file import (
    Header,
    bytes_of,
    check_truth_values,
    digest,
    read_header,
    stored_as,
)
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.dtypes import as_dtype
from distgrad.errors import (
    CheckpointMismatchError,
    DamagedCheckpointError,
    MissingCheckpointError,
)

Array = np.ndarray[Any, Any]

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded.

    Attributes
    ----------
    step : int
        The step that it was saved at.
    nest : nest
        The nest that was given, with what was read in it; without one, a dict of NumPy arrays and
        Python values by path.
    metadata : JSON value
        What was saved with it.
    path : Path
        The checkpoint's own directory.
    ranks : int
        How many ranks wrote it.
    """

    step: int
    nest: Any
    metadata: Any
    path: Path
    ranks: int


def load(
    directory: str | os.PathLike[str],
    nest: Any = None,
    *,
    step: int | None = None,
    comm: Communicator | None = None,
) -> Checkpoint:
    """Load the newest whole checkpoint, or that of a step; all ranks call this together.

    Parameters
    ----------
    directory : path
        Where the checkpoints of a training lie.
    nest : nest, optional
        Of the structure that was saved. Variables and generators in it are assigned, also those of
        objects with `variables`; for tensors, arrays and Python's values the result has new ones.
        A `Shard` gets the rows that it stands for now. None reads everything.
    step : int, optional
        The step to load; the newest by default.
    comm : Communicator, optional
        The ranks, of which there may be more or fewer than those that saved;
        `distgrad.distributed.world()` by default.

    Returns
    -------
    Checkpoint
        The nest, the step and the metadata.

    Raises
    ------
    MissingCheckpointError
        If there is none, or none that is whole.
    DamagedCheckpointError
        If that of the given step is damaged.
    CheckpointMismatchError
        If it has other paths, shapes or dtypes than the nest. Nothing is assigned then.

    Warns
    -----
    CheckpointWarning
        On rank 0, if a damaged checkpoint was passed over for an older one, or lacks generators
        that a model holds, as those of earlier versions do; they stay as they are.

    Notes
    -----
    Each file's SHA-256 and each piece's CRC-32 are compared before anything is assigned. All ranks
    load the same checkpoint: what one of them finds damaged, all pass over.
    """
    comm = ranks_of(comm)
    wanted: dict[str, Leaf] | None = None
    tried: set[str] = set()
    passed_over: list[str] = []
    while True:
        error: Exception | None = None
        by_name: dict[str, Found] = {}
        try:
            wanted = None if nest is None else collect(nest)
            found = newest_first(listed(Path(directory)))
            by_name = {each.path.name: each for each in found if step is None or each.step == step}
        except (OSError, TypeError, ValueError) as raised:
            error = raised
        names = conclude(comm, error, list(by_name), MissingCheckpointError)[0]
        # A job that saves meanwhile may have removed all that were there: then look again.
        names = [name for name in names if name not in tried]
        if not names:
            break
        tried.update(names)
        for name in names:
            path = Path(directory) / name
            try:
                manifest, arrays = _read_together(comm, path, by_name.get(name), wanted)
            except DamagedCheckpointError as damage:
                passed_over.append(str(damage))
                continue
            for passed in passed_over:
                warn_once(comm, f"checkpoint passed over: {passed}; loading {name} instead", 2)
            _warn_of_generators(comm, manifest, wanted or {}, name)
            return _place(path, manifest, arrays, nest)
    if step is not None and passed_over:
        raise DamagedCheckpointError("; ".join(passed_over))
    sought = "complete checkpoint" if step is None else f"checkpoint of step {step}"
    there = sorted({each.step for each in listed(Path(directory))}) if not passed_over else []
    raise MissingCheckpointError(
        f"load: {directory} has no {sought}"
        + (f"; it has steps {', '.join(map(str, there[-10:]))}" if there else "")
        + "".join(f"; damaged: {each}" for each in passed_over)
    )


def _warn_of_generators(
    comm: Communicator, manifest: Manifest, wanted: Mapping[str, Leaf], name: str
) -> None:
    """Say which generators a checkpoint from before models' were saved leaves as they are."""
    assigned = {id(leaf.value) for path, leaf in wanted.items() if path in manifest.tensors}
    absent = [
        path
        for path, leaf in wanted.items()
        if leaf.accompanies and path not in manifest.tensors and id(leaf.value) not in assigned
    ]
    if absent:
        warn_once(
            comm,
            f"{name} was saved without the random generators {', '.join(absent)}; they stay as "
            "they are, so that what they draw is not what an unbroken training would draw",
            stacklevel=3,
        )


def _read_together(
    comm: Communicator, path: Path, found: Found | None, wanted: Mapping[str, Leaf] | None
) -> tuple[Manifest, dict[str, Array]]:
    """Return what `_read` does; where it fails on one rank, all raise."""
    error: Exception | None = None
    try:
        if found is None:
            raise DamagedCheckpointError(
                f"{path}: another rank sees it, rank {comm.rank} does not; expected a directory "
                "that all ranks share"
            )
        read = _read(found, wanted)
    except Exception as raised:  # whatever it is, all ranks must hear of it
        error = raised
    conclude(comm, error, None, DamagedCheckpointError)
    return read


def _read(found: Found, wanted: Mapping[str, Leaf] | None) -> tuple[Manifest, dict[str, Array]]:
    """Return the manifest, and the numbers by path; `wanted` None is all of them."""
    manifest = found.manifest()
    if wanted is not None:
        _compare(manifest, wanted, found.path)
    arrays = {}
    with ExitStack() as stack:
        reader = _Reader(found.path, manifest, stack)
        for path, record in manifest.tensors.items():
            rows = None if wanted is None else wanted[path].rows
            start, stop = (0, record.rows) if rows is None else rows
            arrays[path] = reader.rows_of(path, record, start, stop)
    return manifest, arrays


def _compare(manifest: Manifest, wanted: Mapping[str, Leaf], directory: Path) -> None:
    """Raise unless a checkpoint has the paths, dtypes and shapes that are wanted."""
    there = {
        path: (record.kind, f"{record.dtype}{list(record.shape)}")
        for path, record in manifest.tensors.items()
    }
    there |= {path: ("value", type(value).__name__) for path, value in manifest.values.items()}
    here = {path: (leaf.kind, leaf.describe()) for path, leaf in wanted.items()}
    unlike = [
        f"{path} is {_said(there[path])} there, {_said(here[path])} here"
        for path in here
        if path in there and there[path] != here[path]
    ]
    found = [
        (
            "missing in the checkpoint",
            [p for p, leaf in wanted.items() if p not in there and not leaf.accompanies],
        ),
        ("only in the checkpoint", [path for path in there if path not in here]),
        ("unlike", unlike),
    ]
    if any(names for _, names in found):
        raise CheckpointMismatchError(
            f"load: {directory} does not fit the nest: "
            + "; ".join(
                f"{what}: {', '.join(names[:_SHOWN])}"
                + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
                for what, names in found
                if names
            )
            + "; was the model built from the same configuration, and called (or built) before?"
        )


def _said(what: tuple[str, str]) -> str:
    kind, text = what
    return f"a generator's {text}" if kind == "generator" else text


class _Reader:
    """Reads rows of tensors from the files of a checkpoint, each checked once when first used."""

    def __init__(self, directory: Path, manifest: Manifest, stack: ExitStack) -> None:
        self._directory, self._manifest, self._stack = directory, manifest, stack
        self._files: dict[str, tuple[int, Header]] = {}
        self._spoilt: dict[str, str] = {}  # files whose checksum is wrong: which piece is it?

    def rows_of(self, path: str, record: TensorRecord, start: int, stop: int) -> Array:
        """Return some rows of a tensor, which may lie in several pieces."""
        dtype = as_dtype(record.dtype)
        shape = (stop - start, *record.shape[1:]) if record.shape else ()
        pieces = [each for each in record.pieces if each.start < stop and each.stop > start]
        # Looked up before anything is allocated: then all bytes are known to be in the files.
        places = [self._locate(path, record, piece) for piece in pieces]
        result = np.empty(shape, dtype)
        for piece, place_of in zip(pieces, places, strict=True):
            rows = self._read(path, record, piece, place_of)
            if not record.shape:
                result[...] = rows
                continue
            low, high = max(start, piece.start), min(stop, piece.stop)
            result[low - start : high - start] = rows[low - piece.start : high - piece.start]
        return result

    def _locate(self, path: str, record: TensorRecord, piece: Piece) -> tuple[int, int, int]:
        """Return descriptor, first byte and end of a piece, which the file knows alike."""
        if piece.file not in self._files:
            self._open(piece.file)
        descriptor, header = self._files[piece.file]
        file = self._directory / piece.file
        entry = header.entries.get(piece.name)
        if entry is None:
            raise DamagedCheckpointError(
                f"{file}: has no tensor {piece.name!r}, of which the manifest speaks"
            )
        rows = (piece.stop - piece.start, *record.shape[1:]) if record.shape else ()
        if (entry.dtype, entry.shape) != stored_as(record.dtype, rows):
            raise DamagedCheckpointError(
                f"{file}: tensor {piece.name!r} is {entry.dtype} of shape {entry.shape}; the "
                f"manifest says {record.dtype} of shape {rows} for {path!r}"
            )
        return descriptor, entry.start, entry.stop

    def _read(
        self, path: str, record: TensorRecord, piece: Piece, where: tuple[int, int, int]
    ) -> Array:
        descriptor, start, stop = where
        file = self._directory / piece.file
        rows = (piece.stop - piece.start,) if record.shape else ()
        array = np.empty((*rows, *record.shape[1:]), as_dtype(record.dtype))
        data = bytes_of(array)
        read_into(descriptor, data, start, file)
        if zlib.crc32(data) != piece.crc32:
            raise DamagedCheckpointError(
                f"{file}: bytes {start} to {stop}, {path!r}, do not have the checksum that they "
                "were saved with"
            )
        if piece.file in self._spoilt:
            return array
        check_truth_values(array, start, file)
        return array

    def _open(self, name: str) -> None:
        file = self._directory / name
        descriptor = self._stack.enter_context(opened(file))
        record = self._manifest.files[name]
        size = os.fstat(descriptor).st_size
        if size != record.nbytes:
            raise DamagedCheckpointError(f"{file}: has {size} bytes; expected {record.nbytes}")
        self._files[name] = (descriptor, read_header(descriptor, file))
        if digest(descriptor) != record.sha256:
            self._name_damage(name)

    def _name_damage(self, name: str) -> None:
        """Raise for a file of the wrong checksum, with the piece that is changed."""
        file = self._directory / name
        self._spoilt[name] = name
        for path, record in self._manifest.tensors.items():
            for piece in record.pieces:
                if piece.file == name:
                    self._read(path, record, piece, self._locate(path, record, piece))
        raise DamagedCheckpointError(
            f"{file}: bytes 0 to {self._manifest.files[name].nbytes} do not have the SHA-256 that "
            "they were saved with; the tensors' bytes have theirs, so the header was changed"
        )


def _place(path: Path, manifest: Manifest, arrays: dict[str, Array], nest: Any) -> Checkpoint:
    def replacement(leaf: Leaf) -> Any:
        if leaf.kind == "value":
            return manifest.values[leaf.path]
        if leaf.path not in arrays:  # a generator, of which was warned
            return leaf.value
        return place(leaf, arrays[leaf.path])

    loaded = {**arrays, **manifest.values} if nest is None else rebuild(nest, replacement)
    return Checkpoint(manifest.step, loaded, manifest.metadata, path, manifest.ranks)
