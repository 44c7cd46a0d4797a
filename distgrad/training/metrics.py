"""Write what a training job measured, one JSON object a line."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from errno import ENOENT
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from distgrad.variable import Variable
from distgrad.whole_files import replacing


class MetricsFile:
    """A file of metrics, one JSON object a line, whole after every step.

    Parameters
    ----------
    path : path-like
        Replaced if it exists. Its folder has to exist.
    up_to : int
        A job that is resumed after this step keeps the lines up to it, and goes on below them.

    Attributes
    ----------
    kept : list of dict
        The lines that were kept.
    lost : list of range
        The steps up to there of which the file has no line that can be read.

    Raises
    ------
    OSError
        If the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path, *, up_to: int = 0) -> None:
        self._path = Path(path)
        self.kept = _lines(self._path, up_to) if up_to else []
        self.lost = _gaps([record["step"] for record in self.kept], up_to)
        if self.kept:  # a job that is killed here has not lost the lines before
            with replacing(path) as file:
                file.writelines(map(_line, self.kept))
        # Line buffered: a job that is killed leaves every finished step on disk.
        mode = "a" if self.kept else "w"
        self._file = self._path.open(mode, encoding="utf-8", buffering=1)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one object; floats keep every digit that their double has.

        Raises
        ------
        ValueError
            If a number is infinite or not a number, which JSON cannot say.
        """
        self._file.write(_line(record))

    def close(self) -> None:
        """Close the file.

        Raises
        ------
        FileNotFoundError
            If it was removed in the meantime, and what was written with it.
        """
        self._file.close()
        if not self._path.exists():
            raise FileNotFoundError(ENOENT, "was removed while it was written", str(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _lines(path: Path, up_to: int) -> list[dict[str, Any]]:
    """Return the records of a metrics file up to a step; a line may be cut short or damaged."""
    found: list[dict[str, Any]] = []
    if not path.is_file():
        return found
    last = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            step = record.get("step") if isinstance(record, dict) else None
            if isinstance(step, int) and last < step <= up_to:
                found.append(record)
                last = step
    return found


def _gaps(steps: Iterable[int], up_to: int) -> list[range]:
    """Return which whole numbers from 1 up to the last one are not among some that rise."""
    edges = [0, *steps, up_to + 1]
    return [range(low + 1, high) for low, high in pairwise(edges) if high > low + 1]


def variables_sha256(variables: Iterable[Variable]) -> str:
    """Return the SHA-256 of the variables' bytes in the order of their names, in hexadecimal.

    Parameters
    ----------
    variables : iterable of Variable
        Their names have to differ, or the order and so the digest would be a matter of chance.

    Raises
    ------
    ValueError
        If two variables have the same name.

    Notes
    -----
    Two jobs with the same digest hold the same bits; the elements count in C order, in the
    byte order of the machine.
    """
    by_name: dict[str, Variable] = {}
    for variable in variables:
        if variable.name in by_name:
            raise ValueError(
                f"variables_sha256: names have to differ, got {variable.name!r} twice; "
                "name the variables: Variable(value, name=...)"
            )
        by_name[variable.name] = variable
    digest = hashlib.sha256()
    for name in sorted(by_name):
        digest.update(np.ascontiguousarray(by_name[name].numpy()).tobytes())
    return digest.hexdigest()
