"""Predict a training step on any number of ranks: its seconds, its efficiency and its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.planning.algorithms import gather
from distgrad.distributed.planning.link import Network, PlanningError
from distgrad.distributed.safety.fingerprint import number_of_slots

_SMALL = 2**20  # the first and the last bucket, see plan_buckets
STAGES = (0, 1, 2, 3)


class Message(NamedTuple):
    """A bucket of a step: its length, and when in the walk back it is full."""

    nbytes: float
    ready: float


@dataclass(frozen=True)
class Step:
    """What a rank does in one step, without the others.

    Attributes
    ----------
    forward, backward, optimizer : float
        Seconds of one micro-batch's forward and backward pass, and of the update.
    messages : tuple of Message
        The gradients, in the order in which they leave; `ready` is in seconds since the walk back
        began.
    deviation : float
        The standard deviation of the computing time from rank to rank, in seconds.
    overlaps : bool
        Whether messages travel during the walk back.
    micro_batches : int
        How many are computed for one update.
    """

    forward: float
    backward: float
    optimizer: float
    messages: tuple[Message, ...]
    deviation: float = 0.0
    overlaps: bool = True
    micro_batches: int = 1

    @property
    def computing(self) -> float:
        """Seconds of all that needs no other rank."""
        return self.micro_batches * (self.forward + self.backward) + self.optimizer

    @property
    def nbytes(self) -> float:
        """Bytes of all gradients."""
        return sum(message.nbytes for message in self.messages)

    @classmethod
    def estimated(
        cls,
        nbytes: float,
        seconds: float,
        *,
        bucket_bytes: float = BUCKET_BYTES,
        deviation: float = 0.0,
        overlaps: bool = True,
    ) -> Step:
        """Return a step of which only totals are known.

        The walk back takes twice as long as the forward pass, as for products of matrices, of which
        it makes two for each; gradients come evenly over it; the update takes a twentieth.
        """
        rest = 0.95 * seconds
        backward = 2 / 3 * rest
        return cls(
            rest - backward,
            backward,
            seconds - rest,
            cut(nbytes, backward, bucket_bytes),
            deviation,
            overlaps,
        )

    def with_buckets(self, bucket_bytes: float) -> Step:
        """Return the step with gradients cut into other buckets."""
        return replace(self, messages=cut(self.nbytes, self.backward, bucket_bytes))


def cut(nbytes: float, backward: float, bucket_bytes: float) -> tuple[Message, ...]:
    """Return gradients that come evenly over the walk back, in buckets as `plan_buckets` makes."""
    sizes: list[float] = []
    small = min(_SMALL, bucket_bytes)
    left = float(nbytes)
    tail = small if left > 2 * small else 0.0
    left -= tail
    while left > 0:
        size = min(small if not sizes else bucket_bytes, left)
        sizes.append(size)
        left -= size
    if tail:
        sizes.append(tail)
    messages, sent = [], 0.0
    for size in sizes:
        sent += size
        messages.append(Message(size, backward * sent / nbytes))
    return tuple(messages)


class Prediction(NamedTuple):
    """A step on some number of ranks.

    Attributes
    ----------
    ranks : int
    seconds : float
        Of the step.
    efficiency : float
        Seconds that a rank computes, over `seconds`: the speed-up over one rank with the same batch
        a rank, divided by the number of ranks.
    communication, exposed, waiting : float
        Seconds of all messages; of them, those in which nobody computes; and those spent waiting
        for the slowest rank.
    algorithm : str
        The quickest one for these messages.
    """

    ranks: int
    seconds: float
    efficiency: float
    communication: float
    exposed: float
    waiting: float
    algorithm: str


def predict(
    step: Step,
    network: Network,
    ranks: int,
    algorithms: Sequence[str] = ("rabenseifner",),
    stage: int = 0,
) -> Prediction:
    """Return the step on so many ranks, each with the batch that `step` was measured with.

    Parameters
    ----------
    step : Step
        What a rank computes and sends.
    network : Network
        What messages cost.
    ranks : int
        How many.
    algorithms : sequence of str
        From which the quickest is taken.
    stage : {0, 1, 2, 3}
        What is sharded: nothing, optimizer states, gradients as well, parameters as well.

    Notes
    -----
    With overlap, bucket b leaves at max(ready_b, end of b - 1), and what lasts beyond the walk back
    is exposed. From stage 1 on the gathering of parameters after the update is exposed; stage 3
    gathers them before the forward pass and before the walk back, half as much again as an
    allreduce sends in all [1]_, and each gathering hides behind its pass. The slowest of N ranks
    whose times deviate by σ is later than the mean by about σ √(2 ln N) [2]_.

    References
    ----------
    .. [1] Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
       models", SC 2020, arXiv:1910.02054, section 7.
    .. [2] Gumbel, "Statistics of Extremes", 1958, section 4.2.
    """
    computing = step.computing
    if ranks == 1:
        return Prediction(1, computing, 1.0, 0.0, 0.0, 0.0, "none")
    waiting = step.deviation * math.sqrt(2 * math.log(ranks))
    compare = network.allreduce("doubling", 32 + 8 * number_of_slots(ranks), ranks)
    found: list[Prediction] = []
    for algorithm in algorithms:
        sizes = {each.nbytes for each in step.messages}  # few: a large model's buckets are alike
        costs = {nbytes: network.allreduce(algorithm, nbytes, ranks) for nbytes in sizes}
        lengths = [costs[each.nbytes] for each in step.messages]
        gathering = network.seconds(gather(step.nbytes, ranks, network.per_node))
        if stage:  # gradients are scattered, by half of an allreduce
            lengths = [length / 2 for length in lengths]
        end = 0.0
        for message, length in zip(step.messages, lengths, strict=True):
            end = max(end, message.ready if step.overlaps else step.backward) + length
        exposed = max(end - step.backward, 0.0) + compare
        total = sum(lengths) + compare
        if stage in (1, 2):
            exposed += gathering
            total += gathering
        elif stage == 3:
            passes = step.micro_batches
            late = max(gathering - step.forward, 0.0) + max(gathering - step.backward, 0.0)
            exposed += passes * (late if step.overlaps else 2 * gathering)
            total += passes * 2 * gathering
        seconds = computing + waiting + exposed
        found.append(
            Prediction(ranks, seconds, computing / seconds, total, exposed, waiting, algorithm)
        )
    return min(found, key=lambda each: each.seconds)


class Memory(NamedTuple):
    """Bytes that a rank needs, without activations."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.parameters + self.gradients + self.optimizer


def memory(
    parameters: float, ranks: int, stage: int, *, itemsize: float = 4, state_itemsize: float = 8
) -> Memory:
    """Return the bytes that the model and its training take on each rank.

    Parameters
    ----------
    parameters : float
        How many numbers the model has.
    ranks : int
        How many ranks share what is sharded.
    stage : {0, 1, 2, 3}
        As for `predict`.
    itemsize, state_itemsize : float
        Bytes of a parameter (and its gradient), and of its optimizer state: 8 for Adam in float32,
        4 with momentum, 0 without.

    Notes
    -----
    Rajbhandari et al., SC 2020, arXiv:1910.02054, figure 1: of parameters, gradients and states,
    stage 1 divides the last by the number of ranks, stage 2 the last two, stage 3 all.
    """
    if stage not in STAGES:
        raise PlanningError(f"plan: stage is {stage}; expected one of 0, 1, 2, 3")
    shares = [1.0 if stage < first else 1.0 / ranks for first in (3, 2, 1)]
    whole = (itemsize, itemsize, state_itemsize)
    return Memory(*(parameters * size * share for size, share in zip(whole, shares, strict=True)))
