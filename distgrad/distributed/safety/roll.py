"""Who joined a job and who ended in good order: a file for each rank, read by `distgrad run`.

A launcher may return 0 although a rank has ended in the middle of the job: MPICH's does where the
rank itself returned 0. So each rank leaves a file when it joins, and takes it away when it is done.
Ranks on other machines, which have no such folder, leave none.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROLL = "DISTGRAD_ROLL"  # the folder, as an environment variable of the ranks

_WITHOUT_SOME = "without-some"


class Roll:
    """The line of this process in the roll of its job.

    Parameters
    ----------
    rank : int
        The rank that it has joined as.
    """

    def __init__(self, rank: int) -> None:
        # Taken out, so that jobs that a rank starts by itself leave nothing in the folder of its.
        folder = os.environ.pop(ROLL, None)
        self._line = Path(folder, str(rank)) if folder else None
        self._note(self._line)

    def sign_off(self, *, lost_others: bool = False) -> None:
        """Note that this process has ended in good order.

        Parameters
        ----------
        lost_others : bool
            Whether it went on without ranks that died: then nobody is to miss those.
        """
        if self._line is None:
            return
        if lost_others:
            self._note(self._line.with_name(_WITHOUT_SOME))
        with contextlib.suppress(OSError):
            self._line.unlink()

    @staticmethod
    def _note(line: Path | None) -> None:
        if line is not None:
            with contextlib.suppress(OSError):
                line.touch()


def missing(folder: Path) -> list[int]:
    """Return the ranks of this machine that joined the job and did not end in good order."""
    names = {path.name for path in folder.iterdir()}
    return [] if _WITHOUT_SOME in names else sorted(int(name) for name in names)
