"""The checkpoints of one training: saved in the background, the newest few kept."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from distgrad.checkpoint.listing import latest
from distgrad.checkpoint.loading import Checkpoint, load
from distgrad.checkpoint.saving import Writing
from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.verbs.communicator import Communicator


class Manager:
    """Saves and loads the checkpoints of one training.

    Parameters
    ----------
    directory : path
        Where they lie.
    keep : int or None
        How many complete ones to keep; None keeps all.
    comm : Communicator, optional
        The ranks; `distgrad.distributed.world()` by default.
    asynchronous : bool
        Whether `save` returns once the values are copied, while a thread writes them.

    Raises
    ------
    ValueError
        If `keep` is less than 1.

    Notes
    -----
    `save`, `poll`, `wait`, `load` and `close` are called by all ranks together. The thread never
    speaks to other ranks: on one rank it finishes a checkpoint by itself, on several ranks the next
    of these calls does, once all have written. An error of the thread is raised there too, by all
    ranks. Leave the ``with`` block, or `close`, so that the last checkpoint appears; where an error
    leaves the block on several ranks, a checkpoint that is not finished is given up.

    Examples
    --------
    >>> import tempfile
    >>> import distgrad as dg
    >>> weights = dg.Variable([1.0, 2.0])
    >>> with dg.checkpoint.Manager(tempfile.mkdtemp(), keep=2) as manager:
    ...     for step in range(5):
    ...         manager.save({"weights": weights}, step=step)
    >>> manager.latest
    4
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        comm: Communicator | None = None,
        asynchronous: bool = True,
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"Manager: keep is {keep}; expected 1 or more, or None for all")
        self.directory = Path(directory)
        self.keep = keep
        self.asynchronous = asynchronous
        self._comm = comm
        self._running: _Running | None = None

    @property
    def comm(self) -> Communicator:
        """The ranks."""
        return ranks_of(self._comm)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return latest(self.directory)

    def save(self, nest: Any, *, step: int, metadata: Any = None) -> None:
        """Save a nest; parameters and errors as for `distgrad.checkpoint.save`.

        A checkpoint that is still being written is finished first.
        """
        self.wait()
        writing = Writing(
            self.directory, nest, step, metadata, self.comm, self.keep, copy=self.asynchronous
        )
        self._running = _Running(writing, self.comm.size == 1, self.asynchronous)
        if not self.asynchronous:
            self.wait()

    def poll(self) -> bool:
        """Finish a checkpoint that all ranks have written; return whether none is under way.

        On several ranks this is one small exchange: call it now and then between two `save`.
        """
        if self._running is None:
            return True
        done = np.array(self._running.is_done(), np.int32)
        if not int(self.comm.allreduce(done, "min")):
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait until no checkpoint is under way; raise what went wrong with it."""
        running, self._running = self._running, None
        if running is not None:
            running.finish()

    def load(self, nest: Any = None, *, step: int | None = None) -> Checkpoint:
        """Load the newest whole checkpoint; as `distgrad.checkpoint.load`."""
        self.wait()
        return load(self.directory, nest, step=step, comm=self.comm)

    def close(self) -> None:
        """Wait, as `wait` does; the manager can be used again."""
        self.wait()

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif self._running is not None:
            # Other ranks may not be here: nothing can be agreed on.
            running, self._running = self._running, None
            running.leave()


class _Running:
    """A checkpoint that is being written, in a thread of its own or at once."""

    def __init__(self, writing: Writing, alone: bool, asynchronous: bool) -> None:
        self._writing = writing
        self._alone = alone
        self._committed = False
        self._error: BaseException | None = None
        # No daemon: a script that ends has its last checkpoint written all the same.
        self._thread = threading.Thread(target=self._run, name="distgrad-checkpoint")
        if asynchronous:
            self._thread.start()
        else:
            self._run()

    def _run(self) -> None:
        try:
            self._writing.write()
            if self._alone:
                self._writing.commit()
                self._committed = True
        except BaseException as error:
            self._error = error

    def is_done(self) -> bool:
        """Return whether this rank's part is written, well or not."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        self._join()
        if self._error is not None:
            raise self._error
        if not self._committed:
            self._writing.commit()

    def leave(self) -> None:
        self._join()
        if not self._committed:
            self._writing.abandon()

    def _join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
