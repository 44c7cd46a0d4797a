"""Gradients averaged over ranks are those of the whole batch on one."""

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.backend import ArrayModuleBackend
from distgrad.distributed import (
    DistributedGradientTape,
    RecordedCommunicator,
    SerialCommunicator,
    shard,
)
from distgrad.errors import (
    BatchError,
    DesyncError,
    TapeError,
    UnconnectedError,
)

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def data(examples, dtype="float64"):
    rng = np.random.default_rng(7)
    return rng.normal(size=(examples, 3)).astype(dtype), rng.normal(size=(examples, 2)).astype(
        dtype
    )


def model(dtype="float64"):
    rng = np.random.default_rng(11)
    return {
        "kernel": dg.Variable(rng.normal(size=(3, 2)).astype(dtype), name="kernel"),
        "bias": dg.Variable(np.zeros(2, dtype), name="bias"),
    }


def mean_loss(variables, x, y):
    difference = dg.tanh(dg.matmul(x, variables["kernel"])) + variables["bias"] - y
    return dg.mean(dg.square(difference))


def gradient_of_all(examples, dtype="float64"):
    variables, (x, y) = model(dtype), data(examples, dtype)
    with dg.GradientTape() as tape:
        loss = mean_loss(variables, x, y)
    return tape.gradient(loss, variables)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "examples"), [(2, 8), (3, 8), (4, 97), (4, 3), (5, 1)])
def test_uneven_and_empty_shards_give_the_gradient_of_the_whole_batch(
    on_ranks, size, examples, dtype
):
    def work(comm):
        variables = model(dtype)
        x, y = shard(data(examples, dtype), comm)
        with np.errstate(all="ignore"), DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = mean_loss(variables, x, y)  # NaN on a rank without examples
            return tape.gradient(loss, variables)

    results = on_ranks(size, work)

    expected = gradient_of_all(examples, dtype)
    for gradients in results:
        for name in ("kernel", "bias"):
            assert gradients[name].dtype == dtype
            np.testing.assert_allclose(
                gradients[name].numpy(), expected[name].numpy(), rtol=0, atol=TOLERANCE[dtype]
            )


def test_all_ranks_get_the_same_bits(on_ranks):
    def work(comm):
        variables = model("float32")
        x, y = shard(data(7, "float32"), comm)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = mean_loss(variables, x, y)
        return tape.gradient(loss, variables)["kernel"].numpy().tobytes()

    assert len(set(on_ranks(3, work))) == 1


def test_a_tape_can_be_wrapped_after_it_has_recorded(on_ranks):
    def work(comm):
        x = dg.Variable(float(comm.rank + 1))
        with dg.GradientTape() as tape:
            y = x * x
        return float(DistributedGradientTape(tape, comm).gradient(y, x))

    assert on_ranks(2, work) == [3.0, 3.0]  # the mean of 2 and 4


@pytest.mark.parametrize(("average", "expected"), [("examples", 3.5), ("ranks", 3.0), ("sum", 6.0)])
def test_the_average_is_over_what_was_asked_for(on_ranks, average, expected):
    def work(comm):
        x = dg.Variable(float(comm.rank + 1))
        with DistributedGradientTape(dg.GradientTape(), comm, average=average) as tape:
            y = x * x
        return float(tape.gradient(y, x, examples=[1, 3][comm.rank]))

    assert on_ranks(2, work) == [expected, expected]


def test_a_rank_without_examples_counts_in_no_average(on_ranks):
    def work(comm):
        x = dg.Variable(2.0)
        with DistributedGradientTape(dg.GradientTape(), comm, average="ranks") as tape:
            y = x * (np.nan if comm.rank == 1 else 1.0)
        return float(tape.gradient(y, x, examples=[5, 0, 2][comm.rank]))

    assert on_ranks(3, work) == [1.0, 1.0, 1.0]


def test_no_examples_anywhere_is_an_error_on_every_rank(on_ranks):
    def work(comm):
        x = dg.Variable(2.0)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = x * x
        tape.gradient(y, x, examples=0)

    errors = on_ranks(2, work)

    assert all(isinstance(error, BatchError) for error in errors), errors


