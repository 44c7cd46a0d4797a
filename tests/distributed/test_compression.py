"""Compressed averages: what every way has to hold, on ranks that are threads."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed import DistributedGradientTape
from distgrad.errors import BatchError, CommunicationError, DesyncError, UnsupportedOptionError
from distgrad.sparse import IndexedSlices

NAMES = ("fp16", "bf16", "int8", "topk", "powersgd")
PowerSGD, TopK = dist.compression.PowerSGD, dist.compression.TopK
SHAPES = {"kernel": (40, 30), "bias": (30,), "conv": (3, 3, 4, 16)}


def lossless(name):
    """Return an instance that loses next to nothing of the gradients here."""
    if name == "topk":
        return TopK(1.0)
    if name == "powersgd":
        return PowerSGD(rank=40, least_ratio=0.1)
    return {"fp16": dist.compression.FP16, "bf16": dist.compression.BF16}[name]()


class Ready:
    """A tape whose gradients are there already."""

    def __init__(self, gradients):
        self.gradients = gradients

    def gradient(self, target, sources, *_, on_ready=None):
        for position in reversed(range(len(sources)) if on_ready else ()):
            on_ready(position, self.gradients[position])
        return self.gradients


def model(dtype="float32"):
    return [dg.Variable(np.zeros(shape, dtype), name=name) for name, shape in SHAPES.items()]


def gradients_of(rank, step=0, dtype="float32"):
    rng = np.random.default_rng([rank, step])
    return [dg.asarray(rng.normal(size=shape).astype(dtype)) for shape in SHAPES.values()]


def average(comm, variables, gradients, compression, *, examples=1, **options):
    tape = DistributedGradientTape(Ready(gradients), comm, compression=compression, **options)
    return [each.numpy() for each in tape.gradient(0.0, variables, examples=examples)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["fp16", "bf16", "topk", "powersgd"])
def test_weights_are_exact_for_uneven_and_empty_ranks(on_ranks, name, dtype):
    examples = [3, 0, 5]

    def work(comm):
        gradients = gradients_of(comm.rank, dtype=dtype)
        if comm.rank == 1:  # of no examples
            gradients = [dg.full_like(each, np.nan) for each in gradients]
        options = {"examples": examples[comm.rank]}
        return average(comm, model(dtype), gradients, lossless(name), **options)

    results = on_ranks(3, work)

    tolerance = {"fp16": 2e-3, "bf16": 2e-2}.get(name, 1e-5)
    expected = [
        sum(n * gradients_of(rank)[k].numpy() for rank, n in enumerate(examples)) / 8
        for k in range(len(SHAPES))
    ]
    for found in results:
        for got, wanted in zip(found, expected, strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("average_over", ["examples", "ranks", "sum"])
def test_all_ranks_get_the_same_bits_step_after_step(on_ranks, name, average_over):
    def work(comm):
        variables = model()
        return b"".join(
            array.tobytes()
            for step in range(4)
            for array in average(
                comm, variables, gradients_of(comm.rank, step), name, average=average_over
            )
        )

    assert len(set(on_ranks(3, work))) == 1


@pytest.mark.parametrize("name", ["topk", "powersgd"])
def test_a_sum_is_not_divided(on_ranks, name):
    def work(comm):
        return average(
            comm, model(), gradients_of(comm.rank), lossless(name), average="sum", examples=7
        )

    expected = gradients_of(0)[0].numpy() + gradients_of(1)[0].numpy()
    for found in on_ranks(2, work):
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_bytes_are_reported_beside_those_of_plain_averaging(on_ranks, name):
    def work(comm):
        variables = [dg.Variable(np.zeros((200, 300), np.float32), name="w")]
        gradients = [dg.asarray(np.ones((200, 300), np.float32))]
        average(comm, variables, gradients, name)
        return dist.last_report(comm)

    least = {"fp16": 1.99, "bf16": 1.99, "int8": 3.9, "topk": 49, "powersgd": 59}[name]
    for report in on_ranks(2, work):
        assert report.algorithm == name
        assert report.uncompressed_bytes == 4 * (60000 + 1)
        assert least < report.compression < 1.03 * least


def test_plain_averaging_reports_no_compression(on_ranks):
    def work(comm):
        average(comm, model(), gradients_of(0), None)
        return dist.last_report(comm)

    assert {report.compression for report in on_ranks(2, work)} == {1.0}


# --- error feedback -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: TopK(0.05), lambda: PowerSGD(rank=1), lambda: PowerSGD(2, warm_start=False)]
)
def test_what_was_applied_and_what_is_remembered_make_up_all_gradients(on_ranks, make):
    # The telescoping sum: nothing is lost, whatever the weights, only late.
    steps, examples = 12, [[3, 1, 2], [0, 4, 1]]

    def work(comm):
        variables, compression = model("float64"), make()
        applied = [np.zeros(shape) for shape in SHAPES.values()]
        for step in range(steps):
            found = average(
                comm,
                variables,
                gradients_of(comm.rank, step, "float64"),
                compression,
                examples=examples[step % 2][comm.rank],
            )
            applied = [total + each for total, each in zip(applied, found, strict=True)]
        return applied, compression.state(comm)

    results = on_ranks(3, work)

    for k, name in enumerate(SHAPES):
        wanted = sum(
            n * gradients_of(rank, step)[k].numpy().astype(np.float64) / sum(examples[step % 2])
            for step in range(steps)
            for rank, n in enumerate(examples[step % 2])
        )
        applied, state = results[0]
        left = state.get(f"memory/{name}", 0)
        # Sums of 3 ranks in float32 are all that is rounded without being remembered.
        np.testing.assert_allclose(applied[k] + left, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("make", [lambda: TopK(0.05), lambda: PowerSGD(rank=1)])
def test_the_memory_stays_bounded(on_ranks, make):
    # Stich et al., lemma 3.2: with a part δ of the norm sent, at most 2(1-δ)/δ gradients' norms
    # for a constant gradient; here random ones, far below that.
    def work(comm):
        variables, compression = model(), make()
        norms = []
        for step in range(150):
            average(comm, variables, gradients_of(comm.rank, step), compression)
            norms.append(np.linalg.norm(compression.state()["memory/kernel"]))
        return norms

    for norms in on_ranks(2, work):
        assert max(norms[100:]) < 1.3 * max(norms[50:100])


def test_a_constant_gradient_arrives_in_the_mean(on_ranks):
    def work(comm):
        variables, compression = model(), TopK(0.1)
        total = sum(
            average(comm, variables, gradients_of(comm.rank), compression)[0] for _ in range(400)
        )
        return total / 400

    expected = (gradients_of(0)[0].numpy() + gradients_of(1)[0].numpy()) / 2
    for found in on_ranks(2, work):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("make", [lambda: TopK(0.05), lambda: PowerSGD(rank=1)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_seen_and_leaves_no_trace(on_ranks, make, bad):
    def work(comm):
        variables, compression = model(), make()
        average(comm, variables, gradients_of(comm.rank, 0), compression)
        before = compression.state()
        gradients = [each.numpy().copy() for each in gradients_of(comm.rank, 1)]
        if comm.rank == 1:
            gradients[0][3, 4] = bad
        found = average(comm, variables, [dg.asarray(g) for g in gradients], compression)
        after = compression.state()
        return found, before, after

    for found, before, after in on_ranks(3, work):
        assert not np.isfinite(found[0]).all()
        assert np.isfinite(found[2]).all()
        for key in before:
            if key.endswith("/kernel"):
                np.testing.assert_array_equal(after[key], before[key])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks_where_that_is_asked_for(on_ranks, name):
    def work(comm):
        gradients = gradients_of(comm.rank)
        if comm.rank == 1:
            gradients[2] = dg.full_like(gradients[2], np.inf)
        tape = DistributedGradientTape(Ready(gradients), comm, compression=name, nonfinite="skip")
        return tape.gradient(0.0, model(), examples=1), tape.skipped

    assert on_ranks(3, work) == [([None] * 3, True)] * 3


@pytest.mark.parametrize("make", [lambda: TopK(0.05), lambda: PowerSGD(rank=1)])
def test_a_restored_memory_goes_on_to_the_bit(on_ranks, make):
    def work(comm):
        variables, straight = model(), make()
        for step in range(3):
            average(comm, variables, gradients_of(comm.rank, step), straight)
        restored = make()
        restored.load_state(straight.state())
        a, b = (
            average(comm, variables, gradients_of(comm.rank, 3), each)
            for each in (straight, restored)
        )
        return [x.tobytes() for x in a] == [x.tobytes() for x in b]

    assert on_ranks(3, work) == [True] * 3


def test_what_all_ranks_left_out_goes_to_another_number_of_ranks(on_ranks):
    def first(comm):
        variables, compression = model(), TopK(0.05)
        average(comm, variables, gradients_of(comm.rank), compression)
        return compression.state(comm), compression.state()

    saved, own = zip(*on_ranks(3, first), strict=True)

    def second(comm):
        compression = TopK(0.05)
        compression.load_state(saved[0], comm)
        return compression.state(comm)

    for state in on_ranks(2, second):
        np.testing.assert_array_equal(state["memory/kernel"], saved[0]["memory/kernel"])
    total = sum(each["memory/kernel"] for each in own)
    np.testing.assert_allclose(saved[0]["memory/kernel"], total, rtol=0, atol=1e-6)


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="has 'velocity'; expected what state"):
        TopK().load_state({"velocity": np.zeros(3), "steps": np.zeros(2)})
    with pytest.raises(ValueError, match="has no 'steps'"):
        PowerSGD().load_state({})


def test_a_name_keeps_its_memory_from_tape_to_tape(on_ranks):
    def work(comm):
        variables = model()
        runs = []
        for compression in ("topk", TopK()):
            found = [
                average(comm, variables, gradients_of(comm.rank, step), compression)[0]
                for step in range(3)
            ]
            runs.append(b"".join(each.tobytes() for each in found))
        return runs[0] == runs[1]

    assert on_ranks(2, work) == [True, True]


def test_variables_of_one_name_have_a_memory_each(on_ranks):
    def work(comm):
        variables = [dg.Variable(np.zeros((20, 20), np.float32), name="w") for _ in range(2)]
        compression = TopK(0.05)
        average(comm, variables, [dg.asarray(np.ones((20, 20), np.float32))] * 2, compression)
        return sorted(compression.state())

    assert on_ranks(2, work) == [["memory/w", "memory/w#2", "steps"]] * 2


def test_a_second_model_with_the_same_names_is_found_out(on_ranks):
    def work(comm):
        compression = TopK(0.05)
        for side in (20, 30):
            w = dg.Variable(np.zeros((side, side), np.float32), name="w")
            average(comm, [w], [dg.asarray(np.ones((side, side), np.float32))], compression)

    for error in on_ranks(2, work):
        assert isinstance(error, CommunicationError)
        assert "memory of w has shape [20, 20], its gradient [30, 30]" in str(error)


# --- PowerSGD -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_power_sgd_is_exact_on_gradients_of_its_rank(on_ranks, dtype):
    rng = np.random.default_rng(5)
    rows, columns = rng.normal(size=40), rng.normal(size=30)

    def work(comm):
        gradient = np.outer((comm.rank + 1) * rows, columns).astype(dtype)
        variable = dg.Variable(np.zeros((40, 30), dtype), name="kernel")
        compression = PowerSGD(rank=1)
        found = average(comm, [variable], [dg.asarray(gradient)], compression)[0]
        return found, compression.state()["memory/kernel"]

    for found, left in on_ranks(3, work):
        np.testing.assert_allclose(found, 2 * np.outer(rows, columns), rtol=0, atol=2e-5)
        np.testing.assert_allclose(left, 0, atol=2e-5)


def test_a_warm_start_finds_the_leading_directions_of_a_constant_gradient(on_ranks):
    # One iteration a step converges to the best approximation of rank 2, as the paper says.
    def error_of(comm, *, warm_start):
        rng = np.random.default_rng(1)
        left, right = (np.linalg.qr(rng.normal(size=(n, 8)))[0] for n in (40, 30))
        matrix = (left * 0.6 ** np.arange(8)) @ right.T
        variable = dg.Variable(np.zeros((40, 30)), name="kernel")
        compression = PowerSGD(2, warm_start=warm_start, error_feedback=False)
        for _ in range(20):
            found = average(comm, [variable], [dg.asarray(matrix)], compression)[0]
        return np.linalg.norm(found - matrix) / np.linalg.norm(0.6 ** np.arange(2, 8))

    warm = on_ranks(2, lambda comm: error_of(comm, warm_start=True))
    cold = on_ranks(2, lambda comm: error_of(comm, warm_start=False))

    assert max(warm) < 1.001
    assert min(cold) > 1.01


def test_a_gradient_of_zero_does_not_stop_power_sgd_for_ever(on_ranks):
    def work(comm):
        variable = dg.Variable(np.zeros((40, 30), np.float32), name="kernel")
        compression = PowerSGD(rank=1)
        average(comm, [variable], [dg.zeros((40, 30))], compression)
        return average(comm, [variable], [dg.ones((40, 30))], compression)[0]

    for found in on_ranks(2, work):
        np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_small_variables_are_added_up_whole(on_ranks):
    def work(comm):
        variables = [
            dg.Variable(np.zeros(shape, np.float32), name=str(k))
            for k, shape in enumerate([(), (7,), (3, 4), (0, 5)])
        ]
        gradients = [dg.full(v.shape, comm.rank + 1.0) for v in variables]
        return [average(comm, variables, gradients, each) for each in (TopK(), PowerSGD())]

    for found in on_ranks(2, work):
        for arrays in found:
            for array in arrays:
                np.testing.assert_array_equal(array, np.full(array.shape, 1.5))


# --- together with the rest -----------------------------------------------------------------------


def test_ranks_with_other_settings_are_told_which_variable_and_rank(on_ranks):
    def work(comm):
        compression = TopK(0.1) if comm.rank == 2 else TopK(0.2)
        average(comm, model(), gradients_of(0), compression)

    for error in on_ranks(3, work):
        assert isinstance(error, DesyncError)
        assert error.ranks == (2,)
        assert error.names[0] == "kernel"
        assert "rank 2 sends kernel float32 as topk(ratio=0.1, whole_below=256)" in str(error)
        assert "ranks 0, 1 send kernel float32 as topk(ratio=0.2, whole_below=256)" in str(error)


def test_a_rank_without_compression_is_told(on_ranks):
    def work(comm):
        average(comm, model(), gradients_of(0), None if comm.rank == 1 else "fp16")

    for error in on_ranks(2, work):
        assert isinstance(error, DesyncError)
        assert "kernel float32[40, 30]" in str(error)


def test_a_memory_restored_on_one_rank_only_is_found_out(on_ranks):
    def work(comm):
        variables, compression = model(), PowerSGD()
        average(comm, variables, gradients_of(comm.rank), compression)
        state = compression.state()
        average(comm, variables, gradients_of(comm.rank), compression)
        if comm.rank == 1:
            compression.load_state(state)
        average(comm, variables, gradients_of(comm.rank), compression)

    for error in on_ranks(3, work):
        assert isinstance(error, DesyncError)
        assert "on rank 1 is that of another step" in str(error)


@pytest.mark.parametrize("name", NAMES)
def test_no_examples_anywhere_is_an_error(on_ranks, name):
    errors = on_ranks(2, lambda comm: average(comm, model(), gradients_of(0), name, examples=0))

    assert all(isinstance(error, BatchError) for error in errors)


def test_one_rank_alone_loses_nothing():
    variables = model()
    found = average(dist.SerialCommunicator(), variables, gradients_of(0), "int8")

    np.testing.assert_array_equal(found[0], gradients_of(0)[0].numpy())


def test_complex_gradients_are_added_up_whole(on_ranks):
    def work(comm):
        variable = dg.Variable(np.zeros((20, 20), np.complex64), name="z")
        gradient = dg.asarray(np.full((20, 20), comm.rank + 2j, np.complex64))
        return average(comm, [variable], [gradient], "int8")[0]

    for found in on_ranks(2, work):
        np.testing.assert_allclose(found, 0.5 + 2j, rtol=1e-6)


def test_rows_of_sparse_gradients_are_not_compressed(on_ranks):
    def work(comm):
        table = dg.Variable(np.zeros((100, 3)), name="table")
        rows = IndexedSlices(
            dg.asarray(np.full((1, 3), 1 / 3)), dg.asarray(np.array([comm.rank])), (100, 3)
        )
        tape = DistributedGradientTape(Ready([rows]), comm, compression="int8")
        return tape.gradient(0.0, [table], examples=1)[0]

    for found in on_ranks(2, work):
        assert isinstance(found, IndexedSlices)
        np.testing.assert_array_equal(found.values.numpy(), np.full((2, 3), 1 / 6))


@pytest.mark.parametrize("name", ["bf16", "topk"])
def test_an_accumulator_compresses_once_for_all_pieces(on_ranks, name):
    def work(comm):
        variables = model()
        accumulator = dist.GradientAccumulator(variables, comm, compression=lossless(name))
        for step in range(3):
            accumulator.add(gradients_of(comm.rank, step), examples=step + 1)
        found = accumulator.gradients()
        return [each.numpy() for each in found], dist.last_report(comm)

    expected = sum(
        (step + 1) * gradients_of(rank, step)[0].numpy() / 12
        for rank in range(2)
        for step in range(3)
    )
    for found, report in on_ranks(2, work):
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-2)
        assert (report.algorithm, report.buckets) == (name, 1)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_during_the_walk_back_as_after_it(name):
    def run(overlap):
        comm, variables = dist.RecordedCommunicator(2), model()
        steps = [
            average(
                comm,
                variables,
                gradients_of(0, step),
                {"topk": TopK(0.05), "powersgd": PowerSGD(1)}.get(name, name),
                overlap=overlap,
                bucket_bytes=3000,
            )
            for step in range(3)
        ]
        return [a.tobytes() for step in steps for a in step], dist.last_report(comm).algorithm

    after, after_name = run(False)
    during, during_name = run(True)

    assert after == during
    assert (after_name, during_name) == (name, f"overlapped {name}")


class Halves(dist.compression.Elementwise):
    """A user's own: float16 without any scale."""

    description = "halves"

    def code_bytes(self, length):
        return 2 * length

    def encode(self, values):
        return values.astype(np.float16).view(np.uint8)

    def decode(self, code, length):
        return np.frombuffer(code.tobytes(), np.float16).astype(np.float32)


