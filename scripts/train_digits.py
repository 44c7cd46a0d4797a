#!/usr/bin/env python3
"""Train a classifier of handwritten digits on any number of MPI ranks, with one loss curve.

    python scripts/train_digits.py
    mpirun -n 4 python scripts/train_digits.py --steps 500 --metrics digits.jsonl

The 1797 scanned digits are scikit-learn's `load_digits`. What a step computes depends on the seed
and the step's number alone: every rank takes its part of the same global batch, and gradients are
averaged over examples, so the losses agree for every number of ranks but for rounding; with
--deterministic, to the bit.
"""

import argparse
import errno
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.launching.launch import detect
from distgrad.training import (
    JobParser,
    MeteredCommunicator,
    MetricsFile,
    Progress,
    show_summary,
    terminal_columns,
    variables_sha256,
)

SIDE = 8  # an image has 8 x 8 pixels
PIXELS = SIDE * SIDE
CLASSES = 10
BRIGHTEST = 16  # of a pixel, in the data set
MIDDLE = 0.3  # about the mean of a pixel, in units of the brightest

# A tanh layer and SGD, since their curve is smooth: with ReLU and Adam the float32 curves of one
# and two ranks are 2e-3 apart after 500 steps, with these 1e-6.
HIDDEN = 256
MOMENTUM = 0.9
TEST_FRACTION = 0.2
# A third of a batch is shifted by up to a pixel: 98.6 % of the held-out digits recognised instead
# of 97.1 % after 1000 steps (mean over 8 seeds).
SHIFTED_FRACTION = 1 / 3


