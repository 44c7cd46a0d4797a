"""Offload what tapes keep: to the host's memory, or to files, until its rule reads it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
import zlib
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad.errors import CacheError, OffloadError
from distgrad.tape.packing import LEAVE, Packing, nbytes_of, packing_in_force
from distgrad.user_cache import cache_folder

# A file costs about 0.1 ms to make and remove; 64 kB take as long at half a gigabyte a second.
_WORTH_A_FILE = 1 << 16
_WORTH_A_TRANSFER = 1 << 16


def offload_to_host(*, min_bytes: int = _WORTH_A_TRANSFER) -> AbstractContextManager[None]:
    """Keep what tapes keep in the host's memory instead of a device's.

    Parameters
    ----------
    min_bytes : int
        Smaller arrays stay where they are.

    Returns
    -------
    context manager
        For the forward pass; the backward pass may run within or after it.

    Raises
    ------
    ValueError
        If `min_bytes` is negative.

    Notes
    -----
    Each array is copied to the host when it is recorded, and back just before its rule reads it.
    Values of variables and watched tensors stay: the program holds them anyhow. On the NumPy
    backend the host's memory is where arrays are: nothing is copied and nothing gained; take
    `offload_to_disk` there. PyTorch's counterpart is ``torch.autograd.graph.save_on_cpu``.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([1.0, 2.0])
    >>> with dg.offload_to_host(), dg.GradientTape() as tape:
    ...     y = dg.sum(dg.sin(x))
    """
    return packing_in_force(_ToHost(_checked("offload_to_host", min_bytes)))


def offload_to_disk(
    directory: str | os.PathLike[str] | None = None, *, min_bytes: int = _WORTH_A_FILE
) -> AbstractContextManager[None]:
    """Keep what tapes keep in files instead of memory.

    Parameters
    ----------
    directory : path, optional
        Where to make the folder of this block: an existing directory, best on a local disk. By
        default the user's own cache, ``$DISTGRAD_CACHE_DIR`` or ``~/.cache/distgrad``.
    min_bytes : int
        Smaller arrays stay in memory.

    Returns
    -------
    context manager
        For the forward pass; the backward pass may run within or after it.

    Raises
    ------
    ValueError
        If `min_bytes` is negative.
    OffloadError
        If the directory does not exist, a file cannot be written (the disk is full), or is not
        what was written when a rule reads it: it is missing, shorter, or its checksum differs.

    Notes
    -----
    Each array goes to a ``.npy`` file of its own, readable by its owner only, in a private folder.
    It is read just before its rule runs, and removed with the last record that keeps it; the folder
    goes with the last file. What a killed process leaves in the user's cache is removed by the next
    one. Values of variables and watched tensors stay in memory: the program holds them anyhow.
    Gradients are equal to the bit to those from memory. Writing and reading happen in line, at the
    disk's speed; a folder in ``/tmp`` or ``/dev/shm`` may well be memory.

    Examples
    --------
    >>> import distgrad as dg
    >>> x = dg.Variable([1.0, 2.0])
    >>> with dg.offload_to_disk(min_bytes=0), dg.GradientTape() as tape:
    ...     y = dg.sum(dg.exp(dg.sin(x)))
    >>> print(tape.summary())
    3 records keep 8 bytes, and 8 bytes on disk
    operation                  records         bytes       largest
    sin                              1             8             8
    exp                              1             0             0
    sum                              1             0             0
    """
    if directory is not None and not os.path.isdir(directory):
        raise OffloadError(
            f"offload_to_disk: directory {os.fspath(directory)!r} does not exist; expected an "
            "existing directory on a disk with room, or None for the user's cache"
        )
    return packing_in_force(_ToDisk(directory, _checked("offload_to_disk", min_bytes)))


def _checked(function: str, min_bytes: int) -> int:
    if min_bytes < 0:
        raise ValueError(f"{function}: min_bytes is {min_bytes}; expected 0 or more")
    return min_bytes


# --- to the host --------------------------------------------------------------------------------


class _ToHost(Packing):
    where = "host"

    def __init__(self, min_bytes: int) -> None:
        super().__init__()
        self._min_bytes = min_bytes

    def pack(self, array: Any, kernels: Any, name: str, is_watched: bool) -> Any:
        """Return a copy in the host's memory."""
        if is_watched or isinstance(array, np.ndarray) or nbytes_of(array) < self._min_bytes:
            return LEAVE
        return kernels.backend.to_host(array)

    def unpack(self, packed: Any, kernels: Any, name: str) -> Any:
        """Return a copy on the device."""
        return kernels.backend.asarray(packed)


# --- to disk ------------------------------------------------------------------------------------


class _ToDisk(Packing):
    where = "disk"

    def __init__(self, directory: str | os.PathLike[str] | None, min_bytes: int) -> None:
        super().__init__()
        self._directory = directory
        self._min_bytes = min_bytes
        self._folder: _Folder | None = None

    def pack(self, array: Any, kernels: Any, name: str, is_watched: bool) -> Any:
        """Return the file that an array was written to."""
        if is_watched or _memory_of(array) < self._min_bytes or 0 in array.shape:
            return LEAVE
        host = kernels.backend.to_host(array)
        if self._folder is None:
            self._folder = _Folder(self._directory)
        return _File(self._folder, host, name)

    def unpack(self, packed: _File, kernels: Any, name: str) -> Any:
        """Return the array of a file."""
        host = packed.read(name)
        return host if isinstance(host, kernels.array_type) else kernels.backend.asarray(host)


def _memory_of(array: Any) -> int:
    """Return the bytes that an array holds: a small view holds the whole of a large array."""
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return nbytes_of(array)


