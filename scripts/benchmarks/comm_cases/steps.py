"""A training step on two ranks, beside two single processes at the same time and beside PyTorch.

What two processes by themselves take, until the slower of them is done, is what this machine can do
at most. In the place of averaging, a barrier shows what it costs that they wait for each other at
all, one copy of as many bytes what it costs to touch them, which no sum can avoid, and one
MPI_Allreduce what MPI takes for the messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from comm_cases.running import STORE, in_turn, line, line_of_both, measure, of_the_slowest

WIDTHS = (784, 1024, 1024, 10)
STEPS = 5  # rounds of steps for one of the longer cases
RATE = 0.01
# Of averaging: gradients that nobody holds are weighed where they lie, others are packed.
PARTS = ("compare plans", "weigh", "pack", "bucket", "unpack")


@dataclass(frozen=True)
class Workload:
    """What a step computes.

    Attributes
    ----------
    words : str
        For people.
    examples : int
        Of each rank.
    is_image : bool
        Whether they are images for a convolutional network, and not rows for dense layers.
    """

    words: str
    examples: int
    is_image: bool = False

    def batch(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a rank's examples, images in the order rows, columns, channels, and labels."""
        rng = np.random.default_rng(rank)
        shape = (32, 32, 3) if self.is_image else (WIDTHS[0],)
        x = rng.normal(size=(self.examples, *shape)).astype(np.float32)
        return x, rng.integers(0, 10, self.examples)


_DENSE = "-".join(map(str, WIDTHS))
_IMAGES = "2 convolutions 3x3 and a dense layer, images of 32x32x3"
# Of the dense layers the gradients' bytes are the same for any number of examples, so that more of
# them leave less of a step to communication; of the convolutions' kernels they are few.
WORKLOADS = (
    Workload(_DENSE, 128),
    Workload(_DENSE, 512),
    Workload(_IMAGES, 64, is_image=True),
)


# --- what the ranks run ---------------------------------------------------------------------------


def training(rounds: int, which: int) -> dict[str, float]:
    """Return the seconds of distgrad's step: averaged over ranks, and of each rank for itself."""
    from mpi4py import MPI

    import distgrad as dg
    import distgrad.distributed as dist
    from distgrad.core import spans

    world, workload = dist.init(), WORKLOADS[which]
    x, labels = workload.batch(world.rank)
    variables, model = (_convolutions if workload.is_image else _dense)(x)

    def step(comm: Any, instead: Callable[[], Any] | None = None) -> None:
        with dg.GradientTape() as tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels, logits=model(x)))
        averaging = dist.DistributedGradientTape(tape, comm)
        gradients = averaging.gradient(loss, variables, examples=workload.examples)
        if instead:
            instead()
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(RATE * gradient)

    alone = dist.SerialCommunicator()
    flat = np.zeros(sum(variable.array.size for variable in variables), np.float32)
    result = np.empty_like(flat)
    heard: list[Any] = []

    def traced() -> None:
        before = spans.tell(lambda *facts: heard.append(facts))
        step(world)
        spans.tell(before)

    cases = {
        "alone": lambda: step(alone),
        "barrier": lambda: step(alone, world.barrier),
        "copy": lambda: step(alone, lambda: np.copyto(result, flat)),
        "raw": lambda: step(alone, lambda: MPI.COMM_WORLD.Allreduce(flat, result)),
        "together": lambda: step(world),
        "traced": traced,
    }
    count = STEPS * rounds
    found = of_the_slowest(in_turn(count, cases, world.barrier), world.allgather)
    kinds = dict.fromkeys(PARTS, 0.0)
    for name, _, begun, ended, _ in heard:
        if name in kinds:
            kinds[name] += (ended - begun) / 1e9 / (count + 1)
    return found | kinds | {"bytes": float(flat.nbytes)}


