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


class Encoder(dg.nn.Module):
    """A block of a transformer, and a classifier."""

    def __init__(self, width: int) -> None:
        self.before, self.after = dg.nn.LayerNorm(), dg.nn.LayerNorm()
        self.attention = dg.nn.MultiHeadAttention(4)
        self.wide = dg.nn.Dense(4 * width, activation=dg.nn.gelu)
        self.narrow, self.logits = dg.nn.Dense(width), dg.nn.Dense(10)

    def call(self, x: Any) -> Any:
        """Return logits."""
        x = x + self.attention(self.before(x))
        x = x + self.narrow(self.wide(self.after(x)))
        return self.logits(dg.mean(x, axis=1))


def models(scale: int) -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """Return what makes each model, and the shape of its inputs; `scale` makes all smaller."""
    width, batch = 1024 // scale, 256 // scale
    relu = dg.nn.relu

    def mlp() -> Any:
        return dg.nn.Sequential(dg.nn.Dense(width, relu), dg.nn.Dense(width, relu), dg.nn.Dense(10))

    def cnn() -> Any:
        layers = [dg.nn.Conv(32, 3, padding="same", activation=relu), dg.nn.MaxPool(2)]
        layers += [dg.nn.Conv(64, 3, padding="same", activation=relu), dg.nn.MaxPool(2)]
        return dg.nn.Sequential(*layers, dg.nn.Flatten(), dg.nn.Dense(10))

    def lstm() -> Any:
        return dg.nn.Sequential(dg.nn.LSTM(width // 4), dg.nn.Dense(10))

    return {
        "MLP": (mlp, (batch, width)),
        "CNN": (cnn, (batch, 32, 32, 3)),
        "LSTM": (lstm, (batch, 64 // scale, width // 8)),
        "transformer": (lambda: Encoder(width // 4), (batch // 4, 128 // scale, width // 4)),
    }


def step_of(backend: Any, make: Callable[[], Any], shape: tuple[int, ...], dtype: str) -> Any:
    """Return an eager step of training, and the one by `dg.function`."""
    generator = np.random.default_rng(0)
    x = dg.asarray(generator.standard_normal(shape).astype(np.float32), backend=backend)
    labels = dg.asarray(generator.integers(0, 10, shape[0]), backend=backend)
    model = make().build(x, seed=0)
    optimizer = dg.optimizers.Adam(1e-3)
    narrow = "float16" if dtype == "float32" else dtype

    def gradients(x: Any, labels: Any) -> Any:
        with dg.autocast(narrow, enabled=dtype != "float32"), dg.GradientTape() as tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
        return tape.gradient(loss, model.trainable_variables)

    traced = dg.function(gradients)

    def stepping(of: Callable[..., Any]) -> Callable[[], None]:
        return lambda: optimizer.apply(of(x, labels), model.trainable_variables)

    return stepping(gradients), stepping(traced)


def torch_step(
    name: str, shape: tuple[int, ...], scale: int, dtype: str
) -> Callable[[], Any] | None:
    """Return PyTorch's eager step of a model on the device; None where there is none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    nn, width = torch.nn, 1024 // scale

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(width // 8, width // 4, batch_first=True)
            self.logits = nn.Linear(width // 4, 10)

        def forward(self, x: Any) -> Any:
            return self.logits(self.cells(x)[0][:, -1])

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            own = width // 4
            self.layer = nn.TransformerEncoderLayer(
                own, 4, 4 * own, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.logits = nn.Linear(own, 10)

        def forward(self, x: Any) -> Any:
            return self.logits(self.layer(x).mean(1))

    def dense(*lengths: int) -> list[Any]:
        return [nn.Linear(lengths[0], lengths[1]), nn.ReLU()]

    made = {
        "MLP": lambda: nn.Sequential(
            *dense(width, width), *dense(width, width), nn.Linear(width, 10)
        ),
        "CNN": lambda: nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 64, 10)),
        ),
        "LSTM": Last,
        "transformer": Block,
    }[name]().cuda()
    own = (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape
    x = torch.randn(own, device="cuda")
    labels = torch.randint(0, 10, (shape[0],), device="cuda")
    optimizer = torch.optim.Adam(made.parameters(), 1e-3, fused=True)
    narrow = getattr(torch, dtype)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", narrow, enabled=dtype != "float32"):
            loss = torch.nn.functional.cross_entropy(made(x), labels)
        loss.backward()
        optimizer.step()

    return step


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
            peer = torch_step(name, shape, scale, dtype) if clock.events else None
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
