"""Gradients that nobody else holds are averaged where they lie; what somebody holds stays."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    DistributedGradientTape,
    DistributedOptimizer,
    GradientAccumulator,
    RecordedCommunicator,
)
from distgrad.distributed.averaging import weights as travelling
from distgrad.distributed.averaging.buckets import plan_buckets
from distgrad.distributed.averaging.in_place import taken
from distgrad.errors import BatchError, NonFiniteGradientError, TapeError
from distgrad.optimizers import SGD

FLOAT = np.dtype(np.float32)
MIB = 2**20


class Ready:
    """A tape whose gradients are there already, and which lets go of them."""

    def __init__(self, *gradients):
        self._gradients = list(gradients)

    def gradient(self, *_, **__):
        given, self._gradients = self._gradients, []
        return given


def address(array):
    return array.__array_interface__["data"][0]


def average(comm, gradients, variables, examples=1, **options):
    tape = DistributedGradientTape(Ready(*gradients), comm, overlap=False, **options)
    gradients.clear()
    return tape.gradient(0.0, variables, examples=examples)


def numbers(*values):
    return [dg.asarray(np.full((3, 5), value, np.float32)) for value in values]


def variables(count):
    return [dg.Variable(np.ones((3, 5), np.float32), name=f"v{n}") for n in range(count)]


# --- what may be written into ---------------------------------------------------------------------


def test_a_gradient_that_nobody_else_holds_is_averaged_in_its_own_memory():
    gradients = numbers(3.0)
    own = address(gradients[0].array)

    (found,) = average(RecordedCommunicator(2), gradients, variables(1))

    assert address(found.array) == own
    assert np.all(found.numpy() == 3.0)


def test_what_a_tape_computes_goes_to_its_average_without_a_copy(on_ranks):
    def work(comm):
        kernel = dg.Variable(np.ones((3, 5), np.float32), name="kernel")
        x = dg.asarray(np.full((2, 3), comm.rank + 1.0, np.float32))
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = dg.sum(x @ kernel)
        found = tape.gradient(loss, kernel, examples=1)
        return found.array.flags.owndata, found.numpy()

    for owns, found in on_ranks(3, work):
        assert owns
        np.testing.assert_allclose(found, np.full((3, 5), 4.0), rtol=1e-6)


def tensor(gradient):
    return gradient


def array(gradient):
    return gradient.array


def view(gradient):
    return gradient.array[1:]


def same_value(gradient):
    return dg.Tensor(gradient.array, gradient.kernels)


@pytest.mark.parametrize("held", [tensor, array, view, same_value])
def test_what_somebody_holds_of_a_gradient_keeps_its_values(held):
    gradients = numbers(3.0)
    kept = held(gradients[0])

    (found,) = average(RecordedCommunicator(2), gradients, variables(1), average="sum")

    assert np.all(np.asarray(kept) == 3.0)
    assert np.all(found.numpy() == 6.0)


def test_one_gradient_of_two_sources_is_averaged_once_for_each():
    (one,) = numbers(2.0)
    gradients = [one, one]
    del one

    found = average(RecordedCommunicator(2), gradients, variables(2), average="sum", bucket_bytes=4)

    assert [float(each.numpy()[0, 0]) for each in found] == [4.0, 4.0]


def test_an_array_that_the_loss_was_computed_from_is_not_its_gradient_to_write_into():
    factor = np.full((3, 5), 7.0, np.float32)
    (x,) = variables(1)
    with DistributedGradientTape(dg.GradientTape(), RecordedCommunicator(2), average="sum") as tape:
        loss = dg.sum(x * dg.asarray(factor))  # whose gradient may be the factor itself
    found = tape.gradient(loss, x)

    assert np.all(factor == 7.0)
    assert np.all(found.numpy() == 14.0)


def test_gradients_given_to_an_optimizer_stay_the_callers():
    gradients, own = numbers(1.0, 2.0), variables(2)

    DistributedOptimizer(SGD(1.0), RecordedCommunicator(2), average="sum").apply(gradients, own)

    assert [float(each.numpy()[0, 0]) for each in gradients] == [1.0, 2.0]
    assert [float(each.numpy()[0, 0]) for each in own] == [-1.0, -3.0]


def test_an_average_that_is_held_outlives_the_next_steps():
    comm, own = RecordedCommunicator(2), variables(2)
    kept = [average(comm, numbers(n, n), own, bucket_bytes=4) for n in range(1, 5)]

    for n, found in enumerate(kept, 1):
        assert all(np.all(each.numpy() == n) for each in found)


def test_an_average_in_its_own_memory_is_known_as_one():
    comm, own = RecordedCommunicator(2), variables(1)
    found = average(comm, numbers(1.0), own)

    with pytest.raises(TapeError, match="is an average over ranks already"):
        DistributedOptimizer(SGD(1.0), comm).apply(found, own)


@pytest.mark.parametrize(
    "given",
    [
        np.ones((5, 3), np.float32).T,  # of the other order
        np.ones((3, 5), np.float64),
        np.ones((4, 5), np.float32)[1:],
        np.ma.ones((3, 5), np.float32),
        None,
    ],
    ids=["order", "dtype", "view", "kind", "none"],
)
def test_only_plain_memory_of_the_right_dtype_is_taken(given):
    nowhere = dg.asarray(1.0).kernels
    gradients = [None if given is None else dg.Tensor(given, nowhere), given]
    given = None

    assert taken(gradients, 0, FLOAT) is None
    assert taken(gradients, 1, FLOAT) is None


def test_memory_that_is_not_to_be_written_is_not_taken():
    gradients = [np.ones(3, np.float32)]
    gradients[0].flags.writeable = False

    assert taken(gradients, 0, FLOAT) is None
    assert gradients[0] is not None


# --- policies, weights ----------------------------------------------------------------------------


def test_whose_gradient_is_not_finite_is_still_known(on_ranks):
    def work(comm):
        value = np.nan if comm.rank == 1 else 1.0
        return average(comm, numbers(value), variables(1), nonfinite="raise")

    for error in on_ranks(3, work):
        assert isinstance(error, NonFiniteGradientError)
        assert error.ranks == (1,)


def test_steps_that_are_skipped_are_skipped_on_all_ranks(on_ranks):
    def work(comm):
        value = np.inf if comm.rank == 1 else 1.0
        return average(comm, numbers(value), variables(1), nonfinite="skip")

    assert on_ranks(2, work) == [[None], [None]]


@pytest.mark.parametrize("bucket_bytes", [4, 2**20])
def test_ranks_count_by_their_examples_and_one_without_counts_nothing(on_ranks, bucket_bytes):
    examples, values = [3, 0, 5], [2.0, np.nan, 10.0]

    def work(comm):
        gradients = numbers(values[comm.rank], -values[comm.rank])
        return average(
            comm, gradients, variables(2), examples[comm.rank], bucket_bytes=bucket_bytes
        )

    for first, second in on_ranks(3, work):
        np.testing.assert_allclose(first.numpy(), np.full((3, 5), 7.0), rtol=1e-6)
        np.testing.assert_array_equal(second.numpy(), -first.numpy())


def test_no_example_anywhere_is_an_error_before_anything_is_overwritten(on_ranks):
    def work(comm):
        gradients = numbers(1.0)
        kept = gradients[0].array
        try:
            average(comm, gradients, variables(1), examples=0)
        except BatchError as error:
            return kept.copy(), str(error)

    for kept, text in on_ranks(2, work):
        assert np.all(kept == 1.0)
        assert "no rank of 2 has an example" in text


def test_held_or_not_the_average_has_the_same_bits(on_ranks):
    draws = np.random.default_rng(5).normal(size=(3, 3, 5)).astype(np.float32)

    def work(comm):
        def own():
            return [dg.asarray(draws[comm.rank].copy())]

        kept = own()
        copied = average(comm, list(kept), variables(1), examples=comm.rank + 1)
        return copied[0].numpy(), average(comm, own(), variables(1), comm.rank + 1)[0].numpy()

    for copied, in_place in on_ranks(3, work):
        np.testing.assert_array_equal(copied, in_place)


def test_accumulated_gradients_are_averaged_where_they_were_added_up(on_ranks):
    def work(comm):
        (x,) = variables(1)
        accumulator = GradientAccumulator(x, comm)
        given = numbers(1.0, 4.0)
        for gradient in given:
            accumulator.add(gradient, examples=comm.rank + 1)
        return accumulator.gradients().numpy(), [each.numpy()[0, 0] for each in given]

    for found, given in on_ranks(2, work):
        np.testing.assert_allclose(found, np.full((3, 5), 2.5), rtol=1e-6)
        assert given == [1.0, 4.0]


@pytest.mark.parametrize("size", [3, 5000])
def test_every_rank_learns_all_weights(monkeypatch, on_ranks, size):
    if size > 3:  # as where there are too many ranks for slots
        monkeypatch.setattr(travelling, "number_of_slots", lambda _: 0)

    def work(comm):
        slots = travelling.slots_with(comm, comm.rank * 1.5, 7)
        if slots is not None:
            slots = comm.allreduce(slots, "bor")
        return travelling.weights_in(comm, slots, comm.rank * 1.5)

    assert on_ranks(3, work) == [[0.0, 1.5, 3.0]] * 3


# --- layouts --------------------------------------------------------------------------------------


def layout(kibibytes, bucket_bytes=25 * MIB, *, has_weight=False):
    shapes = tuple((each * 256,) for each in kibibytes)
    plan = plan_buckets(
        (FLOAT,) * len(shapes),
        shapes,
        tuple(range(len(shapes))),
        bucket_bytes,
        has_weight=has_weight,
    )
    return [bucket.positions for bucket in plan]


def test_large_arrays_travel_alone_and_small_ones_together_past_them():
    kernels_and_biases = [3072, 4, 4096, 4, 40, 1]

    found = layout(kernels_and_biases)

    assert found == [(2,), (1, 3, 4, 5), (0,)]


def test_messages_with_weights_are_laid_out_as_ever():
    assert layout([3072, 4, 4096, 4, 40, 1], has_weight=True) == [(3, 4, 5), (0, 1, 2)]


def test_longer_buckets_bring_large_arrays_together():
    arrays = [2000] * 6

    assert len(layout(arrays)) == 6
    assert len(layout(arrays, 100 * MIB)) == 2


def test_a_message_without_weight_has_the_arrays_alone():
    (bucket,) = plan_buckets((FLOAT,), ((2, 3),), (0,), has_weight=False)

    message = bucket.pack([np.ones((2, 3), np.float32)], 0.5)

    assert message.tolist() == [0.5] * 6
    assert bucket.unpack(message)[0].shape == (2, 3)
