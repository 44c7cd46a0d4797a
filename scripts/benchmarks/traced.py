"""Measure microseconds an operation of traced functions against eager ones, on small arrays.

The program is the chain of `eager.py`: y * b, sin(y), y + x, tanh(y), over and over, so that what
is measured is the library's own work for each operation. NumPy alone, forward only, is the floor
that no executor of kernels can go below. Also measured: a call of one operation, a step of a traced
loop, and what tracing costs. Times are of the processor and not of the clock, the least of the
rounds: other processes take part of a machine and add nothing to that.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg

ELEMENTS = 8
STEPS = 1000  # of the loop


def chain(operations: int, sin: Callable[..., Any], tanh: Callable[..., Any]) -> Any:
    """Return the program for one library's sine and hyperbolic tangent."""

    def program(x: Any, b: Any) -> Any:
        y = x
        for _ in range(operations // 4):
            y = tanh(sin(y * b) + x)
        return y

    return program


def least(step: Callable[[], Any], rounds: int, repeats: int = 1) -> float:
    """Return the least processor time of a step, in seconds, after a first one to warm up."""
    step()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(repeats):
            step()
        times.append((time.process_time() - start) / repeats)
    return min(times)


def with_gradient(f: Callable[..., Any], x: Any, b: Any) -> Callable[[], Any]:
    """Return the step that also differentiates."""

    def step() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = f(x, b)
        return tape.gradient(y, x)

    return step


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1000, help="length of the chain")
    parser.add_argument("--rounds", type=int, default=15, help="how often each step runs")
    arguments = parser.parse_args()
    if arguments.operations < 4 or arguments.rounds < 1:
        parser.error("--operations must be 4 or more and --rounds 1 or more")
    rounds, per_operation = arguments.rounds, 1e6 / (arguments.operations // 4 * 4)

    on_host = np.ones(ELEMENTS, np.float32), np.full(ELEMENTS, 0.5, np.float32)
    x, b = (dg.asarray(each) for each in on_host)
    plain = chain(arguments.operations, np.sin, np.tanh)
    eager = chain(arguments.operations, dg.sin, dg.tanh)
    traced = dg.function(eager)

    print(
        f"microseconds an operation: {arguments.operations} operations on {ELEMENTS} float32, "
        f"least of {rounds} rounds; Python {platform.python_version()}, NumPy {np.__version__}"
    )
    print(f"{'':12}{'forward':>10}{'forward+backward':>18}")
    print(f"{'numpy':12}{least(lambda: plain(*on_host), rounds) * per_operation:10.2f}")
    for name, f in (("eager", eager), ("traced", traced)):
        forward = least(lambda f=f: f(x, b), rounds) * per_operation
        both = least(with_gradient(f, x, b), rounds) * per_operation
        print(f"{name:12}{forward:10.2f}{both:18.2f}")

    one = dg.function(lambda x: x + 1.0)
    print("microseconds a call of one operation")
    for name, step in (("eager", lambda: x + 1.0), ("traced", lambda: one(x))):
        print(f"{name:12}{1e6 * least(step, rounds, 1000):10.2f}")

    loop = dg.function(
        lambda n: dg.while_loop(
            lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] * 1.0001 + 0.5), (0, dg.asarray(1.0))
        )
    )
    count = dg.asarray(STEPS)
    print("microseconds a step of while_loop, of 4 operations")
    print(f"{'traced':12}{1e6 / STEPS * least(lambda: loop(count), rounds):10.2f}")

    print("microseconds an operation to trace, once for each signature")
    start = time.process_time()
    anew = dg.function(eager)
    anew.graph(x, b)
    first = time.process_time() - start
    with_gradient(anew, x, b)()
    both = time.process_time() - start
    print(f"{'':12}{first * per_operation:10.2f}{both * per_operation:18.2f}")


if __name__ == "__main__":
    main()
