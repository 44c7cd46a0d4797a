"""scripts/quickstart needs nothing but Python, and is quick the second time."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SHOW_ARGUMENTS = 'for word in "$@"; do printf "<%s>" "$word"; done; echo'


@pytest.fixture
def ready(checkout):
    """Return a fake checkout whose environment for quickstart is made already."""
    checkout.make_environment("quickstart", "mpi,examples", mpirun=SHOW_ARGUMENTS)
    return checkout


def test_arguments_reach_the_job_whole(ready):
    result = ready.run("quickstart", "--steps", "7", "--metrics", "a file.jsonl")

    python = ready.root.resolve() / ".environments/quickstart/bin/python"
    job = ready.root.resolve() / "scripts/train_digits.py"
    assert result.returncode == 0, result.stderr
    assert result.stdout == (f"<-n><2><{python}><{job}><--steps><7><--metrics><a file.jsonl>\n")


def test_the_number_of_ranks_can_be_chosen(ready):
    assert ready.run("quickstart", DISTGRAD_RANKS="3").stdout.startswith("<-n><3>")


@pytest.mark.parametrize("ranks", ["0", "two", "-1", "2x"])
def test_a_wrong_number_of_ranks_is_refused(ready, ranks):
    result = ready.run("quickstart", DISTGRAD_RANKS=ranks)

    assert result.returncode == 1
    assert f"positive whole number, got '{ranks}'" in result.stderr


def test_the_exit_status_is_the_jobs(checkout):
    checkout.make_environment("quickstart", "mpi,examples", mpirun="exit 7")

    assert checkout.run("quickstart").returncode == 7


def test_ranks_get_one_thread_and_plain_lines_in_a_pipe(checkout):
    show = 'echo "$OMP_NUM_THREADS $OPENBLAS_NUM_THREADS $DISTGRAD_PROGRESS"'
    checkout.make_environment("quickstart", "mpi,examples", mpirun=show)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DISTGRAD_PROGRESS"):
        os.environ.pop(name, None)

    assert checkout.run("quickstart").stdout == "1 1 lines\n"
    assert checkout.run("quickstart", OMP_NUM_THREADS="2").stdout == "2 2 lines\n"


def test_nothing_is_installed_twice_until_pyproject_changes(ready):
    ready.run("quickstart")
    assert not ready.record.exists()

    (ready.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    ready.run("quickstart")
    ready.run("quickstart")

    (installation,) = ready.record.read_text().splitlines()
    assert installation.endswith("-e .[mpi,examples]")


def test_an_installation_that_failed_is_tried_again(ready):
    (ready.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    python = ready.root / ".environments/quickstart/bin/python"
    working = python.read_text()
    python.write_text(working.replace('"-m pip "*) ', '"-m pip "*) echo no network; exit 1; '))
    failed = ready.run("quickstart")
    python.write_text(working)

    again = ready.run("quickstart")

    assert failed.returncode == 1
    assert "no network" in failed.stderr
    assert "pip could not install distgrad[mpi,examples]" in failed.stderr
    assert again.returncode == 0
    assert ready.record.exists()


def test_a_machine_without_a_new_python_is_told_what_to_do(checkout, tmp_path):
    old = tmp_path / "programs"
    old.mkdir()
    for name in ("bash", "basename", "dirname", "mkdir", "cksum", "head", "cat", "id"):
        (old / name).symlink_to(shutil.which(name))
    python = old / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")  # as an old one answers the question for 3.11
    python.chmod(0o755)

    result = checkout.run("quickstart", PATH=str(old))

    assert result.returncode == 1
    assert "Python 3.11 or later is needed" in result.stderr
    assert str(python) in result.stderr


def test_a_fresh_checkout_trains_from_zero(tmp_path):
    root = tmp_path / "fresh checkout"
    for name in ("distgrad", "backends", "scripts"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, root / name)

    def quickstart(*arguments):
        started = time.monotonic()
        result = subprocess.run(
            [str(root / "scripts" / "quickstart"), *arguments],
            capture_output=True,
            text=True,
            timeout=400,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
        return result, time.monotonic() - started

    first, _ = quickstart()
    second, seconds = quickstart("--steps", "5")

    assert first.returncode == 0, first.stdout + first.stderr
    assert "installed distgrad[mpi,examples]" in first.stdout
    assert "\x1b" not in first.stdout
    assert "ranks" in first.stdout
    assert "Try next" in first.stdout
    assert second.returncode == 0, second.stdout + second.stderr
    assert "install" not in second.stdout
    assert seconds < 20


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_once_and_makes_no_environment(checkout, option):
    result = checkout.run("quickstart", option)

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("scripts/quickstart [-h]") == 1
    assert not (checkout.root / ".environments").exists()


def test_help_shows_the_arguments_of_the_job_where_they_can_be_asked_for(checkout):
    checkout.make_environment("quickstart", "mpi,examples", python=SHOW_ARGUMENTS)

    result = checkout.run("quickstart", "-h")

    assert result.stdout.endswith(f"<{checkout.root.resolve()}/scripts/train_digits.py><-h>\n")


def test_a_missing_launcher_is_said(checkout):
    checkout.make_environment("quickstart", "mpi,examples")

    result = checkout.run("quickstart", PATH="/usr/bin:/bin")

    assert result.returncode == 1
    assert "there is no mpirun in" in result.stderr
