"""Measure distgrad on a CUDA device: kernels against the device's own limits, steps beside peers.

Kernels that move memory are given as a share of the bandwidth that a copy reaches, products as a
share of what CuPy's own product (cuBLAS) reaches. Steps of training (forward, backward, Adam) are
those of four small models, eager and by `dg.function`, in float32 and by `autocast` in half
precision, beside PyTorch's, eager, where that is installed with CUDA. Times are from the device's
events, the median of the rounds after some that are not counted.

Writes a table in Markdown. `--backend numpy` runs the same program without a device, by the clock,
to see that it runs: its figures are those of one core and mean nothing else.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from training_steps.own import models, step_of
from training_steps.peers import torch_step

import distgrad as dg
from distgrad.backend import load
from distgrad.errors import DistgradError

WARM_UP = 3  # rounds that compile kernels, fill the pool of memory and raise the clock
UNSUPPORTED = (DistgradError, NotImplementedError, TypeError, ValueError)


class Clock:
    """Times work on a backend's device, in seconds: by its events, or by the host's clock."""

    def __init__(self, backend: Any, rounds: int) -> None:
        self.backend = backend
        self.rounds = rounds
        self.events = getattr(getattr(backend.module, "cuda", None), "Event", None)

    def median(self, work: Callable[[], Any]) -> float:
        """Return the median of the rounds."""
        for _ in range(WARM_UP):
            work()
        self.backend.synchronize()
        return statistics.median(self._once(work) for _ in range(self.rounds))

    def _once(self, work: Callable[[], Any]) -> float:
        if self.events is None:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        begin, end = self.events(), self.events()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(self.backend.module.cuda.get_elapsed_time(begin, end)) / 1e3


# --- kernels --------------------------------------------------------------------------------------


def memory_rows(clock: Clock, elements: int) -> Iterator[tuple[str, float, str]]:
    """Yield name, seconds and share of a copy's bandwidth of kernels that move memory."""
    module, backend = clock.backend.module, clock.backend
    host = np.linspace(-2, 2, elements, dtype=np.float32)
    raw = backend.asarray(host)
    target = module.empty_like(raw)
    seconds = clock.median(lambda: module.copyto(target, raw))
    bandwidth = 2 * raw.nbytes / seconds
    yield "copy", seconds, f"{bandwidth / 1e9:.0f} GB/s"

    width = 1024
    rows = dg.asarray(raw.reshape(-1, width), backend=backend)
    scale, shift = (dg.asarray(backend.asarray(np.ones(width, np.float32))) for _ in range(2))
    flat = dg.asarray(raw, backend=backend)
    variable = dg.Variable(raw, backend=backend)
    optimizer = dg.optimizers.Adam(1e-3)
    # How many times each element is read or written at least.
    cases: dict[str, tuple[int, Callable[[], Any]]] = {
        "gelu": (2, lambda: dg.nn.gelu(flat)),
        "gelu, forward and back": (5, pulled(dg.nn.gelu, flat)),
        "softmax of rows of 1024": (2, lambda: dg.softmax(rows)),
        "softmax, forward and back": (5, pulled(dg.softmax, rows)),
        "layer norm of rows of 1024": (2, lambda: dg.nn.layer_norm(rows, scale, shift)),
        "layer norm, forward and back": (
            5,
            pulled(lambda x: dg.nn.layer_norm(x, scale, shift), rows),
        ),
        "a step of Adam": (7, lambda: optimizer.apply(flat, variable)),
        "random uniform": (1, drawing(elements)),
    }
    for name, (passes, work) in cases.items():
        seconds = clock.median(work)
        yield name, seconds, f"{passes * raw.nbytes / seconds / bandwidth:.0%} of the copy's"


def pulled(f: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    """Return what computes a function and pulls back a cotangent."""

    def work() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x, output_gradients=x)

    return work


