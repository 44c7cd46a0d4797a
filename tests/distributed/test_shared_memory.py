"""Memory of two ranks, here of two threads: how it is found, and how chunks follow each other."""

import os
import platform
import sys
import threading

import numpy as np
import pytest

from distgrad.distributed.verbs import shared_memory
from distgrad.distributed.verbs.shared_memory import SharedMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such memory")

TOKEN = 12345


@pytest.fixture
def made():
    """Return a descriptor of memory, and the memory."""
    descriptor, memory = shared_memory._make(TOKEN)
    yield descriptor, memory
    os.close(descriptor)


def complete(requests):
    for request in requests:
        while not request.Test():
            os.sched_yield()


def test_two_ranks_add_up_messages_of_many_chunks(made):
    descriptor, memory = made
    other = shared_memory._open(os.getpid(), descriptor, TOKEN)
    ranks = [SharedMemory(memory, 0), SharedMemory(other, 1)]
    lengths = (3, shared_memory._CHUNK // 4, shared_memory._CHUNK + 5, 0, 7)
    drawn = [
        [np.random.default_rng(100 * n + rank).normal(size=n).astype(np.float32) for n in lengths]
        for rank in range(2)
    ]
    messages = [[each.copy() for each in own] for own in drawn]

    def work(rank):
        for message in messages[rank]:
            complete(ranks[rank].add_up(message, 1.0 + rank))

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not any(thread.is_alive() for thread in threads)
    for first, second, mine, others in zip(*drawn, *messages, strict=True):
        np.testing.assert_array_equal(mine, first + np.float32(2) * second)
        np.testing.assert_array_equal(mine, others)


def test_a_rank_waits_for_the_other_by_a_request_before_its_next_chunk(made):
    _, memory = made
    mine = SharedMemory(memory, 0)
    message = np.ones(5 * shared_memory._CHUNK // 8)  # of float64: five chunks

    requests = mine.add_up(message)
    request = next(requests)

    assert not request.Test()
    assert message.all()
    assert mine._done == 1  # the next one is written when the other has come


def test_other_memory_than_that_meant_is_refused(made, tmp_path):
    descriptor, _ = made
    foreign = tmp_path / "file"
    foreign.write_bytes(bytes(100))
    with foreign.open("r+b") as file:
        short = shared_memory._open(os.getpid(), file.fileno(), TOKEN)
    reading, writing = os.pipe()
    pipe = shared_memory._open(os.getpid(), reading, TOKEN)
    os.close(reading)
    os.close(writing)

    assert short is None
    assert pipe is None
    assert shared_memory._open(os.getpid(), descriptor, TOKEN + 1) is None
    assert shared_memory._open(os.getpid(), 10**6, TOKEN) is None
    assert shared_memory._open(0, descriptor, TOKEN) is None
    assert shared_memory._open(os.getpid(), descriptor, TOKEN) is not None


def test_without_memory_there_is_none_and_no_descriptor_stays_open(monkeypatch):
    before = os.listdir("/proc/self/fd")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    assert shared_memory._make(TOKEN) == (-1, None)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    "setting", ["another processor", "more ranks than cores", "switched off", "another system"]
)
def test_it_is_not_tried_where_it_cannot_work_or_gain(monkeypatch, setting):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv(shared_memory.SWITCH, raising=False)
    assert shared_memory._is_possible(2)

    if setting == "another processor":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    elif setting == "switched off":
        monkeypatch.setenv(shared_memory.SWITCH, "0")
    elif setting == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")

    assert not shared_memory._is_possible(3 if setting == "more ranks than cores" else 2)
    assert not shared_memory.is_worth_it(3, 2**20)
