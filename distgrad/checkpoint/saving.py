"""Save: every rank writes its part aside, and a rename makes the checkpoint appear as a whole."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.checkpoint import manifest as manifests
from distgrad.checkpoint.agreement import compare_draws, conclude, draws_of
from distgrad.checkpoint.files import (
    created,
    describe_failure,
    flush_directory,
    make_directories,
    make_hidden,
    remove_leftovers,
    remove_whole,
)
from distgrad.checkpoint.layout import Part, share_out
from distgrad.checkpoint.leaves import Leaf, collect
from distgrad.checkpoint.listing import listed, name_of, newest_first
from distgrad.checkpoint.manifest import FileRecord, Manifest, Piece, TensorRecord, uncovered
from distgrad.checkpoint.tensor_file import is_safe_name, parse_json, storable, write_arrays
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import CheckpointWriteError, DamagedCheckpointError, DesyncError, ShapeError

Array = np.ndarray[Any, Any]


def save(
    directory: str | os.PathLike[str],
    nest: Any,
    *,
    step: int,
    metadata: Any = None,
    comm: Communicator | None = None,
    keep: int | None = 3,
) -> Path:
    """Save a nest as a checkpoint of a step; all ranks call this together.

    Parameters
    ----------
    directory : path
        Where the checkpoints of a training lie; made if missing, and shared by all ranks.
    nest : nest
        Of variables, tensors, NumPy arrays, `Shard`, `distgrad.random.Generator`, Python's bool,
        int, float and str, and objects with `variables`, such as models and optimizers. Each rank
        gives the same paths.
    step : int
        The number of the checkpoint, from 0.
    metadata : JSON value, optional
        What else to keep; rank 0's is kept.
    comm : Communicator, optional
        The ranks; `distgrad.distributed.world()` by default.
    keep : int or None
        How many complete checkpoints to keep, this one among them; None keeps all. Older ones are
        removed once this one is on the disk.

    Returns
    -------
    Path
        The checkpoint's own directory.

    Raises
    ------
    CheckpointWriteError
        On every rank, if one of them could not write. Checkpoints from before are whole.
    DesyncError
        On every rank, if their nests have different paths, dtypes or shapes.
    TypeError, ValueError
        If something cannot be saved.

    Warns
    -----
    CheckpointWarning
        On rank 0, if generators stand elsewhere on some ranks than there.

    Notes
    -----
    What every rank holds is written once, spread over the ranks; of Python's values and generators
    those of rank 0 count. Each rank writes one file into a hidden directory and flushes it to the
    disk; rank 0 writes the manifest with all checksums last, and renames the directory. A process
    that is killed at any moment leaves the older checkpoints, and a hidden directory that the next
    `save` removes.
    Files and directories have the rights that the umask leaves.
    """
    writing = Writing(directory, nest, step, metadata, comm, keep, copy=False)
    writing.write()
    return writing.commit()


class Writing:
    """A checkpoint on its way: `Writing` and `commit` speak to other ranks, `write` does not.

    Parameters
    ----------
    directory, nest, step, metadata, comm, keep
        As for `save`.
    copy : bool
        Whether to copy the values at once, so that `write` may run while they change.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        nest: Any,
        step: int,
        metadata: Any,
        comm: Communicator | None,
        keep: int | None,
        *,
        copy: bool,
    ) -> None:
        self.comm = ranks_of(comm)
        self.directory = Path(directory)
        self.keep = keep
        self._metadata: Any = None
        self._error: Exception | None = None
        self._written: dict[str, Any] | None = None
        self._hidden: Path | None = None
        self._lock: int | None = None

        error: Exception | None = None
        leaves: dict[str, Leaf] = {}
        try:
            self.step = _checked_step(step)
            _check_keep(keep)
            self._metadata = _as_read_back(metadata)
            leaves = collect(nest)
        except (TypeError, ValueError) as raised:
            error = raised
        summary = sorted([path, leaf.kind, leaf.describe()] for path, leaf in leaves.items())
        said = conclude(
            self.comm,
            error,
            {
                "digest": hashlib.sha256(json.dumps([self.step, summary]).encode()).hexdigest()
                if error is None
                else "",
                "shards": {path: leaf.rows for path, leaf in leaves.items() if leaf.rows},
                "draws": draws_of(leaves),
            },
        )
        if len({each["digest"] for each in said}) > 1:
            conclude(self.comm, _difference(self.comm, self.step, summary))
        compare_draws(self.comm, [each["draws"] for each in said])

        self._values = {p: leaf.value for p, leaf in leaves.items() if leaf.kind == "value"}
        self._leaves = {p: leaf for p, leaf in leaves.items() if leaf.kind != "value"}
        shards = [
            {path: (rows[0], rows[1]) for path, rows in each["shards"].items()} for each in said
        ]
        self._parts = share_out(list(self._leaves.values()), shards)
        _check_shards(self._parts, self._leaves)
        self._make_room(copy)

    def _make_room(self, copy: bool) -> None:
        """Make the hidden directory, on rank 0, and take this rank's arrays."""
        error: Exception | None = None
        name = None
        try:
            if self.comm.rank == 0:
                make_directories(self.directory)
                remove_leftovers(self.directory)
                hidden, self._lock = make_hidden(self.directory, f"{self.step:010d}")
                self._hidden, name = hidden, hidden.name
        except OSError as raised:
            error = self._failure(raised)
        try:
            self._arrays, self._rows = self._take(copy)
        except Exception as raised:  # no memory for the copy, a device that fails
            error = error or raised
        self._guarded(lambda: conclude(self.comm, error, name), remember=True)

    def _take(self, copy: bool) -> tuple[dict[str, Array], dict[str, Part]]:
        arrays, rows = {}, {}
        for position, (path, parts) in enumerate(self._parts.items()):
            for part in parts:
                if part.rank != self.comm.rank:
                    continue
                leaf = self._leaves[path]
                array = leaf.host()
                if leaf.rows is None and leaf.shape:
                    array = array[part.start : part.stop]
                name = path if is_safe_name(path) else f"tensor-{position}"
                while name in rows:  # a path of just that name
                    name += "-"
                taken = storable(array)
                owned = taken is not array and taken.flags.owndata and taken.base is None
                arrays[name] = np.array(taken, order="C") if copy and not owned else taken
                rows[name] = part
        return arrays, rows

    def write(self) -> None:
        """Write this rank's file; an error is kept for `commit`."""
        hidden = self._hidden
        if not self._arrays or hidden is None:
            return
        name = f"rank-{self.comm.rank:05d}-of-{self.comm.size:05d}.safetensors"
        try:
            with created(hidden / name) as descriptor:
                written = write_arrays(
                    descriptor, self._arrays, {"format": "np", "step": str(self.step)}
                )
        except OSError as error:
            self._error = self._failure(error)
        except Exception as error:  # in a thread it would be lost
            self._error = error
        else:
            pieces = [
                [part.path, name, own_name, part.start, part.stop, written.crc32[own_name]]
                for own_name, part in self._rows.items()
            ]
            self._written = {
                "file": [name, written.nbytes, written.sha256],
                "pieces": pieces,
            }
        finally:
            self._arrays = {}

    def commit(self) -> Path:
        """Make the checkpoint appear, if all ranks have written; return its directory."""
        said = self._guarded(lambda: conclude(self.comm, self._error, self._written))
        error: Exception | None = None
        name = None
        if self.comm.rank == 0:
            try:
                name = self._publish(said).name
            except (OSError, DamagedCheckpointError) as raised:
                error = self._failure(raised)
            except Exception as raised:
                error = raised
        names = self._guarded(lambda: conclude(self.comm, error, name))
        self._unlock()
        if self.comm.rank == 0 and self.keep is not None:
            prune(self.directory, self.keep, self.directory / names[0])
        return self.directory / str(names[0])

    def abandon(self) -> None:
        """Remove what was written; without a word to other ranks."""
        if self.comm.rank == 0 and self._hidden is not None:
            remove_whole(self._hidden)
        self._unlock()

    def _publish(self, said: list[Any]) -> Path:
        hidden = self._hidden
        if hidden is None:
            raise CheckpointWriteError("checkpoint: there is no directory to publish")
        pieces: dict[str, list[Piece]] = {path: [] for path in self._leaves}
        files = {}
        for each in said:
            if each is not None:
                name, nbytes, sha256 = each["file"]
                files[name] = FileRecord(nbytes, sha256)
                for path, *where in each["pieces"]:
                    pieces[path].append(Piece(*where))
        tensors = {
            path: TensorRecord(
                leaf.kind,
                leaf.dtype,
                leaf.shape,
                tuple(sorted(pieces[path], key=operator.attrgetter("start"))),
            )
            for path, leaf in self._leaves.items()
        }
        manifests.write(
            Manifest(self.step, self.comm.size, tensors, self._values, files, self._metadata),
            hidden,
        )
        # Older checkpoints go once this one is there: first it has to be one that can be read.
        manifests.read(hidden)
        flush_directory(hidden)
        target = self.directory / name_of(self.step, self.directory)
        hidden.rename(target)
        flush_directory(self.directory)
        return target

    def _guarded(self, stage: Callable[[], list[Any]], *, remember: bool = False) -> list[Any]:
        """Run a stage; if it fails anywhere, remove what was written."""
        try:
            said = stage()
        except Exception:
            self.abandon()
            raise
        if remember:
            self._hidden = self.directory / str(said[0])
        return said

    def _failure(self, error: OSError | DamagedCheckpointError) -> CheckpointWriteError:
        failure = CheckpointWriteError(
            f"checkpoint: step {self.step} was not written: "
            f"{describe_failure(error, self.directory)}; the checkpoints before it are whole"
        )
        failure.__cause__ = error
        return failure

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def prune(directory: Path, keep: int, newest: Path) -> None:
    """Remove checkpoints other than the newest, so that `keep` complete ones are left.

    Only what is older than the kept ones goes, and what was saved for the same step before.
    """
    kept = 1
    for found in newest_first(listed(directory)):
        if found.path == newest:
            continue
        same_step = found.path.name.partition(".")[0] == newest.name.partition(".")[0]
        if kept < keep and found.is_complete() and not same_step:
            kept += 1
        elif kept >= keep or same_step:
            remove_whole(found.path)


