"""Say which package brings a data set that is not here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from distgrad.errors import DistgradError


class MissingDataError(DistgradError, ImportError):
    """A data set or a file format needs a package, or a file, that is not there.

    The message names it, and the command that brings it.
    """


def needed(module: str, what: str, remedy: str) -> Any:
    """Return an optional module.

    Parameters
    ----------
    module : str
        Its name.
    what : str
        What needs it, as the subject of a sentence.
    remedy : str
        The command that installs it.

    Raises
    ------
    MissingDataError
        If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDataError(
            f"{what} with the package {package}, which is not installed; run: {remedy}"
        ) from error
