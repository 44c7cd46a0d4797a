"""Compressed, adaptive and hierarchical averages over MPI, and what training with them comes to."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.averaging.hierarchy import NODE_SIZES, Hierarchy
from distgrad.errors import DesyncError
from distgrad.training import MeteredCommunicator

pytestmark = pytest.mark.mpi

NAMES = ("fp16", "bf16", "int8", "topk", "powersgd")
SHAPES = {"kernel": (40, 30), "bias": (30,), "conv": (3, 3, 4, 16)}


def model(dtype="float32"):
    return [dg.Variable(np.zeros(shape, dtype), name=name) for name, shape in SHAPES.items()]


def coefficients(rank, step=0, dtype="float32"):
    rng = np.random.default_rng([rank, step])
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES.values()]


def average(comm, variables, gradients, *, examples=1, **options):
    tape = dist.DistributedGradientTape(dg.GradientTape(), comm, **options)
    with tape:  # of sum(x c), the gradient is c
        terms = [dg.sum(v * c) for v, c in zip(variables, gradients, strict=True)]
        loss = terms[0] + terms[1] + terms[2]
    return [each.numpy() for each in tape.gradient(loss, variables, examples=examples)]


def same_bits(world, arrays):
    raw = np.frombuffer(b"".join(each.tobytes() for each in arrays), np.uint8)
    return all(row.tobytes() == raw.tobytes() for row in world.allgather(raw))


def weighted_mean(size, place, step=0):
    weights = np.arange(1.0, size + 1)
    rows = [coefficients(rank, step)[place] for rank in range(size)]
    return np.tensordot(weights / weights.sum(), np.array(rows, np.float64), 1)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_all_ranks_get_the_same_bits(name, overlap):
    world, variables = dist.world(), model()
    compression = {"topk": dist.compression.TopK(0.05)}.get(name, name)

    found = [
        each
        for step in range(4)
        for each in average(
            world,
            variables,
            coefficients(world.rank, step),
            compression=compression,
            overlap=overlap,
            bucket_bytes=3000,
        )
    ]

    assert same_bits(world, found)
    prefix = "overlapped " if overlap else ""
    assert dist.last_report(world).algorithm == prefix + name


@pytest.mark.parametrize(
    ("compression", "tolerance"),
    [("fp16", 2e-3), ("bf16", 2e-2), (dist.compression.TopK(1.0), 1e-6)],
)
def test_the_average_is_weighted_by_examples(compression, tolerance):
    world = dist.world()

    found = average(
        world,
        model(),
        coefficients(world.rank),
        compression=compression,
        examples=world.rank + 1,
    )

    for place, each in enumerate(found):
        expected = weighted_mean(world.size, place)
        np.testing.assert_allclose(each, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", [dist.compression.TopK, dist.compression.PowerSGD])
def test_what_was_applied_and_what_is_remembered_make_up_all_gradients(make):
    world, variables, compression = dist.world(), model(), make()
    steps = 9

    applied = sum(
        average(
            world,
            variables,
            coefficients(world.rank, step),
            compression=compression,
            examples=world.rank + 1,
        )[0]
        for step in range(steps)
    )

    expected = sum(weighted_mean(world.size, 0, step) for step in range(steps))
    left = compression.state(world)["memory/kernel"]
    np.testing.assert_allclose(applied + left, expected, rtol=0, atol=5e-5)


def test_power_sgd_is_exact_on_a_gradient_of_rank_one():
    world = dist.world()
    rng = np.random.default_rng(5)
    kernel = np.outer(rng.normal(size=40), rng.normal(size=30)).astype(np.float32)
    gradients = [kernel * (world.rank + 1), *coefficients(0)[1:]]

    found = average(world, model(), gradients, compression=dist.compression.PowerSGD(1))

    np.testing.assert_allclose(found[0], (world.size + 1) / 2 * kernel, rtol=0, atol=5e-5)


def test_a_rank_that_compresses_otherwise_is_named_with_the_variable():
    world = dist.world()
    rank_last = world.rank == world.size - 1

    with pytest.raises(DesyncError, match="sends kernel float32 as ") as caught:
        average(
            world,
            model(),
            coefficients(0),
            compression="int8" if rank_last else "fp16",
        )
    assert caught.value.names[0] == "kernel"
    if world.size > 2:
        assert caught.value.ranks == (world.size - 1,)


# --- Adasum and machines --------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [False, True])
def test_adasum_adds_up_what_is_orthogonal(overlap):
    world = dist.world()
    gradients = [np.zeros(shape, np.float32) for shape in SHAPES.values()]
    for each in gradients:
        each.reshape(-1)[world.rank] = world.rank + 1

    for _ in range(3):
        found = average(
            world, model(), gradients, average="adasum", overlap=overlap, bucket_bytes=3000
        )

    for each in found:
        expected = np.zeros(each.size)
        expected[: world.size] = np.arange(1, world.size + 1)
        np.testing.assert_allclose(each.reshape(-1), expected, rtol=1e-6)
    assert same_bits(world, found)


def test_adasum_averages_what_is_parallel():
    world = dist.world()
    own = [each * (1 if world.size == 3 else world.rank + 1) for each in coefficients(0)]

    found = average(world, model(), own, average="adasum")

    factor = 1 if world.size == 3 else (world.size + 1) / 2
    np.testing.assert_allclose(found[0], factor * coefficients(0)[0], rtol=1e-5)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("uneven", [None, True, False])
@pytest.mark.parametrize("metered", [False, True])
def test_adding_up_by_machines_is_adding_up(monkeypatch, uneven, overlap, metered):
    world = dist.world()
    sizes = [world.size - 1, 1] if uneven else [1] * world.size
    if uneven is not None:
        monkeypatch.setenv(NODE_SIZES, ",".join(map(str, sizes)))
    # Each of its own: what the machines are is found out once.
    comm = MeteredCommunicator(world.split(0)) if metered else world.split(0)

    for step in range(3):
        found = average(
            comm,
            model(),
            coefficients(world.rank, step),
            reduction="hierarchical",
            overlap=overlap,
            bucket_bytes=3000,
            examples=world.rank + 1,
        )

    for place, each in enumerate(found):
        np.testing.assert_allclose(each, weighted_mean(world.size, place, step), rtol=0, atol=1e-6)
    assert same_bits(world, found)
    assert dist.last_report(comm).algorithm.endswith("hierarchical")


def test_mpi_knows_that_all_ranks_share_this_machine(monkeypatch):
    monkeypatch.delenv(NODE_SIZES, raising=False)
    world = dist.world()

    assert Hierarchy(world).nodes == (tuple(range(world.size)),)


# --- training -------------------------------------------------------------------------------------

STEPS, BATCH, RATE, HIDDEN = 100, 96, 0.2, 64


def train(comm, **options):
    """Return the loss over all digits and the share recognised, after training on 1200 of them."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x, labels = (data.data / 16 - 0.3).astype(np.float32), data.target
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    rest, held_out = order[:1200], order[1200:]
    model = [
        dg.Variable(rng.normal(size=(64, HIDDEN)).astype(np.float32) / 8, name="hidden/weights"),
        dg.Variable(np.zeros(HIDDEN, np.float32), name="hidden/biases"),
        dg.Variable(rng.normal(size=(HIDDEN, 10)).astype(np.float32) / 8, name="output/weights"),
        dg.Variable(np.zeros(10, np.float32), name="output/biases"),
    ]

    def logits(rows):
        return dg.tanh(x[rows] @ model[0] + model[1]) @ model[2] + model[3]

    for step in range(STEPS):
        rows = dist.shard(rest[np.random.default_rng([1, step]).integers(0, 1200, BATCH)], comm)
        tape = dist.DistributedGradientTape(dg.GradientTape(), comm, **options)
        with tape:
            loss = dg.mean(dg.softmax_cross_entropy(labels=labels[rows], logits=logits(rows)))
        for variable, gradient in zip(model, tape.gradient(loss, model), strict=True):
            variable.assign_sub(RATE * gradient)
    losses = dg.softmax_cross_entropy(labels=labels[rest], logits=logits(rest)).numpy()
    found = np.argmax(logits(held_out).numpy(), axis=1) == labels[held_out]
    return float(losses.mean()), float(found.mean())