def drawing(elements: int) -> Callable[[], Any]:
    """Return what draws numbers."""
    generator = dg.random.Generator(0)
    return lambda: generator.uniform((elements,), dtype="float32")


def product_rows(clock: Clock, size: int) -> Iterator[tuple[str, float, str]]:
    """Yield name, seconds and rate of products of square matrices, beside the module's own."""
    for dtype in ("float32", "float16", "float64"):
        host = np.linspace(-1, 1, size * size).reshape(size, size).astype(dtype)
        raw = clock.backend.asarray(host)
        own = clock.median(lambda raw=raw: raw @ raw)
        x = dg.asarray(raw, backend=clock.backend)
        seconds = clock.median(lambda x=x: dg.matmul(x, x))
        rate = 2 * size**3 / seconds / 1e12
        yield (
            f"product, {dtype}",
            seconds,
            f"{rate:.1f} TFLOP/s, {own / seconds:.0%} of the module's",
        )


# --- steps of training ----------------------------------------------------------------------------


def torch_median(step: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of PyTorch's step, by its own events: its stream is another."""
    import torch

    times = []
    for number in range(WARM_UP + rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        if number >= WARM_UP:
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def step_rows(clock: Clock, scale: int, chosen: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield model, dtype and the milliseconds of a step: eager, by `dg.function`, PyTorch."""
    for name, (make, shape) in models(scale).items():
        if name not in chosen:
            continue
        for dtype in ("float32", "bfloat16", "float16"):
            cells = []
            for work in step_of(clock.backend, make, shape, dtype):
                try:
                    cells.append(f"{1e3 * clock.median(work):.2f}")
                except UNSUPPORTED as error:
                    words = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
                    cells.append(f"fails ({words})")
            peer = torch_step(name, shape, scale, dtype, "cuda") if clock.events else None
            cells.append(
                f"{1e3 * torch_median(peer, clock.rounds):.2f}" if peer else "not measured"
            )
            yield name, dtype, *cells


# --- the table ------------------------------------------------------------------------------------


def described(backend: Any) -> str:
    """Return the device and the versions, in words."""
    if not hasattr(backend.module, "cuda"):
        return f"{platform.processor() or platform.machine()}, NumPy {np.__version__}: no device"
    runtime = backend.module.cuda.runtime
    name = runtime.getDeviceProperties(backend.module.cuda.Device().id)["name"].decode()
    versions = f"CUDA {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}"
    return (
        f"{name}, {versions}, CuPy {backend.module.__version__}, Python {platform.python_version()}"
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="cupy", help="cupy, or numpy to see that it runs")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured")
    parser.add_argument("--elements", type=int, default=2**26, help="of arrays for memory's sake")
    parser.add_argument("--size", type=int, default=4096, help="of the matrices")
    parser.add_argument("--scale", type=int, default=1, help="by how much models are smaller")
    parser.add_argument("--models", nargs="*", default=["MLP", "CNN", "LSTM", "transformer"])
    parser.add_argument("--write", type=Path, help="append the tables to this page too")
    arguments = parser.parse_args()
    dg.set_backend(arguments.backend)
    backend = load(arguments.backend)
    clock = Clock(backend, arguments.rounds)
    parts = [
        f"Measured on: {described(backend)}.\n",
        f"Command: `scripts/bench gpu {' '.join(sys.argv[1:])}`\n",
    ]
    rows = [*memory_rows(clock, arguments.elements), *product_rows(clock, arguments.size)]
    lines = [(name, f"{1e3 * seconds:.3f}", words) for name, seconds, words in rows]
    parts.append(table(("kernel", "ms", "rate"), lines))
    head = ("step of", "dtype", "eager ms", "dg.function ms", "PyTorch eager ms")
    parts.append(table(head, list(step_rows(clock, arguments.scale, arguments.models))))
    text = "\n".join(parts)
    print(text)
    if arguments.write:
        with arguments.write.open("a", encoding="utf-8") as page:
            page.write("\n" + text)


if __name__ == "__main__":
    main()
