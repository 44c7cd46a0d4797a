"""Measure the peak memory of a gradient against the theory: the sum of what backward rules read.

Three programs: a deep chain of elementwise operations, a long short-term memory over 500 steps, and
a network of twenty layers. Each library runs each program in a process of its own, a small one
first, and what counts is how far the resident memory then rises above where it stood, as the
operating system sees it (Linux only). The theory counts each array that some rule reads once, and
nothing else; ratios above 1 are what a library holds beyond it: cotangents on their way, Python's
objects, an allocator's reserves. A peer that is not installed is said to be missing.

`scripts/bench memory transformer` shows something else: the highest of all ranks during a step of
the transformer of scripts/train_text.py, plainly and in each way of saving that the job offers,
beside formulas of parameters, gradients, the optimizer's state and activations.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

Program = Callable[[Any, int], tuple[Callable[[], Any], list[Any], int]]
FLOAT = 4  # bytes


def random(*shape: int) -> np.ndarray:
    """Return numbers that are the same in every process."""
    return np.random.default_rng(0).normal(scale=0.1, size=shape).astype(np.float32)


# --- programs, written once for all libraries -----------------------------------------------------


def chain(lib: Any, depth: int) -> tuple[Callable[[], Any], list[Any], int]:
    """Return a chain of sin and sigmoid: one reads its input, the other its output."""
    size = 100_000
    x = lib.variable(random(size))

    def forward() -> Any:
        y = x
        for _ in range(depth):
            y = lib.sigmoid(lib.sin(y * 0.9 + 0.1))
        return lib.sum(y)

    return forward, [x], 2 * depth * size * FLOAT


def lstm(lib: Any, steps: int) -> tuple[Callable[[], Any], list[Any], int]:
    """Return a long short-term memory: of each step its rules read seven arrays."""
    batch, features, hidden = 128, 8, 64
    u, w = lib.variable(random(features, 4 * hidden)), lib.variable(random(hidden, 4 * hidden))
    inputs, zeros = (
        lib.constant(random(batch, features)),
        lib.constant(np.zeros((batch, hidden), "f4")),
    )

    def forward() -> Any:
        state = cell = zeros
        for _ in range(steps):
            gates = inputs @ u + state @ w
            take, forget = (
                lib.sigmoid(gates[:, :hidden]),
                lib.sigmoid(gates[:, hidden : 2 * hidden]),
            )
            give, new = (
                lib.sigmoid(gates[:, 2 * hidden : 3 * hidden]),
                lib.tanh(gates[:, 3 * hidden :]),
            )
            cell = forget * cell + take * new
            state = give * lib.tanh(cell)
        return lib.sum(state)

    return forward, [u, w], 7 * steps * batch * hidden * FLOAT


def mlp(lib: Any, layers: int) -> tuple[Callable[[], Any], list[Any], int]:
    """Return a network whose rules read each layer's output, and its weights."""
    batch, width = 4000, 256
    weights = [lib.variable(random(width, width)) for _ in range(layers)]
    inputs = lib.constant(random(batch, width))

    def forward() -> Any:
        y = inputs
        for weight in weights:
            y = lib.tanh(y @ weight)
        return lib.sum(y)

    # The gradients of the weights are there at the end as well.
    return forward, weights, (layers * batch * width + layers * width * width) * FLOAT


PROGRAMS: dict[str, tuple[Program, int]] = {
    "chain": (chain, 300),
    "lstm": (lstm, 500),
    "mlp": (mlp, 20),
}


# --- libraries ------------------------------------------------------------------------------------


def in_distgrad() -> tuple[Any, Callable[[Any, list[Any]], Any]]:
    """Return distgrad's operations, and how it differentiates."""
    import distgrad as dg

    def differentiate(forward: Any, variables: list[Any]) -> Any:
        with dg.GradientTape() as tape:
            loss = forward()
        return tape.gradient(loss, variables)

    names = {name: getattr(dg, name) for name in ("sin", "sigmoid", "tanh", "sum")}
    return SimpleNamespace(variable=dg.Variable, constant=dg.asarray, **names), differentiate


def in_torch() -> tuple[Any, Callable[[Any, list[Any]], Any]]:
    """Return PyTorch's operations, and how it differentiates."""
    import torch

    torch.set_num_threads(1)

    def variable(host: np.ndarray) -> Any:
        return torch.from_numpy(host).requires_grad_()

    def differentiate(forward: Any, variables: list[Any]) -> Any:
        return torch.autograd.grad(forward(), variables)

    names = {name: getattr(torch, name) for name in ("sin", "sigmoid", "tanh", "sum")}
    return SimpleNamespace(variable=variable, constant=torch.from_numpy, **names), differentiate


LIBRARIES = {"distgrad": in_distgrad, "torch": in_torch}


# --- measuring ------------------------------------------------------------------------------------


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Return the highest resident memory so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status does not say VmHWM; this benchmark needs Linux")


def measure(library: str, program: str) -> None:
    """Run one program in this process, and print peak and theory as JSON."""
    lib, differentiate = LIBRARIES[library]()
    make, size = PROGRAMS[program]
    forward, variables, _ = make(lib, 3)  # what is made once for all is made
    differentiate(forward, variables)
    forward, variables, theory = make(lib, size)
    before = resident()
    gradients = differentiate(forward, variables)
    risen = max(peak() - before, 0)
    print(json.dumps({"peak": risen, "theory": theory, "gradients": len(gradients)}))


def main() -> None:
    """Measure in a process each, and print a table with ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("of", nargs="?", choices=("gradients", "transformer"), default="gradients")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4], help="for the transformer")
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "PROGRAM"), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of == "transformer":
        from memory_cases import transformer

        if arguments.case:
            sys.exit(transformer.measure(arguments.case))
        for ranks in arguments.ranks:
            transformer.table(ranks, __file__)
        return
    if arguments.one:
        measure(*arguments.one)
        return
    if not Path("/proc/self/statm").exists():
        parser.error("this benchmark reads /proc, which this operating system does not have")

    print(f"{'':18}{'theory, MB':>12}{'peak, MB':>10}{'peak / theory':>15}{'distgrad / it':>15}")
    for program in PROGRAMS:
        ours = 0
        for library in LIBRARIES:
            command = [sys.executable, __file__, "--one", library, program]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                print(f"{library} {program}: not measured ({' '.join(last)})", file=sys.stderr)
                continue
            found = json.loads(done.stdout)
            ours = ours or found["peak"]
            ratio = ours / found["peak"]
            mark = "  more" if library != "distgrad" and ratio > 1 else ""
            theory, risen = found["theory"], found["peak"]
            print(
                f"{library + ' ' + program:18}{theory / 1e6:12.1f}{risen / 1e6:10.1f}"
                f"{risen / theory:15.2f}{ratio:15.2f}{mark}"
            )


if __name__ == "__main__":
    main()
