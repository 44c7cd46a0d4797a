"""Record what all ranks do within a block of a program."""

from __future__ import annotations

import os

from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.tracing.job import Timeline
from distgrad.distributed.verbs.communicator import Communicator


def timeline(path: str | os.PathLike[str], comm: Communicator | None = None) -> Timeline:
    """Record what every rank does from now on, and merge it into one file at the end.

    The file is for Perfetto (https://ui.perfetto.dev) or ``chrome://tracing``: a process a rank,
    with rows for what it computed, waited for and communicated, and for the blocks of `span`. The
    variable ``DISTGRAD_TIMELINE`` records a whole job without a change to its script.

    Parameters
    ----------
    path : str or os.PathLike
        Of the file, in a folder that all ranks see. Until the end each rank's part lies beside it,
        ``PATH.rank00000.partial``; if the job dies, ``distgrad timeline merge PATH`` makes a
        timeline of the parts.
    comm : Communicator, optional
        The ranks; `world()` by default. All ranks call this together.

    Returns
    -------
    Timeline
        A context manager, which has also ``close()``, called by all ranks together.

    Notes
    -----
    The clocks of ranks are compared at both ends, and times corrected in between; the file says by
    how much they may be wrong. Recording costs a microsecond or two a span.

    Examples
    --------
    >>> import json, tempfile, pathlib
    >>> import distgrad.distributed as dist
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "timeline.json"
    >>> with dist.timeline(path, dist.SerialCommunicator()):
    ...     with dist.span("load batch"):
    ...         batch = [1, 2, 3]
    >>> [each["name"] for each in json.loads(path.read_text())["traceEvents"] if each["ph"] == "X"]
    ['load batch']
    """
    return Timeline(path, ranks_of(comm))
