"""Give back MPI's communicators that no rank holds any more, when another one is made.

MPI has few (MPICH 2048 in a process), and all ranks of one give it back together. But when the
last reference to an object goes, differs between ranks. So the parent of communicators remembers
them, and the next time that all its ranks make one, they free those that every rank has dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np

from distgrad.errors import CommunicationError


class Member:
    """A communicator of MPI's for as long as anybody uses it, and those that were made from it.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Which is freed here.
    owner : object
        Without which nobody can use it.
    forget : callable
        ``forget()``: called before it is freed.
    """

    def __init__(self, communicator: Any, owner: Any, forget: Callable[[], None]) -> None:
        self._communicator = communicator
        self._owner = ref(owner)
        self._forget = forget
        self._children: list[Member] = []

    def take_in(self, child: Member) -> None:
        """Remember a communicator that all ranks of this one have made together."""
        self._children.append(child)

    def free_dropped(self, mpi: Any) -> None:
        """Free the children that all ranks have dropped; all ranks of this one call this."""
        if not self._children:
            return
        dropped = np.array([child._is_dropped() for child in self._children], np.int8)
        self._communicator.Allreduce(mpi.IN_PLACE, dropped, mpi.MIN)
        children, self._children = self._children, []
        for child, is_dropped in zip(children, dropped.tolist(), strict=True):
            if is_dropped:
                child._free()
            else:
                self._children.append(child)

    def _is_dropped(self) -> bool:
        return self._owner() is None and all(child._is_dropped() for child in self._children)

    def _free(self) -> None:
        for child in self._children:
            child._free()
        self._forget()
        self._communicator.Free()


def made(mpi: Any, make: Callable[[], Any]) -> Any:
    """Return the communicator that a function of mpi4py's makes, whose errors are raised.

    Parameters
    ----------
    mpi : module
        `mpi4py.MPI`.
    make : callable
        Such as `mpi4py.MPI.Comm.Dup`, bound to a communicator.

    Raises
    ------
    CommunicationError
        If MPI makes none.
    """
    try:
        communicator = make()
    except mpi.Exception as error:
        raise CommunicationError(
            f"MPI makes no further communicator: {error.Get_error_string().strip()}; drop those "
            "that are no longer used, or use one of them again"
        ) from error
    # Whatever mpi4py.rc.errors says: an error becomes an exception that names the operation.
    communicator.Set_errhandler(mpi.ERRORS_RETURN)
    return communicator
