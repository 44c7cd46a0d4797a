"""A rank runs again alone, from what it once heard: the same bits, or an error that says where."""

import os
import subprocess
import sys

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.replaying.recording import RecordingCommunicator
from distgrad.distributed.replaying.replaying import ReplayCommunicator
from distgrad.distributed.replaying.tape_file import ReplayError, path_of

OPTIONS = [{}, {"bucket_bytes": 100}, {"compression": "fp16"}, {"average": "ranks"}]


def train(comm, options, steps=3, scale=1.0):
    """Train a little on the rank's own data, and return the variables' bytes after each step."""
    rng = np.random.default_rng(comm.rank)
    x = dg.Variable(np.ones((4, 3), np.float32), name="x")
    z = dg.Variable(np.ones(3, np.float32), name="z")
    seen = []
    for _ in range(steps):
        data = rng.normal(size=(5, 4)).astype(np.float32) * np.float32(scale)
        with dist.DistributedGradientTape(dg.GradientTape(), comm, **options) as tape:
            loss = dg.mean(dg.tanh(dg.asarray(data) @ x + z))
        found = tape.gradient(loss, [x, z], examples=1 + comm.rank)
        for variable, g in zip((x, z), found, strict=True):
            variable.assign_sub(0.1 * g)
        seen.append(x.numpy().tobytes() + z.numpy().tobytes())
    return seen


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_rank_replays_to_the_same_bits(on_ranks, tmp_path, options):
    recorded = on_ranks(3, lambda comm: train(RecordingCommunicator(comm, tmp_path), options))

    assert recorded[0] == recorded[1] == recorded[2]
    for rank in range(3):
        replay = ReplayCommunicator(tmp_path, rank)
        assert (replay.rank, replay.size) == (rank, 3)
        assert train(replay, options) == recorded[rank]


def test_other_numbers_are_named_by_the_operation(on_ranks, tmp_path):
    on_ranks(2, lambda comm: train(RecordingCommunicator(comm, tmp_path), {}))

    with pytest.raises(ReplayError, match=r"operation 2, allreduce \(sum\) .* gives other numbers"):
        train(ReplayCommunicator(tmp_path, 1), {}, scale=1.5)
    train(ReplayCommunicator(tmp_path, 1, check=False), {}, scale=1.5)


def test_another_program_is_told_what_it_did_then(on_ranks, tmp_path):
    on_ranks(2, lambda comm: RecordingCommunicator(comm, tmp_path).allreduce(np.ones(3)))
    replay = ReplayCommunicator(tmp_path, 0)

    with pytest.raises(ReplayError, match=r"broadcast of int64\[2\], but was allreduce \(sum\)"):
        replay.broadcast(np.zeros(2, np.int64))


def test_a_program_that_goes_further_is_told_that_the_recording_ends(on_ranks, tmp_path):
    on_ranks(2, lambda comm: train(RecordingCommunicator(comm, tmp_path), {}))

    with pytest.raises(ReplayError, match="ends here"):
        train(ReplayCommunicator(tmp_path, 0), {}, steps=4)


def test_a_recording_that_was_cut_off_gives_what_it_has(on_ranks, tmp_path):
    recorded = on_ranks(2, lambda comm: train(RecordingCommunicator(comm, tmp_path), {}))
    path = path_of(tmp_path, 1, "0")
    path.write_bytes(path.read_bytes()[:-5])  # as if killed while it wrote

    assert train(ReplayCommunicator(tmp_path, 1), {}, steps=2) == recorded[1][:2]
    with pytest.raises(ReplayError, match="ends here"):
        train(ReplayCommunicator(tmp_path, 1), {})


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ReplayError, match="DISTGRAD_RECORD"):
        ReplayCommunicator(tmp_path, 0)
    path_of(tmp_path, 0, "0").write_bytes(b"\x02\x00\x00\x00{}")
    with pytest.raises(ReplayError):
        ReplayCommunicator(tmp_path, 0)


def test_variables_make_a_script_a_rank_that_is_alone(on_ranks, tmp_path):
    on_ranks(3, lambda comm: RecordingCommunicator(comm, tmp_path).allreduce(np.array([1.5])))
    code = (
        "import numpy as np, distgrad.distributed as dist\n"
        "world = dist.init()\n"
        "print(world.rank, world.size, world.allreduce(np.array([1.5]))[0])\n"
    )
    environment = os.environ | {"DISTGRAD_REPLAY": str(tmp_path), "DISTGRAD_REPLAY_RANK": "2"}

    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )

    assert found.stdout == "2 3 4.5\n", found.stderr
