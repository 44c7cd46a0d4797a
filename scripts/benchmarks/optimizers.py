"""Measure a step of Adam on ten million float32 parameters, beside PyTorch and the memory's limit.

The limit: a step reads parameter, gradient and two moments, and writes all but the gradient: seven
passes, at the bandwidth that a copy of an array as large reaches here. Peak is how far the resident
memory rises during steps after the first one, which makes the state. Each library runs in a process
of its own, with one thread; PyTorch in three ways: its default, foreach, and fused.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

PASSES = 7


def distgrad_step(start: np.ndarray, gradient: np.ndarray) -> Callable[[], object]:
    """Return a step of distgrad's Adam."""
    import distgrad as dg

    x, g = dg.Variable(start), dg.asarray(gradient)
    optimizer = dg.optimizers.Adam(1e-3)
    return lambda: optimizer.apply(g, x)


def torch_step(start: np.ndarray, gradient: np.ndarray, **how: bool) -> Callable[[], object]:
    """Return a step of PyTorch's Adam."""
    import torch

    torch.set_num_threads(1)
    x = torch.nn.Parameter(torch.from_numpy(start))
    x.grad = torch.from_numpy(gradient)
    return torch.optim.Adam([x], lr=1e-3, **how).step


LIBRARIES = {
    "distgrad": distgrad_step,
    "torch": torch_step,
    "torch foreach": lambda x, g: torch_step(x, g, foreach=True),
    "torch fused": lambda x, g: torch_step(x, g, fused=True),
}


def resident(field: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS now, VmHWM the highest."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a call in seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(library: str, size: int, repeats: int) -> dict[str, float]:
    """Return the time of a step, and how far memory rises in it."""
    draw = np.random.default_rng(0)
    start, gradient = (draw.standard_normal(size, dtype=np.float32) for _ in range(2))
    step = LIBRARIES[library](start, gradient)
    step()
    del start
    # The mark of the highest memory can be reset by the process itself, from Linux 4.0 on.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    seconds = fastest(step, repeats)
    return {"seconds": seconds, "peak": max(resident("VmHWM") - before, 0)}


def bandwidth_bound(size: int, repeats: int) -> float:
    """Return the seconds of seven passes over arrays of this size."""
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    return fastest(lambda: np.copyto(target, source), repeats) / 2 * PASSES


def main() -> None:
    """Measure in a process each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000_000, help="parameters")
    parser.add_argument(
        "--repeats", type=int, default=15, help="steps, the fastest of which counts"
    )
    parser.add_argument("--one", metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.size, arguments.repeats)))
        return
    if not Path("/proc/self/status").exists():
        parser.error("this benchmark reads /proc, which this operating system does not have")

    bound = bandwidth_bound(arguments.size, arguments.repeats)
    print(f"{'':16}{'ms a step':>10}{'/ bound':>9}{'peak, MB':>10}{'distgrad / it':>15}")
    print(f"{'memory bound':16}{bound * 1e3:10.1f}{1:9.2f}")
    ours = 0.0
    for library in LIBRARIES:
        command = [sys.executable, __file__, "--one", library]
        command += ["--size", str(arguments.size), "--repeats", str(arguments.repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            print(f"{library}: not measured ({' '.join(last)})", file=sys.stderr)
            continue
        found = json.loads(done.stdout)
        seconds, peak = found["seconds"], found["peak"]
        ours = ours or seconds
        print(
            f"{library:16}{seconds * 1e3:10.1f}{seconds / bound:9.2f}{peak / 1e6:10.1f}"
            f"{ours / seconds:15.2f}"
        )


if __name__ == "__main__":
    main()
