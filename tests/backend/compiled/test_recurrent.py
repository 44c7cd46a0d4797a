"""Compiled LSTM and GRU: odd lengths, any split of the examples, and numbers that are none."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing import rules
from distgrad.testing.samples import samples
from distgrad_numpy import recurrent as own
from distgrad_numpy import threads
from distgrad_numpy.compiled import crew, library, offers, recurrent

pytestmark = pytest.mark.needs_compiler

GATES = {"lstm": 4, "gru": 3}
# Steps, examples, inputs, units: units of less and more than a vector, and of several panels.
SIZES = [
    (5, 7, 3, 1),
    (4, 17, 33, 7),
    (3, 33, 17, 17),
    (2, 9, 5, 33),
    (3, 25, 31, 70),
    (1, 40, 9, 64),
]
SAMPLES = [s.cast(np.dtype(np.float32)) for name in recurrent.OFFERS for s in samples(name)]


def inputs_of(kind, steps, batch, width, units):
    rng = np.random.default_rng(steps * batch)
    wide = GATES[kind] * units

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    states = [draw(batch, units) for _ in range(2 if kind == "lstm" else 1)]
    weights = [draw(width, wide) / 4, draw(units, wide) / 4]
    biases = [draw(wide) for _ in range(1 if kind == "lstm" else 2)]
    return [draw(steps, batch, width), *states, *weights, *biases]


def pulled_of(kind, arrays, results, cells_count=True):
    """Return the operands of the VJP; no cotangent reaches the gates."""
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(each.shape, dtype=np.float32) for each in results]
    cotangents[-1] = np.broadcast_to(np.float32(0), results[-1].shape)
    if kind == "lstm" and not cells_count:
        cotangents[1] = np.broadcast_to(np.float32(0), results[1].shape)
    return [*arrays, *results, *cotangents]


def close(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    size = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * size)


def in_double(arrays):
    return [each.astype(np.float64) for each in arrays]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_sample_gives_what_the_own_kernel_gives(sample, without, monkeypatch):
    monkeypatch.setattr(offers, "_FEW", 0)
    monkeypatch.setattr(recurrent, "_LEAST", 0)
    found = rules.call(sample).output

    expected = without(lambda: rules.call(sample).output)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        rules.assert_close(mine, theirs, str(sample))


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", GATES)
def test_outputs_are_those_in_double_precision(kind, sizes, near, monkeypatch):
    if not near:
        monkeypatch.setattr(recurrent, "_NEAR", 0)  # the inputs' products by BLAS
    arrays = inputs_of(kind, *sizes)

    found = recurrent.OFFERS[kind](*arrays)

    for mine, exact in zip(found, own.KERNELS[kind](*in_double(arrays)), strict=True):
        close(mine, exact)


@pytest.mark.parametrize("cells_count", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", GATES)
def test_cotangents_are_those_in_double_precision(kind, sizes, cells_count):
    arrays = inputs_of(kind, *sizes)
    arrays = pulled_of(kind, arrays, recurrent.OFFERS[kind](*arrays), cells_count)

    found = recurrent.OFFERS[f"{kind}_vjp"](*arrays)

    for mine, exact in zip(found, own.KERNELS[f"{kind}_vjp"](*in_double(arrays)), strict=True):
        close(mine, exact)


@pytest.mark.parametrize("kind", GATES)
def test_the_number_of_threads_changes_no_bit(kind, monkeypatch):
    arrays = inputs_of(kind, 40, 37, 19, 50)
    monkeypatch.setattr(recurrent, "_EXAMPLE", 1)
    monkeypatch.setattr(recurrent, "_ROWS", 100)
    parts = []

    def shared(name):
        run = crew.shared("recurrent", name, recurrent._SHARED[name])
        return lambda count, each, *given: (parts.append(each), run(count, each, *given))

    monkeypatch.setattr(recurrent, "_shared", shared)
    results = []
    for number in (1, 2, 5):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        kept = recurrent.OFFERS[kind](*arrays)
        pulled = recurrent.OFFERS[f"{kind}_vjp"](*pulled_of(kind, arrays, kept))
        results.append([*kept, *pulled])

    assert {8, 19, 37, 100} <= set(parts)
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", GATES)
def test_an_example_is_the_same_among_others(kind):
    arrays = inputs_of(kind, 9, 31, 5, 20)
    states = len(arrays) - 3 if kind == "lstm" else len(arrays) - 4
    alone = [
        arrays[0][:, 12:14],
        *(each[12:14] for each in arrays[1:states]),
        *arrays[states:],
    ]

    for whole, part in zip(
        recurrent.OFFERS[kind](*arrays), recurrent.OFFERS[kind](*alone), strict=True
    ):
        np.testing.assert_array_equal(whole[:, 12:14], part)


@pytest.mark.parametrize("kind", GATES)
def test_a_nan_stays_in_its_example_and_later_steps(kind):
    arrays = inputs_of(kind, 6, 11, 5, 20)
    clean = recurrent.OFFERS[kind](*arrays)[0]
    arrays[0][2, 4, 1] = np.nan

    spoilt = recurrent.OFFERS[kind](*arrays)[0]

    assert np.isnan(spoilt[2:, 4]).all()
    np.testing.assert_array_equal(spoilt[:2], clean[:2])
    np.testing.assert_array_equal(np.delete(spoilt, 4, 1), np.delete(clean, 4, 1))


@pytest.mark.parametrize("kind", GATES)
def test_infinite_inputs_shut_and_open_gates(kind):
    arrays = inputs_of(kind, 4, 5, 2, 20)
    arrays[0][1, 2] = np.float32([np.inf, 0])
    arrays[0][2, 3] = np.float32([-3e38, 0])
    kernel = arrays[3 if kind == "lstm" else 2]
    kernel[:] = np.abs(kernel) + 1

    with np.errstate(invalid="ignore", over="ignore"):
        expected = own.KERNELS[kind](*arrays)
    for mine, theirs in zip(recurrent.OFFERS[kind](*arrays), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", GATES)
def test_a_sequence_with_gaps_gives_the_same_bits(kind):
    arrays = inputs_of(kind, 9, 6, 5, 20)
    gaps = [np.asfortranarray(each) for each in arrays]

    for one, other in zip(
        recurrent.OFFERS[kind](*arrays), recurrent.OFFERS[kind](*gaps), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", GATES)
def test_what_is_small_empty_or_double_is_left_to_the_own_kernel(kind):
    large, small = inputs_of(kind, 6, 5, 3, 4), inputs_of(kind, 3, 5, 3, 4)
    empty = inputs_of(kind, 20, 2, 0, 4)

    assert recurrent.OFFERS[kind](*large) is not None
    assert recurrent.OFFERS[kind](*small) is None
    assert recurrent.OFFERS[kind](*empty) is None
    assert recurrent.OFFERS[kind](*in_double(large)) is None


@pytest.mark.parametrize("kind", GATES)
def test_cotangents_of_gates_are_left_to_the_own_kernel(kind):
    arrays = inputs_of(kind, 6, 5, 3, 4)
    operands = pulled_of(kind, arrays, recurrent.OFFERS[kind](*arrays))
    assert recurrent.OFFERS[f"{kind}_vjp"](*operands) is not None
    operands[-1] = np.ones_like(operands[-1])

    assert recurrent.OFFERS[f"{kind}_vjp"](*operands) is None


@pytest.mark.parametrize("kind", GATES)
def test_without_a_compiler_nothing_is_offered(kind, monkeypatch):
    arrays = inputs_of(kind, 6, 5, 3, 4)
    operands = pulled_of(kind, arrays, recurrent.OFFERS[kind](*arrays))
    state = library._State()
    state.failed = True
    monkeypatch.setattr(library, "_state", state)

    assert recurrent.OFFERS[kind](*arrays) is None
    assert recurrent.OFFERS[f"{kind}_vjp"](*operands) is None


@pytest.mark.parametrize("kind", GATES)
def test_a_tape_takes_them_forward_and_backward(kind, monkeypatch):
    taken = []
    found = recurrent._shared
    monkeypatch.setattr(recurrent, "_shared", lambda name: (taken.append(name), found(name))[1])
    steps, batch, width, units = 12, 20, 8, 6
    x, *_, kernel, back, bias = (
        inputs_of(kind, steps, batch, width, units)
        if kind == "lstm"
        else inputs_of(kind, steps, batch, width, units)[:-1]
    )
    sources = [dg.asarray(each) for each in (x, kernel, back, bias)]

    with dg.GradientTape() as tape:
        tape.watch(sources)
        outputs, _ = getattr(dg.nn, kind)(*sources, time_major=True)
        loss = dg.sum(outputs * outputs)
    tape.gradient(loss, sources)

    assert {kind, f"{kind}_vjp"} <= set(taken)
