"""The trainings of scripts/list_hashes.py end with one hash on any number of ranks."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "list_hashes.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_trainings_on_1_and_3_ranks_have_one_hash_that_depends_on_the_steps():
    done = run("--ranks", "1", "3", "--steps", "9")
    other = run("--ranks", "1", "--steps", "8")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("one hash\n")
    assert done.stdout.split()[-3] not in other.stdout


def test_numbers_that_make_no_sense_are_refused():
    done = run("--steps", "0")

    assert done.returncode == 2
    assert "--steps and --ranks must be 1 or more" in done.stderr
