"""Come to one mind about who is left, and make those the world: agreement, and shrinking.

Whoever meets with a death revokes all communicators, so that everybody comes here; who was done
with all steps comes as well, to hear that nobody needs it any more. On each communicator each rank
takes part in one agreement, which MPI completes among the living whatever happens meanwhile.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from distgrad.distributed.launching.launch import rejoin
from distgrad.distributed.safety.guard import Guard, write_lines
from distgrad.distributed.verbs.mpi import MPICommunicator

_LOOK_SECONDS = 0.01


def agree_to(guard: Guard, communicator: Any, agreed: bool) -> bool:
    """Return whether all ranks that live agree, and none has died; the same on every rank.

    Parameters
    ----------
    guard : Guard
        This process's.
    communicator : mpi4py.MPI.Comm
        The ranks, all of which call this; it may be revoked.
    agreed : bool
        Whether this rank does.
    """
    mpi = guard.mpi
    flag = np.array([int(agreed)], np.int32)
    try:
        request = communicator.Iagree(flag)
        _wait(guard, request)
    except mpi.Exception as error:
        if not guard.losses.heard(error):
            raise
        return False
    return bool(flag[0])


def _wait(guard: Guard, request: Any) -> None:
    """Return once a request is complete; end the job if that takes longer than its deadline."""
    begun = look_at = time.monotonic()
    while not request.Test():
        os.sched_yield()
        now = time.monotonic()
        if now >= look_at:
            look_at = now + _LOOK_SECONDS
            guard.receive()  # a rank that raises says so there, and dooms the job
        if now - begun > guard.timeout:
            write_lines(
                guard.rank,
                f"waited {now - begun:.1f} s for the other ranks to agree on who is left; a longer "
                "deadline: dist.init(timeout=...) or DISTGRAD_TIMEOUT",
            )
            guard.abort(1)


def shrink(guard: Guard) -> tuple[MPICommunicator, tuple[int, ...]]:
    """Return the communicator of the ranks that are left, and the old ranks of those that aren't.

    All that live call this, after an agreement on the guard's communicator has failed.
    """
    mpi, old = guard.mpi, guard.communicator
    before = old.Get_group()
    while True:
        survivors = old.Shrink()
        world = None
        try:
            world = rejoin(survivors)
        except mpi.Exception:
            # Another one has died meanwhile: whoever waits for this rank is to hear of it.
            survivors.Revoke()
        if agree_to(guard, survivors, world is not None) and world is not None:
            break
        old = survivors
    places = before.Translate_ranks(None, survivors.Get_group())
    return world, tuple(rank for rank, place in enumerate(places) if place < 0)
