"""Measure what averaging gradients over MPI ranks costs, beside MPI itself and beside PyTorch.

Each job runs on ranks of this machine: bucketed averaging of many tensors beside one raw
MPI_Allreduce of the same bytes, the comparison of plans, the deterministic sum, compressed,
adaptive and hierarchical sums beside the plain one, how much of the communication is hidden where
the walk back waits (sleeps stand for it: they leave the cores free), how much more if a step waits
where a variable is read next and messages take their time (sleeps, too), and a training step on two
ranks beside DistributedDataParallel with gloo and beside two single processes at the same time,
which is what this machine can do at most. Ratios are distgrad's time to the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.testing.ranks import run_ranks

TENSORS, MEGABYTES = 200, 100
COMPRESSED = 32  # MiB of gradients in matrices
LAYERS, SLEEP, MESSAGE = 16, 0.02, 2**18  # of the walk with delays: seconds and floats a layer
LAYER, WIRE = 0.01, 0.015  # of steps with a slow network: seconds a layer each way, and a message
# Of the training step. The gradients' bytes are the same for any number of examples a rank, so
# that more of them leave less of a step to communication.
WIDTHS, EXAMPLES = (784, 1024, 1024, 10), (128, 512)
# Of averaging: gradients that nobody holds are weighed where they lie, others are packed.
PARTS = ("compare plans", "weigh", "pack", "bucket", "unpack")


def medians(rounds: int, cases: dict[str, Callable[[], Any]], meet: Callable[[], Any]) -> dict:
    """Return each case's median seconds; all run in turn, round after round, from a barrier."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            meet()
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


# --- what the ranks run ---------------------------------------------------------------------------


def averaging(rounds: int, megabytes: int) -> dict:
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

    class Ready:
        """A tape whose gradients are there already."""

        def gradient(self, *_: Any, **__: Any) -> list[Any]:
            return gradients

    tape = dist.DistributedGradientTape(Ready(), overlap=False)  # type: ignore[arg-type]

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


def compression(rounds: int, megabytes: int) -> dict:
    """Return the seconds of averaging matrices in each way to add up, and the bytes it takes."""
    import distgrad as dg
    import distgrad.distributed as dist

    world = dist.init()
    shape = (512, 512)  # a MiB
    rng = np.random.default_rng(world.rank)
    sources = [dg.Variable(np.zeros(shape, np.float32), name=f"v{k}") for k in range(megabytes)]
    gradients = [dg.asarray(rng.normal(size=shape).astype(np.float32)) for _ in sources]

    class Ready:
        """A tape whose gradients are there already."""

        def gradient(self, *_: Any, **__: Any) -> list[Any]:
            return gradients

    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "hierarchical": {"reduction": "hierarchical"},
        "adasum": {"average": "adasum"},
    } | {name: {"compression": name} for name in ("fp16", "bf16", "int8", "topk", "powersgd")}
    sent = {}

    def averaged(name: str) -> None:
        tape = dist.DistributedGradientTape(Ready(), overlap=False, **ways[name])  # type: ignore
        tape.gradient(0.0, sources, examples=1)
        sent[f"{name} bytes"] = tape.report.bytes

    seconds = medians(rounds, {name: partial(averaged, name) for name in ways}, world.barrier)
    return seconds | sent


def overlap(rounds: int, _: int) -> dict:
    """Return how much of the messages of a walk with delays is hidden."""
    import distgrad as dg
    import distgrad.distributed as dist

    world = dist.init()
    model = [dg.Variable(np.ones(MESSAGE, np.float32), name=f"v{n}") for n in range(LAYERS)]

    @dg.custom_gradient
    def delayed(x: Any) -> Any:
        def gradient(g: Any) -> Any:
            time.sleep(SLEEP)
            return g

        return x, gradient

    def step(is_overlapped: bool) -> None:
        tape = dist.DistributedGradientTape(
            dg.GradientTape(), bucket_bytes=4 * MESSAGE, overlap=is_overlapped
        )
        with tape:
            y = dg.asarray(np.float32(1))
            for variable in model:
                y = delayed(y) + dg.mean(variable)
        tape.gradient(y, model, examples=1)

    found: dict[str, list[float]] = {"seconds": [], "exposed": [], "plain": []}
    for is_overlapped in [False, True] * (rounds + 1):
        world.barrier()
        step(is_overlapped)
        report = dist.last_report()
        if is_overlapped:
            found["seconds"].append(report.seconds)
            found["exposed"].append(report.exposed_seconds)
        else:
            found["plain"].append(report.exposed_seconds)
    return {name: statistics.median(each[1:]) for name, each in found.items()}


