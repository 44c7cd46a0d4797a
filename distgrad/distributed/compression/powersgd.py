"""PowerSGD: a matrix's gradient as the product of two narrow ones, by a step of power iteration."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from distgrad.distributed.compression.feedback import Feedback
from distgrad.distributed.compression.protocol import Shares
from distgrad.distributed.compression.topk import add_up_whole
from distgrad.distributed.verbs.communicator import Array, Communicator


class PowerSGD:
    """Gradients of rank r: (n + m) r numbers of each matrix of n by m.

    Parameters
    ----------
    rank : int
        How many columns the factors have; of what is left out, all is remembered.
    warm_start : bool
        Whether a step starts from the factor of the one before, so that one iteration a step
        follows the gradient's leading directions; else from fresh random numbers.
    error_feedback : bool
        Whether what was left out is added to the next step's share; without it, it is lost.
    least_ratio : float
        Variables that would shrink by less are added up whole, as those with less than two axes
        are. Of three axes or more, the last one makes the columns.
    seed : int
        Of the random numbers, the same on every rank.

    Raises
    ------
    ValueError
        If the rank is less than 1, or the ratio no more than 0.

    Notes
    -----
    With M the sum over ranks of Mᵢ = sᵢ + eᵢ, algorithm 1 of [1]_: P = MQ, orthonormal P̂ = QR(P),
    Q = MᵀP̂, and M is taken to be P̂Qᵀ; both sums are an allreduce in float32. A rank remembers
    eᵢ = Mᵢ - P̂P̂ᵀMᵢ, what the projection takes from its own matrix; [1]_ has Mᵢ less the average,
    whose sum over ranks is the same. Where any rank's gradient of a variable is not finite,
    the sum is not either, and what is remembered of it stays as it was, on all ranks. The same bits
    on all ranks need the same BLAS and LAPACK on the same kind of processor.

    An instance remembers variables by their names: make one for each model.

    References
    ----------
    .. [1] Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for
       distributed optimization", NeurIPS 2019, arXiv:1905.13727, algorithms 1 and 2.

    Examples
    --------
    >>> import distgrad.distributed as dist
    >>> dist.compression.PowerSGD(rank=4)
    <compression powersgd(rank=4, warm_start=True, error_feedback=True, least_ratio=2, seed=0)>
    """

    def __init__(
        self,
        rank: int = 2,
        *,
        warm_start: bool = True,
        error_feedback: bool = True,
        least_ratio: float = 2.0,
        seed: int = 0,
    ) -> None:
        if rank < 1:
            raise ValueError(f"PowerSGD: rank is {rank}; expected 1 or more")
        if not least_ratio > 0:
            raise ValueError(f"PowerSGD: least_ratio is {least_ratio}; expected more than 0")
        self._rank = int(rank)
        self._warm_start = bool(warm_start)
        self._error_feedback = bool(error_feedback)
        self._least_ratio = float(least_ratio)
        self._seed = int(seed)
        self._feedback = Feedback("PowerSGD")

    def __repr__(self) -> str:
        return f"<compression {self.description}>"

    @property
    def description(self) -> str:
        """The name and all settings."""
        return (
            f"powersgd(rank={self._rank}, warm_start={self._warm_start}, "
            f"error_feedback={self._error_feedback}, least_ratio={self._least_ratio:g}, "
            f"seed={self._seed})"
        )

    @property
    def agreement(self) -> int:
        """A number that is the same on all ranks as long as they share the same factors."""
        return self._feedback.agreement

    def add_up(self, comm: Communicator, shares: Shares) -> int:
        """Put the sum of all ranks' shares in their place; see `Compression`."""
        self._feedback.stepped()
        low = [k for k, array in enumerate(shares.arrays) if self._is_worth_it(array)]
        whole = [k for k, array in enumerate(shares.arrays) if not self._is_worth_it(array)]
        sent = add_up_whole(comm, shares, whole)
        if low:
            sent += self._add_up_low(comm, shares, low)
        return sent

    def _is_worth_it(self, array: Array) -> bool:
        if array.ndim < 2 or not array.size:
            return False
        columns = array.shape[-1]
        rows = array.size // columns
        rank = min(self._rank, rows, columns)
        return bool(array.size >= self._least_ratio * rank * (rows + columns))

    def _add_up_low(self, comm: Communicator, shares: Shares, low: list[int]) -> int:
        names = [shares.names[k] for k in low]
        arrays = [shares.arrays[k] for k in low]
        matrices = [
            (self._feedback.recall(name, array) if self._error_feedback else array).reshape(
                -1, array.shape[-1]
            )
            for name, array in zip(names, arrays, strict=True)
        ]
        starts = [self._start(name, m) for name, m in zip(names, matrices, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            products = [m @ q for m, q in zip(matrices, starts, strict=True)]
            lefts, sent = _summed(comm, products)
            bases = [_orthonormal(p) for p in lefts]
            # Rounded as it is sent, so that what is remembered is what was not.
            own = [(m.T @ p).astype(np.float32) for m, p in zip(matrices, bases, strict=True)]
            rights, more = _summed(comm, own)
        for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
            base, right = bases[place], rights[place]
            if not (np.isfinite(base).all() and np.isfinite(right).all()):
                array[...] = np.nan
                continue
            if self._error_feedback:
                matrix = matrices[place]
                matrix -= base @ own[place].T
                self._feedback.memory[name] = matrix.reshape(array.shape)
            if self._warm_start:
                self._feedback.shared[name] = right.astype(np.float32)
            array[...] = (base @ right.T).reshape(array.shape)
        return sent + more

    def _start(self, name: str, matrix: Array) -> Array:
        """Return orthonormal columns to multiply a matrix by, the same on every rank."""
        known = self._feedback.shared.get(name) if self._warm_start else None
        if known is None:
            word = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
            step = 0 if self._warm_start else self._feedback.steps
            columns = matrix.shape[1]
            known = np.random.default_rng([self._seed, word, step]).standard_normal(
                (columns, min(self._rank, *matrix.shape))
            )
        return _orthonormal(known).astype(matrix.dtype)

    def state(self, comm: Communicator | None = None) -> dict[str, Array]:
        """Return what is remembered, as arrays by name, such as for a checkpoint.

        Parameters
        ----------
        comm : Communicator, optional
            With it, all ranks call this and get the same: what all of them left out, added up,
            which is all that a job on another number of ranks needs. Without it, this rank's own.

        Returns
        -------
        dict of str to numpy.ndarray
            ``memory/<variable>``, what was left out; ``shared/<variable>``, the factor from which
            the next step starts; ``steps``.
        """
        return self._feedback.state(comm)

    def load_state(self, state: Mapping[str, Array], comm: Communicator | None = None) -> None:
        """Remember what `state` returned.

        Parameters
        ----------
        state : mapping of str to numpy.ndarray
            With `comm`, what all ranks left out: the first rank remembers it for all. Without it,
            this rank's own. Every rank has to load one, of the same step.
        comm : Communicator, optional
            The ranks.

        Raises
        ------
        ValueError
            If it is not what `state` returned.
        """
        self._feedback.load_state(state, comm)


def _orthonormal(columns: Array) -> Array:
    """Return an orthonormal basis whose span holds the columns', also where some are zero."""
    if not np.isfinite(columns).all():
        return np.full(columns.shape, np.nan, columns.dtype)
    # Householder's reflections: columns that are nearly parallel come out orthogonal all the same.
    basis: Array = np.linalg.qr(columns.astype(np.float64))[0]
    return basis.astype(columns.dtype)


def _summed(comm: Communicator, matrices: list[Array]) -> tuple[list[Array], int]:
    """Return the sums of several matrices over all ranks by one allreduce, and its bytes."""
    message = np.concatenate([matrix.reshape(-1) for matrix in matrices]).astype(np.float32)
    comm.allreduce(message, "sum", out=message)
    summed, start = [], 0
    for matrix in matrices:
        piece = message[start : start + matrix.size].reshape(matrix.shape)
        summed.append(piece.astype(matrix.dtype, copy=False))
        start += matrix.size
    return summed, message.nbytes
