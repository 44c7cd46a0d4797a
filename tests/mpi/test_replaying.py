"""Steps of MPI jobs, recorded with their threads and parts, replay alone to the same bits."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.replaying.recording import RecordingCommunicator
from distgrad.distributed.replaying.replaying import ReplayCommunicator
from distgrad.testing.ranks import run_ranks

pytestmark = pytest.mark.mpi(min_size=2)


def train(comm, rank, options):
    rng = np.random.default_rng(rank)
    model = [dg.Variable(np.full((20, 20), 0.1, np.float32), name=f"v{n}") for n in range(4)]
    for _ in range(4):
        data = rng.normal(size=(5, 20)).astype(np.float32)
        with dist.DistributedGradientTape(dg.GradientTape(), comm, **options) as tape:
            y = dg.asarray(data)
            for variable in model:
                y = dg.tanh(y @ variable)
            loss = dg.mean(y)
        for variable, g in zip(model, tape.gradient(loss, model, examples=1), strict=True):
            variable.assign_sub(0.1 * g)
    return b"".join(variable.numpy().tobytes() for variable in model)


@pytest.mark.parametrize(
    "options",
    [{}, {"overlap": True, "bucket_bytes": 2000}, {"reduction": "hierarchical"}],
    ids=str,
)
def test_a_rank_replays_alone_to_the_same_bits(options, directory):
    world = dist.world()
    bits = train(RecordingCommunicator(world, directory), world.rank, options)
    world.barrier()

    # Each rank replays its neighbour: without a message, as far as the world can tell.
    begun = world.started
    other = (world.rank + 1) % world.size
    assert train(ReplayCommunicator(directory, other), other, options) == bits
    assert world.started == begun


SCRIPT = """
import hashlib
import os
import numpy as np
import distgrad as dg
import distgrad.distributed as dist

world = dist.init()
rng = np.random.default_rng(world.rank)
x = dg.Variable(np.ones((4, 3), np.float32), name="x")
dist.broadcast_variables([x])
for _ in range(3):
    data = dg.asarray(rng.normal(size=(5, 4)).astype(np.float32))
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean(dg.tanh(data @ x))
    x.assign_sub(0.1 * tape.gradient(loss, x, examples=world.rank + 1))
line = f"rank {world.rank} {hashlib.sha256(x.numpy().tobytes()).hexdigest()}\\n"
os.write(1, line.encode())  # in one piece: ranks share the stream
"""


@pytest.mark.fault
def test_variables_record_a_job_and_make_one_process_a_rank_of_it():
    if dist.world().rank:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.py").write_text(SCRIPT)
        settings = {
            "DISTGRAD_RECORD": str(folder / "heard"),
            "DISTGRAD_TIMELINE": str(folder / "timeline.json"),  # its messages are not the job's
        }

        job = run_ranks(3, folder / "job.py", env=settings, timeout=60)
        alone = run_ranks(
            1,
            folder / "job.py",
            env={"DISTGRAD_REPLAY": str(folder / "heard"), "DISTGRAD_REPLAY_RANK": "2"},
            timeout=60,
        )

    assert job.returncode == alone.returncode == 0, job.stderr + alone.stderr
    (line,) = alone.stdout.splitlines()
    assert line.startswith("rank 2 ")
    assert line in job.stdout.splitlines()
