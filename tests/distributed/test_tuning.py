"""The search for the quickest averaging: the planted best is found, agreed on, kept and trusted."""

import json
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    Choice,
    DistributedGradientTape,
    RecordedCommunicator,
    SerialCommunicator,
    autotune,
    last_report,
)
from distgrad.distributed.averaging.buckets import BUCKET_BYTES
from distgrad.distributed.averaging.remembered import Remembered
from distgrad.distributed.averaging.tuning import Search, candidates, search_key
from distgrad.errors import DesyncError

MIB = 2**20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distgrad"


def costs(choice):
    """Return the planted seconds of a step: hierarchical with 4 MiB is best."""
    seconds = {MIB: 0.5, 4 * MIB: 0.2, 10 * MIB: 0.4, 25 * MIB: 0.45, 100 * MIB: 0.6}
    return seconds[choice.bucket_bytes] / (2 if choice.reduction == "hierarchical" else 1)


def searched(comm, noise, **options):
    choices = candidates(200 * MIB, reductions=("native", "hierarchical"))
    search = Search(comm, choices, **options)
    rng = np.random.default_rng(comm.rank)
    steps = 0
    while search.settled is None:
        search.observe(comm, costs(search.choice) * (1 + noise * rng.random()))
        steps += 1
    return search.settled, steps


def test_the_planted_best_is_picked_by_all_ranks(on_ranks):
    for settled, steps in on_ranks(3, lambda comm: searched(comm, noise=0.5)):
        assert settled == Choice(4 * MIB, "hierarchical")
        assert steps == 10 * 4


def test_the_slowest_rank_decides(on_ranks):
    def work(comm):
        search = Search(comm, [Choice(1), Choice(2)], rounds=1)
        while search.settled is None:
            slow_here = search.choice.bucket_bytes == 2 and comm.rank == 1
            search.observe(comm, 1.0 if slow_here else 0.5 / search.choice.bucket_bytes)
        return search.settled

    assert on_ranks(2, work) == [Choice(1), Choice(1)]


def test_a_small_difference_leaves_the_default():
    comm = RecordedCommunicator()
    search = Search(comm, [Choice(1), Choice(2)], rounds=1)
    while search.settled is None:
        search.observe(comm, {1: 1.0, 2: 0.99}[search.choice.bucket_bytes])

    assert search.settled == Choice(1)


def test_the_first_step_of_a_candidate_does_not_count():
    comm = RecordedCommunicator()
    search = Search(comm, [Choice(1), Choice(2)], rounds=1)
    for seconds in (1e-9, 9.0, 2.0, 1.0):  # the layout of the first is there by chance
        search.observe(comm, seconds)

    assert search.settled == Choice(2)


def test_lengths_beyond_all_gradients_are_tried_once():
    assert [c.bucket_bytes for c in candidates(5 * MIB)] == [10 * MIB, MIB, 4 * MIB]
    assert [c.bucket_bytes for c in candidates(1000)] == [MIB]
    assert candidates(10**9)[0] == Choice(BUCKET_BYTES)


