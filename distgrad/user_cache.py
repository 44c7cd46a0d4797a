"""The user's own cache folder: where it is, and that nobody else can write to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from distgrad.errors import CacheError

VARIABLE = "DISTGRAD_CACHE_DIR"


def cache_folder(*parts: str) -> Path:
    """Return a folder of the user's own for files that can be made again.

    It is made, readable by its owner alone, where it is not there.

    Parameters
    ----------
    *parts : str
        Names of folders inside the cache.

    Returns
    -------
    Path
        Below ``$DISTGRAD_CACHE_DIR``, else ``$XDG_CACHE_HOME/distgrad``, else
        ``~/.cache/distgrad``.

    Raises
    ------
    CacheError
        If it cannot be made, belongs to somebody else, or others may write to it: what they put
        there would run, or be read, as this user's.
    """
    folder = _base()
    _own(folder)
    for part in parts:
        folder /= part
        _own(folder)
    return folder


def check_owner(path: Path, variable: str = VARIABLE) -> None:
    """Refuse a file or folder that somebody else owns or may write to.

    Parameters
    ----------
    path : Path
        Of a file or folder that is there.
    variable : str
        The environment variable that the error names as the remedy.

    Raises
    ------
    CacheError
        If so, or if it is a symbolic link or cannot be looked at.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise CacheError(
            f"{path} cannot be looked at: {error.strerror}; name another folder in {variable}"
        ) from error
    if stat.S_ISLNK(found.st_mode):
        raise CacheError(
            f"{path} is a symbolic link; expected a file or folder itself: remove the link, or "
            f"name another folder in {variable}"
        )
    if found.st_uid != os.geteuid():
        raise CacheError(
            f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}; name a folder of your "
            f"own in {variable}"
        )
    if _is_open_to_others(found):
        raise CacheError(f"others may write to {path}; run: chmod go-w {path}")


def _is_open_to_others(found: os.stat_result) -> bool:
    """Return whether others may write; a group of the owner's name and of nobody else is no other.

    Many systems give each user such a group, and let it write to all that the user makes.
    """
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP:
        return False
    import grp  # not on every system that has NumPy
    import pwd

    try:
        owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid)
    except KeyError:
        return True
    return group.gr_name != owner or any(member != owner for member in group.gr_mem)


def _base() -> Path:
    """Return the place, behind links of the user's own choice."""
    given = os.environ.get(VARIABLE)
    try:
        if given:
            return Path(given).expanduser().resolve()
        home = os.environ.get("XDG_CACHE_HOME")
        return ((Path(home) if home else Path.home() / ".cache") / "distgrad").resolve()
    except RuntimeError as error:  # no HOME, and a user without a name, as in some containers
        raise CacheError(
            f"the cache has no place: this user has no home folder; name one in {VARIABLE}"
        ) from error


def _own(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"the cache folder {folder} cannot be made: {error.strerror}; name one that can in "
            f"{VARIABLE}"
        ) from error
    check_owner(folder)
