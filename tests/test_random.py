"""Random numbers: their bits, their distributions, and that they depend on nothing but the key."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors
from distgrad.backend import philox
from distgrad.random import Generator

KINDS = {
    "bits": lambda g, shape, rows: g.bits(shape, rows=rows),
    "bits of 32": lambda g, shape, rows: g.bits(shape, dtype="uint32", rows=rows),
    "uniform": lambda g, shape, rows: g.uniform(shape, rows=rows),
    "uniform within bounds": lambda g, shape, rows: g.uniform(shape, -1.5, 2.0, rows=rows),
    "uniform of float64": lambda g, shape, rows: g.uniform(shape, dtype="float64", rows=rows),
    "uniform of float16": lambda g, shape, rows: g.uniform(shape, dtype="float16", rows=rows),
    "normal": lambda g, shape, rows: g.normal(shape, rows=rows),
    "normal of float64": lambda g, shape, rows: g.normal(shape, dtype="float64", rows=rows),
    "normal of complex64": lambda g, shape, rows: g.normal(shape, dtype="complex64", rows=rows),
    "truncated_normal": lambda g, shape, rows: g.truncated_normal(shape, rows=rows),
    "exponential": lambda g, shape, rows: g.exponential(shape, rows=rows),
    "gumbel": lambda g, shape, rows: g.gumbel(shape, loc=-1.0, scale=2.0, rows=rows),
    "integers": lambda g, shape, rows: g.integers(-3, 11, shape, rows=rows),
    "integers of uint8": lambda g, shape, rows: g.integers(0, 256, shape, dtype="uint8", rows=rows),
    "bernoulli": lambda g, shape, rows: g.bernoulli(0.3, shape, rows=rows),
}


def host(tensor):
    return np.asarray(tensor.numpy())


# --- bits -----------------------------------------------------------------------------------------

# Random123's `kat_vectors`, the lines of philox4x64 with 10 rounds: counter, key, block.
KNOWN_ANSWERS = [
    (
        [0, 0, 0, 0],
        [0, 0],
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [0xFFFFFFFFFFFFFFFF] * 4,
        [0xFFFFFFFFFFFFFFFF] * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_blocks_are_the_known_answers(counter, key, expected):
    assert [int(word) for word in philox.blocks(tuple(key), tuple(counter))] == expected


@pytest.mark.parametrize("seed", [0, 7, 2**64 + 3, 2**128 - 1])
def test_bits_of_the_first_draw_are_numpys_philox_from_block_zero(seed):
    peer = np.random.Philox(key=seed, counter=2**256 - 1)  # it counts up before the first block

    assert host(Generator(seed).bits(37)).tolist() == peer.random_raw(37).tolist()


def test_bits_of_a_later_draw_are_blocks_with_its_number_in_the_counter():
    generator = Generator(5)
    generator.normal((1000,))
    generator.permutation(3)

    bits = host(generator.bits(9))

    blocks = philox.blocks((5, 0), (np.arange(3), 2, 0, 0))
    assert bits.tolist() == np.stack(blocks, axis=-1).ravel()[:9].tolist()


def test_uniform_numbers_are_the_upper_bits_exactly():
    words = host(Generator(3).bits(501, dtype="uint32"))
    wide = host(Generator(3).bits(501))

    assert np.array_equal(host(Generator(3).uniform(501)), (words >> 8) / np.float32(2**24))
    assert np.array_equal(
        host(Generator(3).uniform(501, dtype="float64")), (wide >> np.uint64(11)) / 2.0**53
    )
    assert np.array_equal(
        host(Generator(3).uniform(501, dtype="float16")),
        ((words >> 21) / 2.0**11).astype(np.float16),
    )


def test_the_numbers_of_today_are_those_of_tomorrow():
    # Written down once: jobs that go on from a checkpoint rely on them.
    generator = Generator(42)

    assert host(generator.bits(2)).tolist() == GOLDEN["bits"]
    assert host(generator.integers(0, 1000, 5)).tolist() == GOLDEN["integers"]
    assert host(generator.permutation(7)).tolist() == GOLDEN["permutation"]
    assert host(generator.fold_in(9).bits(1)).tolist() == GOLDEN["fold_in"]
    assert [host(child.bits(1))[0] for child in generator.split(2)] == GOLDEN["split"]
    np.testing.assert_allclose(host(generator.normal(3)), GOLDEN["normal"], rtol=1e-5)


GOLDEN = {
    "bits": [12063030334536064454, 5501174070072956223],
    "integers": [78, 859, 666, 343, 206],
    "permutation": [0, 3, 4, 6, 2, 5, 1],
    "fold_in": [13502696202700883701],
    "split": [17400273834135745032, 6416413078485517224],
    "normal": [0.4835667, -0.608932, 0.539569],
}


# --- what a draw depends on -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [range(2, 7), slice(5, None), [8, 2, 3, 4, 0], [], 4], ids=repr)
def test_rows_of_a_draw_are_those_of_the_whole(kind, rows):
    draw = KINDS[kind]
    whole = host(draw(Generator(11), (9, 3, 5), None))
    places = list(rows) if isinstance(rows, range) else rows

    assert np.array_equal(host(draw(Generator(11), (9, 3, 5), rows)), whole[places])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_together_draw_what_one_draws_and_go_on_alike(ranks):
    alone = Generator(4)
    expected = [host(alone.normal((11, 3))), host(alone.uniform((2,)))]

    parts = []
    for rank in range(ranks):
        generator = Generator(4)
        bounds = range(rank * 11 // ranks, (rank + 1) * 11 // ranks)
        parts.append(host(generator.normal((11, 3), rows=bounds)))
        assert np.array_equal(host(generator.uniform((2,))), expected[1])

    assert np.array_equal(np.concatenate(parts), expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_examples_draw_what_each_draws_alone(kind):
    draw = KINDS[kind]
    parent = Generator(8)
    examples = [5, 900, 0]

    together = host(draw(parent.fold_in(examples), (4, 3), None))

    for place, example in enumerate(examples):
        alone = host(draw(parent.fold_in(example), (4, 3), None))
        assert np.array_equal(together[place], alone)


@pytest.mark.parametrize("count", [2, 40])  # by Python's integers, and by NumPy's
def test_split_gives_others_each_time_and_all_different(count):
    generator = Generator(1)
    keys = {tuple(child.state) for _ in range(3) for child in generator.split(count)}

    assert len(keys) == 3 * count
    assert generator.state == [1, 0, 3]


def test_fold_in_depends_on_the_key_and_the_index_only():
    generator = Generator(6)
    before = generator.fold_in(3).state
    generator.normal((5,))

    assert generator.fold_in(3).state == before
    assert generator.fold_in(np.arange(20)).state[3] == before
    assert generator.fold_in(4).state != before
    assert generator.fold_in(-1).state == generator.fold_in(2**64 - 1).state


def test_a_generator_goes_on_from_its_state():
    generator = Generator(2**100 + 17)
    generator.uniform((3,))
    state = generator.state
    expected = host(generator.normal((4,)))

    assert np.array_equal(host(Generator.from_state(state).normal((4,))), expected)
    generator.state = state
    assert np.array_equal(host(generator.normal((4,))), expected)


def test_the_shape_of_a_draw_does_not_matter_to_the_next():
    one, other = Generator(9), Generator(9)
    one.normal((3,))
    other.normal((1000, 7))

    assert np.array_equal(host(one.uniform((5,))), host(other.uniform((5,))))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_draws_are_empty(kind):
    assert host(KINDS[kind](Generator(0), (0, 3), None)).shape == (0, 3)
    assert host(KINDS[kind](Generator(0).fold_in([]), (2, 3), None)).shape == (0, 2, 3)


# --- transformations ------------------------------------------------------------------------------


def test_a_traced_function_goes_on_as_a_plain_one_does():
    def noisy(generator, x):
        return x + generator.normal((3,)) * generator.uniform()

    plain, traced = Generator(13), Generator(13)
    compiled = dg.function(lambda x: noisy(traced, x))
    x = dg.zeros(3)

    for _ in range(3):
        np.testing.assert_array_equal(host(compiled(x)), host(noisy(plain, x)))
    assert traced.state == plain.state == [13, 0, 6]


def test_a_generator_made_in_a_traced_function_starts_anew_in_each_run():
    compiled = dg.function(lambda x: x + Generator(13).normal((3,)))

    first, second = host(compiled(dg.zeros(3))), host(compiled(dg.zeros(3)))

    assert np.array_equal(first, second)


def test_a_step_that_is_an_argument_folds_into_a_traced_function():
    parent = Generator(21)
    compiled = dg.function(lambda step: parent.fold_in(step).normal((4,)))

    for step in (0, 5):
        traced = host(compiled(dg.asarray(step)))
        assert np.array_equal(traced, host(parent.fold_in(step).normal((4,))))


def test_vmap_gives_each_example_the_numbers_of_its_index():
    parent = Generator(3)

    found = host(dg.vmap(lambda i: parent.fold_in(i).normal((2,)))(dg.asarray([4, 9, 4])))

    assert np.array_equal(found[1], host(parent.fold_in(9).normal((2,))))
    assert np.array_equal(found[0], found[2])


def test_vmap_shares_the_numbers_of_a_generator_outside():
    generator = Generator(3)

    found = host(dg.vmap(lambda x: x + generator.normal(()))(dg.zeros(4)))

    assert len(set(found.tolist())) == 1


def test_gradients_reach_bounds_mean_and_deviation():
    mean, deviation = dg.Variable(0.5), dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        y = Generator(3).normal((4, 3), mean=mean, deviation=deviation)
    to_mean, to_deviation = tape.gradient(y, [mean, deviation])

    assert to_mean.numpy() == 12
    expected = host(Generator(3).normal((4, 3))).sum(axis=0)
    np.testing.assert_allclose(host(to_deviation), expected, rtol=1e-6)


def test_gradients_pass_a_shuffle():
    x = dg.Variable(np.arange(5.0))
    with dg.GradientTape() as tape:
        y = Generator(3).shuffle(x)
        loss = dg.sum(y * dg.asarray(np.arange(5.0)))
    gradient = host(tape.gradient(loss, x))

    order = host(y).astype(int)
    assert np.array_equal(gradient[order], np.arange(5.0))


# --- distributions --------------------------------------------------------------------------------

SIZE = 200_001


def normal_cdf(x):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def distance(sample, cdf):
    """Return the statistic of Kolmogorov and Smirnov times the root of the size; 2.2 is rare."""
    sample = np.sort(np.asarray(sample, np.float64))
    below = cdf(sample)
    steps = np.arange(len(sample) + 1) / len(sample)
    return max(np.max(steps[1:] - below), np.max(below - steps[:-1])) * math.sqrt(len(sample))


LOW, HIGH = 0.5 * math.erfc(2 / math.sqrt(2)), 0.5 * math.erfc(-2 / math.sqrt(2))
CONTINUOUS = {
    "uniform": (lambda g, d: g.uniform(SIZE, dtype=d), lambda x: x),
    "uniform within bounds": (lambda g, d: g.uniform(SIZE, -3, 5, dtype=d), lambda x: (x + 3) / 8),
    "normal": (lambda g, d: g.normal(SIZE, dtype=d), normal_cdf),
    "truncated_normal": (
        lambda g, d: g.truncated_normal(SIZE, dtype=d),
        lambda x: (normal_cdf(x) - LOW) / (HIGH - LOW),
    ),
    "truncated_normal of a tail": (
        lambda g, d: g.truncated_normal(SIZE, 3.0, math.inf, dtype=d),
        lambda x: 1 - normal_cdf(-x) / normal_cdf(np.array([-3.0])),
    ),
    "exponential": (lambda g, d: g.exponential(SIZE, dtype=d), lambda x: -np.expm1(-x)),
    "gumbel": (lambda g, d: g.gumbel(SIZE, dtype=d), lambda x: np.exp(-np.exp(-x))),
    "gumbel of loc and scale": (
        lambda g, d: g.gumbel(SIZE, loc=3.0, scale=0.5, dtype=d),
        lambda x: np.exp(-np.exp(-2 * (x - 3))),
    ),
    "gamma of 1": (lambda g, d: g.gamma(1.0, SIZE, dtype=d), lambda x: -np.expm1(-x)),
    "gamma of 3": (
        lambda g, d: g.gamma(3.0, SIZE, dtype=d),
        lambda x: 1 - np.exp(-x) * (1 + x + x * x / 2),
    ),
    "gamma of a half": (  # that of a squared normal number, halved
        lambda g, d: g.gamma(0.5, SIZE, dtype=d),
        lambda x: 1 - 2 * normal_cdf(-np.sqrt(2 * x)),
    ),
    "chi_square of 2": (
        lambda g, d: g.chi_square(2.0, SIZE, dtype=d),
        lambda x: -np.expm1(-x / 2),
    ),
    "student_t of 1": (  # Cauchy's
        lambda g, d: g.student_t(1.0, SIZE, dtype=d),
        lambda x: 0.5 + np.arctan(x) / math.pi,
    ),
    "beta of 2 and 1": (lambda g, d: g.beta(2.0, 1.0, SIZE, dtype=d), lambda x: x * x),
    "beta of two halves": (
        lambda g, d: g.beta(0.5, 0.5, SIZE, dtype=d),
        lambda x: 2 / math.pi * np.arcsin(np.sqrt(np.minimum(x, 1))),
    ),
    "dirichlet of ones": (
        lambda g, d: g.dirichlet(np.ones(3, d), SIZE)[:, 1],
        lambda x: 1 - (1 - x) ** 2,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_numbers_have_their_distribution(name, dtype):
    draw, cdf = CONTINUOUS[name]

    assert distance(host(draw(Generator(2024), dtype)), cdf) < 2.2


def test_numbers_of_one_draw_and_of_neighbours_are_uncorrelated():
    streams = [Generator(seed) for seed in (0, 1, 2)]
    streams += [Generator(0).fold_in(0), Generator(0).fold_in(1), *Generator(0).split(2)]
    numbers = [host(each.normal(SIZE, dtype="float64")) for each in streams]
    numbers.append(host(streams[0].normal(SIZE, dtype="float64")))  # the next draw
    numbers += [np.roll(numbers[0], shift) for shift in (1, 2, 4, 8)]

    correlations = np.corrcoef(numbers) - np.eye(len(numbers))

    assert np.abs(correlations).max() * math.sqrt(SIZE) < 4.5


def test_integers_choices_and_classes_have_equal_shares():
    generator = Generator(77)
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    draws = {
        "integers": (generator.integers(10, 17, SIZE) - 10, np.full(7, 1 / 7)),
        "choice": (generator.choice(np.arange(5), SIZE), np.full(5, 1 / 5)),
        "choice with p": (generator.choice(4, SIZE, p=weights), weights),
        "categorical": (
            generator.categorical(np.log(np.maximum(weights, 1e-300)), SIZE),
            weights,
        ),
        "bernoulli": (dg.astype(generator.bernoulli(0.3, SIZE), "int64"), np.array([0.7, 0.3])),
        "first of a permutation": (
            dg.asarray([int(generator.permutation(3).numpy()[0]) for _ in range(6000)]),
            np.full(3, 1 / 3),
        ),
    }
    for name, (drawn, expected) in draws.items():
        size = drawn.shape[0]
        counts = np.bincount(host(drawn), minlength=len(expected))
        deviation = np.abs(counts - size * expected) / np.sqrt(size * expected + 1e-9)
        assert len(counts) == len(expected), name
        assert np.all(deviation[expected > 0] < 4.5), name
        assert counts[expected == 0].sum() == 0, name


# Below 10 counts are found by inversion, from there on by rejection.
@pytest.mark.parametrize("rate", [0.05, 1.0, 4.5, 9.9, 10.0, 13.7, 77.0, 1000.0])
def test_poisson_counts_have_their_distribution(rate):
    counts = host(Generator(5).poisson(rate, SIZE))

    assert counts.dtype == np.int64
    low, high = (max(0, int(rate - 4 * rate**0.5)), int(rate + 4 * rate**0.5) + 1)
    k = np.arange(low, high)
    p = np.exp(k * math.log(rate) - rate - np.array([math.lgamma(each + 1) for each in k]))
    expected = SIZE * np.append(p, 1 - p.sum())  # the last bin: all counts beyond
    seen = np.bincount(np.where((counts >= low) & (counts < high), counts - low, high - low))
    seen = np.pad(seen, (0, len(expected) - len(seen)))
    enough = expected > 5
    statistic = np.sum((seen - expected)[enough] ** 2 / expected[enough])
    freedom = enough.sum() - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_poisson_counts_of_large_rates_have_mean_and_variance():
    for rate in (1e6, 1e12, 2.0**62):
        counts = host(Generator(6).poisson(rate, SIZE)).astype(np.float64)
        normed = (counts - rate) / math.sqrt(rate)

        assert abs(normed.mean()) * math.sqrt(SIZE) < 4
        assert abs(normed.var() - 1) * math.sqrt(SIZE / 2) < 4


def test_gamma_numbers_of_infinite_concentration_are_infinite():
    found = dg.random.Generator(7).gamma(dg.asarray([np.inf, 2.0, -np.inf, np.nan])).numpy()

    np.testing.assert_array_equal(np.isinf(found), [True, False, False, False])
    np.testing.assert_array_equal(np.isnan(found), [False, False, True, True])


def test_log_probabilities_of_counts_agree_with_the_gamma_function():
    from distgrad.backend.counts import log_probability

    k, rate = (each.ravel() for each in np.meshgrid(np.arange(0.0, 40.0), [0.3, 9.0, 10.0, 37.0]))
    expected = [a * math.log(b) - b - math.lgamma(a + 1) for a, b in zip(k, rate, strict=True)]

    np.testing.assert_allclose(log_probability(k, rate), expected, rtol=1e-12, atol=1e-12)


def test_poisson_counts_of_rates_that_differ_are_those_of_each_alone():
    rates = np.array([[0.0, 3.0, 25.0], [1e3, 0.5, 9.0]])

    together = host(Generator(9).poisson(rates))

    assert together[0, 0] == 0
    for place, rate in np.ndenumerate(rates):
        alone = host(Generator(9).poisson(np.full_like(rates, rate)))
        assert together[place] == alone[place]
    assert np.array_equal(
        host(Generator(9).fold_in([4, 2]).poisson(7.0, 3))[1],
        host(Generator(9).fold_in(2).poisson(7.0, 3)),
    )


def test_poisson_counts_beyond_a_dtype_become_its_largest():
    assert set(host(Generator(1).poisson(1e4, 50, dtype="int8")).tolist()) == {127}
    assert host(Generator(1).poisson(4.0, 50, dtype="float32")).dtype == np.float32


def test_gumbel_numbers_choose_classes_with_the_probabilities_of_softmax():
    p = np.array([0.5, 0.1, 0.4])

    classes = dg.argmax(Generator(3).gumbel((SIZE, 3)) + np.log(p).astype(np.float32), axis=-1)

    shares = np.bincount(host(classes), minlength=3) / SIZE
    assert np.abs(shares - p).max() < 4 * 0.5 / math.sqrt(SIZE)


def test_gradients_reach_the_gumbel_numbers_loc_and_scale():
    loc, scale = dg.Variable(np.float32(2.0)), dg.Variable(np.array([1.0, 3.0], np.float32))

    with dg.GradientTape() as tape:
        numbers = Generator(8).gumbel((5, 2), loc=loc, scale=scale)
        total = dg.sum(numbers)
    to_loc, to_scale = tape.gradient(total, [loc, scale])

    standard = host(Generator(8).gumbel((5, 2)))
    assert host(to_loc) == 10
    np.testing.assert_allclose(host(to_scale), standard.sum(axis=0), rtol=1e-5)


def test_no_gradient_reaches_the_rate_of_counts():
    rate = dg.Variable(np.float32(4.0))

    with dg.GradientTape() as tape:
        total = dg.sum(Generator(8).poisson(rate, 5, dtype="float32"))

    assert tape.gradient(total, rate) is None


def test_uniform_numbers_never_reach_the_upper_bound():
    for dtype in ("float16", "float32", "float64"):
        numbers = host(Generator(0).uniform(SIZE, 1.0, 1.001, dtype=dtype))
        assert numbers.min() >= 1
        assert numbers.max() < np.asarray(1.001, dtype)


def test_integers_reach_both_ends_of_every_dtype():
    for dtype in ("int8", "uint8", "int64", "uint64"):
        limits = np.iinfo(dtype)
        low, high = limits.min, int(limits.max) + 1
        numbers = host(Generator(0).integers(low, high, SIZE, dtype=dtype))
        assert numbers.dtype == dtype
        assert (
            abs(float(numbers.mean(dtype=np.float64)) - (low + high - 1) / 2) < (high - low) / 300
        )


def test_a_permutation_holds_every_number_once():
    assert np.array_equal(np.sort(host(Generator(5).permutation(1001))), np.arange(1001))
    assert host(Generator(5).choice(10, (2, 5), replace=False)).ravel().tolist() != list(range(10))
    drawn = host(Generator(5).choice(10, (2, 5), replace=False))
    assert sorted(drawn.ravel().tolist()) == list(range(10))


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0**-32])
def test_bernoulli_of_extreme_probabilities(p):
    share = host(Generator(0).bernoulli(p, SIZE)).mean()

    assert share == pytest.approx(p, abs=1e-5)


# --- misuse ---------------------------------------------------------------------------------------

MISUSE = {
    "negative seed": (lambda: Generator(-1), ValueError, "seed is -1; expected 0 to 2"),
    "floating seed": (lambda: Generator(1.5), TypeError, "seed is 1.5, a float"),
    "integer dtype": (lambda: Generator(0).uniform(3, dtype="int32"), errors.DTypeError, "int32"),
    "no range": (lambda: Generator(0).integers(3, 3), ValueError, "expected low < high"),
    "range beyond dtype": (
        lambda: Generator(0).integers(0, 300, 2, dtype="uint8"),
        ValueError,
        "within uint8",
    ),
    "probability": (lambda: Generator(0).bernoulli(1.5), ValueError, "probability from 0 to 1"),
    "row": (lambda: Generator(0).normal((3, 2), rows=[3]), errors.ShapeError, "row 3"),
    "rows of a number": (lambda: Generator(0).normal((), rows=[0]), errors.ShapeError, "axes"),
    "shape": (lambda: Generator(0).normal((-1,)), errors.ShapeError, "lengths of 0 or more"),
    "state": (lambda: Generator.from_state([1, 2]), errors.ShapeError, r"\(\.\.\., 3\)"),
    "negative state": (lambda: Generator.from_state([1, 2, -3]), ValueError, "three integers"),
    "floating index": (lambda: Generator(0).fold_in(0.5), TypeError, "expected an integer"),
    "too many": (lambda: Generator(0).choice(3, 4, replace=False), ValueError, "no more than"),
    "probabilities above 1": (
        lambda: Generator(0).choice(2, 3, p=[5.0, 5.0]),
        ValueError,
        r"p adds up to 10; expected 1, as of p / p.sum\(\)",
    ),
    "probabilities below 1": (lambda: Generator(0).choice(2, p=[0.5, 0.499]), ValueError, "0.999"),
    "negative probability": (
        lambda: Generator(0).choice(2, p=dg.asarray([1.5, -0.5])),
        ValueError,
        "a probability in p is -0.5; expected 0 or more",
    ),
    "no probability": (lambda: Generator(0).choice(2, p=[math.nan, 1]), ValueError, "p is nan"),
    "no options": (lambda: Generator(0).choice(0, p=np.zeros(0)), ValueError, "adds up to 0"),
    "complex probabilities": (lambda: Generator(0).choice(1, p=[1j]), errors.DTypeError, "choice"),
    "rate": (lambda: Generator(0).poisson([1.0, -0.5]), ValueError, "a rate is -0.5; expected 0"),
    "no rate": (lambda: Generator(0).poisson(math.nan), ValueError, "a rate is nan"),
    "dtype of counts": (lambda: Generator(0).poisson(1.0, dtype="bool"), errors.DTypeError, "bool"),
    "truncation": (lambda: Generator(0).truncated_normal(3, 2.0, 2.0), ValueError, "low < high"),
    "scalar shuffle": (lambda: Generator(0).shuffle(1.0), errors.ShapeError, "no axes"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named_with_what_was_expected(name):
    call, error, message = MISUSE[name]

    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_choice_takes_probabilities_that_add_up_to_one_within_their_precision(dtype):
    p = np.full(7, 1 / 7, dtype)  # seven halves of a unit in the last place off, at most

    assert host(Generator(0).choice(7, 5, p=p)).shape == (5,)


def test_choice_takes_integer_probabilities():
    assert host(Generator(0).choice(3, 4, p=[0, 1, 0])).tolist() == [1, 1, 1, 1]


def test_choice_with_unknown_probabilities_draws_by_their_shares():
    def draw(p):
        return Generator(0).choice(4, 9, p=p)

    p = dg.asarray([0.1, 0.4, 0.3, 0.2])

    for way in (dg.function(draw), lambda p: dg.vmap(draw)(dg.stack([p]))[0]):
        assert host(way(p)).tolist() == host(draw(p)).tolist()
        assert host(way(2 * p)).tolist() == host(draw(p)).tolist()


@pytest.mark.parametrize(("logits", "axis"), [(1.0, -1), (np.zeros((2, 3)), 2)])
def test_categorical_refuses_an_axis_that_is_not_there(logits, axis):
    with pytest.raises(errors.ShapeError, match="categorical: axis"):
        Generator(0).categorical(logits, axis=axis)
