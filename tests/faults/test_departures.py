"""A rank that raises, exits or dies ends the whole job, soon and with a word why."""

import pytest

ENTER = """
world = dist.init()
for _ in range(3):
    dist.allreduce(np.ones(3))
"""


def test_a_rank_that_raises_ends_the_job_with_its_traceback_on_every_rank(run_broken):
    job = run_broken(
        ENTER
        + """
def load(): raise ValueError("no such file")
if world.rank == 1:
    fault()
    load()
dist.allreduce(np.ones((2, 3), np.float32))
""",
        3,
    )

    own = job.by_rank(1)
    assert own.startswith("Traceback (most recent call last):")
    assert "in load" in own
    assert "ValueError: no such file" in own
    for rank in (0, 2):
        assert "RemoteRankError: rank 1 raised ValueError: no such file" in job.by_rank(rank)
        assert "--- traceback of rank 1 ---" in job.by_rank(rank)
        assert "in load" in job.by_rank(rank)
    assert job.returncode == 1


@pytest.mark.parametrize(
    "end", ["raise ValueError('boom')", "os.kill(os.getpid(), 9)", "os._exit(3)"]
)
def test_a_rank_that_ends_between_long_sums_ends_the_job(run_broken, end):
    job = run_broken(
        f"""
world = dist.init()
long = np.ones(2**21, np.float32)
for step in range(10**6):
    world.allreduce(long)
    if world.rank == 1 and step == 5:
        fault()
        {end}
"""
    )

    if "boom" in end:
        assert "RemoteRankError: rank 1 raised ValueError: boom" in job.by_rank(0)
        assert "in allreduce (sum) of float32[2097152]" in job.by_rank(0)


def test_a_rank_that_raises_inside_a_collective_ends_the_job(run_broken):
    job = run_broken(
        ENTER
        + """
def interrupt(*_): fault(); raise TimeoutError("the batch system wants the node back")
if world.rank == 1:
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
else:
    time.sleep(30)
dist.barrier()
""",
    )

    assert "TimeoutError: the batch system wants the node back" in job.by_rank(1)


def test_ranks_that_compute_are_ended_too(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    raise ValueError("boom")
time.sleep(60)
""",
    )

    assert "ValueError: boom" in job.by_rank(1)


def test_a_rank_that_raises_before_it_joins_ends_the_job(run_broken):
    job = run_broken(
        """
rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")))
if rank == 1:
    fault()
    raise ValueError("too early")
dist.init()
dist.barrier()
"""
    )

    assert "ValueError: too early" in job.by_rank(1)
    assert "rank 1 raised ValueError: too early" in job.by_rank(0)


@pytest.mark.parametrize(
    ("leave", "says"),
    [
        ("sys.exit(0)", "rank 1 left by sys.exit(0) in"),
        ("sys.exit(3)", "rank 1 left by sys.exit(3) in"),
        ("sys.exit('no data')", "rank 1 left by sys.exit('no data') in"),
        ("raise SystemExit(3)", "rank 1 left its program"),
    ],
)
def test_a_rank_that_exits_while_others_wait_ends_the_job(run_broken, leave, says):
    job = run_broken(
        ENTER
        + f"""
if world.rank == 1:
    fault()
    {leave}
dist.allreduce(np.ones(3))
"""
    )

    assert "RemoteRankError: " + says in job.by_rank(0)
    if leave == "sys.exit(3)":
        assert job.returncode == 3
    if "sys" in leave:
        assert "job.py, line" in job.by_rank(0)


ENDINGS = {
    "os._exit(0)": "left by os._exit(0) in",
    "os.execvp('true', ['true'])": "left by os.execv(",
    "threading.Timer(0.1, os._exit, [0]).start(); time.sleep(30)": "left by os._exit(0) in",
    "from mpi4py import MPI; MPI.Finalize(); time.sleep(30)": "called MPI_Finalize in",
}


@pytest.mark.parametrize("end", ENDINGS)
def test_a_rank_that_ends_at_once_while_others_wait_ends_the_job(run_broken, end):
    job = run_broken(
        ENTER
        + f"""
if world.rank == 2:
    fault()
    {end}
dist.allreduce(np.ones(3))
""",
        3,
    )

    for rank in (0, 1):
        assert f"RemoteRankError: rank 2 {ENDINGS[end]}" in job.by_rank(rank)
        assert "after 6 collective operations, but rank" in job.by_rank(rank)


def test_a_rank_that_ends_at_once_with_a_code_ends_the_job_with_it(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    os._exit(3)
dist.allreduce(np.ones(3))
"""
    )

    assert "left by os._exit(3) in" in job.by_rank(1)
    assert "RemoteRankError: rank 1 left by os._exit(3) in" in job.by_rank(0)
    assert job.returncode == 3


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("ranks", ["(1,)", "(0, 1)"])
def test_a_signals_handler_that_ends_a_rank_within_a_sum_ends_the_job(run_broken, leave, ranks):
    job = run_broken(
        f"""
world = dist.init()
def leave(*_):
    if not world.guard.open_operations:  # between two sums: where all leave there, that is no fault
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        return
    fault()
    {leave}
if world.rank in {ranks}:
    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
long = np.ones(2**22, np.float32)
while True:
    world.allreduce(long)
"""
    )

    assert f"left by {leave} in" in job.stderr


