"""Measure a step of training (forward, backward, Adam) of four small models on one core of the CPU.

An MLP, a CNN, an LSTM and a block of a transformer, in float32: distgrad eager and by
`dg.function`, PyTorch and TensorFlow eager. Libraries take turns within one process, of a few steps
each, as a training takes them one after the other; the first of a turn, which finds the caches full
of another library's code and data, is not counted. A figure is the least of all rounds, in CPU
seconds of the process, which other work on the machine disturbs less. Ratios are to the best peer:
below 1 distgrad is ahead. With `--first` only the first step of each turn counts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from training_steps.own import models, step_of
from training_steps.peers import tensorflow_step, torch_step

from distgrad.backend import load

TURN = 4  # steps


def least(steps: dict[str, Callable[[], Any]], rounds: int, first: bool) -> dict[str, float]:
    """Return the least CPU seconds of each step, which take turns: of the first ones or others."""
    for step in steps.values():
        step()
        step()
    found = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            for place in range(1 if first else TURN):
                start = time.process_time()
                step()
                seconds = time.process_time() - start
                if place or first:
                    found[name] = min(found[name], seconds)
    return found


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scale", type=int, default=4, help="models are smaller by so much")
    parser.add_argument("--first", action="store_true", help="count the first steps of turns")
    parser.add_argument("--only", nargs="*", help="names of models; all by default")
    arguments = parser.parse_args()

    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        print("PyTorch is not installed")
    backend = load("numpy")
    print("| model | distgrad, ms | traced, ms | PyTorch, ms | TensorFlow, ms | to the best peer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (make, shape) in models(arguments.scale).items():
        if arguments.only and name not in arguments.only:
            continue
        eager, traced = step_of(backend, make, shape, "float32")
        peers = {
            "PyTorch": torch_step(name, shape, arguments.scale),
            "TensorFlow": tensorflow_step(name, shape, arguments.scale),
        }
        there = {library: step for library, step in peers.items() if step is not None}
        ours = {"distgrad": eager, "traced": traced}
        found = least(ours | there, arguments.rounds, arguments.first)
        cells = [
            f"{1e3 * found[each]:.2f}" if each in found else "not installed"
            for each in ("distgrad", "traced", *peers)
        ]
        best = min((found[each] for each in there), default=float("nan"))
        ratios = f"{found['distgrad'] / best:.2f}, traced {found['traced'] / best:.2f}"
        print(f"| {name} {shape} | {' | '.join(cells)} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
