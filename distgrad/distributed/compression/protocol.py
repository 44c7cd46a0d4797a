"""What a compression is: something that adds up the ranks' shares of a gradient in its own way."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from distgrad.distributed.verbs.communicator import Array, Communicator


class Shares(NamedTuple):
    """What one rank has of the gradients in a message.

    Attributes
    ----------
    names : tuple of str
        Of the variables; each stands for one variable of the model.
    flat : numpy.ndarray of shape (n,)
        All of them end to end: this rank's gradients times its part of all examples, so that their
        sum over the ranks is the average. float32 or float64.
    arrays : list of numpy.ndarray
        Views of `flat` in the shapes of the variables.
    """

    names: tuple[str, ...]
    flat: Array
    arrays: list[Array]


@runtime_checkable
class Compression(Protocol):
    """How gradients are added up over ranks in fewer bytes.

    What has a memory also has ``agreement``, a number that is the same on all ranks as long as what
    they have to share is: a rank that restored a memory which the others did not is then found out
    before anything is sent; and ``state(comm=None)`` and ``load_state(state, comm=None)``, see
    `PowerSGD.state`.

    Attributes
    ----------
    description : str
        The name and all settings. Ranks whose descriptions differ raise a `DesyncError`.
    """

    @property
    def description(self) -> str:
        """The name and all settings, such as ``int8(block=256)``."""
        ...

    def add_up(self, comm: Communicator, shares: Shares) -> int:
        """Put the sum of all ranks' shares in their place, the same bits on every rank.

        Parameters
        ----------
        comm : Communicator
            The ranks, of two or more. All of them call this with the same names and shapes, and
            have to call the same verbs in the same order, whatever the numbers are.
        shares : Shares
            What is to be overwritten by the sum.

        Returns
        -------
        int
            The bytes of the messages that this rank gave to the others, each counted once: of an
            allreduce those of its array, of alltoallv and allgatherv of slices those of one pass.
        """
        ...