def _dense(_: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return variables of dense layers without biases, and the function of them."""
    import distgrad as dg

    rng = np.random.default_rng(0)
    weights = [
        dg.Variable(rng.normal(size=shape).astype(np.float32) / 30, name=f"w{n}")
        for n, shape in enumerate(pairwise(WIDTHS))
    ]

    def model(y: Any) -> Any:
        for each in weights[:-1]:
            y = dg.relu(y @ each)
        return y @ weights[-1]

    return weights, model


def _convolutions(x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return variables of the convolutional network, and the network."""
    from distgrad import nn

    layers = [nn.Conv(32, 3, padding="same", activation=nn.relu), nn.MaxPool(2)]
    layers += [nn.Conv(64, 3, padding="same", activation=nn.relu), nn.MaxPool(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dense(10)).build(x, seed=0)
    return list(model.trainable_variables), model


def training_torch(rounds: int, which: int) -> dict[str, float]:
    """Return the seconds of the same step by DistributedDataParallel with gloo."""
    import torch
    from torch import distributed, nn

    rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{os.environ[STORE]}", rank=rank, world_size=2
    )
    layers: list[nn.Module] = []
    workload = WORKLOADS[which]
    if workload.is_image:
        layers += [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(64 * 64, 10)]
    else:
        for n, shape in enumerate(pairwise(WIDTHS)):
            layers += [nn.ReLU()] * bool(n) + [nn.Linear(*shape, bias=False)]
    model = nn.Sequential(*layers)
    averaging = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    images, numbers = workload.batch(rank)
    # PyTorch's own order has the channels first.
    images = np.ascontiguousarray(np.moveaxis(images, -1, 1)) if workload.is_image else images
    x, labels = torch.as_tensor(images), torch.as_tensor(numbers)

    def step(module: nn.Module) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), labels).backward()
        optimizer.step()

    def gather(seconds: np.ndarray) -> np.ndarray:
        parts = [torch.empty(seconds.shape, dtype=torch.float64) for _ in range(2)]
        distributed.all_gather(parts, torch.as_tensor(seconds))
        return np.stack([part.numpy() for part in parts])

    cases = {"alone": lambda: step(model), "together": lambda: step(averaging)}
    found = of_the_slowest(in_turn(STEPS * rounds, cases, distributed.barrier), gather)
    distributed.destroy_process_group()
    return found | {"rank": rank}


WORKERS = {"training": training, "training_torch": training_torch}


# --- the figures ----------------------------------------------------------------------------------


def show_steps(rounds: int) -> None:
    """Print what training steps take, in which parts, and beside PyTorch."""
    print(
        f"training steps on 2 ranks, one thread each: the slower rank's time, median and least of "
        f"{STEPS * rounds},\nand the ratios of both to two processes by themselves"
    )
    for which, workload in enumerate(WORKLOADS):
        ours = measure("training", 2, rounds, which)
        if ours is None:
            continue
        size = ours["bytes"] / 2**20
        print(f"{workload.words}, {workload.examples} examples a rank, {size:.2f} MiB of gradients")
        line_of_both("distgrad, two processes by themselves", ours, "alone")
        line_of_both("  and a barrier in the place of averaging", ours, "barrier", "alone")
        line_of_both("  and one copy of as many bytes in its place", ours, "copy", "alone")
        line_of_both("  and one raw MPI_Allreduce in its place", ours, "raw", "alone")
        line_of_both("distgrad, averaged", ours, "together", "alone")
        for part in PARTS:
            line(f"  of it: {part} (mean)", ours[part])
        line_of_both("distgrad, averaged, with a timeline", ours, "traced", "alone")
        theirs = measure("training_torch", 2, rounds, which)
        if theirs is None:
            continue
        line_of_both("PyTorch, two processes by themselves", theirs, "alone")
        line_of_both("PyTorch, DDP with gloo", theirs, "together", "alone")
        ratio = ours["together"] / theirs["together"]
        least = ours["together least"] / theirs["together least"]
        print(f"  distgrad averaged / DDP: {ratio:.2f}, by the least of each {least:.2f}")
