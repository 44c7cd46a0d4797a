"""An optimizer that averages: what it is given, what it refuses, and variables that wait."""

import copy
import threading

import numpy as np
import pytest

import distgrad as dg
from distgrad.distributed import (
    DistributedGradientTape,
    DistributedOptimizer,
    RecordedCommunicator,
    SerialCommunicator,
    ShardedOptimizer,
    shard,
)
from distgrad.distributed.averaging.adding import COMPRESSIONS
from distgrad.distributed.averaging.lanes import Lane
from distgrad.distributed.stepping.awaiting import AwaitedVariable
from distgrad.distributed.stepping.carrying import Carriage
from distgrad.errors import (
    CommunicationError,
    NonFiniteGradientError,
    ShapeError,
    TapeError,
    TraceError,
    UnsupportedOptionError,
)
from distgrad.optimizers import LBFGS, SGD, Adam, LossScale, Optimizer, accumulate, chain, clipping

NEXT_READ = {"wait": "next-read", "bucket_bytes": 64}


def model():
    return [dg.Variable(np.full(16, n + 1.0, np.float32), name=f"layer{n}") for n in range(3)]


def gradients(value=1.0):
    return [dg.asarray(np.full(16, value * (n + 1), np.float32)) for n in range(3)]


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, NEXT_READ])
@pytest.mark.parametrize("ranks", [SerialCommunicator(), RecordedCommunicator(3)])
def test_equal_ranks_take_the_steps_of_one(ranks, options):
    own, expected = model(), model()
    optimizer, plain = DistributedOptimizer(Adam(0.1), ranks, **options), Adam(0.1)
    for step in range(4):
        optimizer.apply(gradients(step + 1.0), own)
        plain.apply(gradients(step + 1.0), expected)

    for mine, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-6)
    assert optimizer.iterations == 4
    assert sorted(optimizer.state_dict()) == sorted(plain.state_dict())


def test_gradients_count_by_the_examples_of_the_last_shard(on_ranks):
    def work(ranks):
        shard(np.zeros(7), ranks)  # 3 on rank 0, 4 on rank 1
        x = dg.Variable([0.0, 0.0], name="x")
        DistributedOptimizer(SGD(7.0), ranks).apply(dg.asarray([1.0, ranks.rank + 1.0]), x)
        return x.numpy()

    for found in on_ranks(2, work):
        np.testing.assert_allclose(found, [-7.0, -11.0], rtol=1e-6)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_averages_may_be_waited_for_at_the_next_read(compression):
    """Also where a layer comes later, whose average is no part of the buckets under way."""

    def trained(**options):
        ranks, layers = RecordedCommunicator(2), model()
        optimizer = DistributedOptimizer(
            Adam(0.1), ranks, bucket_bytes=64, compression=COMPRESSIONS[compression](), **options
        )
        for step in range(5):
            with dg.GradientTape() as tape:
                used = layers[: 2 if step in (0, 3) else 3]
                loss = sum(dg.sum(dg.tanh(v) * (n + step)) for n, v in enumerate(used, 1))
            optimizer.minimize(loss, layers, tape, examples=1)
        values = [layer.numpy() for layer in layers]
        return values, optimizer.report

    expected, plain = trained(overlap=False)
    found, late = trained(wait="next-read")

    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert late.algorithm == f"deferred {plain.algorithm}"
    assert late.bytes == plain.bytes


def test_minimize_overlaps_as_the_tape_does():
    ranks, own = RecordedCommunicator(2), model()
    optimizer = DistributedOptimizer(SGD(0.1), ranks, overlap=True, bucket_bytes=64)
    for _ in range(3):
        with dg.GradientTape() as tape:
            loss = sum((dg.sum(each) for each in own), start=dg.asarray(np.float32(0)))
        assert optimizer.minimize(loss, own, tape)

    assert optimizer.report.algorithm == "overlapped allreduce"
    np.testing.assert_allclose(own[0].numpy(), 1 - 0.3, rtol=1e-6)


def test_a_state_is_loaded_into_another_optimizer():
    own, ranks = model(), SerialCommunicator()
    optimizer = DistributedOptimizer(Adam(0.1), ranks)
    optimizer.apply(gradients(), own)
    again = DistributedOptimizer(Adam(0.1), ranks)
    again.build(own)
    again.load_state_dict(optimizer.state_dict())

    assert again.iterations == 1
    assert {each.name for each in again.variables} == set(optimizer.state_dict())


def test_steps_with_averages_that_are_not_finite_are_left_out_or_raise():
    x = dg.Variable([1.0], name="x")
    bad = dg.asarray([np.inf])
    optimizer = DistributedOptimizer(SGD(0.1), RecordedCommunicator(2), nonfinite="skip")
    optimizer.apply(bad, x)
    assert optimizer.skipped
    assert optimizer.iterations == 0
    optimizer.apply(dg.asarray([1.0]), x)
    assert not optimizer.skipped
    with pytest.raises(NonFiniteGradientError, match="x"):
        DistributedOptimizer(SGD(0.1), RecordedCommunicator(2), nonfinite="raise").apply(bad, x)


