"""Hear that a rank has died, where MPI outlives it, and let all others hear of it.

Open MPI started ``--with-ft ulfm`` (User Level Failure Mitigation, chapter of the coming MPI
standard) does not end a job whose rank was killed: calls that need the dead raise. Ranks that wait
for the living, who have heard of it and gone elsewhere, would wait for ever. So the first to hear
revokes all communicators: from then on every call on them raises, on every rank.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from distgrad.errors import RankLostError

VARIABLE = "OMPI_MCA_mpi_ft_enable"  # what Open MPI's launcher tells its ranks

_NEWS_SECONDS = 2.0  # until the launcher's word of a death has come
_ERRORS = ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")


def outlives(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether this job's ranks outlive each other."""
    return (os.environ if environment is None else environment).get(VARIABLE) == "1"


class Losses:
    """What a rank knows of the deaths of others.

    Parameters
    ----------
    mpi : module
        `mpi4py.MPI`.
    communicator : mpi4py.MPI.Comm
        All ranks that are watched.
    """

    def __init__(self, mpi: Any, communicator: Any) -> None:
        self._mpi = mpi
        self._communicator = communicator
        self._watched = [communicator]
        self._ranks: set[int] = set()
        self.known = False

    def watch(self, communicator: Any) -> None:
        """Revoke this communicator, too, when somebody has died."""
        self._watched.append(communicator)

    def forget(self, communicator: Any) -> None:
        """Revoke this communicator no more: it is about to be freed."""
        self._watched.remove(communicator)

    def heard(self, error: Any) -> bool:
        """Return whether an error that MPI raised means that a rank has died, and remember it."""
        if not outlives():
            return False
        dead = self._dead()
        if not dead and not self._says_so(error):
            # A broken connection, or an operation that others have given up, may be noticed before
            # the death is known, as "known error not in list".
            deadline = time.monotonic() + _NEWS_SECONDS
            while not dead and not self._is_told():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
                dead = self._dead()
        self._ranks |= dead
        if not self.known:
            self.known = True
            self.revoke()
        return True

    def _says_so(self, error: Any) -> bool:
        codes = [getattr(self._mpi, name) for name in _ERRORS if hasattr(self._mpi, name)]
        return error.Get_error_class() in codes

    def _is_told(self) -> bool:
        """Return whether another rank has revoked a communicator; lets MPI hear of it, too."""
        try:
            self._communicator.Iprobe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG)
        except self._mpi.Exception as error:
            return self._says_so(error)
        with contextlib.suppress(self._mpi.Exception, NotImplementedError):
            return any(each.Is_revoked() for each in self._watched)
        return False

    def revoke(self) -> None:
        """Make every call on the watched communicators raise, on every rank."""
        for each in self._watched:
            with contextlib.suppress(self._mpi.Exception):
                each.Revoke()

    def _dead(self) -> set[int]:
        with contextlib.suppress(self._mpi.Exception, NotImplementedError):
            failed = self._communicator.Get_failed()
            places = failed.Translate_ranks(range(failed.size), self._communicator.Get_group())
            return {int(place) for place in places}
        return set()

    def error(self, rank: int, where: str) -> RankLostError:
        """Return the error that says who has died, as far as this rank knows."""
        lost = tuple(sorted(self._ranks))
        listed = ", ".join(map(str, lost))
        who = f"rank{'s' if len(lost) > 1 else ''} {listed} died" if lost else "a rank died"
        return RankLostError(
            f"{who}, while rank {rank} was {where}; only within dist.ElasticJob.run do the others "
            "go on",
            lost,
        )
