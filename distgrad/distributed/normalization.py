"""Batch norm over the batch of all ranks: moments weighed by counts, and differentiated as such."""

from __future__ import annotations

from math import prod
from typing import Any

from distgrad.distributed.launching.launch import ranks_of
from distgrad.distributed.safety.fingerprint import Entry
from distgrad.distributed.verbs.collective_ops import ALLGATHER, next_call, record
from distgrad.distributed.verbs.communicator import Communicator
from distgrad.distributed.verbs.in_traces import exchange_lengths
from distgrad.dtypes import as_dtype
from distgrad.eager import asarray
from distgrad.errors import BatchError, DTypeError
from distgrad.nn.norm_layers import BatchNorm
from distgrad.nn.normalization import BatchMoments, batch_norm
from distgrad.ops.elementwise.arithmetic import add, divide, multiply, square, subtract
from distgrad.ops.picking.indexing import getitem
from distgrad.ops.reducing.reductions import sum as sum_over
from distgrad.ops.shaping.structure import astype, concat, reshape
from distgrad.shapes import Axis, normalize_axes, normalize_axis
from distgrad.tensor import Operators


def sync_moments(
    x: Any, /, *, axis: Axis = 0, keepdims: bool = False, comm: Communicator | None = None
) -> tuple[Any, Any]:
    """Return the mean and the variance over axes of the values of all ranks.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real and floating. Ranks may have different lengths along the axes, also 0; the others have
        to agree.
    axis : int or tuple of int
        The axes to average over, in addition to the ranks; the axis of the examples by default.
    keepdims : bool
        Whether these axes stay, with length 1.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Returns
    -------
    mean, variance : Tensor
        The same bits on every rank; the variance is the population's.

    Raises
    ------
    BatchError
        If no rank has a value.
    DesyncError
        On every rank, if ranks do different things, the other axes or dtypes differ, or a tape
        follows `x` on some ranks only.
    DTypeError
        If `x` is not real and floating.
    PositionError
        If `x` has no such axis.

    Notes
    -----
    With counts nᵢ, means mᵢ and sums of squares about them Mᵢ, for n = Σ nᵢ and m = Σ nᵢmᵢ / n,
    ``variance = (Σ Mᵢ + Σ nᵢ(mᵢ - m)²) / n`` [1]_. All of a rank's numbers travel in one message,
    in float64. Derivatives of any order are those of one process on all values, where the target is
    the sum of all ranks' targets, as for `allreduce`.

    References
    ----------
    .. [1] Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
       variances", Stanford STAN-CS-79-773, 1979, equation 1.5.
    """
    comm = ranks_of(comm)
    mean, variance, _ = _moments("sync_moments", x, axis, comm)
    if not keepdims:
        axes = normalize_axes("sync_moments", axis, len(x.shape))
        kept = tuple(n for a, n in enumerate(mean.shape) if a not in axes)
        mean, variance = reshape(mean, kept), reshape(variance, kept)
    return mean, variance


def sync_batch_norm(
    x: Any,
    scale: Any = None,
    shift: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    comm: Communicator | None = None,
) -> BatchMoments:
    """Return x with each channel normalised over the examples of all ranks.

    Parameters
    ----------
    x : Tensor, Variable or array
        Real and floating: this rank's examples, which may be none.
    scale, shift : Tensor, Variable or array of one axis, optional
        A factor and a term for each channel.
    axis : int
        The axis of the channels: the last for NHWC, 1 for NCHW.
    epsilon : float
        Added to the variance, in its unit.
    comm : Communicator, optional
        The ranks; `world()` by default.

    Returns
    -------
    BatchMoments
        Output, and the mean and variance of all ranks.

    Raises
    ------
    BatchError, DesyncError, DTypeError, PositionError
        As for `sync_moments`.

    Notes
    -----
    The ranks' gradients belong to the sum of their targets, and that is to be the loss of the
    global batch: each rank's target is its *share*, the sum of its examples' losses divided by the
    number of examples of all ranks, and `DistributedGradientTape` adds up with ``average="sum"``.
    (Where all ranks have equally many examples, means and ``average="examples"`` give the same.)
    Other libraries average gradients of local means here, which is another function's gradient
    where shards are uneven.
    """
    comm = ranks_of(comm)
    return _over_ranks("sync_batch_norm", x, scale, shift, axis, epsilon, comm)[0]


