#!/usr/bin/env python3
"""Train the same small network on several numbers of ranks, and show that the bits are the same.

scripts/list_hashes.py [--ranks N ...] [--steps N]

Each training has dropout, shuffled examples and a last batch of each epoch that is smaller, summed
with deterministic=True; it ends with a hash of the variables. Runs under the MPI of the Python that
runs it: once with that of an environment with MPICH, once with that of one with Open MPI. The exit
status is 1 if two hashes differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.launching.launchers import find_launcher
from distgrad.testing.ranks import run_ranks

RANKS = (1, 2, 3, 4, 5, 6, 8)
EXAMPLES, BATCH, FEATURES, CLASSES = 331, 48, 20, 5  # 331 = 6 * 48 + 43


def main() -> int:
    """Run the trainings, print a hash for each, and return 1 if they differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 1 or min(arguments.ranks) < 1:
        parser.error("--steps and --ranks must be 1 or more")
    if arguments.worker:
        # In one piece: other ranks write to the same place.
        os.write(1, f"hash {train(arguments.steps)}\n".encode())
        return 0
    launcher = find_launcher()
    print(f"{arguments.steps} steps under {launcher.family} {launcher.version}:")
    found = set()
    for ranks in arguments.ranks:
        argv = [__file__, "--worker", "--steps", arguments.steps]
        result = run_ranks(ranks, list(map(str, argv)), timeout=300)
        said = re.findall(r"^hash (\w+)$", result.stdout, re.MULTILINE)
        hashes = set(said)
        if result.returncode or len(said) != ranks:
            print(f"  {ranks} ranks: exit code {result.returncode}\n{result.stderr}")
            return 1
        found |= hashes
        print(f"  {ranks} {'rank: ' if ranks == 1 else 'ranks:'} {' '.join(sorted(hashes))}")
    print("one hash" if len(found) == 1 else f"{len(found)} hashes; expected one")
    return len(found) > 1


def train(steps: int) -> str:
    """Return a hash of the variables after some steps, on this rank."""
    dist.init(timeout=120)
    draw = np.random.default_rng(0)
    features = draw.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    labels = draw.integers(0, CLASSES, EXAMPLES)
    model = dg.nn.Sequential(
        dg.nn.Dense(32, activation=dg.nn.gelu), dg.nn.Dropout(0.3), dg.nn.Dense(CLASSES)
    )
    model.build(features[:2], seed=1, generator=dg.random.Generator(2), training=True)
    variables = model.trainable_variables
    dist.broadcast_variables(variables)
    optimizer = dg.optimizers.Optimizer(dg.optimizers.Adam(0.01))
    order = dg.data.Order(EXAMPLES, seed=3)
    epoch_steps = -(-EXAMPLES // BATCH)
    for step in range(steps):
        epoch, place = divmod(step, epoch_steps)
        first = place * BATCH
        last = min(first + BATCH, EXAMPLES)
        batch = order.places(epoch * EXAMPLES + first, epoch * EXAMPLES + last)
        accumulator = dist.GradientAccumulator(variables, deterministic=True)
        for rows in dist.logical_shards(np.arange(len(batch))):
            own = batch[rows]
            with dg.GradientTape() as tape:
                logits = model(
                    features[own], training=True, generator=dg.random.Generator(step), rows=rows
                )
                loss = dg.mean(dg.softmax_cross_entropy(labels=labels[own], logits=logits))
            accumulator.add(tape.gradient(loss, variables))
        optimizer.apply(accumulator.gradients(), variables)
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
