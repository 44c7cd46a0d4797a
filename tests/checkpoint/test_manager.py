"""The manager: values are those at the time of the call, errors come with the next one."""

import os
import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.checkpoint import files, loading, saving
from distgrad.distributed import RecordedCommunicator, SerialCommunicator
from distgrad.errors import CheckpointWarning, CheckpointWriteError

ALONE = SerialCommunicator()


@pytest.fixture
def held(monkeypatch):
    """Keep the writing thread waiting until the event is set."""
    event = threading.Event()
    plain = saving.write_arrays

    def waiting(*arguments):
        assert event.wait(30)
        return plain(*arguments)

    monkeypatch.setattr(saving, "write_arrays", waiting)
    yield event
    event.set()


def test_the_values_are_those_at_the_time_of_the_call(tmp_path, held):
    array = np.zeros(4)
    manager = dg.checkpoint.Manager(tmp_path, comm=ALONE)
    manager.save({"x": array}, step=1)
    array += 7
    assert not manager.poll()
    assert manager.latest is None
    held.set()
    manager.close()

    assert manager.load().nest["x"].tolist() == [0, 0, 0, 0]


def test_what_another_process_replaces_meanwhile_is_looked_for_again(tmp_path, monkeypatch):
    dg.checkpoint.save(tmp_path, {"x": np.zeros(3)}, step=1, comm=ALONE)
    plain = loading._read

    def overtaken(found, wanted):
        if found.step == 1:
            dg.checkpoint.save(tmp_path, {"x": np.ones(3)}, step=2, keep=1, comm=ALONE)
        return plain(found, wanted)

    monkeypatch.setattr(loading, "_read", overtaken)
    with pytest.warns(CheckpointWarning, match=r"step-0000000001.*; loading step-0000000002"):
        found = dg.checkpoint.load(tmp_path, comm=ALONE)

    assert (found.step, found.nest["x"].tolist()) == (2, [1, 1, 1])


def test_the_metadata_is_that_at_the_time_of_the_call(tmp_path, held):
    losses = [3.0, 2.0]
    manager = dg.checkpoint.Manager(tmp_path, comm=ALONE)
    manager.save({"x": np.zeros(1)}, step=1, metadata={"losses": losses})
    losses.append(1.0)
    held.set()

    assert manager.load().metadata == {"losses": [3.0, 2.0]}


def test_on_one_rank_the_thread_finishes_by_itself(tmp_path):
    manager = dg.checkpoint.Manager(tmp_path, comm=ALONE)
    manager.save({"x": np.ones(2)}, step=3)
    deadline = time.monotonic() + 20
    while manager.latest is None and time.monotonic() < deadline:
        time.sleep(0.01)

    assert manager.latest == 3
    manager.close()


def test_on_several_ranks_the_next_call_finishes(tmp_path):
    comm = RecordedCommunicator(size=2)
    manager = dg.checkpoint.Manager(tmp_path, comm=comm)
    manager.save({"n": 5}, step=3)
    calls = len(comm.calls)
    while not manager._running.is_done():
        time.sleep(0.01)

    assert len(comm.calls) == calls  # the thread spoke to nobody
    assert manager.latest is None
    assert manager.poll()
    assert manager.latest == 3


def test_an_error_of_the_thread_is_raised_by_the_next_call(tmp_path, monkeypatch):
    manager = dg.checkpoint.Manager(tmp_path, comm=ALONE)
    manager.save({"x": np.ones(2)}, step=1)
    manager.wait()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    manager.save({"x": np.ones(2)}, step=2)
    with pytest.raises(CheckpointWriteError, match="step 2 was not written"):
        manager.save({"x": np.ones(2)}, step=3)
    monkeypatch.undo()

    manager.save({"x": np.ones(2)}, step=4)
    manager.close()
    assert manager.latest == 4
    assert sorted(os.listdir(tmp_path)) == ["step-0000000001", "step-0000000004"]


def test_the_newest_few_are_kept_in_the_background_too(tmp_path):
    with dg.checkpoint.Manager(tmp_path, keep=2, comm=ALONE) as manager:
        for step in range(5):
            manager.save({"x": np.array(step)}, step=step)

    assert sorted(os.listdir(tmp_path)) == ["step-0000000003", "step-0000000004"]


def test_an_error_in_the_block_gives_up_what_other_ranks_would_have_to_finish(tmp_path):
    def interrupted():
        with dg.checkpoint.Manager(tmp_path, comm=RecordedCommunicator(size=2)) as manager:
            manager.save({"x": np.ones(2)}, step=1)
            raise KeyError("something else")

    with pytest.raises(KeyError):
        interrupted()

    assert os.listdir(tmp_path) == []


def test_without_a_thread_it_is_saved_when_the_call_returns(tmp_path):
    manager = dg.checkpoint.Manager(tmp_path, comm=ALONE, asynchronous=False)
    manager.save({"x": np.ones(2)}, step=1)

    assert manager.latest == 1
