"""A rank that does not come is named, with its stacks, and nobody waits for ever."""

import re

import pytest

from distgrad.errors import JobTimeoutError
from distgrad.testing.ranks import run_ranks

STALL = """
world = dist.init(timeout=1.0, grace=0.5)
dist.barrier()
fault()
def stuck():
    {how}
if world.rank == 1:
    stuck()
world.allreduce(np.ones((2, 3), np.float32))
"""


@pytest.mark.parametrize(
    "how",
    [
        "time.sleep(60)",
        "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()",  # inside C, all the time
    ],
    ids=["sleeping", "in MPI"],
)
def test_a_rank_that_does_not_come_is_named_with_its_stacks(run_broken, how):
    job = run_broken(STALL.format(how=how), 3)

    for rank in (0, 2):
        said = job.by_rank(rank)
        assert job.waited(rank) >= 1.0
        assert "in allreduce (sum) of float32[2, 3] (operation 3)" in said
        assert "not arrived: rank 1 is in no collective operation" in said
        assert "DISTGRAD_TIMEOUT" in said
    assert "stacks of rank 1, which has not arrived" in job.by_rank(0)
    assert "job.py" in job.stderr
    assert "in stuck" in job.stderr


def test_a_rank_that_the_system_has_stopped_is_named(run_broken):
    job = run_broken(STALL.format(how="os.kill(os.getpid(), signal.SIGSTOP)"), 3)

    assert "not arrived: rank 1" in job.by_rank(0)


@pytest.mark.parametrize("memory", ["1", "0"])
def test_a_rank_that_stops_within_a_long_sum_is_named(run_broken, memory):
    job = run_broken(
        """
world = dist.init(timeout=1.0, grace=0.5)
long = np.ones(2**22, np.float32)
def stop():
    time.sleep(0.3)
    fault()
    os.kill(os.getpid(), signal.SIGSTOP)
if world.rank == 1:
    threading.Thread(target=stop, daemon=True).start()
while True:
    world.allreduce(long)
""",
        DISTGRAD_SHARED_MEMORY=memory,
    )

    said = job.by_rank(0)
    assert job.waited(0) >= 1.0
    assert "in allreduce (sum) of float32[4194304]" in said
    assert "not arrived: rank 1" in said


CALL = """
world = dist.init(timeout=1.0, grace=0.5)
dist.barrier()
fault()
if world.rank == 1:
    time.sleep(60)
{call}
"""

HALVES = """
from distgrad.distributed.verbs import places
world = dist.init(timeout=1.0, grace=0.5)
kernel = dg.Variable(np.ones((512, 2048), np.float32), name="kernel")
add_half, sums = places._add_half, []
def interrupted(*arguments):
    add_half(*arguments)
    sums.append("done")
    if len(sums) == 3 and world.rank == 1:
        fault()
        {how}
places._add_half = interrupted
for _ in range(10):
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean(dg.ones((64, 512)) @ kernel)
    kernel.assign_sub(tape.gradient(loss, kernel, examples=1))
    dist.barrier()
os.write(1, f"went on: {{len(sums)}} ".encode())
"""


@pytest.mark.parametrize(
    ("how", "heard"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", "not arrived: rank 1"),
        ("raise ValueError('boom')", "RemoteRankError: rank 1 raised ValueError: boom"),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ],
    ids=["stopped", "raising", "killed"],
)
def test_a_rank_that_is_lost_within_a_sum_in_both_ranks_gradients_is_named(run_broken, how, heard):
    job = run_broken(HALVES.format(how=how), DISTGRAD_C_KERNELS="0")  # none is compiled meanwhile

    assert heard in job.by_rank(0)
    assert not heard or "in allreduce (sum) of float32[1048576]" in job.by_rank(0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("dist.allreduce(np.ones(3), op='max')", "allreduce (op='max') of x float64[3]"),
        ("dist.barrier()", "barrier"),
        (
            "dist.broadcast_variables([dg.Variable([1.0], name='w')])",
            "broadcast_variables(root=0) of w float32[1]",
        ),
        ("world.split(0)", "split of a communicator"),
        ("world.duplicate()", "duplicate of a communicator"),
    ],
)
def test_who_waits_before_a_collective_hears_of_the_call_and_not_of_its_comparison(
    run_broken, call, words
):
    job = run_broken(CALL.format(call=call))

    said = job.by_rank(0)
    assert f"s in {words}, which ranks compare first (operation 3); not arrived: rank 1" in said