def branch_on_rank(comm, unconnected="none"):
    """Rank 1 alone uses b; nobody uses c."""
    a, b, c = (dg.Variable([1.0, 2.0], name=name) for name in "abc")
    with DistributedGradientTape(dg.GradientTape(), comm) as tape:
        y = dg.sum(a * b) if comm.rank == 1 else dg.sum(a * a)
    return tape.gradient(y, [a, b, c], unconnected_gradients=unconnected)


def test_none_on_some_ranks_is_zero_and_none_on_all_is_none(on_ranks):
    for a, b, c in on_ranks(2, branch_on_rank):
        assert a.tolist() == [1.5, 3.0]
        assert b.tolist() == [0.5, 1.0]
        assert c is None


def test_unconnected_everywhere_can_be_zeros(on_ranks):
    for _, _, c in on_ranks(2, lambda comm: branch_on_rank(comm, "zero")):
        assert c.tolist() == [0.0, 0.0]


def test_unconnected_everywhere_can_be_an_error_that_names_the_variable(on_ranks):
    for error in on_ranks(2, lambda comm: branch_on_rank(comm, "error")):
        assert isinstance(error, UnconnectedError)
        assert "'c'" in str(error)


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: (a, [b]),
        lambda a, b: {"second": b, "first": a},
        lambda a, b: a,
    ],
)
def test_the_result_has_the_structure_of_the_sources(on_ranks, build):
    def work(comm):
        a, b = dg.Variable(1.0), dg.Variable([2.0, 3.0])
        sources = build(a, b)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(a * b)
        return dg_structure(tape.gradient(y, sources)), dg_structure(sources)

    for result, sources in on_ranks(2, work):
        assert result == sources


def dg_structure(nest):
    if isinstance(nest, dict):
        return {key: dg_structure(value) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        return type(nest)(dg_structure(value) for value in nest)
    return nest.shape


def test_dtypes_travel_apart_and_come_back_as_they_were(on_ranks):
    def work(comm):
        half = dg.Variable(np.full(3, 2.0, np.float16))
        single = dg.Variable(np.full(3, 3.0, np.float32))
        double = dg.Variable(np.full((), 4.0, np.float64))
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = [dg.sum(half * half), dg.sum(single * single), double * double]
        gradients = tape.gradient(y, [half, single, double])
        return [(str(g.dtype), g.shape, g.numpy().ravel()[0]) for g in gradients], comm.verbs

    for found, verbs in on_ranks(2, work):
        assert found == [("float16", (3,), 4.0), ("float32", (3,), 6.0), ("float64", (), 8.0)]
        assert verbs == ["allreduce"] * 3  # the fingerprint, one message of floats, one of doubles


def test_gradients_of_another_backend_travel_by_the_host_and_come_back(on_ranks):
    backend = ArrayModuleBackend("strict", array_api_strict)

    def work(comm):
        x = dg.Variable(np.full((2, 3), comm.rank + 1, np.float32), backend=backend)
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(x * x)
        gradient = tape.gradient(y, x)
        return gradient.backend, gradient.numpy()

    for found, values in on_ranks(2, work):
        assert found is backend
        np.testing.assert_array_equal(values, np.full((2, 3), 3, np.float32))


def test_one_rank_gets_exactly_what_the_tape_gives():
    variables, (x, y) = model("float32"), data(5, "float32")
    with DistributedGradientTape(dg.GradientTape(), SerialCommunicator()) as tape:
        loss = mean_loss(variables, x, y)
    gradients = tape.gradient(loss, variables)

    expected = gradient_of_all(5, "float32")
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient.numpy(), expected[name].numpy())


def test_a_step_is_two_messages():
    recorded = RecordedCommunicator(size=4)
    variables, (x, y) = model("float32"), data(5, "float32")
    with DistributedGradientTape(dg.GradientTape(), recorded) as tape:
        loss = mean_loss(variables, x, y)
    tape.gradient(loss, variables)

    assert [(call.verb, call.nbytes) for call in recorded.calls] == [
        ("allreduce", 32 + 4 * 16),  # the fingerprint, with each rank's seconds and examples
        ("allreduce", 4 * (6 + 2)),  # kernel and bias
    ]


def test_sources_in_another_order_are_found_before_they_are_mixed_up(on_ranks):
    def work(comm):
        a, b = dg.Variable([1.0], name="a"), dg.Variable([2.0], name="b")
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(a * b)
        tape.gradient(y, [b, a] if comm.rank == 1 else [a, b])

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert set(error.names) == {"a", "b"}


