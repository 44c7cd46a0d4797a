"""Measure distgrad on a CUDA device: kernels against the device's own limits, steps beside peers.

Kernels that move memory are given as a share of the bandwidth that a copy reaches, products as a
share of what CuPy's own product (cuBLAS) reaches; convolutions and attention beside PyTorch's.
Steps of training (forward, backward, Adam) are those of four small models: eager, by `dg.function`
operation by operation and as a CUDA graph, in float32 and by `autocast` in half precision, beside
PyTorch's, eager and as a CUDA graph, where that is installed with CUDA. Times are from the device's
events, the median of the rounds after some that are not counted. What was not captured as a graph
is listed below the table.

Writes a table in Markdown. `--backend numpy` runs the same program without a device, by the clock,
to see that it runs: its figures are those of one core and mean nothing else.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from device_cases.large import attention_rows, convolution_rows
from device_cases.timing import Clock, torch_median
from training_steps.own import models, step_of
from training_steps.peers import torch_graphed, torch_step

import distgrad as dg
from distgrad.backend import load
from distgrad.errors import DistgradError

UNSUPPORTED = (DistgradError, NotImplementedError, TypeError, ValueError)


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


def step_rows(clock: Clock, scale: int, chosen: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield model, dtype and the milliseconds of a step, distgrad's and PyTorch's."""
    for name, (make, shape) in models(scale).items():
        if name not in chosen:
            continue
        for dtype in ("float32", "bfloat16", "float16"):
            cells = []
            _, uncaptured = step_of(clock.backend, make, shape, dtype)
            eager, captured = step_of(clock.backend, make, shape, dtype)
            for work in (eager, without_graphs(uncaptured), captured):
                try:
                    cells.append(f"{1e3 * clock.median(work):.2f}")
                except UNSUPPORTED as error:
                    words = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
                    cells.append(f"fails ({words})")
            for make_peer in (torch_step, torch_graphed):
                try:
                    peer = make_peer(name, shape, scale, dtype, "cuda") if clock.events else None
                    words = (
                        f"{1e3 * torch_median(peer, clock.rounds):.2f}" if peer else "not measured"
                    )
                except RuntimeError as error:  # what it cannot capture
                    words = f"fails ({str(error).splitlines()[0][:60]})"
                cells.append(words)
            yield name, dtype, *cells


def without_graphs(step: Callable[[], Any]) -> Callable[[], Any]:
    """Return a step that is traced where CUDA graphs are switched off."""

    def work() -> Any:
        before = os.environ.get("DISTGRAD_CUDA_GRAPHS")
        os.environ["DISTGRAD_CUDA_GRAPHS"] = "0"
        try:
            return step()
        finally:
            if before is None:
                del os.environ["DISTGRAD_CUDA_GRAPHS"]
            else:
                os.environ["DISTGRAD_CUDA_GRAPHS"] = before

    return work


class Heard(logging.Handler):
    """Notes what was not captured as a CUDA graph."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a message."""
        self.lines.append(f"- {record.getMessage()}")


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
    heard = Heard()
    logging.getLogger("distgrad").addHandler(heard)
    logging.getLogger("distgrad").setLevel(logging.DEBUG)
    parts = [
        f"Measured on: {described(backend)}.\n",
        f"Command: `scripts/bench gpu {' '.join(sys.argv[1:])}`\n",
    ]
    rows = [*memory_rows(clock, arguments.elements), *product_rows(clock, arguments.size)]
    lines = [(name, f"{1e3 * seconds:.3f}", words) for name, seconds, words in rows]
    parts.append(table(("kernel", "ms", "rate"), lines))
    large = [*convolution_rows(clock, arguments.scale), *attention_rows(clock, arguments.scale)]
    head = ("kernel", "dtype", "forward ms", "both ways ms", "PyTorch's", "PyTorch's both ways")
    parts.append(table(head, large))
    steps = ("eager", "dg.function", "as a CUDA graph", "PyTorch eager", "PyTorch as a CUDA graph")
    head = ("step of", "dtype", *(f"{each} ms" for each in steps))
    parts.append(table(head, list(step_rows(clock, arguments.scale, arguments.models))))
    if heard.lines:
        parts.append("\n".join(dict.fromkeys(heard.lines)) + "\n")
    text = "\n".join(parts)
    print(text)
    if arguments.write:
        with arguments.write.open("a", encoding="utf-8") as page:
            page.write("\n" + text)


if __name__ == "__main__":
    main()