class OfRankZero:
    """A user's own from the ground up: only the first rank's share counts."""

    description = "of rank zero"

    def add_up(self, comm, shares):
        shares.flat[...] = comm.broadcast(shares.flat)
        return shares.flat.nbytes * (comm.rank == 0)


def test_users_write_their_own(on_ranks):
    def work(comm):
        own = gradients_of(comm.rank)
        halves = average(comm, model(), own, Halves())[0]
        return halves, average(comm, model(), own, OfRankZero())[0]

    for halves, first in on_ranks(2, work):
        mean = (gradients_of(0)[0].numpy() + gradients_of(1)[0].numpy()) / 2
        np.testing.assert_allclose(halves, mean, rtol=0, atol=3e-3)
        np.testing.assert_allclose(first, gradients_of(0)[0].numpy() / 2, rtol=1e-6)


@pytest.mark.parametrize("make", [DistributedGradientTape, dist.GradientAccumulator])
def test_what_is_no_compression_is_refused(make):
    first = dg.GradientTape() if make is DistributedGradientTape else dg.Variable(1.0)
    with pytest.raises(ValueError, match="'zip'; expected one of 'fp16', 'bf16', 'int8', 'topk'"):
        make(first, compression="zip")
    with pytest.raises(TypeError, match=r"such as TopK\(\)"):
        make(first, compression=TopK)
    with pytest.raises(TypeError, match="is 16; expected a name or an instance"):
        make(first, compression=16)


@pytest.mark.parametrize(
    "other",
    [{"deterministic": True}, {"average": "adasum"}, {"reduction": "hierarchical"}],
)
def test_what_does_not_go_together_is_refused(other):
    with pytest.raises(UnsupportedOptionError, match=r"compression and .* do not go together"):
        DistributedGradientTape(dg.GradientTape(), compression="fp16", **other)


@pytest.mark.parametrize("ratio", [0, -1, 1.5])
def test_a_ratio_is_a_part_of_all(ratio):
    with pytest.raises(ValueError, match="expected a part of all"):
        TopK(ratio)


def test_a_rank_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rank is 0; expected 1 or more"):
        PowerSGD(0)
    with pytest.raises(ValueError, match="least_ratio is 0"):
        PowerSGD(least_ratio=0)
