"""Keep what was measured in the user's own cache, and read back nothing that is not the user's."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

_MOST = 200  # entries: a file that grows for years would be read for ever


class Remembered:
    """A file of JSON, an object of entries by key, in the user's cache.

    Everything that goes wrong with it is as if there were nothing in it: measuring again costs
    little, and no job ends for want of a cache.

    Parameters
    ----------
    name : str
        Of the file, in ``$XDG_CACHE_HOME/distgrad`` or ``~/.cache/distgrad``.
    """

    def __init__(self, name: str) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.path = Path(base) / "distgrad" / name

    def read(self, key: str) -> Any:
        """Return an entry, or None."""
        return self._all().get(key)

    def write(self, key: str, value: Any) -> None:
        """Keep an entry, the newest last, in place of what the key had."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(self.path.parent):
                return
            entries = self._all()
            entries.pop(key, None)
            entries[key] = value
            while len(entries) > _MOST:
                del entries[next(iter(entries))]
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(entries, stream, indent=1)
            temporary.replace(self.path)

    def _all(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            if _is_own(self.path.parent) and _is_own(self.path):
                found = json.loads(self.path.read_text(encoding="utf-8"))
                return found if isinstance(found, dict) else {}
        return {}


def _is_own(path: Path) -> bool:
    """Return whether nobody else owns or may write this: what is read decides how a job runs."""
    found = path.lstat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.getuid() and not others_write
