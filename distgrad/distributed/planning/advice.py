"""Say what would make a step on many ranks quicker, or make it fit: in sentences with figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.planning.link import Network
from distgrad.distributed.planning.prediction import STAGES, Step, memory, predict

BUCKETS = tuple(n * 2**20 for n in (1, 2, 4, 8, 16, 25, 50, 100, 200))
_GOOD = 0.9  # the efficiency to reach
_WORTH = 0.02  # the share of a step below which an advice is none
_MOST_MICRO_BATCHES = 1024


def best_bucket(step: Step, network: Network, ranks: int, algorithms: Sequence[str]) -> int:
    """Return the length of buckets with which a step is quickest, the largest of equals."""
    seconds = {
        size: predict(step.with_buckets(size), network, ranks, algorithms).seconds
        for size in BUCKETS
    }
    quickest = min(seconds.values())
    return max(size for size, each in seconds.items() if each <= 1.001 * quickest)


def micro_batches_for(
    step: Step, network: Network, ranks: int, algorithms: Sequence[str], efficiency: float = _GOOD
) -> int | None:
    """Return the fewest micro-batches a step that reach an efficiency; None if none does."""
    count = 1
    while count <= _MOST_MICRO_BATCHES:
        more = replace(step, micro_batches=count)
        if predict(more, network, ranks, algorithms).efficiency >= efficiency:
            return count
        count *= 2
    return None


def advise(
    step: Step,
    network: Network,
    ranks: int,
    algorithms: Sequence[str],
    *,
    parameters: float,
    memory_bytes: float | None = None,
    itemsize: float = 4,
    state_itemsize: float = 8,
) -> list[str]:
    """Return what to change for so many ranks, the most useful first; empty if nothing helps."""
    now = predict(step, network, ranks, algorithms)
    found: list[tuple[float, str]] = []

    def offer(other: Step, text: str) -> None:
        seconds = predict(other, network, ranks, algorithms).seconds
        gain = 1 - seconds / now.seconds
        if gain > _WORTH:
            found.append((gain, f"{text}: {1e3 * seconds:.4g} ms a step, {100 * gain:.0f} % less"))

    bucket = best_bucket(step, network, ranks, algorithms)
    if bucket != BUCKET_BYTES:
        offer(step.with_buckets(bucket), f"bucket_bytes={bucket // 2**20} * 2**20")
    if not step.overlaps:
        offer(replace(step, overlaps=True), "overlap=True, with a core or a GPU to spare")
    for name, share in (("fp16", 0.5), ("int8", 0.25)):
        smaller = tuple(m._replace(nbytes=share * m.nbytes) for m in step.messages)
        offer(
            replace(step, messages=smaller),
            f"compression={name!r}, if packing is quick beside the network",
        )
    texts = [text for _, text in sorted(found, reverse=True)]
    if now.efficiency < _GOOD:
        count = micro_batches_for(step, network, ranks, algorithms)
        texts.append(
            f"{count} micro-batches a step (a global batch {count} times as large) reach "
            f"{100 * _GOOD:.0f} % efficiency"
            if count
            else f"no accumulation reaches {100 * _GOOD:.0f} % efficiency: the time goes into "
            "waiting for the slowest rank"
        )
    if memory_bytes is not None:
        fits = [
            stage
            for stage in STAGES
            if memory(
                parameters, ranks, stage, itemsize=itemsize, state_itemsize=state_itemsize
            ).total
            <= memory_bytes
        ]
        gib = memory_bytes / 2**30
        texts.append(
            f"ZeRO stage {fits[0]} is the first that fits into {gib:.4g} GiB a rank"
            if fits
            else f"no ZeRO stage fits into {gib:.4g} GiB a rank, also without activations"
        )
    return texts
