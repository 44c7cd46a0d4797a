"""Faults of ranks that end, hang, or are told to go."""

from __future__ import annotations

from distgrad.testing.fault_matrix.cases import (
    TO_THE_END,
    TRAIN,
    TRAIN_LONG,
    TRAINED,
    Bench,
    Case,
    Limit,
    UnexpectedEndError,
)
from distgrad.testing.fault_matrix.numbers import hash_of
from distgrad.testing.fault_matrix.trainings import DETERMINISTIC

JOINED = """
world = dist.init(timeout=40)
x = dg.Variable(np.zeros(3), name="x")
rng = np.random.default_rng(world.rank)
batches = [rng.normal(size=(4, 3)) for _ in range(11 if world.rank == 1 else 10)]
steps = 0
for batch in dist.join(batches):
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean(dg.sum((batch - x) ** 2, axis=1))
    x.assign_sub(0.1 * tape.gradient(loss, x))
    steps += 1
dist.DivergenceAudit(x).check()
assert steps == 11
if world.rank == 0:
    say("all ranks have trained, with equal variables")
"""

PREEMPTED = """
world = dist.init(timeout=40)
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
x = dg.Variable(1.0, name="x")
for step in range(100):
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = x * x
    x.assign_sub(0.01 * tape.gradient(loss, x))
    if dist.allreduce(len(asked), "max"):
        say(f"rank {world.rank} saves after step {step}")
        sys.exit(75)
"""

FORKED = """
world = dist.init(timeout=40)
child = os.fork()
if child == 0:
    raise ValueError("a child's own trouble")  # by the parent's hooks: it must tell nobody
os.waitpid(child, 0)
""" + TRAIN.replace("world = dist.init", "dist.init")

INTERRUPTED = TRAIN_LONG.replace("signal.signal(signal.SIGUSR1, lambda *_: None)", "")


def _raises(bench: Bench) -> None:
    result = bench.run(TRAIN_LONG, faults="raise:rank=1,step=3")
    bench.ends(
        result,
        "RemoteRankError: rank 1 raised",
        "injected: raise on rank 1",
        "--- traceback of rank 1 ---",
        by="others",
        code=1,
    )


def _exits(bench: Bench) -> None:
    result = bench.run(TRAIN_LONG, faults="exit0:rank=1,step=3")
    bench.ends(result, "RemoteRankError", "rank 1 left by sys.exit(0)", by="others")


def _killed(bench: Bench) -> None:
    result = bench.run(TRAIN_LONG, faults="kill:rank=1,step=3")
    bench.ends(result, "injected: kill on rank 1", by="anybody")


def _survived(bench: Bench) -> None:
    whole = hash_of(bench, DETERMINISTIC, ranks=1)
    result = bench.run(DETERMINISTIC, faults="kill:rank=1,step=9", elastic=True)
    bench.goes_on(result, f"hash {whole}")
    if result.stdout.count(f"hash {whole}") != bench.ranks - 1:
        raise UnexpectedEndError(f"survivors differ:\n{result.stdout}{result.stderr}")


def _survived_first(bench: Bench) -> None:
    whole = hash_of(bench, DETERMINISTIC, ranks=1)
    faults = "kill:rank=0,step=7"
    if bench.ranks > 2:
        faults += ";kill:rank=2,step=8"
    result = bench.run(DETERMINISTIC, faults=faults, elastic=True)
    bench.goes_on(result, f"hash {whole}")


def _stopped(bench: Bench) -> None:
    result = bench.run(TRAIN_LONG, faults="stop:rank=1,step=3", variables={"PATIENCE": "4"})
    bench.ends(result, "StallError", "not arrived: rank 1", by="others")


def _uneven(bench: Bench) -> None:
    bench.goes_on(bench.run(JOINED), TRAINED)


def _preempted(bench: Bench) -> None:
    result = bench.run(PREEMPTED, faults="signal:rank=1,step=4")
    said = [line for line in result.stdout.splitlines() if "saves after" in line]
    steps = {line.rpartition(" ")[2] for line in said}
    if result.returncode != 75 or len(said) != bench.ranks or len(steps) != 1:
        raise UnexpectedEndError(f"{result.returncode}:\n{result.stdout}{result.stderr}")


def _mismatched(bench: Bench) -> None:
    result = bench.run(TRAIN, mpirun=bench.other_mpirun)
    bench.ends(result, "LaunchError", by="anybody")


def _forked(bench: Bench) -> None:
    bench.goes_on(bench.run(FORKED), TRAINED)


def _interrupted(bench: Bench) -> None:
    result = bench.run(INTERRUPTED, faults="signal:rank=1,step=3,number=2")
    bench.ends(result, "KeyboardInterrupt", by="anybody", code=130)


CASES = (
    Case(
        6,
        "a rank raises",
        "an exception on rank 1",
        "`RemoteRankError` with rank 1's traceback on all others, exit code 1",
        _raises,
    ),
    Case(
        7,
        "a rank leaves by `sys.exit(0)`",
        "on rank 1, the others average",
        "`RemoteRankError` on all others, names the line",
        _exits,
    ),
    Case(
        8,
        "a rank is killed",
        "SIGKILL to rank 1",
        "the launcher ends the job, not with exit code 0",
        _killed,
    ),
    Case(
        8,
        "a rank is killed, with `dist.ElasticJob`",
        "SIGKILL to rank 1",
        "the others go on without it; the hash of an undisturbed run",
        _survived,
        limit=TO_THE_END,
        variant="elastic",
        elastic=True,
    ),
    Case(
        8,
        "rank 0 is killed, and soon another one, with `dist.ElasticJob`",
        "SIGKILL to rank 0, a step later to rank 2 where there is one",
        "the others go on without them; the hash of an undisturbed run",
        _survived_first,
        limit=TO_THE_END,
        variant="elastic-twice",
        elastic=True,
    ),
    Case(
        9,
        "a rank hangs",
        "SIGSTOP to rank 1, deadline 4 s",
        "`StallError` on all others, names rank 1 and what it is waited for in",
        _stopped,
    ),
    Case(
        10,
        "ranks have different numbers of batches",
        "11 on rank 1, 10 on the others, with `dist.join`",
        "goes on: empty batches of weight zero",
        _uneven,
        limit=TO_THE_END,
    ),
    Case(
        20,
        "a preemption signal reaches one rank",
        "SIGUSR1 to rank 1",
        "all save after the same step, exit code 75",
        _preempted,
    ),
    Case(
        21,
        "the launcher belongs to another MPI",
        "started by the other environment's mpirun",
        "`LaunchError`, names launcher, library and the right command",
        _mismatched,
        limit=Limit(
            10,
            5,
            "the start",
            "nobody can announce this fault, which is the start itself: until it is found each "
            "rank has loaded its packages and begun an MPI of its own, on cores that ranks share",
        ),
        needs_other=True,
    ),
    Case(
        25,
        "a process forks after MPI has begun",
        "every rank forks a child, which raises",
        "goes on: a child is no rank",
        _forked,
        limit=TO_THE_END,
    ),
    Case(
        26,
        "Ctrl-C",
        "SIGINT to rank 1",
        "the job ends with one line and exit code 130",
        _interrupted,
    ),
)
