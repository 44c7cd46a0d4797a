"""Killed, out of room or refused at any write: what was saved before is whole."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator
from distgrad.errors import CheckpointWriteError

ALONE = SerialCommunicator()

# All that changes the disk. Each call is counted, before and after it is made.
CALLS = "open mkdir write fsync rename rmdir unlink"

SAVER = """
    import os, signal, sys
    import numpy as np
    import distgrad as dg
    from distgrad.distributed import SerialCommunicator

    directory, begin, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    moments = 0

    def counted(call):
        def wrapper(*arguments, **options):
            step()
            try:
                return call(*arguments, **options)
            finally:
                step()
        return wrapper

    def step():
        global moments
        moments += 1
        if moments == limit and child == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(step):
        nest = {"x": np.full(1000, float(step)), "n": step}
        dg.checkpoint.save(directory, nest, step=step, keep=2, comm=SerialCommunicator())

    limit, child = -1, None
    plain = {name: getattr(os, name) for name in "CALLS".split()}
    for name, call in plain.items():
        setattr(os, name, counted(call))
    # One child for each moment: importing once is quicker than a program each.
    for limit in range(begin, stop):
        child = os.fork()
        if not child:
            moments = 0
            save(limit)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        checkpoint = dg.checkpoint.load(directory, comm=SerialCommunicator())
        n, x = checkpoint.nest["n"], checkpoint.nest["x"]
        print(limit, status, n, bool((x == n).all()), flush=True)
        if status == 0:
            break
""".replace("CALLS", CALLS)


def test_a_save_killed_at_any_moment_loses_nothing(tmp_path):
    dg.checkpoint.save(tmp_path, {"x": np.zeros(1000), "n": 0}, step=0, comm=ALONE)
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(SAVER), str(tmp_path), "1", "500"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line.split() for line in program.stdout.splitlines()]

    assert program.returncode == 0, program.stderr
    assert len(lines) > 20
    newest = 0
    for limit, status, n, whole in lines[:-1]:
        assert int(status) == signal.SIGKILL
        assert whole == "True"
        assert int(n) in (newest, int(limit))  # the old one until the new one is whole
        newest = int(n)
    assert lines[-1][1:] == ["0", lines[-1][0], "True"]
    # Nothing stays of those that were killed.
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "write", "fsync", "rename"])
def test_a_call_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch, call, code):
    nest = {"x": np.arange(10.0), "y": np.arange(3)}
    dg.checkpoint.save(tmp_path, nest, step=1, keep=1, comm=ALONE)
    plain = getattr(os, call)

    for place in range(50):
        left = [place]

        def failing(*arguments, _left=left, **options):
            _left[0] -= 1
            if _left[0] == -1:
                raise OSError(code, os.strerror(code))
            return plain(*arguments, **options)

        monkeypatch.setattr(os, call, failing)
        try:
            with pytest.raises(CheckpointWriteError, match=r"was not written.*bytes are free"):
                dg.checkpoint.save(tmp_path, nest, step=2, comm=ALONE)
        except BaseException:
            if left[0] >= 0:  # no call was left to fail: it was saved
                break
            raise
        finally:
            monkeypatch.setattr(os, call, plain)
        assert dg.checkpoint.load(tmp_path, nest, comm=ALONE).step in (1, 2)
        if dg.checkpoint.latest(tmp_path) == 2:  # visible, but its parent was not flushed
            break
        assert os.listdir(tmp_path) == ["step-0000000001"]
    assert place > 0


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    program = """
        import resource, sys
        import numpy as np
        import distgrad as dg
        from distgrad.distributed import SerialCommunicator
        from distgrad.errors import CheckpointWriteError

        alone = SerialCommunicator()
        dg.checkpoint.save(sys.argv[1], {"x": np.ones(1000)}, step=1, comm=alone)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            dg.checkpoint.save(sys.argv[1], {"x": np.ones(100_000)}, step=2, comm=alone)
        except CheckpointWriteError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "File too large" in result.stdout
    assert "the checkpoints before it are whole" in result.stdout
    assert os.listdir(tmp_path) == ["step-0000000001"]
    assert dg.checkpoint.load(tmp_path, comm=ALONE).nest["x"].tolist() == [1] * 1000


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "step-0000000001").symlink_to(victim)

    where = dg.checkpoint.save(tmp_path / "all", {"x": np.ones(2)}, step=1, comm=ALONE)

    assert where.name == "step-0000000001.1"
    assert os.listdir(victim) == []


def test_what_another_process_is_writing_is_not_cleaned_away(tmp_path):
    from distgrad.checkpoint.files import make_hidden

    hidden, lock = make_hidden(tmp_path, "0000000009")
    dg.checkpoint.save(tmp_path, {}, step=1, comm=ALONE)
    assert hidden.is_dir()
    os.close(lock)  # as when the other process is killed
    dg.checkpoint.save(tmp_path, {}, step=2, comm=ALONE)

    assert not hidden.exists()
