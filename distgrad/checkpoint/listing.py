"""Which checkpoints a directory holds, and which of them are complete."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distgrad.checkpoint import manifest as manifests
from distgrad.checkpoint.manifest import Manifest
from distgrad.errors import DamagedCheckpointError

# A step that is saved again gets a number behind it: the first one stays until then.
_NAME = re.compile(r"step-([0-9]{10,15})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True)
class Found:
    """A directory that has the name of a checkpoint."""

    path: Path
    step: int
    turn: int

    def manifest(self) -> Manifest:
        """Return its manifest, if all its files are there and as long as it says.

        Raises
        ------
        DamagedCheckpointError
            If not.
        """
        if self.path.is_symlink():
            raise DamagedCheckpointError(f"{self.path}: is a symbolic link; expected a directory")
        manifest = manifests.read(self.path)
        if manifest.step != self.step:
            raise DamagedCheckpointError(
                f"{self.path}: its manifest is of step {manifest.step}; was it renamed?"
            )
        for name, record in manifest.files.items():
            path = self.path / name
            try:
                status = path.lstat()
            except FileNotFoundError:
                raise DamagedCheckpointError(f"{path}: there is no such file") from None
            if not stat.S_ISREG(status.st_mode):
                raise DamagedCheckpointError(
                    f"{path}: is no plain file; expected one of the checkpoint itself"
                )
            if status.st_size != record.nbytes:
                wrong = (
                    f"bytes {status.st_size} to {record.nbytes} are missing"
                    if status.st_size < record.nbytes
                    else f"has {status.st_size} bytes; expected {record.nbytes}"
                )
                raise DamagedCheckpointError(f"{path}: {wrong}")
        return manifest

    def is_complete(self) -> bool:
        """Return whether manifest and files are there; their contents are not read."""
        try:
            self.manifest()
        except (DamagedCheckpointError, OSError):
            return False
        return True


def listed(directory: Path) -> list[Found]:
    """Return what has the name of a checkpoint; nothing of a directory that does not exist."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    matches = [match for match in map(_NAME.fullmatch, names) if match]
    return [Found(directory / each[0], int(each[1]), int(each[2] or 0)) for each in matches]


def newest_first(found: Iterable[Found]) -> list[Found]:
    """Return them from the newest to the oldest."""
    return sorted(found, key=lambda each: (each.step, each.turn), reverse=True)


def name_of(step: int, directory: Path) -> str:
    """Return the name of a new checkpoint of a step, next to those that are there."""
    turns = [each.turn for each in listed(directory) if each.step == step]
    return f"step-{step:010d}" + (f".{max(turns) + 1}" if turns else "")


def latest(directory: str | os.PathLike[str]) -> int | None:
    """Return the step of the newest complete checkpoint, or None.

    Parameters
    ----------
    directory : path
        Where the checkpoints lie; it need not exist.

    Notes
    -----
    The manifest's checksum and the files' lengths are looked at, not what is in them: `load` does
    that, and falls back on an older checkpoint if need be. No rank speaks to another.
    """
    for found in newest_first(listed(Path(directory))):
        if found.is_complete():
            return found.step
    return None
