"""Averaging gradients that are there already: in buckets, in shared memory, in fewer bytes."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from comm_cases.running import line, measure, medians

TENSORS, MEGABYTES = 200, 100
LENGTHS = (64, 1024, 7680, 102400)  # KiB of sums
COMPRESSED = 32  # MiB of gradients in matrices


class Ready:
    """A tape whose gradients are there already."""

    def __init__(self, gradients: list[Any]) -> None:
        self._gradients = gradients

    def gradient(self, *_: Any, **__: Any) -> list[Any]:
        """Return them."""
        return self._gradients


# --- what the ranks run ---------------------------------------------------------------------------


def averaging(rounds: int, megabytes: int) -> dict[str, float]:
    """Return the seconds of averaging many tensors, in each way, and of MPI alone."""
    from mpi4py import MPI

    import distgrad as dg
    import distgrad.distributed as dist
    from distgrad.distributed.averaging.ordered import OrderedSum, own_range
    from distgrad.distributed.safety.fingerprint import Entry, Plan, agree

    world = dist.init()
    # Of all sizes, as layers are: the largest is about a hundred times the smallest.
    shares = np.geomspace(1, 100, TENSORS)
    sizes = (shares / shares.sum() * megabytes * 2**20 / 4).astype(int)
    sources = [dg.Variable(np.ones(n, np.float32), name=f"v{k}") for k, n in enumerate(sizes)]
    gradients = [dg.asarray(np.full(n, world.rank, np.float32)) for n in sizes]
    flat = np.ones(int(sizes.sum()), np.float32)
    result = np.empty_like(flat)
    plan = Plan("bench", tuple(Entry(f"v{k}", "float32", (int(n),)) for k, n in enumerate(sizes)))
    row = np.ones(flat.size, np.float32)
    tape = dist.DistributedGradientTape(Ready(gradients), overlap=False)  # type: ignore[arg-type]

    def ordered() -> None:
        # The shards' own gradients are added up while they are computed: what is left is one row.
        total = OrderedSum(world, world.size)
        for _ in own_range(world.size, world.size, world.rank):
            total.add(row)
        total.total(flat.size, flat.dtype, result)

    seconds = medians(
        rounds,
        {
            "raw": lambda: MPI.COMM_WORLD.Allreduce(flat, result),
            "bucketed": lambda: tape.gradient(0.0, sources, examples=1),
            "ordered": ordered,
        },
        world.barrier,
    )
    return seconds | medians(50 * rounds, {"plans": lambda: agree(world, plan)}, world.barrier)


def sums(rounds: int, _: int) -> dict[str, float]:
    """Return the seconds of a weighed sum of each length: by MPI, by messages, in shared memory.

    There, it is the window's, and where there is a place for a message that of one that lies there.
    """
    from mpi4py import MPI

    import distgrad.distributed as dist
    from distgrad.distributed.verbs.shared_memory import SWITCH

    guard = dist.init().guard  # type: ignore[attr-defined]
    ways = {"messages": "0", "memory": "1"}
    found: dict[str, float] = {}
    for kibibytes in LENGTHS:
        message = np.ones(256 * kibibytes, np.float32)  # 1/2 + 1/2: it stays so

        def raw(message: Any = message) -> None:
            np.multiply(message, 0.5, out=message)
            MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, message)

        cases: dict[str, Any] = {"raw": raw}
        for way, switch in ways.items():
            os.environ[SWITCH] = switch
            comm = dist.MPICommunicator(MPI.COMM_WORLD, guard)
            comm.add_up_weighed(message, 0.5)  # looks at the switch the first time
            cases[way] = partial(comm.add_up_weighed, message, 0.5)
        comm.want_places(((message.dtype.char, message.size),))
        comm.add_up_weighed(message, 0.5)
        placed = comm.places.take(message.size, message.dtype)
        if placed is not None:
            placed[...] = message
            cases["place"] = partial(comm.add_up_weighed, placed, 0.5)
        count = rounds if kibibytes > 2**14 else 10 * rounds
        seconds = medians(count, cases, MPI.COMM_WORLD.Barrier)
        found |= {f"{way} {kibibytes}": each for way, each in seconds.items()}
    return found


def compression(rounds: int, megabytes: int) -> dict[str, float]:
    """Return the seconds of averaging matrices in each way to add up, and the bytes it takes."""
    import distgrad as dg
    import distgrad.distributed as dist

    world = dist.init()
    shape = (512, 512)  # a MiB
    rng = np.random.default_rng(world.rank)
    sources = [dg.Variable(np.zeros(shape, np.float32), name=f"v{k}") for k in range(megabytes)]
    gradients = [dg.asarray(rng.normal(size=shape).astype(np.float32)) for _ in sources]
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "hierarchical": {"reduction": "hierarchical"},
        "adasum": {"average": "adasum"},
    } | {name: {"compression": name} for name in ("fp16", "bf16", "int8", "topk", "powersgd")}
    sent = {}

    def averaged(name: str) -> None:
        ready: Any = Ready(gradients)
        tape = dist.DistributedGradientTape(ready, overlap=False, **ways[name])
        tape.gradient(0.0, sources, examples=1)
        sent[f"{name} bytes"] = tape.report.bytes

    seconds = medians(rounds, {name: partial(averaged, name) for name in ways}, world.barrier)
    return seconds | sent


WORKERS = {"averaging": averaging, "sums": sums, "compression": compression}


# --- the figures ----------------------------------------------------------------------------------


def show_averaging(rounds: int, ranks: int, megabytes: int) -> None:
    """Print what each way to average many tensors takes, beside MPI alone."""
    found = measure("averaging", ranks, rounds, megabytes)
    if found:
        raw = found["raw"]
        print(f"{TENSORS} tensors, {megabytes} MB, {ranks} ranks:")
        line("one raw MPI_Allreduce", raw)
        line("averaged in buckets", found["bucketed"], "raw", found["bucketed"] / raw)
        line("the deterministic sum", found["ordered"], "raw", found["ordered"] / raw)
        line(f"comparison of plans of {TENSORS} tensors", found["plans"])


def show_sums(rounds: int) -> None:
    """Print what sums of some lengths take on two ranks in each way."""
    found = measure("sums", 2, rounds)
    if found:
        print("sums of shares, each rank's message times its factor, 2 ranks:")
        for kibibytes in LENGTHS:
            raw, messages, memory = (
                found[f"{way} {kibibytes}"] for way in ("raw", "messages", "memory")
            )
            line(f"{kibibytes} KiB, product and MPI_Allreduce", raw)
            line("  product, and messages or slices", messages, "it", messages / raw)
            line("  through shared memory", memory, "product and messages", memory / messages)
            placed = found.get(f"place {kibibytes}")
            if placed is not None:
                line("  in shared memory", placed, "product and messages", placed / messages)


def show_compression(rounds: int) -> None:
    """Print what each way to add up took, and how many bytes."""
    found = measure("compression", 2, rounds, COMPRESSED)
    if found:
        plain, plain_bytes = found["plain"], found["plain bytes"]
        print(f"{COMPRESSED} matrices of 512 x 512, 2 ranks of one machine, which has no network:")
        for way in [name for name in found if not name.endswith(" bytes")]:
            part = 100 * found[f"{way} bytes"] / plain_bytes
            line(f"{way}, {part:.1f} % of the bytes", found[way], "plain", found[way] / plain)
