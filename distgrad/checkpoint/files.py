"""Write files that are whole or not there: created aside, flushed to the disk, renamed last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from distgrad.errors import DamagedCheckpointError

CHUNK = 8 << 20  # bytes that are written and hashed at a time

_WRITING, _REMOVING = ".writing-", ".removing-"
_FORGOTTEN_SECONDS = 86400.0  # where locks do not work, nobody writes to one file for a day


@contextlib.contextmanager
def created(path: Path) -> Iterator[int]:
    """Give a descriptor of a new file, on the disk when the block is left; the umask counts.

    Raises
    ------
    OSError
        If something of this name is there already, a symbolic link included, or the disk is full.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all bytes; the system may take fewer at a time."""
    while len(data):
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def opened(path: Path, *, follow: bool = False) -> Iterator[int]:
    """Give a descriptor of an existing plain file, to read.

    Parameters
    ----------
    path : Path
        The file.
    follow : bool
        Whether it may be a symbolic link.

    Raises
    ------
    DamagedCheckpointError
        If it is missing, a symbolic link, or no plain file (a pipe would block for ever).
    OSError
        If it cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DamagedCheckpointError(
            f"{path}: is a symbolic link; expected a plain file of the checkpoint itself"
        ) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedCheckpointError(
                f"{path}: is no plain file; expected one of the checkpoint itself"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    """Fill a buffer with a file's bytes from an offset on.

    Raises
    ------
    DamagedCheckpointError
        If the file ends before.
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done : done + CHUNK]], offset + done)
        if count == 0:
            raise DamagedCheckpointError(
                f"{path}: ends at byte {offset + done}; expected bytes {offset} to "
                f"{offset + len(buffer)}"
            )
        done += count


def flush_directory(path: Path) -> None:
    """Bring a directory's entries to the disk; a file system that has no such thing passes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it where they are missing, on the disk."""
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True)
    flush_directory(path.parent)


def make_hidden(directory: Path, name: str) -> tuple[Path, int]:
    """Return a new hidden directory in which to write, and the descriptor that locks it.

    The lock goes with the process, also by SIGKILL: that is how `remove_leftovers` knows what
    nobody writes to any more.
    """
    hidden = directory / f"{_WRITING}{name}-{secrets.token_hex(8)}"
    hidden.mkdir()
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file system without locks: age decides
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return hidden, descriptor


def remove_leftovers(directory: Path) -> None:
    """Remove hidden directories that writers left behind when they were killed."""
    for entry in sorted(directory.glob(".*")):
        if entry.is_symlink() or not entry.is_dir():
            continue
        if entry.name.startswith(_REMOVING) or (
            entry.name.startswith(_WRITING) and _is_forgotten(entry)
        ):
            shutil.rmtree(entry, ignore_errors=True)


def _is_forgotten(hidden: Path) -> bool:
    try:
        descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > _FORGOTTEN_SECONDS
    else:
        return True
    finally:
        os.close(descriptor)


def remove_whole(path: Path) -> None:
    """Remove a checkpoint so that it is never seen in part: it is renamed out of sight first."""
    hidden = path.with_name(f"{_REMOVING}{path.name}-{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def describe_failure(error: Exception, directory: Path) -> str:
    """Return what went wrong; of what the system said, with how much room is left."""
    if isinstance(error, OSError):
        with contextlib.suppress(OSError):
            return f"{error}; {shutil.disk_usage(directory).free} bytes are free in {directory}"
    return str(error)
