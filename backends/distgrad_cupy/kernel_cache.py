"""Where CuPy keeps compiled kernels: a folder that nobody else may write to, or memory alone.

CuPy loads what it finds there by the name of its source, and looks at no owner; it makes the folder
with the permissions that the user's umask leaves.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from distgrad.errors import CacheError
from distgrad.user_cache import check_owner

FOLDER = "CUPY_CACHE_DIR"
MEMORY_ALONE = "CUPY_CACHE_IN_MEMORY"


class KernelCacheWarning(UserWarning):
    """CuPy's folder of kernels is not the user's own: they are compiled anew in each process."""


def keep_private() -> None:
    """Have this process, and those it starts, read no kernels that somebody else may have written.

    Warns
    -----
    KernelCacheWarning
        If CuPy's folder belongs to somebody else or others may write to it. Kernels are then kept
        in memory alone.
    """
    if os.environ.get(MEMORY_ALONE, "0") not in ("", "0"):
        return
    named = os.environ.get(FOLDER)
    # As CuPy has it: who has no home has a folder of that name.
    folder = Path(os.path.expanduser(named or "~/.cupy/kernel_cache")).resolve()
    try:
        for each in (folder,) if named else (folder.parent, folder):
            if _is_there(each):
                check_owner(each, FOLDER)
    except CacheError as error:
        os.environ[MEMORY_ALONE] = "1"
        warnings.warn(
            f"CuPy's compiled kernels are not kept on disk, since others could replace them: "
            f"{error}",
            KernelCacheWarning,
            stacklevel=2,
        )


def _is_there(path: Path) -> bool:
    """Return whether there is such a folder, or may be one that this user cannot look at."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
