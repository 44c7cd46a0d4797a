"""Faults of what ranks send: order, shapes, operations, lengths, corruption, foreign messages."""

from __future__ import annotations

from distgrad.testing.fault_matrix.cases import TO_THE_END, TRAIN, TRAINED, Bench, Case

LONG = """
from distgrad.distributed.verbs import mpi
mpi.MESSAGE_ELEMENTS = 1000
world = dist.init(timeout=40)
x = np.arange(12_345, dtype=np.float64)
assert (dist.allreduce(x) == x * world.size).all()
assert (dist.broadcast(x + world.rank) == x).all()
assert dist.allgather(x[np.newaxis]).shape == (world.size, 12_345)
dist.barrier()
if world.rank == 0:
    say("all messages are whole")
"""

CORRUPTED = """
world = dist.init(timeout=40)
kernel = dg.Variable(np.ones((4, 3)), name="kernel")
audit = dist.DivergenceAudit(kernel, every=2)
plain = world.allreduce
def corrupted(array, op="sum", *, out=None):
    found = plain(array, op, out=out)
    if op == "sum" and found.dtype == np.float64 and step == 2:
        os.write(2, f"FAULT {time.time():.3f} a bit of the sum flips\\n".encode())
        found.view(np.uint64)[-1] ^= np.uint64(1 << 20)
    return found
if world.rank == 1:
    world.allreduce = corrupted
for step in range(6):
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean(kernel ** 2)
    kernel.assign_sub(0.1 * tape.gradient(loss, kernel))
    audit.step()
"""

FOREIGN = """
from mpi4py import MPI
world = dist.init(timeout=40)
ours = MPI.COMM_WORLD
x = dg.Variable(np.ones(3), name="x")
for step in range(20):
    theirs = np.full(3, step + world.rank)
    if step % 2:
        request = ours.Iallreduce(MPI.IN_PLACE, theirs)  # open while gradients travel
    tape = dist.DistributedGradientTape(dg.GradientTape())
    with tape:
        loss = dg.sum(x * (world.rank + 1.0))
    gradient = tape.gradient(loss, x).numpy()
    if step % 2:
        request.Wait()
        assert (theirs == world.size * step + sum(range(world.size))).all()
    else:
        ours.Bcast(theirs, root=world.size - 1)
        assert (theirs == step + world.size - 1).all()
    assert (gradient == (world.size + 1) / 2).all()
dist.barrier()
if world.rank == 0:
    say("nothing was mixed up")
"""


def _order(bench: Bench) -> None:
    result = bench.run(TRAIN, faults="order:rank=1,step=3")
    bench.ends(result, "DesyncError", "rank 1 sends bias float64[3]", "in one order")


def _shape(bench: Bench) -> None:
    result = bench.run(TRAIN, faults="shape:rank=1,step=3")
    bench.ends(result, "DesyncError", "rank 1 sends kernel float64[4, 4]", "kernel float64[4, 3]")


def _dtype(bench: Bench) -> None:
    result = bench.run(TRAIN, faults="dtype:rank=1,step=3")
    bench.ends(result, "DesyncError", "rank 1 sends kernel float32[4, 3]")


def _verb(bench: Bench) -> None:
    result = bench.run(TRAIN, faults="verb:rank=1,step=3")
    bench.ends(result, "DesyncError", "rank 1 does barrier")


def _none(bench: Bench) -> None:
    bench.goes_on(bench.run(TRAIN, faults="none:rank=1,step=3"), TRAINED)


def _long(bench: Bench) -> None:
    bench.goes_on(bench.run(LONG), "all messages are whole")


def _corrupted(bench: Bench) -> None:
    result = bench.run(CORRUPTED)
    bench.ends(result, "DivergenceError", "different values of kernel float64[4, 3]", "rank 1")


def _foreign(bench: Bench) -> None:
    bench.goes_on(bench.run(FOREIGN), "nothing was mixed up")


CASES = (
    Case(
        1,
        "ranks give their gradients in another order",
        "rank 1 reverses the sources",
        "`DesyncError` on all ranks, names rank 1 and both variables",
        _order,
    ),
    Case(
        2,
        "a gradient of another shape",
        "rank 1 has a wider kernel",
        "`DesyncError` on all ranks, names rank, variable and both shapes",
        _shape,
    ),
    Case(
        3,
        "a gradient of another dtype",
        "rank 1 has a float32 kernel among float64",
        "`DesyncError` on all ranks, names rank, variable and both dtypes",
        _dtype,
    ),
    Case(
        4,
        "another collective operation",
        "rank 1 calls a barrier where the others average",
        "`DesyncError` on all ranks, names rank and operation",
        _verb,
    ),
    Case(
        5,
        "a gradient is missing on one rank",
        "rank 1 has None for the kernel",
        "goes on: None counts as zeros, variables stay equal",
        _none,
        limit=TO_THE_END,
    ),
    Case(
        22,
        "more elements than an MPI count holds",
        "the limit of a message lowered to 1000 elements",
        "goes on: long messages travel in pieces",
        _long,
        limit=TO_THE_END,
    ),
    Case(
        23,
        "a bit of a message flips on its way to one rank",
        "rank 1 flips a bit of the sum that it got",
        "`DivergenceError` at the next audit, names variable and ranks",
        _corrupted,
    ),
    Case(
        24,
        "the program's own MPI messages in between",
        "Iallreduce and Bcast on COMM_WORLD while gradients travel",
        "goes on: distgrad's messages have communicators of their own",
        _foreign,
        limit=TO_THE_END,
    ),
)
