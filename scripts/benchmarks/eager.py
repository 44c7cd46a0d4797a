"""Measure microseconds an operation, forward and backward, of eager tapes on small arrays.

The program is a chain of operations on a few numbers, so that what is measured is the library's
own work for each operation and not the arithmetic: y * b, sin(y), y + x, tanh(y), over and over.
All libraries run it in turn, round after round, and each figure is the median over the rounds.
A peer that is not installed is said to be missing, not left out silently.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

Step = Callable[[], Any]
ELEMENTS = 8


def repeat(operations: int, x: Any, b: Any, sin: Step, tanh: Step) -> Any:
    """Return the chain's end; each library runs this same loop on its own arrays."""
    y = x
    for _ in range(operations // 4):
        y = y * b
        y = sin(y)
        y = y + x
        y = tanh(y)
    return y


def numpy_steps(operations: int) -> tuple[Step, Step | None]:
    """Return the program in NumPy itself, forward only: no tape on top of it can be quicker."""
    x, b = np.ones(ELEMENTS, np.float32), np.full(ELEMENTS, 0.5, np.float32)
    return lambda: repeat(operations, x, b, np.sin, np.tanh), None


def distgrad_steps(operations: int) -> tuple[Step, Step]:
    """Return the programs in distgrad, on the NumPy backend."""
    import distgrad as dg

    x = dg.Variable(np.ones(ELEMENTS, np.float32))
    b = dg.asarray(np.full(ELEMENTS, 0.5, np.float32))

    def forward() -> Any:
        return repeat(operations, x, b, dg.sin, dg.tanh)

    def both() -> Any:
        with dg.GradientTape() as tape:
            y = forward()
        return tape.gradient(y, x)

    return forward, both


def torch_steps(operations: int) -> tuple[Step, Step]:
    """Return the programs in PyTorch, on one thread."""
    import torch

    torch.set_num_threads(1)
    x, b = torch.ones(ELEMENTS, requires_grad=True), torch.full((ELEMENTS,), 0.5)
    seed = torch.ones(ELEMENTS)

    def forward() -> Any:
        with torch.no_grad():
            return repeat(operations, x, b, torch.sin, torch.tanh)

    def both() -> Any:
        y = repeat(operations, x, b, torch.sin, torch.tanh)
        return torch.autograd.grad(y, x, seed)

    return forward, both


def autograd_steps(operations: int) -> tuple[Step, Step]:
    """Return the programs in HIPS autograd."""
    import autograd
    import autograd.numpy as anp

    x, b = np.ones(ELEMENTS, np.float32), np.full(ELEMENTS, 0.5, np.float32)
    gradient = autograd.elementwise_grad(lambda x: repeat(operations, x, b, anp.sin, anp.tanh))
    return lambda: repeat(operations, x, b, anp.sin, anp.tanh), lambda: gradient(x)


def tensorflow_steps(operations: int) -> tuple[Step, Step]:
    """Return the programs in TensorFlow, eager, on one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    x = tf.Variable(np.ones(ELEMENTS, np.float32))
    b = tf.constant(np.full(ELEMENTS, 0.5, np.float32))

    def forward() -> Any:
        return repeat(operations, x, b, tf.sin, tf.tanh)

    def both() -> Any:
        with tf.GradientTape() as tape:
            y = forward()
        return tape.gradient(y, x)

    return forward, both


LIBRARIES: dict[str, Callable[[int], tuple[Step, Step | None]]] = {
    "distgrad": distgrad_steps,
    "torch": torch_steps,
    "autograd": autograd_steps,
    "tensorflow": tensorflow_steps,
    "numpy": numpy_steps,
}


def seconds(step: Step) -> float:
    """Return how long a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(operations: int, rounds: int) -> dict[str, tuple[float, float | None]]:
    """Return the medians of forward and of forward and backward, in seconds, by library."""
    steps = {}
    for name, make in LIBRARIES.items():
        try:
            steps[name] = make(operations)
        except ImportError as error:
            print(f"{name}: not installed ({error})", file=sys.stderr)
    for forward, both in steps.values():  # warm up
        for step in (forward, both or forward):
            step()
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, pair in steps.items():
            for position, step in enumerate(pair):
                if step is not None:
                    times.setdefault((name, position), []).append(seconds(step))
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {name: (medians[name, 0], medians.get((name, 1))) for name in steps}


def version(name: str) -> str:
    """Return the installed version of a library's package."""
    from importlib.metadata import PackageNotFoundError, version

    for package in (name, f"{name}-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "?"


def main() -> None:
    """Measure, and print a table with the ratios to distgrad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1000, help="length of the chain")
    parser.add_argument("--rounds", type=int, default=15, help="how often each library runs it")
    arguments = parser.parse_args()
    if arguments.operations < 4 or arguments.rounds < 1:
        parser.error("--operations must be 4 or more and --rounds 1 or more")

    results = measure(arguments.operations, arguments.rounds)
    per_operation = 1e6 / (arguments.operations // 4 * 4)
    ours = results["distgrad"][1]
    assert ours is not None  # noqa: S101  distgrad is not optional here
    print(
        f"microseconds an operation: {arguments.operations} operations on {ELEMENTS} float32, "
        f"median of {arguments.rounds} rounds; Python {platform.python_version()}"
    )
    print(f"{'':24}{'forward':>10}{'forward+backward':>18}{'distgrad / it':>15}")
    for name, (forward, both) in results.items():
        line = f"{name + ' ' + version(name):24}{forward * per_operation:10.2f}"
        if both is not None:
            line += f"{both * per_operation:18.2f}{ours / both:15.2f}"
        print(line)


if __name__ == "__main__":
    main()