def barrier(rounds: int, _: int) -> dict:
    """Return how long steps wait for a slow network, by when they wait."""
    import distgrad as dg
    import distgrad.distributed as dist
    from distgrad.distributed.averaging.adding import Native

    dist.init()
    add_up = Native.add_up

    def slowly(self: Native, *arguments: Any) -> int:
        time.sleep(WIRE)
        return add_up(self, *arguments)

    Native.add_up = slowly  # type: ignore[method-assign]

    @dg.custom_gradient
    def delayed(x: Any) -> Any:
        def gradient(g: Any) -> Any:
            time.sleep(LAYER)
            return g

        time.sleep(LAYER)
        return x, gradient

    ways: dict[str, dict[str, Any]] = {
        "after": {"overlap": False},
        "during": {"overlap": True},
        "next read": {"wait": "next-read"},
    }
    found = {}
    for name, options in ways.items():
        model = [dg.Variable(np.ones(MESSAGE, np.float32), name=f"v{n}") for n in range(LAYERS)]
        optimizer = dist.DistributedOptimizer(
            dg.optimizers.SGD(1e-3), bucket_bytes=4 * MESSAGE, **options
        )
        optimizer.build(model)
        exposed, begun = [], []
        for _ in range(rounds + 4):
            begun.append(time.perf_counter())
            with dg.GradientTape() as tape:
                y = dg.asarray(np.float32(1))
                for variable in model:
                    y = delayed(y + dg.mean(variable))
            optimizer.minimize(y, model, tape, examples=1)
            exposed.append(optimizer.report.exposed_seconds)
        optimizer.wait()
        # The first two steps do not overlap, and of a late step the next one knows the report.
        found[name] = statistics.median(exposed[3:])
        found[f"{name} step"] = statistics.median(np.diff(begun)[3:])
    return found


def batch(rank: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a rank's examples and labels."""
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(examples, WIDTHS[0])).astype(np.float32)
    return x, rng.integers(0, WIDTHS[-1], examples)


def training(rounds: int, examples: int) -> dict:
    """Return the seconds of a step: averaged over ranks, and of each rank for itself."""
    import distgrad as dg
    import distgrad.distributed as dist
    from distgrad.core import spans

    world = dist.init()
    x, labels = batch(world.rank, examples)
    rng = np.random.default_rng(0)
    model = [
        dg.Variable(rng.normal(size=shape).astype(np.float32) / 30, name=f"w{n}")
        for n, shape in enumerate(pairwise(WIDTHS))
    ]

    def step(comm: Any) -> None:
        with dg.GradientTape() as tape:
            y = x
            for weights in model[:-1]:
                y = dg.relu(y @ weights)
            losses = dg.softmax_cross_entropy(labels=labels, logits=y @ model[-1])
            loss = dg.mean(losses)
        averaging = dist.DistributedGradientTape(tape, comm)
        for variable, gradient in zip(
            model, averaging.gradient(loss, model, examples=examples), strict=True
        ):
            variable.assign_sub(0.01 * gradient)

    from mpi4py import MPI

    alone = dist.SerialCommunicator()
    flat = np.zeros(sum(variable.array.size for variable in model), np.float32)
    result = np.empty_like(flat)

    def beside_raw() -> None:
        step(alone)
        MPI.COMM_WORLD.Allreduce(flat, result)

    def traced() -> None:
        before = spans.tell(lambda *facts: heard.append(facts))
        step(world)
        spans.tell(before)

    heard: list[Any] = []
    cases = {
        "together": lambda: step(world),
        "alone": lambda: step(alone),
        "alone and raw": beside_raw,
        "traced": traced,
    }
    seconds = medians(10 * rounds, cases, world.barrier)
    kinds = dict.fromkeys(PARTS, 0.0)
    for name, _, begun, ended, _ in heard:
        if name in kinds:
            kinds[name] += (ended - begun) / 1e9 / (10 * rounds + 1)
    return seconds | kinds


def training_torch(rounds: int, examples: int) -> dict:
    """Return the seconds of the same step by DistributedDataParallel with gloo."""
    import torch
    from torch import distributed, nn

    rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
    torch.set_num_threads(1)
    store = f"file://{os.environ['DISTGRAD_BENCH_STORE']}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    layers: list[nn.Module] = []
    for n, shape in enumerate(pairwise(WIDTHS)):
        layers += [nn.ReLU()] * bool(n) + [nn.Linear(*shape, bias=False)]
    model = nn.Sequential(*layers)
    averaging = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, labels = (torch.as_tensor(each) for each in batch(rank, examples))

    def step(module: nn.Module) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), labels).backward()
        optimizer.step()

    cases = {"together": lambda: step(averaging), "alone": lambda: step(model)}
    seconds = medians(10 * rounds, cases, distributed.barrier)
    distributed.destroy_process_group()
    return seconds | {"rank": rank}


WORKERS = {
    "averaging": averaging,
    "compression": compression,
    "overlap": overlap,
    "barrier": barrier,
    "training": training,
    "training_torch": training_torch,
}


# --- the program ----------------------------------------------------------------------------------