@pytest.fixture(scope="module")
def uncompressed():
    return train(dist.world())


@pytest.mark.parametrize(
    ("compression", "tolerance"),
    [
        # The loss after training may be so much larger than uncompressed, relatively.
        ("fp16", 0.0002),
        ("bf16", 0.001),
        ("int8", 0.001),
        (dist.compression.TopK(0.05), 0.02),
        (dist.compression.PowerSGD(2), 0.02),
    ],
    ids=["fp16", "bf16", "int8", "topk", "powersgd"],
)
def test_training_on_digits_comes_to_what_it_does_uncompressed(
    uncompressed, compression, tolerance
):
    world = dist.world()
    loss, accuracy = train(world, compression=compression)

    assert loss < uncompressed[0] * (1 + tolerance)
    assert accuracy > uncompressed[1] - 0.01


def test_training_by_machines_comes_to_the_same(uncompressed):
    loss, _ = train(dist.world(), reduction="hierarchical")

    assert loss == pytest.approx(uncompressed[0], rel=1e-4)


def test_training_with_adasum_gets_on(uncompressed):
    # Its steps are longer than the average's where ranks disagree: the loss is no larger.
    loss, accuracy = train(dist.world(), average="adasum")

    assert loss < 1.05 * uncompressed[0]
    assert accuracy > uncompressed[1] - 0.02
