"""Faults that end no job but spoil what it computes: weights, orders of sums, seeds, NaN, drift."""

from __future__ import annotations

import re

from distgrad.testing.fault_matrix.cases import TO_THE_END, TRAIN, Bench, Case, UnexpectedEndError
from distgrad.testing.fault_matrix.trainings import DETERMINISTIC

PARTIAL = """
world = dist.init(timeout=40)
x = np.random.default_rng(0).normal(size=(97, 5))
w = dg.Variable(np.linspace(-1, 1, 5), name="w")
with dg.GradientTape() as tape:
    loss = dg.mean(dg.tanh(x @ w) ** 2)
alone = tape.gradient(loss, w).numpy()
part = dist.shard(x)
with dist.DistributedGradientTape(dg.GradientTape()) as tape:
    loss = dg.mean(dg.tanh(part @ w) ** 2)
np.testing.assert_allclose(tape.gradient(loss, w).numpy(), alone, rtol=1e-12)
dist.barrier()
if world.rank == 0:
    say("the gradient is that of one process")
"""

SEEDED = """
world = dist.init(timeout=40)
rng = np.random.default_rng(world.rank)  # the fault: each rank begins elsewhere
kernel = dg.Variable(rng.normal(size=(4, 3)), name="kernel")
if "broadcast" in sys.argv:
    dist.broadcast_variables([kernel])
os.write(2, f"FAULT {time.time():.3f} \\n".encode())
dist.DivergenceAudit(kernel).check()
dist.barrier()
if world.rank == 0:
    say("all ranks begin alike")
"""

NORMALISED = """
world = dist.init(timeout=40)
x = np.random.default_rng(0).normal(2.0, 3.0, size=(23, 4))
mean, variance = dist.sync_moments(dg.asarray(dist.shard(x)))
np.testing.assert_allclose(mean.numpy().ravel(), x.mean(axis=0), rtol=1e-12)
np.testing.assert_allclose(variance.numpy().ravel(), x.var(axis=0), rtol=1e-12)
dist.barrier()
if world.rank == 0:
    say("the moments are those of one process")
"""


def hash_of(bench: Bench, source: str, *arguments: str, ranks: int | None = None) -> str:
    """Return the hash that a job prints on every rank, or raise if they differ."""
    result = bench.run(source, *arguments, ranks=ranks)
    found = set(re.findall(r"hash (\w+)", result.stdout))
    if result.returncode != 0 or len(found) != 1:
        raise UnexpectedEndError(f"{found} in\n{result.stdout}{result.stderr}")
    return str(found.pop())


def _partial(bench: Bench) -> None:
    bench.goes_on(bench.run(PARTIAL), "the gradient is that of one process")


def _nan(bench: Bench) -> None:
    result = bench.run(TRAIN, "raise", faults="nan:rank=1,step=3,variable=bias")
    bench.ends(result, "NonFiniteGradientError", "not finite on rank 1: bias (3 NaN of 3)")


def _order_of_sums(bench: Bench) -> None:
    alone, together = (hash_of(bench, DETERMINISTIC, ranks=n) for n in (1, bench.ranks))
    if alone != together:
        raise UnexpectedEndError(f"hash {together} on {bench.ranks} ranks, {alone} on one")


def _seeds(bench: Bench) -> None:
    bench.goes_on(bench.run(SEEDED, "broadcast"), "all ranks begin alike")
    bench.ends(bench.run(SEEDED), "DivergenceError", "different values of kernel float64[4, 3]")


def _drift(bench: Bench) -> None:
    result = bench.run(TRAIN, "audit", faults="bitflip:rank=1,step=3")
    bench.ends(result, "DivergenceError", "different values of kernel float64[4, 3]", "rank 1")


def _normalised(bench: Bench) -> None:
    bench.goes_on(bench.run(NORMALISED), "the moments are those of one process")


CASES = (
    Case(
        11,
        "ranks have different numbers of examples",
        "97 examples, shared by `dist.shard`",
        "goes on: the gradient of one process, within 1e-12",
        _partial,
        limit=TO_THE_END,
    ),
    Case(
        12,
        "NaN in one rank's gradient",
        'of the bias on rank 1, `nonfinite="raise"`',
        "`NonFiniteGradientError` on all ranks, names rank and variable",
        _nan,
    ),
    Case(
        13,
        "sums depend on the number of ranks",
        "24 steps with `deterministic=True`",
        "goes on: the same bits as on one rank",
        _order_of_sums,
        limit=TO_THE_END,
    ),
    Case(
        14,
        "ranks begin with different variables",
        "each seeds its generator by its rank",
        "`DivergenceError` at the first audit; none after `broadcast_variables`",
        _seeds,
    ),
    Case(
        15,
        "variables drift apart",
        "a bit of rank 1's kernel flips, audit every 2 steps",
        "`DivergenceError` within 2 steps, names variable and ranks",
        _drift,
    ),
    Case(
        16,
        "statistics of batch norm differ",
        "23 examples, uneven shards, `sync_moments`",
        "goes on: the moments of one process, within 1e-12",
        _normalised,
        limit=TO_THE_END,
    ),
)