def test_a_hook_that_ends_a_rank_at_once_hides_nothing_from_the_others(run_broken):
    job = run_broken(
        ENTER
        + """
sys.excepthook = lambda *_: os._exit(0)
if world.rank == 1:
    fault()
    raise ValueError("boom")
dist.barrier()
"""
    )

    assert "raised ValueError: boom" in job.by_rank(1)
    assert "rank 1 raised ValueError: boom" in job.by_rank(0)


def test_a_loop_that_ends_early_on_one_rank_is_named_with_its_number_of_operations(run_broken):
    job = run_broken(
        """
world = dist.init()
for step in range(4 if world.rank == 2 else 5):
    world.allreduce(np.ones(3))
fault()
""",
        3,
    )

    for rank in (0, 1):
        assert (
            "RemoteRankError: rank 2 left its program after 4 collective operations, but rank "
        ) in job.by_rank(rank)
        assert "waits for it in allreduce (sum) of float64[3] (operation 5)" in job.by_rank(rank)


def test_a_rank_that_is_killed_ends_the_job(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
""",
        3,
    )

    assert "signal 9" in (job.stdout + job.stderr).lower()  # the launcher's words


def test_ctrl_c_on_one_rank_ends_the_job_in_one_line(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
dist.barrier()
""",
    )

    first, *rest = job.by_rank(1).splitlines()
    assert first.startswith("KeyboardInterrupt in ")
    assert not any("Traceback" in line for line in rest)
    assert job.returncode == 130


def test_a_hook_that_was_put_in_our_place_hides_nothing_from_the_others(run_broken):
    job = run_broken(
        ENTER
        + """
sys.excepthook = lambda *_: print("the program's own words", file=sys.stderr)
if world.rank == 1:
    fault()
    raise ValueError("boom")
dist.barrier()
"""
    )

    assert "the program's own words" in job.stderr
    assert "rank 1 raised ValueError: boom" in job.stderr


def test_an_earlier_hook_is_called(run_broken):
    job = run_broken(
        """
sys.excepthook = lambda *_: print("the program's own words", file=sys.stderr)
import importlib
"""
        + ENTER
        + """
if world.rank == 1:
    fault()
    raise ValueError("boom")
dist.barrier()
"""
    )

    assert "the program's own words" in job.stderr
    assert "rank 1 raised ValueError: boom" in job.stderr


def test_swallowing_the_error_does_not_keep_the_job_alive(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    raise ValueError("boom")
while True:
    try:
        dist.barrier()
    except dist.RemoteRankError:
        pass
"""
    )

    assert "ValueError: boom" in job.by_rank(1)


def test_the_job_ends_even_if_the_rank_at_fault_cannot_end_it(run_broken):
    job = run_broken(
        """
import atexit
world = dist.init(grace=0.5)
if world.rank == 1:
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGSTOP))
    fault()
    raise ValueError("boom")
while True:
    try:
        dist.barrier()
    except dist.RemoteRankError as error:
        print(error, file=sys.stderr)
        time.sleep(0.1)
"""
    )

    assert "rank 1 raised ValueError: boom" in job.stderr
    assert "ends the job" in job.by_rank(0)


def test_survivors_can_clean_up(run_broken):
    job = run_broken(
        ENTER
        + """
if world.rank == 1:
    fault()
    raise ValueError("boom")
try:
    dist.barrier()
finally:
    print(f"rank {world.rank} closes its files", flush=True)
""",
        3,
    )

    assert "rank 0 closes its files" in job.stdout
    assert "rank 2 closes its files" in job.stdout


def test_one_error_on_all_ranks_is_no_catastrophe(run_broken):
    job = run_broken(
        ENTER
        + """
fault()
raise KeyError("everywhere")
"""
    )

    for rank in (0, 1):
        assert "KeyError: 'everywhere'" in job.by_rank(rank)
    assert job.returncode == 1
    assert "mpi_abort" not in job.stderr.lower()
    assert "ends the job" not in job.stderr


def test_all_ranks_can_exit_with_a_code_of_their_choice(run_broken):
    job = run_broken(
        ENTER
        + """