class JobError(Exception):
    """The job cannot do what it was asked, for a reason that its user can do something about."""


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    try:
        world = MeteredCommunicator(dist.init())
        dist.init(communicator=world)
        parser = JobParser(
            "train_digits",
            (__doc__ or "").splitlines()[0],
            is_first=world.rank == 0,
            steps=1500,
            global_batch=128,
            learning_rate=0.2,
        )
        train(parser.parse_args(), world)
    except (JobError, dist.LaunchError) as error:  # on every rank alike: nobody waits for another
        if detect().rank == 0:
            print(f"train_digits: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 8, 8) with pixels in [0, 1], and their labels of shape (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(seed: int, dtype: str) -> tuple[Digits, Digits]:
    """Return the digits for training and those held out: a fifth of each class, by the seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise JobError(
            "the digits come with scikit-learn, which is not installed; "
            "run: pip install 'distgrad[examples]'"
        ) from error
    data = load_digits()
    images = (data.images / BRIGHTEST).astype(dtype)
    generator = np.random.default_rng((seed, *b"split"))
    held_out = np.zeros(len(images), dtype=bool)
    for label in range(CLASSES):
        members = generator.permutation(np.flatnonzero(data.target == label))
        held_out[members[: round(TEST_FRACTION * len(members))]] = True
    train_set = Digits(images[~held_out], data.target[~held_out])
    return train_set, Digits(images[held_out], data.target[held_out])


def use_one_thread() -> None:
    """Keep BLAS from starting a thread for every core in every rank, unless the user wants it.

    The matrices are small: 2 ranks of 2 threads on 2 cores take 6 times as long as 2 of 1.
    """
    if not {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & os.environ.keys():
        from threadpoolctl import threadpool_limits  # comes with scikit-learn

        threadpool_limits(1, user_api="blas")


def batch_of(step: int, size: int, examples: int, seed: int) -> np.ndarray:
    """Return which examples the global batch of a step holds, shape (size,).

    The batches cut up an endless row of permutations of the examples, one permutation an epoch,
    so a batch may span epochs and holds every example equally often whatever its size.
    """
    places = np.arange((step - 1) * size, step * size)
    epochs, offsets = np.divmod(places, examples)
    batch = np.empty(size, dtype=np.intp)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        batch[here] = permutation(int(epoch), examples, seed)[offsets[here]]
    return batch


@lru_cache(maxsize=4)
def permutation(epoch: int, examples: int, seed: int) -> np.ndarray:
    """Return the order of the examples in an epoch."""
    return np.random.default_rng((seed, epoch, *b"order")).permutation(examples)


def shifts_of(step: int, size: int, seed: int) -> np.ndarray:
    """Return by how many pixels each image of a step's global batch moves, shape (size, 2)."""
    generator = np.random.default_rng((seed, step, *b"shift"))
    moves = generator.integers(-1, 2, size=(size, 2))
    moves[generator.random(size) >= SHIFTED_FRACTION] = 0
    return moves


def shift(images: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Return each image moved by its (rows, columns) of -1, 0 or 1, dark pixels moving in."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    window = np.arange(1, 1 + SIDE)
    rows = (window - moves[:, :1])[:, :, None]
    columns = (window - moves[:, 1:])[:, None, :]
    return framed[np.arange(len(images))[:, None, None], rows, columns]


class Classifier:
    """One tanh layer and a linear one, from pixels to the logits of the ten classes."""

    def __init__(self, seed: int, dtype: str) -> None:
        generator = np.random.default_rng((seed, *b"weights"))

        def weights(rows: int, columns: int, name: str) -> dg.Variable:
            # Variance 1 / rows keeps the variance of activations: Glorot and Bengio, 2010.
            values = generator.standard_normal((rows, columns)) / math.sqrt(rows)
            return dg.Variable(values.astype(dtype), name=f"{name}/weights")

        def biases(size: int, name: str) -> dg.Variable:
            return dg.Variable(np.zeros(size, dtype), name=f"{name}/biases")

        self.hidden = weights(PIXELS, HIDDEN, "hidden"), biases(HIDDEN, "hidden")
        self.output = weights(HIDDEN, CLASSES, "output"), biases(CLASSES, "output")
        self.variables = [*self.hidden, *self.output]

    def __call__(self, images: np.ndarray) -> dg.Tensor:
        """Return the logits of images (n, 8, 8), shape (n, 10)."""
        x = dg.asarray(images.reshape(len(images), PIXELS) - images.dtype.type(MIDDLE))
        weights, biases = self.hidden
        x = dg.tanh(x @ weights + biases)
        weights, biases = self.output
        return x @ weights + biases


class Momentum:
    """Stochastic gradient descent with momentum: v <- 0.9 v + g, x <- x - rate v."""

    def __init__(self, variables: Sequence[dg.Variable]) -> None:
        self._variables = variables
        self._velocities = [
            dg.Variable(dg.zeros_like(x.value()), trainable=False, name=f"{x.name}/velocity")
            for x in variables
        ]

    def apply(self, gradients: Sequence[dg.Tensor], rate: float) -> None:
        """Move the variables by one step."""
        for x, v, g in zip(self._variables, self._velocities, gradients, strict=True):
            v.assign(MOMENTUM * v + g)
            x.assign_sub(rate * v)


def train(arguments: argparse.Namespace, world: MeteredCommunicator) -> None:
    """Train, test and report; raise JobError where the job cannot do what it was asked."""
    speaks = world.rank == 0 and not arguments.quiet
    columns = terminal_columns() if speaks else None
    metrics = open_metrics(arguments.metrics, world)
    train_set, test_set = load(arguments.seed, arguments.dtype)
    use_one_thread()
    model = Classifier(arguments.seed, arguments.dtype)
    dist.broadcast_variables(model.variables)
    optimizer = Momentum(model.variables)

    world.read()  # what came before the first step is not its cost
    records = []
    started = time.perf_counter()
    progress = Progress(arguments.steps, columns=columns, quiet=not speaks)
    with progress, np.errstate(over="ignore", invalid="ignore"):  # it is looked at below
        for step in range(1, arguments.steps + 1):
            record, accuracy = train_step(step, arguments, train_set, model, optimizer, world)
            if not math.isfinite(record["loss"] + record["grad_norm"]):
                raise JobError(
                    f"training diverged in step {step} (loss {record['loss']:g}, gradient norm "
                    f"{record['grad_norm']:g}); try --learning-rate below "
                    f"{arguments.learning_rate:g}"
                )
            records.append(record)
            if metrics is not None:
                metrics.write(record)
            figures = {"loss": f"{record['loss']:.4f}", "accuracy": f"{100 * accuracy:.1f} %"}
            progress.update(step, examples=record["examples"], figures=figures)
    seconds = time.perf_counter() - started

    right = count_right(model, test_set, arguments, world)
    if metrics is not None:
        digest = variables_sha256(model.variables)
        accuracy = right / len(test_set)
        metrics.write({"final": True, "test_accuracy": accuracy, "variables_sha256": digest})
        metrics.close()
    if speaks:
        facts = facts_of(arguments, records, seconds, (len(train_set), right, len(test_set)))
        show_summary("Handwritten digits, trained", facts, hints_for(world.size), columns=columns)


def open_metrics(path: Path | None, world: MeteredCommunicator) -> MetricsFile | None:
    """Return the metrics file on the first rank, None on the others and without a path.

    Raises
    ------
    JobError
        On every rank, if the first one cannot open the file.
    """
    metrics, refusal = None, 0.0
    if path is not None and world.rank == 0:
        try:
            metrics = MetricsFile(path)
        except OSError as error:
            refusal = float(error.errno or errno.EIO)
    (refusal,) = sum_over_ranks(world, [refusal])
    if refusal:
        raise JobError(f"--metrics {path}: {os.strerror(round(refusal))}")
    return metrics


def train_step(
    step: int,
    arguments: argparse.Namespace,
    digits: Digits,
    model: Classifier,
    optimizer: Momentum,
    world: MeteredCommunicator,
) -> tuple[dict[str, Any], float]:
    """Make one update and return the step's metrics and accuracy, over the global batch."""
    started = time.perf_counter()
    size, seed = arguments.global_batch, arguments.seed
    batch = batch_of(step, size, len(digits), seed), shifts_of(step, size, seed)
    accumulator = dist.GradientAccumulator(model.variables, deterministic=arguments.deterministic)
    figures = []
    for places, moves in pieces_of(batch, arguments):
        images, labels = shift(digits.images[places], moves), digits.labels[places]
        with dg.GradientTape() as tape:
            logits = model(images)
            losses = dg.softmax_cross_entropy(labels=labels, logits=logits)
            loss = dg.mean(losses)  # of this piece's examples; gradients are averaged over all
        accumulator.add(tape.gradient(loss, model.variables))
        right = np.count_nonzero(np.argmax(logits.numpy(), axis=1) == labels)
        figures.append([losses.numpy().sum(dtype=np.float64), right])
    gradients = accumulator.gradients()
    progress = (step - 1) / arguments.steps
    optimizer.apply(gradients, arguments.learning_rate * (1 + math.cos(math.pi * progress)) / 2)

    total_loss, total_right = add_up(figures, arguments, world)
    cost = world.read()
    record = {
        "step": step,
        "loss": total_loss / size,
        "grad_norm": math.sqrt(
            sum(np.sum(np.square(g.numpy()), dtype=np.float64) for g in gradients)
        ),
        "examples": size,
        "seconds": time.perf_counter() - started,
        "comm_seconds": cost.seconds,
        "exposed_comm_seconds": cost.exposed_seconds,
        "bytes_sent": cost.bytes_sent,
        "ranks": world.size,
    }
    return record, total_right / size


def pieces_of(batch: Any, arguments: argparse.Namespace) -> Iterator[Any]:
    """Yield this rank's part of a batch, in the pieces that are computed by themselves."""
    if arguments.deterministic:
        # Which are as many for any number of ranks, so that --micro-batches changes nothing.
        return dist.logical_shards(batch)
    return dist.micro_batches(batch, arguments.micro_batches)


def add_up(
    figures: Sequence[Sequence[float]], arguments: argparse.Namespace, world: MeteredCommunicator
) -> list[float]:
    """Return two figures of all pieces of a batch, each summed over all ranks."""
    if arguments.deterministic:
        return [float(total) for total in dist.sum_logical_shards(figures)]
    return sum_over_ranks(world, np.sum(figures, axis=0) if figures else [0.0, 0.0])


def sum_over_ranks(world: MeteredCommunicator, values: Sequence[float]) -> list[float]:
    """Return each number summed over the ranks, in double precision whatever the job's dtype."""
    return [float(total) for total in world.allreduce(np.array(values, dtype=np.float64))]


def count_right(
    model: Classifier, digits: Digits, arguments: argparse.Namespace, world: MeteredCommunicator
) -> int:
    """Return how many digits the model recognises; every rank looks at its part of them."""
    right = 0
    for images, labels in pieces_of((digits.images, digits.labels), arguments):
        right += np.count_nonzero(np.argmax(model(images).numpy(), axis=1) == labels)
    return round(sum_over_ranks(world, [right])[0])


def facts_of(
    arguments: argparse.Namespace,
    records: Sequence[Mapping[str, Any]],
    seconds: float,
    sizes: tuple[int, int, int],
) -> dict[str, str]:
    """Return what the summary says, by name."""
    examples, right, tested = sizes
    ranks, steps = records[-1]["ranks"], len(records)
    waited = sum(record["exposed_comm_seconds"] for record in records)
    sent = sum(record["bytes_sent"] for record in records)
    facts = {
        "ran": f"{steps} steps of {arguments.global_batch} examples, {arguments.dtype}, "
        f"seed {arguments.seed}, {examples:,} digits",
        "ranks": f"{ranks}" if ranks > 1 else "1 (a single process, without MPI)",
        "loss": f"{records[0]['loss']:.4f} at first, {records[-1]['loss']:.4f} at last",
        "test accuracy": f"{100 * right / tested:.2f} % ({right} of {tested} digits held out)",
        "time": f"{seconds:.1f} s, {steps * arguments.global_batch / seconds:,.0f} examples/s",
    }
    if ranks > 1:
        facts["communication"] = (
            f"{100 * waited / seconds:.0f} % of the time, {sent / 1e6:,.1f} MB sent by rank 0"
        )
    if arguments.metrics is not None:
        facts["metrics"] = f"{arguments.metrics}, a line a step"
    return facts


def hints_for(ranks: int) -> list[str]:
    """Return what to try after this run."""
    commands = {
        f"DISTGRAD_RANKS={3 if ranks == 2 else 2} scripts/quickstart": "the same losses",
        "scripts/quickstart --metrics digits.jsonl": "every step's numbers as JSON",
        "scripts/quickstart --dtype float64 --seed 1": "double precision, new split",
        "scripts/test": "every check of distgrad",
    }
    width = max(map(len, commands))
    return [f"{command:{width}}  {effect}" for command, effect in commands.items()]


if __name__ == "__main__":
    sys.exit(main())
