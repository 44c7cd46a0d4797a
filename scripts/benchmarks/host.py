"""What the host takes to give a device its work: no device is needed, and none does any.

Small models train as slowly as Python starts their kernels. CuPy runs here on the device that the
host emulates for tests, which drops all work: what is left of a step is the time of distgrad and of
CuPy. Beside it stand CuPy's own functions, and PyTorch's steps of the same models on this CPU, in
which is what it computes; on a device each launch takes a microsecond or two besides, in either
library. The least of the rounds counts, since others use this machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from training_steps.own import models, step_of
from training_steps.peers import torch_step

EMULATED = Path(__file__).resolve().parents[2] / "tests" / "gpu" / "emulator" / "emulated.py"
_SCALE = 8  # by which the models are smaller than on a device
_CALLS = 200  # of a function, for one figure


def microseconds(work: Callable[[], Any], rounds: int) -> float:
    """Return the least time that a call took, after some that are not counted."""
    for _ in range(5):
        work()
    least = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - begun)
    return least * 1e6


def many(work: Callable[[], Any]) -> Callable[[], None]:
    """Return what makes many calls."""

    def calls() -> None:
        for _ in range(_CALLS):
            work()

    return calls


def functions(rounds: int) -> dict[str, tuple[float, float]]:
    """Return what a call takes on an array of 64 numbers, CuPy's and distgrad's."""
    import cupy

    import distgrad as dg

    raw = cupy.ones((8, 8), np.float32)
    x = dg.asarray(raw)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "addition": (lambda: raw + raw, lambda: x + x),
        "tanh": (lambda: cupy.tanh(raw), lambda: dg.tanh(x)),
        "sum": (lambda: cupy.sum(raw), lambda: dg.sum(x)),
        "product": (lambda: raw @ raw, lambda: x @ x),
        "reshape": (lambda: raw.reshape(64), lambda: dg.reshape(x, (64,))),
    }
    return {
        name: tuple(microseconds(many(each), rounds) / _CALLS for each in pair)  # type: ignore[misc]  # of two
        for name, pair in pairs.items()
    }


def steps(rounds: int) -> dict[str, tuple[float, float]]:
    """Return what a step of each model takes, eager and traced."""
    from distgrad.backend import load

    found = {}
    for name, (make, shape) in models(_SCALE).items():
        eager, traced = step_of(load("cupy"), make, shape, "float32")
        found[name] = microseconds(eager, rounds), microseconds(traced, rounds)
    return found


def emulated(rounds: int) -> dict[str, Any]:
    """Return what this program finds on the device that the host emulates."""
    command = [sys.executable, EMULATED, "--run", __file__, "--rounds", str(rounds)]
    environment = {**os.environ, "DISTGRAD_EMULATED_ORDER": "never"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print; on the emulated device, print what was found there for the caller."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="how often each is measured")
    rounds = parser.parse_args().rounds
    if "DISTGRAD_EMULATOR" in os.environ:
        import distgrad as dg

        dg.set_backend("cupy")
        print(json.dumps({"functions": functions(rounds), "steps": steps(rounds)}))
        return
    found = emulated(rounds)
    print(f"{'a call':14} {'CuPy us':>10} {'distgrad us':>12} {'ratio':>7}")
    for name, (raw, own) in found["functions"].items():
        print(f"{name:14} {raw:10.2f} {own:12.2f} {own / raw:7.2f}")
    heads = "eager us", "dg.function", "PyTorch, CPU", "eager to it"
    print(f"\n{'a step':14} {heads[0]:>10} {heads[1]:>12} {heads[2]:>13} {heads[3]:>12}")
    for name, (_, shape) in models(_SCALE).items():
        eager, traced = found["steps"][name]
        peer = torch_step(name, shape, _SCALE)
        beside = microseconds(peer, rounds) if peer else None
        last = f"{beside:13.0f} {eager / beside:12.2f}" if beside else f"{'not measured':>13}"
        print(f"{name:14} {eager:10.0f} {traced:12.0f} {last}")


if __name__ == "__main__":
    main()
