"""Write a file so that whoever looks finds the old one or the whole new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Yield a stream of text, which takes the place of a file once the block has ended well.

    Parameters
    ----------
    path : path
        Of a file that may be there. A symbolic link stays one: what it leads to is replaced. What
        is no file, such as a device or a pipe, is written to as it stands.

    Raises
    ------
    OSError
        If it cannot be written; a file that was there stays as it was.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8") as stream:
            yield stream
        return
    target = target.resolve()
    aside = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            yield stream
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