def test_unnamed_sources_are_told_by_their_place(on_ranks):
    def work(comm):
        sources = {"head": {"bias": dg.Variable(np.zeros(3 + comm.rank))}}
        with DistributedGradientTape(dg.GradientTape(), comm) as tape:
            y = dg.sum(sources["head"]["bias"])
        tape.gradient(y, sources)

    for error in on_ranks(2, work):
        assert "rank 1 sends head/bias float64[4], rank 0 sends head/bias float64[3]" in str(error)


def test_the_tape_watches_tensors_and_lists_variables():
    x, v = dg.asarray([1.0, 2.0]), dg.Variable([3.0, 4.0])
    with DistributedGradientTape(dg.GradientTape(), RecordedCommunicator(2)) as tape:
        tape.watch(x)
        y = dg.sum(x * x * v)
        with tape.stop_recording():
            dg.sum(x * v)
    variables = tape.watched_variables()

    assert tape.gradient(y, x).tolist() == [6.0, 16.0]
    assert len(variables) == 1
    assert variables[0] is v


def test_reset_forgets_what_was_watched():
    with DistributedGradientTape(dg.GradientTape(), RecordedCommunicator(2)) as tape:
        dg.Variable(1.0).value()
        tape.reset()

    assert tape.watched_variables() == ()


def test_an_outer_tape_is_told_that_averages_have_no_gradient_yet():
    x = dg.Variable(2.0)
    with dg.GradientTape():
        with DistributedGradientTape(dg.GradientTape(), RecordedCommunicator(2)) as inner:
            y = x * x * x
        with pytest.raises(TapeError, match="another tape records"):
            inner.gradient(y, x)


def test_an_unknown_average_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'mean'; expected one of 'examples', 'ranks', 'sum'"):
        DistributedGradientTape(dg.GradientTape(), average="mean")


def test_what_is_no_tape_is_refused_at_once():
    with pytest.raises(TypeError, match="tape is of type SerialCommunicator; expected a tape"):
        DistributedGradientTape(SerialCommunicator())


@pytest.mark.parametrize("shards", ["all", 2.5, 0])
def test_a_number_of_logical_shards_is_a_whole_one(shards):
    with pytest.raises(ValueError, match=f"deterministic is {shards!r}; expected True or a number"):
        DistributedGradientTape(dg.GradientTape(), deterministic=shards)


RANKS = [dist.SerialCommunicator(), dist.RecordedCommunicator(size=3)]


def gradient_on(ranks, **given):
    w = dg.Variable([1.0, 2.0], name="w")
    with dist.DistributedGradientTape(dg.GradientTape(), ranks) as tape:
        loss = dg.sum(w * w)
    return tape.gradient(loss, **{"sources": w, **given})


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("wrong", [-1, np.nan, "a", [1, 2], np.ones(2)])
def test_examples_that_are_no_number_are_refused_on_one_rank_as_on_many(ranks, wrong):
    with pytest.raises(
        BatchError, match=r"gradient: examples is .* on rank 0; expected the number"
    ):
        gradient_on(ranks, examples=wrong)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_batch_without_examples_is_refused_on_one_rank_as_on_many(ranks):
    with pytest.raises(BatchError, match=r"no rank of . has an example"):
        gradient_on(ranks, examples=0)
    with pytest.raises(BatchError, match=r"no rank of . has an example"):
        dist.average(3.0, examples=0, comm=ranks)


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_no_source_is_refused_on_one_rank_as_on_many(ranks):
    with pytest.raises(TypeError, match="gradient: source 0 is a str; expected a Tensor or"):
        gradient_on(ranks, sources=["w"])


@pytest.mark.parametrize("wrong", [None, np.nan, True, "long", 0])
def test_a_length_of_messages_that_is_none_is_refused(wrong):
    for make in (
        lambda: dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes=wrong),
        lambda: dist.ShardedOptimizer(dg.optimizers.SGD(0.1), bucket_bytes=wrong),
    ):
        with pytest.raises(ValueError, match=r"bucket_bytes is .*; expected a number of bytes"):
            make()


def test_averages_are_not_averaged_again():
    tape = dist.DistributedGradientTape(dg.GradientTape(), dist.SerialCommunicator())

    for wrong in (tape, dg.GradientTape):
        with pytest.raises(TypeError, match="expected a tape that averages nothing"):
            dist.DistributedGradientTape(wrong)
