"""Train on real digits with every way to add up gradients: what is sent, and what comes of it.

A job of MPI ranks on this machine trains the same classifier of scikit-learn's handwritten digits,
64-256-10 with tanh and plain gradient descent, from the same start on the same batches, once for
each compression, by machines (two are pretended) and by Adasum; for each it prints the bytes a step
that a rank sends, how many times fewer than plain averaging that is, the mean loss over the digits
trained on, and the share recognised of those held out.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.testing.ranks import run_ranks

BATCH, RATE, HIDDEN, TRAINED_ON = 128, 0.2, 256, 1400


def ways() -> dict[str, dict[str, Any]]:
    """Return the options of each way, new instances among them."""
    make = dist.compression
    compressions = {
        "fp16": make.FP16(),
        "bf16": make.BF16(),
        "int8": make.Int8(),
        "topk, 10 %": make.TopK(0.1),
        "topk, 1 %": make.TopK(0.01),
        "powersgd, rank 4": make.PowerSGD(4),
        "powersgd, rank 1": make.PowerSGD(1),
        "powersgd, rank 1, no memory": make.PowerSGD(1, error_feedback=False),
    }
    return (
        {"plain": {}}
        | {name: {"compression": each} for name, each in compressions.items()}
        | {"hierarchical": {"reduction": "hierarchical"}, "adasum": {"average": "adasum"}}
    )


def train(steps: int, options: dict[str, Any]) -> dict[str, float]:
    """Return what training on this job's ranks came to."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, labels = (data.data / 16 - 0.3).astype(np.float32), data.target
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    rest, held_out = order[:TRAINED_ON], order[TRAINED_ON:]
    model = [
        dg.Variable(rng.normal(size=shape).astype(np.float32) / scale, name=name)
        for name, shape, scale in (
            ("hidden/weights", (64, HIDDEN), 8),
            ("hidden/biases", (HIDDEN,), 1e9),
            ("output/weights", (HIDDEN, 10), 16),
            ("output/biases", (10,), 1e9),
        )
    ]

    def logits(rows: Any) -> Any:
        return dg.tanh(x[rows] @ model[0] + model[1]) @ model[2] + model[3]

    for step in range(steps):
        batch = np.random.default_rng([1, step]).choice(rest, BATCH, replace=False)
        rows = dist.shard(batch)
        with dist.DistributedGradientTape(dg.GradientTape(), **options) as tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels[rows], logits=logits(rows)))
        for variable, gradient in zip(model, tape.gradient(loss, model), strict=True):
            variable.assign_sub(RATE * gradient)
    losses = dg.softmax_cross_entropy(labels=labels[rest], logits=logits(rest)).numpy()
    right = np.argmax(logits(held_out).numpy(), axis=1) == labels[held_out]
    report = dist.last_report()
    return {
        "bytes": report.bytes,
        "times fewer": report.compression,
        "loss": float(losses.mean()),
        "accuracy": float(right.mean()),
    }


def main() -> int:
    """Run the job and print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="of gradient descent")
    parser.add_argument("--ranks", type=int, default=3, help="to train on")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.ranks < 2:
        parser.error("--steps must be 1 or more, --ranks 2 or more")
    if arguments.worker:
        found = {name: train(arguments.steps, options) for name, options in ways().items()}
        if dist.world().rank == 0:
            print(json.dumps(found), flush=True)
        return 0
    ranks = arguments.ranks
    result = run_ranks(
        ranks,
        [__file__, "--worker", "--steps", arguments.steps],
        timeout=600,
        env={"DISTGRAD_NODE_SIZES": f"{ranks - 1},1"},
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        print(result.stderr, file=sys.stderr)
        return 1
    print(f"{arguments.steps} steps of {BATCH} digits on {ranks} ranks, float32:")
    print(f"  {'':28}{'bytes a step':>14}{'times fewer':>13}{'loss':>10}{'recognised':>12}")
    for name, row in json.loads(lines[0]).items():
        print(
            f"  {name:28}{row['bytes']:14,}{row['times fewer']:13.1f}{row['loss']:10.4f}"
            f"{100 * row['accuracy']:10.1f} %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
