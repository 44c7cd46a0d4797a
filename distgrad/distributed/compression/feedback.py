"""Remember what a compression left out, variable by variable, and add it to the next step's share.

The memory of rank i follows eᵢ ← eᵢ + sᵢ - cᵢ with the share sᵢ and what was sent of it, cᵢ. So the
sum of all that was ever applied is the sum of all shares less Σ eᵢ: nothing is lost, only late.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from distgrad.distributed.verbs.communicator import Array, Communicator, exchange_json
from distgrad.errors import CommunicationError

_MEMORY = "memory/"
_SHARED = "shared/"
_STEPS = "steps"


class Feedback:
    """A compression's memory: what is each rank's own, and what all ranks share.

    Parameters
    ----------
    owner : str
        The compression's name, for errors.

    Attributes
    ----------
    memory : dict of str to numpy.ndarray
        What this rank left out so far, by variable.
    shared : dict of str to numpy.ndarray
        What is the same on every rank, by variable.
    steps : int
        How many messages were added up.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self.memory: dict[str, Array] = {}
        self.shared: dict[str, Array] = {}
        self.steps = 0
        self._loaded = 0  # a digest of what was loaded

    @property
    def agreement(self) -> int:
        """A number that is the same on all ranks as long as what they share is."""
        return (self._loaded + self.steps) % 2**48

    def stepped(self) -> None:
        """Count a message, of which all ranks have as many."""
        self.steps += 1

    def recall(self, name: str, share: Array) -> Array:
        """Return a share plus what was left out of the variable so far, as a new array.

        Raises
        ------
        CommunicationError
            If the memory is that of another shape.
        """
        left = self.memory.get(name)
        if left is None:
            return np.array(share)
        if left.shape != share.shape:
            raise CommunicationError(
                f"{self._owner}: the memory of {name} has shape {list(left.shape)}, its gradient "
                f"{list(share.shape)}; make an instance for each model"
            )
        total: Array = share + left
        return total

    def state(self, comm: Communicator | None) -> dict[str, Array]:
        """Return copies of all that is remembered, by name; see `PowerSGD.state`."""
        state = {_STEPS: np.array([self.steps, self._loaded], np.int64)}
        state |= {_SHARED + name: array.copy() for name, array in self.shared.items()}
        own = dict(self.memory)
        if comm is not None and comm.size > 1:
            own = _summed(comm, own)
        return state | {_MEMORY + name: array.copy() for name, array in own.items()}

    def load_state(self, state: Mapping[str, Array], comm: Communicator | None) -> None:
        """Remember what `state` returned; see `PowerSGD.load_state`.

        Raises
        ------
        ValueError
            If it is no such thing.
        """
        unknown = [
            name for name in state if name != _STEPS and not name.startswith((_MEMORY, _SHARED))
        ]
        if unknown or _STEPS not in state:
            what = f"has {unknown[0]!r}" if unknown else f"has no {_STEPS!r}"
            raise ValueError(
                f"{self._owner}.load_state: the state {what}; expected what state() returned"
            )
        self.memory = {
            name.removeprefix(_MEMORY): np.array(array)
            for name, array in state.items()
            if name.startswith(_MEMORY)
        }
        self.shared = {
            name.removeprefix(_SHARED): np.array(array)
            for name, array in state.items()
            if name.startswith(_SHARED)
        }
        if comm is not None and comm.rank > 0:
            self.memory = {}  # the first rank has what all had
        digest = blake2b(digest_size=6)
        for name in sorted(self.shared):
            digest.update(name.encode() + self.shared[name].tobytes())
        self.steps, before = (int(each) for each in np.asarray(state[_STEPS]))
        self._loaded = (int.from_bytes(digest.digest(), "little") + before) % 2**47


def _summed(comm: Communicator, own: dict[str, Array]) -> dict[str, Array]:
    """Return the memories of all ranks, added up; a rank may lack some that others have."""
    shapes: dict[str, tuple[list[int], str]] = {}
    for each in exchange_json(comm, {n: [list(a.shape), a.dtype.name] for n, a in own.items()}):
        shapes |= each
    total = {}
    for name in sorted(shapes):
        shape, dtype = shapes[name]
        array = own.get(name)
        total[name] = comm.allreduce(np.zeros(shape, dtype) if array is None else array, "sum")
    return total
