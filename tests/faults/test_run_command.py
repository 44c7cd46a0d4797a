"""`distgrad run` under a real launcher: ranks, exit codes, signals, and a second start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distgrad.distributed.launching.launchers import find_launcher

WAITS = """
import os, signal, sys, time
import distgrad.distributed as dist
world = dist.init()
heard = []
for each in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(each, lambda number, frame: heard.append(signal.Signals(number).name))
restarted = os.environ["DISTGRAD_RESTARTS"] != "0"
dist.barrier()
if world.rank == 0:
    os.write(1, f"READY {world.size} {restarted}\\n".encode())
while not restarted:
    time.sleep(0.02)
    # One rank may hear it later than another: all leave at the same step.
    if dist.allreduce(len(heard), "max"):
        break
dist.barrier()
if heard:
    os.write(1, f"rank {world.rank} heard {heard[0]}\\n".encode())
    time.sleep(0.6)  # saves its state: longer than Open MPI's launcher lets ranks live
    os.write(1, f"rank {world.rank} saved\\n".encode())
    sys.exit(75)
"""


def command(*arguments):
    return [sys.executable, "-m", "distgrad", "run", *map(str, arguments)]


def has_ended(pid):
    """Return whether a process is no more, or only waits for whoever inherited it to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.fixture
def start(tmp_path):
    """Return ``start(source, n)``: `distgrad run` of a script, ended when the test does."""
    started = []

    def run(source, n=2):
        script = tmp_path / "job.py"
        script.write_text(source)
        job = subprocess.Popen(
            command("-n", n, script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(job)
        return job

    yield run
    for job in started:
        if job.poll() is None:
            job.terminate()
            job.communicate(timeout=20)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_script_runs_on_so_many_ranks(start, n):
    job = start(
        "import distgrad.distributed as dist\nprint(f'sum {dist.allreduce(1)}\\n', end='')", n
    )

    out, err = job.communicate(timeout=60)

    assert job.returncode == 0, err
    assert out.count(f"sum {n}\n") == n


def test_the_exit_code_is_that_of_the_rank_that_failed(start):
    job = start(
        "import sys, distgrad.distributed as dist\nif dist.world().rank == 1: sys.exit(7)\n"
        "dist.barrier()"
    )

    _, err = job.communicate(timeout=60)

    assert job.returncode == 7, err
    assert "rank 1 left by sys.exit(7)" in err


def test_the_exit_code_is_not_0_where_nobody_heard_of_a_rank_that_ended_with_it(start):
    # MPICH's launcher kills the others, and often returns 0.
    job = start(
        "import posix, time, distgrad.distributed as dist\n"
        "if dist.world().rank == 1: posix._exit(0)\n"
        "dist.barrier(); time.sleep(60)"
    )

    _, err = job.communicate(timeout=60)

    assert job.returncode != 0, err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_ranks_hear_signals_in_time_to_save_and_a_preempted_job_starts_again(start, number):
    job = start(WAITS)
    assert job.stdout.readline() == "READY 2 False\n"

    job.send_signal(number)
    out, err = job.communicate(timeout=60)

    for rank in (0, 1):
        assert f"rank {rank} heard {number.name}" in out, err
        assert f"rank {rank} saved" in out
    preempted = number == signal.SIGUSR1
    assert ("READY 2 True" in out) is preempted
    assert job.returncode == (0 if preempted else 75)


def test_a_terminal_that_is_closed_asks_the_ranks_to_end(start):
    job = start(WAITS)
    assert job.stdout.readline() == "READY 2 False\n"

    job.send_signal(signal.SIGHUP)
    out, err = job.communicate(timeout=60)

    for rank in (0, 1):
        assert f"rank {rank} heard SIGTERM" in out, err
    assert job.returncode == 75


def test_neither_ranks_nor_files_outlive_a_launcher_that_was_killed(start, temporary):
    job = start(
        "import os, time, distgrad.distributed as dist\ndist.barrier()\n"
        "os.write(1, f'{os.getpid()} {os.getppid()}\\n'.encode())\ntime.sleep(60)",
    )
    ranks = [int(job.stdout.readline().split()[0]) for _ in range(2)]
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text()
    launcher = int(children.split()[0])

    os.kill(launcher, signal.SIGKILL)
    job.communicate(timeout=20)

    assert job.returncode == 128 + signal.SIGKILL
    for pid in ranks:
        assert has_ended(pid)
    assert not list(temporary.iterdir())


def test_the_launcher_is_the_one_of_this_environment():
    assert find_launcher().path.parent == Path(sys.executable).parent
