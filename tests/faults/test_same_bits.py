"""Whole jobs in deterministic mode end with the same bits on any number of ranks, under any MPI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distgrad.testing.ranks import run_ranks

# 60 steps with a shuffled order, masks as dropout has them, and an uneven last batch: 157 examples
# in batches of 23, the seventh of 19.
JOB = """
import hashlib
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

EXAMPLES, BATCH = 157, 23
world = dist.init()
data = np.random.default_rng(0)
images = data.normal(size=(EXAMPLES, 9)).astype(np.float32)
labels = data.integers(0, 4, EXAMPLES)
hidden = dg.Variable(data.normal(size=(9, 16)).astype(np.float32) / 3, name="hidden")
output = dg.Variable(data.normal(size=(16, 4)).astype(np.float32) / 4, name="output")
model = [hidden, output]
dist.broadcast_variables(model)
accumulator = dist.GradientAccumulator(model, deterministic=DETERMINISTIC)
masks = dg.random.Generator(5)
order = dg.random.Generator(6)
losses, step = [], 0
while step < 63:
    places = order.permutation(EXAMPLES).numpy()
    for start in range(0, EXAMPLES, BATCH):
        batch = places[start : start + BATCH]
        # One draw for the global batch: whoever computes a row takes its rows of it.
        keep = masks.fold_in(step).uniform((len(batch), 16)).numpy() < 0.8
        figures = []
        parts = (
            dist.logical_shards((batch, keep)) if DETERMINISTIC
            else dist.micro_batches((batch, keep), 1)
        )
        for part, kept in parts:
            with dg.GradientTape() as tape:
                h = dg.tanh(images[part] @ hidden) * kept.astype(np.float32) / np.float32(0.8)
                loss = dg.mean(dg.softmax_cross_entropy(labels=labels[part], logits=h @ output))
            accumulator.add(tape.gradient(loss, model))
            figures.append(float(loss) * len(part))
        for variable, gradient in zip(model, accumulator.gradients()):
            variable.assign_sub(0.2 * gradient)
        if DETERMINISTIC:
            losses.append(float(dist.sum_logical_shards(figures)) / len(batch))
        step += 1
if world.rank == 0:
    digest = hashlib.sha256(np.array(losses).tobytes())
    for variable in model:
        digest.update(variable.numpy().tobytes())
    print("steps", step, "hash", digest.hexdigest())
"""
RANKS = (1, 2, 3, 4, 5)


def said(tmp_path, ranks, deterministic):
    script = tmp_path / "job.py"
    script.write_text(f"DETERMINISTIC = {deterministic}\n{JOB}")
    result = run_ranks(ranks, script, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_sixty_steps_give_one_hash_on_any_number_of_ranks(tmp_path):
    found = {said(tmp_path, ranks, True) for ranks in RANKS}

    assert len(found) == 1, found
    assert found.pop().startswith("steps 63 hash ")


def test_without_it_the_hash_depends_on_the_ranks(tmp_path):
    assert len({said(tmp_path, ranks, False) for ranks in (1, 2, 3)}) > 1


def test_the_other_mpi_gives_the_same_hash(tmp_path, other_mpirun):
    own = said(tmp_path, 3, True)
    # In the other environment, run_ranks finds the other mpirun beside the other Python.
    program = (
        "import sys; from distgrad.testing.ranks import run_ranks; "
        "result = run_ranks(3, sys.argv[1], timeout=60); "
        "print(result.stdout.strip()); sys.exit(result.returncode)"
    )
    python = Path(other_mpirun).with_name(Path(sys.executable).name)

    result = subprocess.run(
        [python, "-c", program, tmp_path / "job.py"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == own


def job_with_dropout(tmp_path, ranks, deterministic):
    """Return the hash of the variables and all losses of a job of 30 steps."""
    metrics = tmp_path / f"{ranks}.jsonl"
    script = Path(__file__).with_name("dropout_job.py")
    mode = ["--deterministic"] if deterministic else []
    result = run_ranks(ranks, [script, *mode, "--metrics", metrics], timeout=90)
    assert result.returncode == 0, result.stderr
    assert "sizes 19 23" in result.stdout
    *steps, final = map(json.loads, metrics.read_text().splitlines())
    losses = [(each["loss"], each["grad_norm"]) for each in steps if "loss" in each]
    assert len(losses) == 30
    return final["variables_sha256"], losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return job_with_dropout(tmp_path_factory.mktemp("alone"), 1, True)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_job_with_dropout_ends_with_the_bits_of_one_rank(tmp_path, ranks, alone):
    assert job_with_dropout(tmp_path, ranks, True) == alone


def test_without_deterministic_it_ends_elsewhere(tmp_path, alone):
    assert job_with_dropout(tmp_path, 2, False)[0] != alone[0]
