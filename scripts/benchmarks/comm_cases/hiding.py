"""How much of the messages is hidden behind the walk back, and behind the next step's reads.

Sleeps stand for computing and for a network: they leave the cores free.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from comm_cases.running import line, measure

LAYERS, SLEEP, MESSAGE = 16, 0.02, 2**18  # of the walk with delays: seconds and floats a layer
LAYER, WIRE = 0.01, 0.015  # of steps with a slow network: seconds a layer each way, and a message


# --- what the ranks run ---------------------------------------------------------------------------


def overlap(rounds: int, _: int) -> dict[str, float]:
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


def slow_network(rounds: int, _: int) -> dict[str, float]:
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


WORKERS = {"overlap": overlap, "slow_network": slow_network}


# --- the figures ----------------------------------------------------------------------------------


def show_overlap(rounds: int) -> None:
    """Print how much of the messages of a walk with delays is hidden."""
    found = measure("overlap", 2, rounds)
    if found:
        print(f"{LAYERS} layers of {4 * MESSAGE >> 20} MiB, {1e3 * SLEEP:.0f} ms each, 2 ranks:")
        line("communication after the walk, exposed", found["plain"])
        line("communication during the walk", found["seconds"])
        line("of it exposed", found["exposed"], "it", found["exposed"] / found["seconds"])


def show_slow_network(rounds: int) -> None:
    """Print how long steps wait for a slow network, by when they wait."""
    found = measure("slow_network", 2, rounds)
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