def _checked_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        raise TypeError(f"save: step is {step!r}; expected an integer") from None
    if not 0 <= number < 10**15:
        raise ValueError(f"save: step is {number}; expected 0 or more, and less than 10^15")
    return number


def _check_keep(keep: int | None) -> None:
    if keep is not None and keep < 1:
        raise ValueError(f"save: keep is {keep}; expected 1 or more, or None for all")


def _as_read_back(metadata: Any) -> Any:
    """Return what metadata will be when it is read: a copy, which the caller cannot change."""
    try:
        return parse_json(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"save: metadata is not what JSON can hold: {error}; expected dicts, lists, strings, "
            "finite numbers, True, False and None"
        ) from error


def _check_shards(parts: dict[str, list[Part]], leaves: dict[str, Leaf]) -> None:
    for path, own in parts.items():
        pieces = [Piece("", "", part.start, part.stop, 0) for part in own]
        rows = leaves[path].shape[0] if leaves[path].shape else 1
        wrong = uncovered(pieces, rows)
        if wrong:
            raise ShapeError(
                f"save: the ranks' shards of {path!r} do not make a whole of {rows} rows: {wrong}"
            )


def _difference(comm: Communicator, step: int, summary: list[list[str]]) -> Exception | None:
    """Return an error that names what differs between this rank and rank 0."""
    tables = [{path: what for path, _, what in each} for each in conclude(comm, None, summary)]
    steps = conclude(comm, None, step)
    if steps[comm.rank] != steps[0]:
        return DesyncError(f"save: step is {steps[comm.rank]} here, {steps[0]} on rank 0")
    own, first = tables[comm.rank], tables[0]
    paths = [path for path in {**first, **own} if own.get(path) != first.get(path)]
    if not paths:
        return None
    shown = "; ".join(
        f"{path} is {own.get(path, 'missing')} here, {first.get(path, 'missing')} on rank 0"
        for path in paths[:5]
    )
    return DesyncError(f"save: {len(paths)} leaves differ: {shown}", names=tuple(paths))