# --- refusals -------------------------------------------------------------------------------------


def test_averages_are_refused():
    ranks, own = RecordedCommunicator(2), model()
    with DistributedGradientTape(dg.GradientTape(), ranks) as tape:
        loss = sum((dg.sum(each) for each in own), start=dg.asarray(np.float32(0)))
    averages = tape.gradient(loss, own)
    optimizer = DistributedOptimizer(SGD(0.1), ranks)

    with pytest.raises(TapeError, match=r"'layer0' is an average.*optimizer\.optimizer\.apply"):
        optimizer.apply(averages, own)
    with pytest.raises(TypeError, match="DistributedOptimizer: a DistributedGradientTape averages"):
        optimizer.minimize(loss, own, tape)
    optimizer.optimizer.apply(averages, own)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LBFGS, "LBFGS and NewtonCG take a loss function"),
        (lambda: 3, "got int"),
        (lambda: DistributedOptimizer(SGD(0.1)), "averages over ranks itself"),
        (lambda: ShardedOptimizer(SGD(0.1)), "averages over ranks itself"),
    ],
)
def test_what_is_no_optimizer_of_gradients_is_refused(given, words):
    with pytest.raises(TypeError, match=words):
        DistributedOptimizer(given())


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: SGD(0.1), {"deterministic": True}, "deterministic=True with wait='next-read'"),
        (lambda: SGD(0.1), {"nonfinite": "skip"}, "nonfinite='skip'"),
        (lambda: SGD(0.1), {"overlap": False}, "overlap=False"),
        (lambda: SGD(0.1), {"bucket_bytes": "auto"}, "bucket_bytes='auto'"),
        (lambda: Optimizer(chain(clipping(global_norm=1.0), SGD(0.1))), {}, "the global norm"),
        (lambda: Optimizer(accumulate(2, SGD(0.1))), {}, "Accumulation with wait"),
    ],
)
def test_what_looks_at_all_averages_first_cannot_wait(make, options, words):
    with pytest.raises(UnsupportedOptionError, match=words):
        DistributedOptimizer(make(), wait="next-read", **options)


def test_unknown_options_and_calls_that_do_not_fit_are_refused():
    x = dg.Variable([1.0, 2.0], name="x")
    with pytest.raises(ValueError, match="wait is 'later'; expected one of 'step', 'next-read'"):
        DistributedOptimizer(SGD(0.1), wait="later")
    with pytest.raises(ValueError, match="average"):
        DistributedOptimizer(SGD(0.1), average="median")
    optimizer = DistributedOptimizer(SGD(0.1), RecordedCommunicator(2))
    with pytest.raises(ShapeError, match="'x' has shape"):
        optimizer.apply(dg.ones(3), x)
    with pytest.raises(ValueError, match="every gradient is None"):
        optimizer.apply([None], [x])
    with pytest.raises(ValueError, match="call build"):
        DistributedOptimizer(SGD(0.1), RecordedCommunicator(2)).step()
    with pytest.raises(TraceError, match="DistributedOptimizer"):
        dg.function(lambda g: optimizer.apply(g, x))(dg.ones(2))
    with pytest.raises(UnsupportedOptionError, match=r"add\(gradients, variables\)"):
        DistributedOptimizer(SGD(0.1), deterministic=True).apply(dg.ones(2), x)
    waiting = DistributedOptimizer(SGD(0.1), RecordedCommunicator(2), wait="next-read")
    with pytest.raises(UnsupportedOptionError, match="a loss scale with wait='next-read'"):
        LossScale().apply(waiting, dg.ones(2), x)
    with pytest.raises(ValueError, match="every gradient is None on every rank"):
        waiting.apply([None], [x])


def test_a_variable_that_appears_among_pieces_is_refused():
    x, y = dg.Variable(1.0, name="x"), dg.Variable(1.0, name="y")
    optimizer = DistributedOptimizer(SGD(0.1), SerialCommunicator())
    optimizer.add(dg.asarray(1.0), x, examples=1)
    with pytest.raises(ValueError, match="'y' is new, but gradients of the others wait"):
        optimizer.add(dg.asarray(1.0), y, examples=1)
    optimizer.step()
    optimizer.add(dg.asarray(1.0), y, examples=1)
    optimizer.step()
    np.testing.assert_allclose([float(x), float(y)], [0.9, 0.9], rtol=1e-6)


# --- variables that wait --------------------------------------------------------------------------


