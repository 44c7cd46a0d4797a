"""The transformer of scripts/train_text.py, in each way of saving memory that the job offers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from distgrad.training import Job, run_job
from memory_cases.counting import Step, compare, count, tell

JOB = Path(__file__).resolve().parents[2] / "train_text.py"
WIDTH, BLOCKS, HEADS, CONTEXT, ROWS, PIECES = 192, 6, 4, 64, 8, 4  # rows are examples of one rank
BYTES, FLOAT = 256, 4

CASES = {
    "plain": (),
    "accumulated": ("--micro-batches", str(PIECES)),
    "recomputed": ("--recompute",),
    "stage 1": ("--zero", "1"),
    "stage 2": ("--zero", "2"),
    "stage 2 recomputed": ("--zero", "2", "--recompute"),
    "stage 3": ("--zero", "3"),
}


def parameters() -> int:
    """Return how many there are: blocks, two tables, and the last norm."""
    norms, attention = 2 * 2 * WIDTH, 4 * (WIDTH * WIDTH + WIDTH)
    dense = 8 * WIDTH * WIDTH + 5 * WIDTH
    return BLOCKS * (norms + attention + dense) + (BYTES + CONTEXT + 2) * WIDTH


def activations(*, again: bool = False) -> int:
    """Return the bytes of what backward rules read; if blocks are computed again, of one block.

    In units of an array of features, rows x context x width, the rules of a block read 17: the
    inputs of both norms, of the three projections (one array), of the two others and of the second
    dense layer (1 + 1 + 4), queries, keys, values and result of attention, and gelu's input (4).
    What comes after the blocks reads 2, and the probabilities of bytes.
    """
    features = ROWS * CONTEXT * WIDTH * FLOAT
    ends = 2 * features + ROWS * CONTEXT * BYTES * FLOAT
    return (BLOCKS + 16 if again else 17 * BLOCKS) * features + ends


def formula(case: str, ranks: int) -> tuple[str, float]:
    """Return the bytes that a case ought to take, in words and as a number."""
    n, whole, again = parameters(), activations(), activations(again=True)
    block = n / BLOCKS
    table: dict[str, tuple[str, float]] = {
        "plain": ("16 n + A", 16 * n + whole),
        "accumulated": (f"20 n + A / {PIECES}", 20 * n + whole / PIECES),
        "recomputed": ("16 n + a", 16 * n + again),
        "stage 1": ("8 n + 8 n / N + A", 8 * n + 8 * n / ranks + whole),
        "stage 2": ("4 n + 12 n / N + A", 4 * n + 12 * n / ranks + whole),
        "stage 2 recomputed": ("4 n + 12 n / N + a", 4 * n + 12 * n / ranks + again),
        "stage 3": ("16 n / N + 8 n / L + a", 16 * n / ranks + 8 * block + again),
    }
    return table[case]


def load_job() -> ModuleType:
    """Return scripts/train_text.py as a module: `scripts` is no package."""
    specification = importlib.util.spec_from_file_location("train_text", JOB)
    if specification is None or specification.loader is None:
        raise ImportError(f"{JOB} cannot be loaded")
    module = importlib.util.module_from_spec(specification)
    sys.modules["train_text"] = module  # dataclasses look their module up by name
    specification.loader.exec_module(module)
    return module


def measure(case: str) -> int:
    """Train the job's own model as one of several ranks, and tell what was counted."""
    job_module = load_job()

    def body(job: Job) -> None:
        text = np.random.default_rng(0).integers(0, BYTES, (ROWS * job.world.size, CONTEXT + 1))

        def make() -> Step:
            writer = job_module.Writer(job)
            return lambda: writer.learn(text)

        tell(job.world, count(job.world, make))

    size = {"width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "context": CONTEXT, "bucket-mib": 1}
    words = [word for name, number in size.items() for word in (f"--{name}", str(number))]
    return run_job(
        body,
        name="train_text",
        description="",
        steps=100,
        global_batch=ROWS * PIECES * 64,  # more than micro-batches, whatever the ranks
        learning_rate=3e-3,
        add_arguments=job_module.add_arguments,
        argv=[*words, *CASES[case]],
    )


def table(ranks: int, script: str) -> None:
    """Print a table of all cases on so many ranks, by jobs that call `measure`."""
    print(
        f"{ranks} ranks (N); {parameters():,} parameters (n) in {BLOCKS} blocks (L) of width "
        f"{WIDTH}; activations of {ROWS} x {CONTEXT} bytes a rank {activations() / 1e6:.1f} MB "
        f"(A), of the inputs of blocks and one block {activations(again=True) / 1e6:.1f} MB (a)"
    )
    compare(ranks, [script, "transformer", "--case"], list(CASES), formula)
