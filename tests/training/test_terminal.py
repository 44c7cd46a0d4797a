"""A rank knows whether a person sees its output, through the launcher that forwards it."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from distgrad.training import terminal_columns

PROGRAM = """
import sys
from distgrad.training import terminal_columns
with open(sys.argv[1], "w") as answer:
    answer.write(str(terminal_columns()))
"""

# A stand-in for a launcher: it has a launcher's name and gives its child a pipe for output.
LAUNCHER = """#!{python}
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
sys.stdout.buffer.write(child.communicate()[0])
sys.exit(child.returncode)
"""


def environment(**changes):
    """Return this process's environment without what a launcher or a user may have set."""
    ours = ("PMI", "OMPI_COMM", "SLURM", "DISTGRAD_PROGRESS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "TERM": "xterm", **changes}


def seen(tmp_path: Path, command: list[str], *, on_terminal: bool, **changes) -> str:
    """Return what terminal_columns() says in a program that `command` starts."""
    answer = tmp_path / "answer"
    words = [*command, sys.executable, "-c", PROGRAM, str(answer)]
    if on_terminal:
        parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
        try:
            subprocess.run(
                words,
                stdout=child,
                stdin=subprocess.DEVNULL,
                env=environment(**changes),
                timeout=60,
                check=True,
            )
        finally:
            os.close(parent)
            os.close(child)
    else:
        subprocess.run(
            words, stdout=subprocess.PIPE, env=environment(**changes), timeout=60, check=True
        )
    return answer.read_text()


@pytest.fixture
def launcher(tmp_path):
    """Return the path of a program called mpirun that pipes its child's output."""
    path = tmp_path / "mpirun"
    # Not the environment's own name: it may have a space in it, which the first line can't have.
    python = tmp_path / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    path.write_text(LAUNCHER.format(python=python))
    path.chmod(0o755)
    return str(path)


def test_a_process_on_a_terminal_knows_its_width(tmp_path):
    assert seen(tmp_path, [], on_terminal=True) == "93"


def test_a_process_in_a_pipe_knows_that_nobody_looks_on(tmp_path):
    assert seen(tmp_path, [], on_terminal=False) == "None"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_rank_sees_through_the_launcher_to_the_terminal(tmp_path, launcher):
    assert seen(tmp_path, [launcher], on_terminal=True, PMI_RANK="0", PMI_SIZE="1") == "93"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_rank_sees_through_the_launcher_to_a_pipe(tmp_path, launcher):
    assert seen(tmp_path, [launcher], on_terminal=False, PMI_RANK="0", PMI_SIZE="1") == "None"


def test_a_rank_does_not_trust_the_pseudo_terminal_of_a_launcher_elsewhere(tmp_path):
    # Open MPI gives rank 0 a pseudo-terminal wherever its own output goes.
    assert (
        seen(tmp_path, [], on_terminal=True, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="1")
        == "None"
    )


def test_the_environment_overrides_what_is_found(tmp_path):
    assert seen(tmp_path, [], on_terminal=True, DISTGRAD_PROGRESS="lines") == "None"
    assert seen(tmp_path, [], on_terminal=False, DISTGRAD_PROGRESS="bar") == "80"


def test_a_dumb_terminal_is_none(tmp_path):
    assert seen(tmp_path, [], on_terminal=True, TERM="dumb") == "None"


def test_an_unknown_wish_is_refused(monkeypatch):
    monkeypatch.setenv("DISTGRAD_PROGRESS", "sparkles")

    with pytest.raises(ValueError, match="DISTGRAD_PROGRESS: expected 'bar' or 'lines', got 'spar"):
        terminal_columns()
