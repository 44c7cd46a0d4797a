"""Keep what was measured in the user's own cache, and read back nothing that is not the user's."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from distgrad.user_cache import cache_folder, check_owner

_MOST = 200  # entries: a file that grows for years would be read for ever


class Remembered:
    """A file of JSON, an object of entries by key, in the user's cache.

    Everything that goes wrong with it is as if there were nothing in it: measuring again costs
    little, and no job ends for want of a cache.

    Parameters
    ----------
    name : str
        Of the file, in the user's cache, see `distgrad.user_cache.cache_folder`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, key: str) -> Any:
        """Return an entry, or None."""
        return self._all().get(key)

    def write(self, key: str, value: Any) -> None:
        """Keep an entry, the newest last, in place of what the key had."""
        with contextlib.suppress(OSError):
            path = cache_folder() / self._name
            entries = self._all()
            entries.pop(key, None)
            entries[key] = value
            while len(entries) > _MOST:
                del entries[next(iter(entries))]
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(entries, stream, indent=1)
            temporary.replace(path)

    def _all(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):  # the cache's own errors are such
            path = cache_folder() / self._name
            check_owner(path)
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}