fault()
sys.exit(5)
"""
    )

    assert job.returncode == 5
    assert "[rank" not in job.stderr


# --- what is no fault ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "sys.exit(0)"])
def test_a_clean_end_is_silent_and_at_once(run_job, end):
    job = run_job(ENTER + "fault()\n" + end, 3)

    assert job.returncode == 0
    assert job.stderr == ""
    assert job.seconds_after_fault < 2.0


def test_a_rank_may_go_on_by_itself_when_the_others_have_left(run_job):
    job = run_job(
        ENTER
        + """
if world.rank == 0:
    time.sleep(3)  # longer than the grace
    print("the report is written")
""",
        3,
    )

    assert job.returncode == 0, job.stderr
    assert "the report is written" in job.stdout
    assert job.stderr == ""


def test_operations_that_the_departed_took_part_in_are_completed(run_job):
    # Down the tree of a broadcast from rank 1, rank 0 may depend on rank 3, which comes late, when
    # rank 1 has done its part and left.
    job = run_job(
        ENTER
        + """
if world.rank == 3:
    time.sleep(1)
value = world.broadcast(np.full(3, float(world.rank)), root=1)
print(f"rank {world.rank} has {value[0]}")
""",
        4,
    )

    assert job.returncode == 0, job.stderr
    assert "rank 0 has 1.0" in job.stdout


@pytest.mark.parametrize(
    "end",
    [
        "MPI.Finalize()",
        "MPI.Finalize(); os._exit(0)",
        "if world.rank == 1: os._exit(0)",
        "import atexit; atexit._clear(); MPI.Finalize()",
        "if world.rank == 0: time.sleep(1); print('done')\nelse: os._exit(0)",
    ],
)
def test_ranks_may_end_at_once_when_all_are_done(run_job, end):
    job = run_job(ENTER + "from mpi4py import MPI\n" + end, 2)

    assert job.returncode == 0, job.stderr
    assert job.stderr == ""


def test_an_error_after_mpi_was_finalized_is_the_ranks_own(run_job):
    job = run_job(ENTER + "from mpi4py import MPI\nMPI.Finalize()\nraise ValueError('late')")

    assert job.returncode == 1
    assert "ValueError: late" in job.by_rank(0)
    assert "MPI routine" not in job.stderr


def test_children_of_a_rank_may_end_at_once(run_job):
    job = run_job(
        ENTER
        + """
for end in (lambda: os._exit(0), lambda: os.execvp("true", ["true"])):
    child = os.fork()
    if not child:
        end()
    assert os.waitpid(child, 0)[1] == 0
dist.barrier()
"""
    )

    assert job.returncode == 0, job.stderr


def test_an_exit_that_the_program_catches_is_none(run_job):
    job = run_job(
        ENTER
        + """
if world.rank == 1:
    try:
        sys.exit(4)
    except SystemExit as error:
        assert error.code == 4
else:
    time.sleep(0.7)  # longer than ranks that exit together need
"""
    )

    assert job.returncode == 0
    assert job.stderr == ""


def test_an_error_in_a_thread_is_the_programs_own(run_job):
    job = run_job(
        ENTER
        + """
def work(): raise ValueError("in a thread")
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(dist.allreduce(1))
"""
    )

    assert job.returncode == 0, job.stderr
    assert "ValueError: in a thread" in job.stderr


def test_a_helper_process_of_a_rank_that_fails_does_not_touch_the_job(run_job):
    job = run_job(
        """
if "helper" in sys.argv:
    raise ValueError("the helper's own")
"""
        + ENTER
        + """
helper = subprocess.run([sys.executable, __file__, "helper"], capture_output=True, text=True)
assert helper.returncode == 1, helper
assert helper.stderr.startswith("Traceback"), helper.stderr
dist.barrier()
"""
    )

    assert job.returncode == 0, job.stderr


def test_python_m_mpi4py_may_start_the_job_as_well(tmp_path, run_job):
    from distgrad.testing.ranks import run_ranks

    script = tmp_path / "job.py"
    script.write_text(
        "import distgrad.distributed as dist\n"
        "world = dist.init()\n"
        "if world.rank == 1: raise ValueError('boom')\n"
        "dist.barrier()\n"
    )

    result = run_ranks(2, ["-m", "mpi4py", script], timeout=30)

    assert result.returncode != 0
    assert (
        "[rank 0] distgrad.errors.RemoteRankError: rank 1 raised ValueError: boom" in result.stderr
    )