def test_the_deadline_may_come_from_the_environment(run_broken):
    job = run_broken(
        STALL.format(how="time.sleep(60)").replace("timeout=1.0, ", ""), DISTGRAD_TIMEOUT="1"
    )

    assert job.waited(0) >= 1.0


def test_ranks_that_wait_for_each_other_in_different_operations_are_told_apart(run_broken):
    # Verbs without fingerprint, on communicators of their own: nothing but the deadline helps.
    job = run_broken(
        """
from mpi4py import MPI
world = dist.init(timeout=1.0, grace=0.5)
second = dist.MPICommunicator(MPI.COMM_WORLD, world.guard)
fault()
if world.rank == 1:
    second.barrier()
world.allreduce(np.ones(3))
"""
    )

    # Whoever is the first to lose patience tells of the other.
    found = "rank 1 waits in barrier (operation 1)", "rank 0 waits in allreduce (sum) of float64[3]"
    assert any(text in job.stderr for text in found)


def test_ranks_that_use_two_communicators_in_two_orders_are_told_of_the_orders(run_broken):
    job = run_broken(
        """
world = dist.init(timeout=1.0, grace=0.5)
first, second = world.split(0), world.split(0)
fault()
for part in (first, second) if world.rank == 0 else (second, first):
    dist.allreduce(np.ones(3), comm=part)
"""
    )

    assert re.search(
        r"not arrived: rank [01] waits in allreduce .* on another communicator: do all ranks use "
        r"them in one order\?",
        job.stderr,
    )


def test_ranks_that_wait_among_others_are_told_with_them(run_broken):
    job = run_broken(
        """
world = dist.init(timeout=1.0, grace=0.5)
part = world.split(world.rank // 2)
fault()
dist.allreduce(1, comm=part if world.rank == 0 else None)
""",
        3,
    )

    # Whoever is the first to lose patience tells of the others: the split was operation 1.
    assert re.search(
        r"rank 0 (has waited \d+\.\d s|waits) in .* \(operation 1 among ranks 0, 1\)", job.stderr
    )
    assert re.search(r"rank [12] (has waited \d+\.\d s|waits) in .* \(operation 2\)", job.stderr)


def test_a_rank_that_is_late_but_comes_is_waited_for(run_job):
    job = run_job(
        """
world = dist.init(timeout=3.0)
if world.rank == 1:
    time.sleep(1.5)
assert dist.allreduce(1) == 2
"""
    )

    assert job.returncode == 0, job.stderr


def test_the_runner_shows_the_stacks_of_all_ranks_and_ends_them(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys, time\n"
        "rank = os.environ.get('PMI_RANK') or os.environ.get('OMPI_COMM_WORLD_RANK')\n"
        "print('process', os.getpid(), flush=True)\n"
        "def waits_for_a_train(): time.sleep(100)\n"
        "def waits_for_a_bus(): time.sleep(100)\n"
        "waits_for_a_train() if rank == '1' else waits_for_a_bus()\n"
    )

    with pytest.raises(JobTimeoutError) as raised:
        run_ranks(2, script, timeout=3)

    message = str(raised.value)
    bus, train = message.index("in waits_for_a_bus"), message.index("in waits_for_a_train")
    first, second = message.index("stacks of rank 0"), message.index("stacks of rank 1")
    assert first < bus < second < train or second < train < first < bus
    pids = {int(pid) for pid in re.findall(r"process (\d+)", message)}  # lines may run together
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_runner_leaves_no_files_of_a_launcher_that_was_killed(tmp_path, temporary):
    # Open MPI's would not start over the files of another that had its process number.
    script = tmp_path / "job.py"
    script.write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")

    result = run_ranks(2, script, timeout=30)

    assert result.returncode != 0
    assert not list(temporary.iterdir())


def test_the_runner_returns_what_ranks_say(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "os.write(1, ' '.join(['out', *sys.argv[1:], '']).encode())\n"
        "os.write(2, b'err ')\n"
    )

    result = run_ranks(2, [script, "a", "b"], timeout=30)

    assert result.returncode == 0
    assert result.stdout.split() == ["out", "a", "b"] * 2
    assert result.stderr.split() == ["err"] * 2
    assert 0 < result.seconds < 30