class Held(RecordedCommunicator):
    """Ranks whose second messages and later ones wait for a word."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.go, self.error = threading.Event(), None

    def duplicate(self):
        other = super().duplicate()
        plain = other.allreduce

        def allreduce(array, op="sum", *, out=None):
            if array.dtype == np.float32:
                self.go.wait(10)
                if self.error is not None:
                    raise self.error
            return plain(array, op, out=out)

        other.allreduce = allreduce
        return other


@pytest.fixture
def waiting():
    """Return ranks that hold everything back, three variables that wait, and their optimizer."""
    ranks, own = Held(2), model()
    optimizer = DistributedOptimizer(SGD(0.5), ranks, **NEXT_READ)
    optimizer.apply(gradients(), own)
    yield ranks, own, optimizer
    ranks.go.set()


READS = {
    "numpy": lambda x: x.numpy(),
    "array": lambda x: x.array,
    "an operation": lambda x: (x + 0).numpy(),
    "value": lambda x: x.value().numpy(),
    "copy": lambda x: copy.copy(x).numpy(),
    "a function": lambda x: dg.function(lambda v: v + 0)(x).numpy(),
    "a captured variable": lambda x: dg.function(lambda: x + 0)().numpy(),
    "assign_add": lambda x: x.assign_add(dg.zeros(16)).numpy(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_whoever_looks_at_a_value_gets_the_next_one(waiting, read):
    ranks, own, _ = waiting
    assert all(type(each) is AwaitedVariable for each in own)
    ranks.go.set()

    np.testing.assert_array_equal(read(own[1]), np.full(16, 1.0, np.float32))

    assert type(own[1]) is dg.Variable
    assert type(own[0]) is AwaitedVariable  # of another bucket


def test_an_assignment_comes_after_the_step(waiting):
    ranks, own, optimizer = waiting
    ranks.go.set()
    own[2].assign(np.zeros(16, np.float32))
    optimizer.wait()

    assert not own[2].numpy().any()


def test_specs_are_known_without_waiting(waiting):
    _, own, _ = waiting  # nothing comes: to wait would take for ever

    assert own[0].shape == (16,)
    assert own[0].dtype == np.float32
    assert own[0].ndim == 1
    assert own[0].backend.name == "numpy"
    assert own[0].device == "cpu"
    assert isinstance(own[0], dg.Variable)
    assert type(own[0]) is AwaitedVariable


def test_a_reader_in_another_precision_does_not_change_the_step(waiting):
    ranks, own, _ = waiting
    ranks.go.set()
    with dg.GradientTape() as tape, dg.autocast("float16"):
        loss = dg.sum(own[0] * own[0])

    assert own[0].dtype == np.float32
    np.testing.assert_allclose(tape.gradient(loss, own[0]).numpy(), 2 * own[0].numpy())
    np.testing.assert_array_equal(own[0].numpy(), np.full(16, 0.5, np.float32))


def test_a_step_that_fails_is_given_up_and_said_once(waiting):
    ranks, own, optimizer = waiting
    ranks.error = CommunicationError("planted")
    ranks.go.set()

    with pytest.raises(CommunicationError, match="planted"):
        own[0].numpy()
    np.testing.assert_array_equal(own[0].numpy(), np.full(16, 1.0, np.float32))
    np.testing.assert_array_equal(own[1].numpy(), np.full(16, 2.0, np.float32))
    with pytest.raises(CommunicationError, match="step before was given up") as raised:
        optimizer.apply(gradients(), own)
    assert "planted" in str(raised.value.__cause__)
    ranks.error = None
    optimizer.apply(gradients(), own)
    np.testing.assert_array_equal(own[0].numpy(), np.full(16, 0.5, np.float32))


class Ranks:
    """Two ranks, of which the other one is through with its walk at once."""

    def __init__(self):
        self.asked = []

    def duplicate(self):
        return self

    def allreduce(self, array, op):
        self.asked.append(int(array))
        return array

    def wait_for(self, done):
        assert done.wait(10)


def test_what_has_not_left_when_all_are_through_leaves_from_the_other_end():
    lane, order, first = Lane(Ranks()), [], threading.Event()
    carriage = Carriage(lane, 5)

    def work(number):
        def carry():
            order.append(number)
            first.wait(10)

        return carry

    for number in range(5):
        carriage.give(work(number))
    while not order:
        pass
    carriage.through()
    first.set()
    for job in carriage.jobs:
        lane.wait(job)

    assert order == [0, 4, 3, 2, 1]
    assert lane.comm.asked == [0, 1]  # nobody asks once it has turned


def test_an_error_in_a_bucket_reaches_all_that_wait():
    lane = Lane(Ranks())
    carriage = Carriage(lane, 3)

    def fail():
        raise CommunicationError("planted")

    carriage.give_all([fail, fail, lambda: None])
    for job in carriage.jobs[:2]:
        with pytest.raises(CommunicationError, match="planted"):
            lane.wait(job)
    lane.wait(carriage.jobs[2])
