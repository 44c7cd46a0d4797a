"""Adasum adds up what is orthogonal, averages what is parallel, and does so for each variable."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed import DistributedGradientTape
from distgrad.errors import BatchError, DesyncError, UnsupportedOptionError
from distgrad.sparse import IndexedSlices

SIZES = [2, 3, 4, 5, 6, 7, 8]


def pairwise_sum(a, b):
    """Return the adaptive sum of two whole gradients, as the paper has it."""
    aa, bb, ab = (np.vdot(x, y).real for x, y in ((a, a), (b, b), (a, b)))
    return (1 - ab / (2 * aa) if aa else 1) * a + (1 - ab / (2 * bb) if bb else 1) * b


def tree_sum(gradients):
    """Return the adaptive sum along the tree: neighbours first, the odd one waits."""
    rows = [np.asarray(each, np.complex128 if np.iscomplexobj(each) else np.float64)
            for each in gradients]  # fmt: skip
    while len(rows) > 1:
        rows = [pairwise_sum(*rows[k : k + 2]) for k in range(0, len(rows) - 1, 2)] + (
            rows[-1:] if len(rows) % 2 else []
        )
    return rows[0]


def adasum(comm, gradients, *, examples=1, sources=None, **options):
    sources = sources or [
        dg.Variable(np.zeros_like(each), name=f"v{k}") for k, each in enumerate(gradients)
    ]

    class Ready:
        def gradient(self, *_, on_ready=None):
            found = [g if isinstance(g, IndexedSlices) else dg.asarray(g) for g in gradients]
            for position in reversed(range(len(found)) if on_ready else ()):
                on_ready(position, found[position])
            return found

    tape = DistributedGradientTape(Ready(), comm, average="adasum", **options)
    return [each.numpy() for each in tape.gradient(0.0, sources, examples=examples)]


def random(rank, shape, dtype="float64"):
    return np.random.default_rng(rank).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_orthogonal_gradients_add_up(on_ranks, size):
    results = on_ranks(size, lambda comm: adasum(comm, [np.eye(size)[comm.rank] * (comm.rank + 1)]))

    for (found,) in results:
        np.testing.assert_allclose(found, np.arange(1, size + 1), rtol=1e-14)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_parallel_gradients_are_averaged(on_ranks, size):
    direction = random(0, 11)

    results = on_ranks(size, lambda comm: adasum(comm, [(comm.rank + 1.0) * direction]))

    for (found,) in results:
        np.testing.assert_allclose(found, (size + 1) / 2 * direction, rtol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_equal_gradients_stay_what_they_are(on_ranks, size):
    for (found,) in on_ranks(size, lambda comm: adasum(comm, [random(0, 11)])):
        np.testing.assert_allclose(found, random(0, 11), rtol=1e-14)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-2)]
)
def test_any_number_of_ranks_gives_the_sum_along_the_tree(on_ranks, size, dtype, tolerance):
    shapes = [(5, 7), (), (3,), (0,), (2, 2, 9)]

    def work(comm):
        return adasum(comm, [random(comm.rank, shape, dtype) for shape in shapes])

    results = on_ranks(size, work)

    for k, shape in enumerate(shapes):
        # Each variable by itself: layers of different scale do not drown each other.
        expected = tree_sum([random(rank, shape, dtype) for rank in range(size)])
        assert results[0][k].dtype == dtype
        np.testing.assert_allclose(results[0][k], expected, rtol=0, atol=tolerance)
    assert len({b"".join(a.tobytes() for a in each) for each in results}) == 1


def test_complex_numbers_count_as_pairs_of_real_ones(on_ranks):
    def own(rank):
        return random(rank, 6) + 1j * random(rank + 10, 6)

    for (found,) in on_ranks(3, lambda comm: adasum(comm, [own(comm.rank)])):
        np.testing.assert_allclose(found, tree_sum([own(r) for r in range(3)]), rtol=1e-12)


def test_ranks_without_examples_change_nothing(on_ranks):
    def work(comm):
        own = random(comm.rank, 7) if comm.rank != 1 else np.full(7, np.nan)
        return adasum(comm, [own], examples=[5, 0, 2][comm.rank])

    for (found,) in on_ranks(3, work):
        np.testing.assert_allclose(found, pairwise_sum(random(0, 7), random(2, 7)), rtol=1e-13)


def test_no_examples_anywhere_is_an_error(on_ranks):
    errors = on_ranks(3, lambda comm: adasum(comm, [random(0, 7)], examples=0))

    assert all(isinstance(error, BatchError) for error in errors)


def test_what_is_not_finite_is_seen(on_ranks):
    def work(comm):
        own = random(comm.rank, 7)
        own[2] = np.nan if comm.rank == 1 else own[2]
        return adasum(comm, [own, random(comm.rank, 3)])

    for found, other in on_ranks(3, work):
        assert np.isnan(found).any()
        assert np.isfinite(other).all()


def test_the_scale_of_a_rank_is_lost_in_no_product(on_ranks):
    # Squares of 1e30 and 1e-30 leave float32: the products are in float64.
    for size in (1e30, 1e-30):
        x, y = np.array([size, 0], np.float32), np.array([0, size], np.float32)
        for (found,) in on_ranks(2, lambda comm, own=(x, y): adasum(comm, [own[comm.rank]])):
            np.testing.assert_allclose(found, [size, size], rtol=1e-6)


def test_sparse_gradients_are_made_dense(on_ranks):
    def work(comm):
        table = dg.Variable(np.zeros((9, 2)), name="table")
        rows = IndexedSlices(dg.asarray(np.ones((1, 2))), dg.asarray(np.array([4])), (9, 2))
        return adasum(comm, [rows], sources=[table])

    expected = np.zeros((9, 2))
    expected[4] = 1
    for (found,) in on_ranks(2, work):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_an_accumulator_adds_up_its_own_mean(on_ranks):
    def work(comm):
        x = dg.Variable(np.zeros(2), name="x")
        accumulator = dist.GradientAccumulator(x, comm, average="adasum")
        for scale, examples in ((1.0, 3), (5.0, 1)):
            accumulator.add(dg.asarray(scale * np.eye(2)[comm.rank]), examples)
        return accumulator.gradients().numpy()

    for found in on_ranks(2, work):
        np.testing.assert_allclose(found, [2, 2])


def test_it_goes_on_during_the_walk_back_as_after_it():
    def run(overlap):
        comm = dist.RecordedCommunicator(2)
        own = [random(k, (10, 10)) for k in range(6)]
        for _ in range(3):
            found = adasum(comm, own, overlap=overlap, bucket_bytes=900)
        return [each.tobytes() for each in found], dist.last_report(comm).algorithm

    (after, _), (during, name) = run(False), run(True)

    assert after == during
    assert name == "overlapped adasum"


def test_the_report_counts_what_travels(on_ranks):
    def work(comm):
        adasum(comm, [random(0, 1000), random(1, 10)])
        return dist.last_report(comm)

    for report in on_ranks(3, work):
        assert report.algorithm == "adasum"
        # The gradients and the weight, and three products of each on two levels.
        assert report.bytes == 8 * 1011 + 2 * 8 * 3 * 3


def test_other_ways_to_average_on_a_rank_are_found_out(on_ranks):
    def work(comm):
        average = "adasum" if comm.rank == 1 else "examples"
        with DistributedGradientTape(dg.GradientTape(), comm, average=average) as tape:
            x = dg.Variable(2.0)
            y = x * x
        tape.gradient(y, x)

    for error in on_ranks(3, work):
        assert isinstance(error, DesyncError)
        assert "rank 1 does gradient (average='adasum')" in str(error)


@pytest.mark.parametrize("other", [{"deterministic": 4}, {"reduction": "hierarchical"}])
def test_what_does_not_go_together_is_refused(other):
    with pytest.raises(UnsupportedOptionError, match=r"average='adasum'.* do not go together"):
        dist.GradientAccumulator(dg.Variable(1.0), average="adasum", **other)
