"""Find the MPI of this environment without starting it."""

from __future__ import annotations

import sys
from typing import Any


def load_mpi() -> Any:
    """Return `mpi4py.MPI`, without initialising MPI if nobody has.

    Raises
    ------
    ImportError, RuntimeError
        If mpi4py is missing, or finds no MPI library: mpi4py raises either.
    """
    import mpi4py

    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = False  # importing is not starting
        mpi4py.rc.finalize = True
    from mpi4py import MPI

    return MPI