def test_what_was_found_is_kept_for_the_next_job_of_the_same_kind(on_ranks, cache):
    first = on_ranks(2, lambda comm: searched(comm, noise=0.1, key="net"))
    second = on_ranks(2, lambda comm: searched(comm, noise=0.1, key="net"))
    other = on_ranks(2, lambda comm: searched(comm, noise=0.1, key="other"))

    assert [steps for _, steps in first] == [40, 40]
    assert second == [(first[0][0], 0)] * 2
    assert [steps for _, steps in other] == [40, 40]
    entry = json.loads((cache / "averaging.json").read_text())["net"]
    assert entry["bucket_bytes"] == 4 * MIB
    assert (cache / "averaging.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["text", "list", "choice", "writable", "link"])
def test_a_cache_that_cannot_be_trusted_is_as_if_there_were_none(on_ranks, cache, damage):
    on_ranks(2, lambda comm: searched(comm, noise=0.1, key="net"))
    path = cache / "averaging.json"
    if damage == "text":
        path.write_text("{")
    elif damage == "list":
        path.write_text("[1, 2]")
    elif damage == "choice":
        path.write_text('{"net": {"bucket_bytes": "huge", "reduction": 3}}')
    elif damage == "writable":
        path.chmod(0o666)
    else:
        path.rename(cache / "elsewhere")
        path.symlink_to(cache / "elsewhere")

    again = on_ranks(2, lambda comm: searched(comm, noise=0.1, key="net"))

    assert [steps for _, steps in again] == [40, 40]


def test_a_cache_that_cannot_be_written_ends_no_job(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")

    Remembered("x.json").write("key", 1)

    assert Remembered("x.json").read("key") is None


def test_the_file_does_not_grow_for_ever():
    kept = Remembered("x.json")
    for number in range(230):
        kept.write(str(number), number)

    assert kept.read("229") == 229
    assert kept.read("0") is None


def test_keys_differ_with_the_ranks_and_with_what_travels():
    two, three = RecordedCommunicator(2), RecordedCommunicator(3)

    assert search_key(two, "a") == search_key(RecordedCommunicator(2), "a")
    assert len({search_key(two, "a"), search_key(three, "a"), search_key(two, "b")}) == 3


class CostlyCommunicator(RecordedCommunicator):
    """A message takes 20 ms, however short: few and long ones are best."""

    def allreduce(self, array, op="sum", *, out=None):
        if op == "sum":
            time.sleep(0.02)
        return super().allreduce(array, op, out=out)


def gradient(comm, model, **options):
    with DistributedGradientTape(dg.GradientTape(), comm, **options) as tape:
        loss = dg.mean(model[0] * model[0])
        for variable in model[1:]:
            loss = loss + dg.mean(variable * variable)
    return tape.gradient(loss, model, examples=1)


def test_a_tape_tunes_itself_while_it_trains(cache):
    comm = CostlyCommunicator(2)
    model = [dg.Variable(np.ones(150_000, np.float32), name=f"v{n}") for n in range(16)]
    expected = [g.numpy() for g in gradient(RecordedCommunicator(2), model)]
    for _ in range(12):  # three candidates, four times
        for found, wanted in zip(
            gradient(comm, model, bucket_bytes="auto", overlap=False), expected, strict=True
        ):
            np.testing.assert_array_equal(found.numpy(), wanted)
    gradient(comm, model, bucket_bytes="auto", overlap=False)

    # 9.6 MB: of 10 MiB there are three with the short ones at both ends, of 1 MiB sixteen.
    assert last_report(comm).buckets <= 4
    assert len(json.loads((cache / "averaging.json").read_text())) == 1


def test_on_one_rank_nothing_is_tuned(cache):
    model = [dg.Variable(np.ones(3, np.float32))]
    gradient(SerialCommunicator(), model, bucket_bytes="auto")

    assert not cache.exists()


def test_autotune_trains_while_it_searches():
    steps = []

    def step(choice):
        steps.append(choice)
        time.sleep(0.004 if choice.bucket_bytes == 5 else 0.001)

    found = autotune(step, RecordedCommunicator(2), bucket_bytes=(5, 7), rounds=2)

    assert found == Choice(7)
    assert [choice.bucket_bytes for choice in steps] == [5, 7] * 3


def test_ranks_that_try_different_things_are_told(on_ranks):
    found = on_ranks(
        2, lambda comm: autotune(lambda _: None, comm, bucket_bytes=(1, 2 + comm.rank), rounds=1)
    )

    assert all(isinstance(each, DesyncError) for each in found)


def test_nothing_to_try_is_refused():
    with pytest.raises(ValueError, match="expected lengths"):
        autotune(lambda _: None, RecordedCommunicator(2), bucket_bytes=(0, 1))
    with pytest.raises(ValueError, match="bucket_bytes is 'car'"):
        DistributedGradientTape(dg.GradientTape(), bucket_bytes="car")