def measure(name: str, ranks: int, rounds: int, size: int = MEGABYTES) -> dict | None:
    """Return what rank 0 of a job measured; None, said aloud, if the job failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_ranks(
            ranks,
            [__file__, "--worker", name, "--rounds", rounds, "--size", size],
            timeout=300,
            env={"DISTGRAD_BENCH_STORE": str(Path(folder) / "store")},
        )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        reason = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"{name} on {ranks} ranks: no figures ({reason})")
        return None
    figures: dict = json.loads(lines[0])
    return figures


def line(what: str, seconds: float, other: str = "", ratio: float | None = None) -> None:
    """Print a figure, and its ratio to another."""
    text = f"  {what:46}{1e3 * seconds:10.3f} ms"
    print(text if ratio is None else f"{text}{ratio:8.2f} x {other}")


def show_ways(found: dict) -> None:
    """Print what each way to add up took, and how many bytes."""
    plain, plain_bytes = found["plain"], found["plain bytes"]
    print(f"{COMPRESSED} matrices of 512 x 512, 2 ranks of one machine, which has no network:")
    for way in [name for name in found if not name.endswith(" bytes")]:
        part = 100 * found[f"{way} bytes"] / plain_bytes
        line(f"{way}, {part:.1f} % of the bytes", found[way], "plain", found[way] / plain)


def main() -> None:
    """Run the jobs and print their figures, the losing ratios among them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3], help="to average on")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of gradients")
    parser.add_argument("--size", type=int, default=MEGABYTES, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.megabytes < 1 or min(arguments.ranks) < 2:
        parser.error("--rounds and --megabytes must be 1 or more, --ranks 2 or more")
    if arguments.worker:
        figures = WORKERS[arguments.worker](arguments.rounds, arguments.size)
        rank = figures.pop("rank", None)
        if rank is None:
            import distgrad.distributed as dist

            rank = dist.world().rank
        if rank == 0:
            print(json.dumps(figures), flush=True)
        return

    cores = len(os.sched_getaffinity(0))
    print(
        f"Python {platform.python_version()}, {cores} cores, medians of {arguments.rounds} rounds"
    )
    for ranks in arguments.ranks:
        found = measure("averaging", ranks, arguments.rounds, arguments.megabytes)
        if found:
            raw = found["raw"]
            print(f"{TENSORS} tensors, {arguments.megabytes} MB, {ranks} ranks:")
            line("one raw MPI_Allreduce", raw)
            line("averaged in buckets", found["bucketed"], "raw", found["bucketed"] / raw)
            line("the deterministic sum", found["ordered"], "raw", found["ordered"] / raw)
            line(f"comparison of plans of {TENSORS} tensors", found["plans"])
    found = measure("compression", 2, arguments.rounds, COMPRESSED)
    if found:
        show_ways(found)
    found = measure("overlap", 2, arguments.rounds)
    if found:
        print(f"{LAYERS} layers of {4 * MESSAGE >> 20} MiB, {1e3 * SLEEP:.0f} ms each, 2 ranks:")
        line("communication after the walk, exposed", found["plain"])
        line("communication during the walk", found["seconds"])
        line("of it exposed", found["exposed"], "it", found["exposed"] / found["seconds"])
    show_barrier(arguments.rounds)
    for examples in EXAMPLES:
        show_training(arguments.rounds, examples)


def show_barrier(rounds: int) -> None:
    """Print how long steps wait for a slow network, by when they wait."""
    found = measure("barrier", 2, rounds)
    if found:
        print(
            f"steps of {LAYERS} layers, {1e3 * LAYER:.0f} ms each way, {1e3 * WIRE:.0f} ms a "
            "message, 2 ranks:"
        )
        for way in ("after", "during"):
            line(f"step, messages {way} the walk", found[f"{way} step"])
            line("  of it exposed", found[way])
        ratio = found["next read step"] / found["during step"]
        line("step, wait='next-read'", found["next read step"], "during the walk", ratio)
        ratio = found["next read"] / found["during"]
        line("  of it exposed", found["next read"], "during the walk", ratio)


def show_training(rounds: int, examples: int) -> None:
    """Print what a training step takes, in which parts, and beside PyTorch."""
    print(f"a step of {'-'.join(map(str, WIDTHS))} on 2 ranks of {examples} examples, one thread:")
    ours, theirs = measure("training", 2, rounds, examples), None
    if ours:
        line("distgrad, two processes by themselves", ours["alone"])
        ratio = ours["together"] / ours["alone"]
        line("distgrad, averaged", ours["together"], "by themselves", ratio)
        raw = ours["alone and raw"]
        line("by themselves, then one raw MPI_Allreduce", raw, "by themselves", raw / ours["alone"])
        for part in PARTS:
            line(f"  of it: {part} (mean)", ours[part])
        ratio = ours["traced"] / ours["together"]
        line("distgrad, averaged, with a timeline", ours["traced"], "without", ratio)
        theirs = measure("training_torch", 2, rounds, examples)
    if ours and theirs:
        line("PyTorch, two processes by themselves", theirs["alone"])
        ratio = theirs["together"] / theirs["alone"]
        line("PyTorch, DDP with gloo", theirs["together"], "by themselves", ratio)
        print(f"  distgrad averaged / DDP: {ours['together'] / theirs['together']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
