"""How a batch is shared among ranks."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import RecordedCommunicator, SerialCommunicator, shard
from distgrad.distributed.batches.sharding import examples_here
from distgrad.errors import BatchError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("examples", [0, 1, 3, 8, 97])
def test_parts_are_contiguous_balanced_and_complete(size, examples):
    batch = np.arange(examples)

    parts = [shard(batch, RecordedCommunicator(size, rank)) for rank in range(size)]

    np.testing.assert_array_equal(np.concatenate(parts), batch)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_all_leaves_of_a_nest_are_cut_alike():
    batch = {"x": np.arange(10).reshape(5, 2), "y": (dg.asarray([1.0, 2.0, 3.0, 4.0, 5.0]), None)}

    part = shard(batch, RecordedCommunicator(size=2, rank=1))

    np.testing.assert_array_equal(part["x"], [[4, 5], [6, 7], [8, 9]])
    assert part["y"][0].tolist() == [3.0, 4.0, 5.0]
    assert part["y"][1] is None


def test_the_number_of_examples_is_remembered_for_each_communicator():
    first, second = RecordedCommunicator(3, 0), RecordedCommunicator(3, 2)
    shard(np.zeros((7, 2)), first)
    shard(np.zeros((7, 2)), second)

    assert (examples_here("f", None, first), examples_here("f", None, second)) == (2, 3)
    assert examples_here("f", 11, first) == 11


def test_without_a_shard_each_rank_counts_as_one_example():
    assert examples_here("f", None, SerialCommunicator()) == 1


@pytest.mark.parametrize("examples", [-1, float("nan"), float("inf")])
def test_a_senseless_number_of_examples_is_refused(examples):
    with pytest.raises(BatchError, match=r"examples is .* on rank 0"):
        examples_here("gradient", examples, SerialCommunicator())


def test_different_lengths_are_refused_by_the_names_of_both_leaves():
    batch = {"images": np.zeros((4, 3)), "labels": np.zeros(5)}

    with pytest.raises(BatchError, match=r"batch\[images\] has 4 examples, batch\[labels\] has 5"):
        shard(batch, SerialCommunicator())


@pytest.mark.parametrize("leaf", [3.0, np.float64(2), np.array(1)])
def test_a_leaf_without_a_first_axis_is_refused(leaf):
    with pytest.raises(BatchError, match=r"batch\[y\] is a .* without a first axis"):
        shard({"x": np.zeros(3), "y": leaf}, SerialCommunicator())


def test_an_empty_nest_is_refused():
    with pytest.raises(BatchError, match="holds no arrays"):
        shard([], SerialCommunicator())
