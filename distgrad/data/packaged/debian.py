"""Unpack the data of a Debian package into the user's cache: without root, and once."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from distgrad.data.missing import MissingDataError
from distgrad.errors import CacheError
from distgrad.user_cache import cache_folder

_PATIENCE = 600  # seconds for a download; one that hangs is to end


def unpack_debian(package: str) -> Path:
    """Return the folder into which a Debian package of data is unpacked.

    What is there already is returned as it is. Else ``apt-get download`` fetches the package from
    the archive that this machine is configured for, and checks it against the archive's signed
    list; ``dpkg-deb`` unpacks it. Neither needs root, and no script of the package runs.

    Parameters
    ----------
    package : str
        Its name, such as ``dataset-fashion-mnist``.

    Returns
    -------
    Path
        ``debian/<package>`` in the user's cache, see `distgrad.user_cache.cache_folder`; in it lie
        the package's files by their paths, such as ``usr/share/...``.

    Raises
    ------
    ValueError
        If that is no name of a package.
    MissingDataError
        If there is no apt-get, it does not bring the package, or the cache cannot be used.

    Notes
    -----
    It may be called by several processes at once: the folder appears whole, or not at all.
    """
    if not package.replace("-", "").replace("+", "").replace(".", "").isalnum() or (
        not package[0].isalnum()
    ):
        raise ValueError(f"unpack_debian: {package!r} is no name of a Debian package")
    try:
        folder = cache_folder("debian") / package
    except CacheError as error:
        raise MissingDataError(f"there is no place to unpack {package}: {error}") from error
    if folder.is_dir():
        return folder
    try:
        # Beside its place, since only there a rename is one step.
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as scratch:
            _run(["apt-get", "--quiet", "download", package], scratch)
            (archive,) = Path(scratch).glob("*.deb")
            whole = Path(scratch, "whole")
            _run(["dpkg-deb", "--extract", str(archive), str(whole)], scratch)
            if not folder.is_dir():  # another process may have been quicker
                whole.rename(folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        if folder.is_dir():
            return folder
        said = getattr(error, "stderr", None) or str(error)
        line = said.strip().splitlines()[-1] if said.strip() else type(error).__name__
        raise MissingDataError(
            f"the Debian package {package} could not be unpacked into {folder}: {line}; run: "
            f"apt-get install {package}, or bring its files here from another machine"
        ) from error
    return folder


def _run(words: list[str], folder: str) -> None:
    subprocess.run(  # noqa: S603  two programs of Debian, and a name that was looked at
        words,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_PATIENCE,
    )
