"""Let no rank go on after an exception in the middle of an exchange of several messages.

Between the messages of one exchange ranks compute: they pack, weigh and allocate. An exception
there, such as an interrupt or a lack of memory, leaves the others waiting for the rest, and if the
program catches it, they would take this rank's next message for that.
"""

from __future__ import annotations

from types import TracebackType

from distgrad.distributed.verbs.communicator import Communicator
from distgrad.errors import BatchError, CommunicationError, NonFiniteGradientError

_ALIKE = (BatchError, CommunicationError, NonFiniteGradientError)


class Undivided:
    """A ``with`` block of messages that belong together; ranks that have met may not part in it.

    Errors that every rank raises alike, or that end the job, leave the ranks side by side. All
    others have the communicator refuse whatever comes next, if it can: ``break_off(what, error)``.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    what : str
        The exchange in words.
    """

    def __init__(self, comm: Communicator, what: str) -> None:
        self._comm = comm
        self._what = what

    def __enter__(self) -> None:
        """Begin; how the block ends is what counts."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, _ALIKE):
            return
        break_off = getattr(self._comm, "break_off", None)
        if break_off is not None:
            break_off(self._what, error)
