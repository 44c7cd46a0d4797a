"""Checkpoints that a job wrote: changed bytes are found, and a full disk leaves the older one.

By default a sample of the bytes is changed. DISTGRAD_FLIPS=all changes every byte of manifests and
headers and 1000 of the rest; with `-s` the counts are printed.
"""

import os
import random
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import SerialCommunicator
from distgrad.errors import CheckpointError
from distgrad.testing.ranks import run_ranks

JOB = Path(__file__).resolve().parents[2] / "scripts" / "train_text.py"
SMALL = ("--global-batch", 7, "--width", 8, "--heads", 2, "--blocks", 1, "--deterministic")
STEP = 2
SEED = 11

if not (Path(sys.executable).parent / "mpirun").exists():
    pytest.skip("needs an MPI", allow_module_level=True)

if os.environ.get("DISTGRAD_FLIPS") == "all":
    STRIDE, DATA = 1, 1000
else:
    STRIDE, DATA = 61, 60


def train(folder, ranks, *words, steps=STEP):
    """Run the job on some ranks, with a checkpoint at the end and after every second step."""
    given = ("--steps", steps, *SMALL, "--checkpoint-every", STEP, "--checkpoint-dir", folder)
    return run_ranks(ranks, [JOB, *map(str, (*given, *words))], timeout=120)


def values(folder):
    """Return all that the checkpoint holds; every file and piece is compared with its checksum."""
    return dg.checkpoint.load(folder, step=STEP, comm=SerialCommunicator())


def same(one, other):
    """Return whether two loads gave the same bits."""
    return (
        one.metadata == other.metadata
        and list(one.nest) == list(other.nest)
        and all(
            np.asarray(one.nest[path]).tobytes() == np.asarray(each).tobytes()
            for path, each in other.nest.items()
        )
    )


def outcome(folder, intact, name):
    """Return "harmless" if a load gives the same numbers, "" if it names the changed file.

    What else may happen has names of its own, which no test expects.
    """
    try:
        loaded = values(folder)
    except CheckpointError as error:
        return "" if name in str(error) else "not named"
    return "harmless" if same(loaded, intact) else "other numbers"


def places_of(path, chance):
    """Return which bytes of a file to change: those that describe, and a sample of the rest."""
    whole = path.read_bytes()
    first = chance.randrange(STRIDE)
    if path.suffix != ".safetensors":
        return range(first, len(whole), STRIDE), []
    described = 8 + struct.unpack("<Q", whole[:8])[0]  # 8 bytes tell how long the description is
    sample = [chance.randrange(described, len(whole)) for _ in range(DATA)]
    return range(first, described, STRIDE), sample


@pytest.mark.parametrize("words", [(), ("--zero", 1)], ids=["plain", "zero 1"])
def test_a_changed_byte_of_a_jobs_checkpoint_is_named_or_changes_nothing(tmp_path, words):
    result = train(tmp_path, 2, "--quiet", *words)
    assert result.returncode == 0, result.stderr
    intact = values(tmp_path)
    chance = random.Random(SEED)  # noqa: S311  to be drawn again, not to be secret
    found = Counter()

    for path in sorted(intact.path.iterdir()):
        whole = path.read_bytes()
        for kind, places in zip(("described", "data"), places_of(path, chance), strict=True):
            for place in places:
                changed = bytearray(whole)
                changed[place] ^= chance.randrange(1, 256)
                path.write_bytes(changed)
                found[outcome(tmp_path, intact, path.name) or kind] += 1
        path.write_bytes(whole)

    print(f"\n{' '.join(map(str, words)) or 'plain'}: {dict(found)}")
    assert set(found) <= {"described", "data", "harmless"}, f"seed {SEED}"
    assert found["described"] > 100
    assert found["data"] == 2 * DATA


def test_a_job_passes_over_a_damaged_checkpoint_and_names_it(tmp_path):
    folder = tmp_path / "saved"
    whole = train(tmp_path / "whole", 1, "--quiet", "--metrics", tmp_path / "whole.jsonl", steps=6)
    first = train(folder, 2, "--quiet", steps=6)
    assert (whole.returncode, first.returncode) == (0, 0), first.stderr
    path = folder / "step-0000000006" / "rank-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 16
    path.write_bytes(data)

    resumed = train(folder, 3, "--resume", "--metrics", tmp_path / "again.jsonl", steps=6)

    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step 4" in resumed.stdout
    assert path.name in resumed.stderr
    ends = [
        (tmp_path / name).read_text().splitlines()[-1] for name in ("whole.jsonl", "again.jsonl")
    ]
    assert ends[0] == ends[1]


def test_a_disk_that_is_full_in_the_midst_of_a_job_leaves_the_older_checkpoint(tmp_path, chains):
    training = "train_text --zero 1"
    expected = chains.undisturbed(training)

    with chains.Run(training, tmp_path, 2) as run:
        pid = run.process_of(1)
        while run.goes_on() and chains.newest(run.saved) < 3:
            time.sleep(0.002)
        # No file of this rank may grow beyond 4 KiB from now on; writes fail, as on a full disk.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, 4096))
        before = chains.newest(run.saved)
        status = run.wait()

    assert status == 1
    said = run.said()
    assert "was not written" in said
    assert "rank 1" in said
    assert "the checkpoints before it are whole" in said
    assert "Traceback" not in said
    assert chains.newest(run.saved) in (before, before + 1)
    chains.check_whole(run.saved)
    assert chains.run_to_the_end(training, tmp_path, 1) == expected
