"""Measure distgrad on a CUDA device: kernels against the device's own limits, steps beside peers.

Kernels that move memory are given as a share of the bandwidth that a copy reaches, products as a
share of what CuPy's own product (cuBLAS) reaches; convolutions and attention beside PyTorch's.
Steps of training (forward, backward, Adam) are those of four small models: eager, by `dg.function`
operation by operation and as a CUDA graph, in float32 and by `autocast` in half precision, beside
PyTorch's, eager and as a CUDA graph, where that is installed with CUDA. Times are from the device's
events, the median of the rounds after some that are not counted. What was not captured as a graph
is listed below the table. PyTorch computes as it does by default: its convolutions in float32 are
TF32's, ours and all products in float32 are not.

Writes tables in Markdown, each row when it is measured; what fails says so in its place, and after
`--seconds` nothing more is begun. `--backend numpy` runs the same program without a device, by the
clock, to see that it runs: its figures are those of one core and mean nothing else.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from device_cases.large import attention_rows, convolution_rows
from device_cases.timing import Clock, milliseconds
from training_steps.own import models, step_of
from training_steps.peers import torch_graphed, torch_step

import distgrad as dg
from distgrad.backend import load
from distgrad.dtypes import as_dtype

Row = tuple[str, ...]

# --- kernels --------------------------------------------------------------------------------------


def memory_rows(clock: Clock, elements: int) -> Iterator[Row]:
    """Yield name, milliseconds and share of a copy's bandwidth of kernels that move memory."""
    module, backend = clock.backend.module, clock.backend
    width = 1024
    elements = max(elements // width, 1) * width
    raw = backend.asarray(np.linspace(-2, 2, elements, dtype=np.float32))
    target = module.empty_like(raw)
    copied = clock.attempt(lambda: lambda: module.copyto(target, raw))
    bandwidth = None if isinstance(copied, str) else 2 * raw.nbytes / copied
    yield "copy", milliseconds(copied), f"{bandwidth / 1e9:.0f} GB/s" if bandwidth else ""

    rows = dg.asarray(raw.reshape(-1, width), backend=backend)
    scale, shift = (dg.asarray(backend.asarray(np.ones(width, np.float32))) for _ in range(2))
    flat = dg.asarray(raw, backend=backend)
    half = dg.asarray(raw.astype(np.float16), backend=backend)
    brain = dg.astype(flat, "bfloat16")

    def normed(x: Any) -> Any:
        return dg.nn.layer_norm(x, scale, shift)

    def batch_normed(x: Any) -> Any:
        return dg.nn.batch_norm(x, axis=1).output

    images = dg.asarray(raw.reshape(-1, 32, 32), backend=backend)  # with 32 channels

    # How many bytes are read or written at least, and what makes the work.
    size, narrow = raw.nbytes, raw.nbytes // 2
    cases: dict[str, tuple[float, Callable[[], Any]]] = {
        "addition": (3 * size, lambda: lambda: flat + flat),
        "gelu": (2 * size, lambda: lambda: dg.nn.gelu(flat)),
        "gelu, float16": (2 * narrow, lambda: lambda: dg.nn.gelu(half)),
        "gelu, bfloat16": (2 * narrow, lambda: lambda: dg.nn.gelu(brain)),
        "half of it, bfloat16": (2 * narrow, lambda: lambda: 0.5 * brain),
        "float32 to bfloat16": (size + narrow, lambda: lambda: dg.astype(flat, "bfloat16")),
        "gelu, forward and back": (5 * size, lambda: pulled(dg.nn.gelu, flat)),
        "softmax of rows of 1024": (2 * size, lambda: lambda: dg.softmax(rows)),
        "softmax, forward and back": (5 * size, lambda: pulled(dg.softmax, rows)),
        "layer norm of rows of 1024": (2 * size, lambda: lambda: normed(rows)),
        "layer norm, forward and back": (5 * size, lambda: pulled(normed, rows)),
        "batch norm of 1024 channels": (3 * size, lambda: lambda: batch_normed(rows)),
        "batch norm, forward and back": (8 * size, lambda: pulled(batch_normed, rows)),
        "batch norm before an image": (3 * size, lambda: lambda: batch_normed(images)),
        "..., forward and back": (8 * size, lambda: pulled(batch_normed, images)),
        "a step of Adam": (7 * size, lambda: adam(backend, [raw])),
        "a step of Adam, 200 parameters": (
            7 * (size // (4 * 200)) * 4 * 200,
            lambda: adam(backend, module.split(raw[: elements // 200 * 200], 200)),
        ),
        "random uniform": (size, lambda: drawing("uniform", elements)),
        "random normal": (size, lambda: drawing("normal", elements)),
    }
    for name, (nbytes, make) in cases.items():
        found = clock.attempt(make)
        known = bandwidth and not isinstance(found, str)
        share = f"{nbytes / found / bandwidth:.0%} of the copy's" if known else ""  # type: ignore[operator]  # both are numbers then
        yield name, milliseconds(found), share
    few = max(elements // 64, 1)
    for name in ("gamma", "poisson"):
        found = clock.attempt(lambda name=name: rejecting(name, few))
        rate = "" if isinstance(found, str) else f"{few / found / 1e9:.2f} billion numbers a second"
        yield f"random {name}", milliseconds(found), rate


def pulled(f: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    """Return what computes a function and pulls back a cotangent."""

    def work() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x, output_gradients=x)

    return work


def adam(backend: Any, arrays: Any) -> Callable[[], Any]:
    """Return a step of Adam on parameters."""
    gradients = [dg.asarray(each, backend=backend) for each in arrays]
    variables = [dg.Variable(each, backend=backend) for each in arrays]
    optimizer = dg.optimizers.Adam(1e-3)
    return lambda: optimizer.apply(gradients, variables)


def drawing(name: str, elements: int) -> Callable[[], Any]:
    """Return what draws numbers of float32."""
    draw = getattr(dg.random.Generator(0), name)
    return lambda: draw((elements,), dtype="float32")


def rejecting(name: str, elements: int) -> Callable[[], Any]:
    """Return what draws numbers with parameters from 1 to 100, by rejection."""
    draw = getattr(dg.random.Generator(0), name)
    given = dg.linspace(1.0, 100.0, elements, dtype="float32")
    return lambda: draw(given)


def product_rows(clock: Clock, size: int) -> Iterator[Row]:
    """Yield name, milliseconds and rate of products of square matrices, beside the module's own."""
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        host = np.linspace(-1, 1, size * size).reshape(size, size).astype(as_dtype(dtype))
        raw = clock.backend.asarray(host)
        x = dg.asarray(raw, backend=clock.backend)
        own = clock.attempt(lambda raw=raw: lambda: raw @ raw)
        found = clock.attempt(lambda x=x: lambda: dg.matmul(x, x))
        words = ""
        if not (isinstance(own, str) or isinstance(found, str)):
            rate = 2 * size**3 / found / 1e12
            words = f"{rate:.1f} TFLOP/s, {own / found:.0%} of the module's"
        yield f"product, {dtype}", milliseconds(found), words


# --- steps of training ----------------------------------------------------------------------------


def step_rows(clock: Clock, scale: int, chosen: list[str]) -> Iterator[Row]:
    """Yield model, dtype and the milliseconds of a step, distgrad's and PyTorch's."""
    for name, (make, shape) in models(scale).items():
        if name not in chosen:
            continue
        for dtype in ("float32", "bfloat16", "float16"):

            def own(place: int, make: Any = make, shape: Any = shape, dtype: str = dtype) -> Any:
                return step_of(clock.backend, make, shape, dtype)[place]

            def peer(made: Any, name: str = name, shape: Any = shape, dtype: str = dtype) -> Any:
                return made(name, shape, scale, dtype, "cuda")

            found = [
                clock.attempt(partial(own, 0)),
                clock.attempt(lambda own=own: without_graphs(own(1))),
                clock.attempt(partial(own, 1)),
                clock.attempt_torch(partial(peer, torch_step)),
                clock.attempt_torch(partial(peer, torch_graphed)),
            ]
            yield name, dtype, *map(milliseconds, found)


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


class Page:
    """The page that is written: each line as soon as it is known.

    Parameters
    ----------
    path : Path or None
        To which the lines are appended; they are printed in any case.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.write("")

    def write(self, line: str) -> None:
        """Write a line."""
        print(line, flush=True)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as page:
                page.write(line + "\n")

    def table(self, head: Row, *parts: Iterator[Row]) -> None:
        """Write a table in Markdown, a row as soon as it is measured."""
        for line in (head, tuple("---" for _ in head)):
            self.write(f"| {' | '.join(line)} |")
        for part in parts:
            try:
                for line in part:
                    self.write(f"| {' | '.join(line)} |")
            except Exception as error:  # the figures of the other parts are worth having
                words = (str(error).splitlines() or [""])[0].replace("|", "/")
                self.write(f"| fails ({type(error).__name__}: {words}) |{' |' * (len(head) - 1)}")
        self.write("")


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="cupy", help="cupy, or numpy to see that it runs")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured")
    parser.add_argument("--elements", type=int, default=2**26, help="of arrays for memory's sake")
    parser.add_argument("--size", type=int, default=4096, help="of the matrices")
    parser.add_argument("--scale", type=int, default=1, help="by how much models are smaller")
    parser.add_argument("--models", nargs="*", default=["MLP", "CNN", "LSTM", "transformer"])
    parser.add_argument("--seconds", type=float, default=1e9, help="nothing is begun after these")
    parser.add_argument("--write", type=Path, help="append the tables to this page too")
    arguments = parser.parse_args()
    dg.set_backend(arguments.backend)
    backend = load(arguments.backend)
    clock = Clock(backend, arguments.rounds, arguments.seconds)
    heard = Heard()
    logging.getLogger("distgrad").addHandler(heard)
    logging.getLogger("distgrad").setLevel(logging.DEBUG)
    page = Page(arguments.write)
    page.write(f"Measured on: {described(backend)}.\n")
    page.write(f"Command: `scripts/bench gpu {' '.join(sys.argv[1:])}`\n")
    kernels = memory_rows(clock, arguments.elements), product_rows(clock, arguments.size)
    page.table(("kernel", "ms", "rate"), *kernels)
    steps = ("eager", "dg.function", "as a CUDA graph", "PyTorch eager", "PyTorch as a CUDA graph")
    head = ("step of", "dtype", *(f"{each} ms" for each in steps))
    page.table(head, step_rows(clock, arguments.scale, arguments.models))
    head = ("kernel", "dtype", "forward ms", "both ways ms", "PyTorch's", "PyTorch's both ways")
    large = convolution_rows(clock, arguments.scale), attention_rows(clock, arguments.scale)
    page.table(head, *large)
    for line in dict.fromkeys(heard.lines):
        page.write(line)


if __name__ == "__main__":
    main()