class _Layout(NamedTuple):
    """How an array lies in memory, so that what is read lies there in the same way.

    A sum adds in the order of memory: in another layout its last bits might differ.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]  # axes, from the largest stride to the smallest
    repeated: tuple[int, ...]  # axes along which broadcasting repeats one element


def _layout_of(array: np.ndarray[Any, Any]) -> _Layout:
    axes = range(array.ndim)
    repeated = tuple(a for a in axes if array.strides[a] == 0 and array.shape[a] > 1)
    order = tuple(sorted(axes, key=lambda axis: -abs(array.strides[axis])))
    return _Layout(array.shape, array.dtype, order, repeated)


def _elements(array: np.ndarray[Any, Any], layout: _Layout) -> np.ndarray[Any, Any]:
    """Return the elements that are to be written, as bytes in the order of memory."""
    once = tuple(slice(0, 1) if axis in layout.repeated else slice(None) for axis in layout.order)
    lying = np.ascontiguousarray(array.transpose(layout.order)[once])
    return lying.reshape(-1).view(np.uint8)


def _arranged(elements: np.ndarray[Any, Any], layout: _Layout) -> np.ndarray[Any, Any]:
    """Return the array of which `_elements` gave the elements."""
    lying = [1 if axis in layout.repeated else layout.shape[axis] for axis in layout.order]
    back = [layout.order.index(axis) for axis in range(len(layout.order))]
    array = elements.view(layout.dtype).reshape(lying).transpose(back)
    return np.broadcast_to(array, layout.shape) if layout.repeated else array


class _File:
    """One array in a file, which is removed with this object.

    Raises
    ------
    OffloadError
        If the file cannot be written.
    """

    def __init__(self, folder: _Folder, array: np.ndarray[Any, Any], name: str) -> None:
        self._folder = folder  # kept: it goes with the last of its files
        self._layout = _layout_of(array)
        elements = _elements(array, self._layout)
        self._checksum = zlib.crc32(elements.data)
        self._path = folder.new_file()
        try:
            with _open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                np.save(file, elements, allow_pickle=False)
                self._bytes = file.tell()
        except OSError as error:
            _remove(os.getpid(), self._path)
            raise OffloadError(
                f"offload_to_disk: {name}: {elements.nbytes} bytes could not be written to "
                f"{self._path}: {error.strerror or error}; {_free(folder.path)}, choose another "
                "directory, or a larger min_bytes"
            ) from error
        weakref.finalize(self, _remove, os.getpid(), self._path)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return the array.

        Raises
        ------
        OffloadError
            If the file is not what was written.
        """
        try:
            with _open(self._path, os.O_RDONLY) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self._bytes:
                    raise self._changed(name, f"it has {size} bytes, {self._bytes} were written")
                elements = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            if isinstance(error, OffloadError):
                raise
            raise self._changed(name, str(error)) from error
        if elements.dtype != np.uint8 or zlib.crc32(elements.data) != self._checksum:
            raise self._changed(name, "its checksum differs")
        return _arranged(elements, self._layout)

    def _changed(self, name: str, how: str) -> OffloadError:
        return OffloadError(
            f"offload_to_disk: the rule of {name} needs an array of shape {self._layout.shape}, "
            f"but {self._path} is not what was written ({how}); leave the folder to this program, "
            "and run again"
        )


def _open(path: str, flags: int) -> Any:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "rb")


def _free(path: str) -> str:
    try:
        return f"{shutil.disk_usage(path).free} bytes are free there"
    except OSError:
        return "free space there is unknown"


def _remove(owner: int, path: str) -> None:
    # Only the process that made the file: a forked child ends, too, and has a copy of this.
    if os.getpid() == owner:
        with suppress(OSError):
            os.unlink(path)


class _Folder:
    """A private folder for files, which is removed with this object."""

    _PREFIX = "offload-"
    _LOCK = "in-use"
    _YOUNG = 3600.0  # seconds; a folder of that age without a lock was left by a crash

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        try:
            parent = Path(directory) if directory is not None else _cache()
            if directory is None:
                self._sweep(parent)
            self.path = tempfile.mkdtemp(prefix=self._PREFIX, dir=parent)  # mode 0700
            self._lock = _locked(os.path.join(self.path, self._LOCK), os.O_CREAT)
        except OSError as error:
            raise OffloadError(
                f"offload_to_disk: no folder could be made in {directory or 'the user cache'}: "
                f"{error}; pass a directory that you may write to"
            ) from error
        self._count = 0
        weakref.finalize(self, _remove_folder, os.getpid(), self.path, self._lock)

    def new_file(self) -> str:
        """Return the path of a file that is not there yet."""
        self._count += 1
        return os.path.join(self.path, f"{self._count}.npy")

    def _sweep(self, parent: Path) -> None:
        """Remove the folders that killed processes left: those whose lock nobody holds."""
        for left in parent.glob(f"{self._PREFIX}*"):
            with suppress(OSError):
                if left.is_symlink() or left.stat().st_uid != os.getuid():
                    continue
                try:
                    os.close(_locked(os.path.join(left, self._LOCK), 0))
                except FileNotFoundError:  # just made by a process that is about to lock it?
                    if time.time() - left.stat().st_mtime < self._YOUNG:
                        continue
                shutil.rmtree(left, ignore_errors=True)


def _locked(path: str, flags: int) -> int:
    """Return the descriptor of a file that this process has locked; the lock ends with it."""
    import fcntl  # where there is none (Windows), the rest of the library works

    descriptor = os.open(path, os.O_RDWR | flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_folder(owner: int, path: str, lock: int) -> None:
    if os.getpid() == owner:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def _cache() -> Path:
    """Return the user's cache, or the temporary folder where there is none: each makes its own."""
    try:
        return cache_folder()
    except CacheError:
        return Path(tempfile.gettempdir())