class SyncBatchNorm(BatchNorm):
    """Batch norm over the examples of all ranks, with running moments that all ranks share.

    Parameters
    ----------
    comm : Communicator, optional
        The ranks; `world()` at the time of a call by default.
    **options
        As for `nn.BatchNorm`.

    Notes
    -----
    See `sync_batch_norm` on what has to be the target where shards are uneven. While training, all
    ranks call it equally often, also those without examples; in inference nothing travels.
    """

    def __init__(self, *, comm: Communicator | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._communicator = comm

    def _over_batch(self, x: Any) -> tuple[BatchMoments, int]:
        comm = ranks_of(self._communicator)
        axis: Any = self.axis
        return _over_ranks("SyncBatchNorm", x, self.scale, self.shift, axis, self.epsilon, comm)


def _over_ranks(
    function: str,
    x: Any,
    scale: Any,
    shift: Any,
    axis: int,
    epsilon: float,
    comm: Communicator,
) -> tuple[BatchMoments, int]:
    """Return x normalised by all ranks' moments, and of how many values a channel's are."""
    place = normalize_axis(function, axis, len(x.shape))
    axes = tuple(a for a in range(len(x.shape)) if a != place)
    moments = _moments(function, x, axes, comm)
    mean, variance = (reshape(each, (x.shape[place],)) for each in moments[:2])
    output = batch_norm(x, scale, shift, mean=mean, variance=variance, axis=axis, epsilon=epsilon)
    return BatchMoments(output, mean, variance), moments[2]


def _moments(function: str, x: Any, axis: Axis, comm: Communicator) -> tuple[Any, Any, int]:
    """Return mean and variance with all axes, and how many values of all ranks they stand for."""
    x = x.read() if isinstance(x, Operators) else asarray(x)
    dtype = as_dtype(x.dtype)
    if dtype.kind != "f" and dtype.name != "bfloat16":
        raise DTypeError(f"{function}: x has dtype {dtype}; expected a real floating dtype")
    axes = normalize_axes(function, axis, len(x.shape))
    here = prod(x.shape[a] for a in axes)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    what = f"{function} (all axes but those of the mean)"
    lengths, what = exchange_lengths(comm, what, Entry("x", dtype.name, kept), here)
    counts = lengths.tolist()
    total = sum(counts)
    if total == 0:
        raise BatchError(
            f"{function}: no rank of {comm.size} has a value; expected at least one in the global "
            "batch"
        )
    wide = astype(x, "float64")
    own_mean = divide(sum_over(wide, axis=axes, keepdims=True), max(here, 1))
    spread = sum_over(square(subtract(wide, own_mean)), axis=axes, keepdims=True)
    size = prod(kept)
    row = concat([reshape(own_mean, (1, size)), reshape(spread, (1, size))], axis=1)
    params = {"comm": comm, "what": what, "call": next_call(comm), "followed": False}
    rows = record(ALLGATHER, row, {**params, "counts": (1,) * comm.size})
    weights = asarray([[float(n)] for n in counts], dtype="float64", backend=x.backend)
    means = getitem(rows, (slice(None), slice(size)))
    spreads = getitem(rows, (slice(None), slice(size, None)))
    mean = divide(sum_over(multiply(weights, means), axis=0, keepdims=True), total)
    between = multiply(weights, square(subtract(means, mean)))
    variance = divide(sum_over(add(spreads, between), axis=0), total)
    return astype(reshape(mean, kept), dtype), astype(reshape(variance, kept), dtype), total
