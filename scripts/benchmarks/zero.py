"""Measure the peak memory of a training step on many ranks, each way of saving beside its formula.

A stack of residual blocks is trained with Adam: plainly; with the batch in four pieces; with blocks
computed again, or what tapes keep on disk; and with a sharded optimizer of stages 1 to 3. Each case
is a job of its own. Counted is what Python's allocators hand out (tracemalloc, which NumPy tells of
its arrays), from before the model is made to the end of the third step; the highest of all ranks
during that step stands in the table. Formulas count parameters, gradients, Adam's state and
activations, not messages; ratios above 1 are those, and temporaries. Milliseconds are of a step
without counting; where ranks outnumber cores, compare them with each other only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from memory_cases.counting import compare, count, tell

LAYERS, WIDTH, HIDDEN, ROWS = 12, 192, 768, 192  # rows are examples of one rank
PIECES, BUCKET = 4, 2**20
CASES = (
    *("plain", "accumulated", "recomputed", "on disk"),
    *("stage 1", "stage 2", "stage 2 recomputed", "stage 3"),
)


def formula(case: str, ranks: int) -> tuple[str, float]:
    """Return the bytes that a case ought to take, in words and as a number."""
    n = LAYERS * (2 * WIDTH * HIDDEN + HIDDEN + WIDTH)
    inputs, inner = 4 * ROWS * WIDTH, 4 * ROWS * HIDDEN
    whole = LAYERS * (inputs + inner)  # what all blocks' rules read
    again = LAYERS * inputs + inner  # what is kept if they are computed again, and one of them
    table: dict[str, tuple[str, float]] = {
        "plain": ("16 n + A", 16 * n + whole),
        "accumulated": (f"16 n + A / {PIECES}", 16 * n + whole / PIECES),
        "recomputed": ("16 n + a", 16 * n + again),
        "on disk": ("16 n + one block", 16 * n + inputs + inner),
        "stage 1": ("8 n + 8 n / N + A", 8 * n + 8 * n / ranks + whole),
        "stage 2": ("4 n + 12 n / N + A", 4 * n + 12 * n / ranks + whole),
        "stage 2 recomputed": ("4 n + 12 n / N + a", 4 * n + 12 * n / ranks + again),
        "stage 3": ("16 n / N + 8 n / L + a", 16 * n / ranks + 8 * n / LAYERS + again),
    }
    return table[case]


# --- what a rank runs -----------------------------------------------------------------------------


def make_blocks(case: str, optimizer: Any) -> tuple[list[Any], list[Callable[[Any], Any]]]:
    """Return the variables and the blocks of a model, cut or computed again as a case says."""
    import distgrad as dg

    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        values = (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        return dg.Variable(values, name=f"x{rng.integers(10**9)}")

    variables: list[Any] = []
    blocks: list[Callable[[Any], Any]] = []
    for _ in range(LAYERS):
        own = [random(WIDTH, HIDDEN), random(HIDDEN), random(HIDDEN, WIDTH), random(WIDTH)]

        def block(x: Any, own: list[Any] = own) -> Any:
            return x + dg.tanh(x @ own[0] + own[1]) @ own[2] + own[3]

        variables += own
        if case == "stage 3":
            blocks.append(optimizer.block(block, own))
        else:
            blocks.append(dg.recompute_grad(block) if "recomputed" in case else block)
    return variables, blocks


def step_of(case: str) -> Callable[[], Any]:
    """Return a step of training on a model that was made for a case."""
    import distgrad as dg
    import distgrad.distributed as dist

    comm = dist.world()
    optimizer: Any = dg.optimizers.Adam(1e-3)
    stage = int(case[6]) if case.startswith("stage") else 0
    if stage:
        optimizer = dist.ShardedOptimizer(optimizer, stage, bucket_bytes=BUCKET)
    variables, blocks = make_blocks(case, optimizer)
    if stage:
        optimizer.build(variables)
    else:
        dist.broadcast_variables(variables)
    batch = np.random.default_rng(1).normal(size=(comm.size * ROWS, WIDTH)).astype(np.float32)

    def loss_of(x: Any) -> Any:
        for each in blocks:
            x = each(x)
        return dg.mean(dg.square(x))

    def recorded(x: Any) -> tuple[Any, Any]:
        with dg.GradientTape() as tape:
            loss = loss_of(x)
        return tape, loss

    def sharded() -> None:
        tape, loss = recorded(dist.shard(batch))
        optimizer.minimize(loss, variables, tape)

    def accumulated() -> None:
        accumulator = dist.GradientAccumulator(variables)
        for piece in dist.micro_batches(batch, PIECES):
            tape, loss = recorded(piece)
            accumulator.add(tape.gradient(loss, variables))
        optimizer.apply(accumulator.gradients(), variables)

    def plain() -> None:
        x = dist.shard(batch)
        with dist.DistributedGradientTape(dg.GradientTape()) as tape:
            loss = loss_of(x)
        optimizer.apply(tape.gradient(loss, variables), variables)

    def on_disk() -> None:
        with dg.offload_to_disk():
            x = dist.shard(batch)
            with dist.DistributedGradientTape(dg.GradientTape()) as tape:
                loss = loss_of(x)
        optimizer.apply(tape.gradient(loss, variables), variables)

    if stage:
        return sharded
    return {"accumulated": accumulated, "on disk": on_disk}.get(case, plain)


def main() -> None:
    """Run a job for each case, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4], help="on which to train")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        import distgrad.distributed as dist

        tell(dist.world(), count(dist.world(), lambda: step_of(arguments.case)))
        return
    n = LAYERS * (2 * WIDTH * HIDDEN + HIDDEN + WIDTH)
    activations = LAYERS * 4 * ROWS * (WIDTH + HIDDEN)
    for ranks in arguments.ranks:
        print(
            f"{ranks} ranks (N); {n:,} parameters (n) in {LAYERS} blocks (L); activations of all "
            f"blocks {activations / 1e6:.1f} MB (A), of their inputs and one block "
            f"{(LAYERS * 4 * ROWS * WIDTH + 4 * ROWS * HIDDEN) / 1e6:.1f} MB (a)"
        )
        compare(ranks, [__file__, "--case"], CASES, formula)


if __name__ == "__main__":
    main()
