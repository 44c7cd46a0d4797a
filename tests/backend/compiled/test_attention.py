"""Compiled attention: masks, odd lengths, several blocks, rows that mind their own business."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing import rules
from distgrad.testing.samples import samples
from distgrad_numpy import attention as own
from distgrad_numpy import threads
from distgrad_numpy.compiled import attention, library, offers

pytestmark = pytest.mark.needs_compiler

FORWARD, PULL = attention.OFFERS["attention"], attention.OFFERS["attention_vjp"]
OWN, OWN_PULL = own.KERNELS["attention"], own.KERNELS["attention_vjp"]
# Heads, rows, keys, width, width of values: blocks are of 96 rows and 256 keys.
SIZES = [
    (2, 8, 1, 1, 1),
    (3, 17, 33, 7, 5),
    (2, 33, 17, 33, 64),
    (1, 97, 300, 20, 70),
    (2, 200, 600, 64, 16),
]
SAMPLES = [s.cast(np.dtype(np.float32)) for name in attention.OFFERS for s in samples(name)]


def drawn(heads, rows, keys, width, out_width):
    rng = np.random.default_rng(rows)
    shapes = [(heads, rows, width), (heads, keys, width), (heads, keys, out_width)]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def cotangents(results):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(each.shape, dtype=np.float32) for each in results]


def in_double(arrays):
    return [each if each.dtype == np.bool_ else each.astype(np.float64) for each in arrays]


def close(found, expected, slack=1.0):
    size = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5 * slack, atol=3e-6 * size * slack)


def check(arrays, scale=0.3, offset=None):
    slack = max(1, abs(scale))  # an exponential has the absolute error of its score
    params = {"scale": scale, "offset": offset}
    found = FORWARD(*arrays, **params)
    expected = OWN(*in_double(arrays), **params)
    g = cotangents(found)
    pulled = PULL(*arrays, *found, *g, **params)
    for mine, exact in zip(found, expected, strict=True):
        assert mine.dtype == np.float32
        assert mine.shape == exact.shape
        close(mine, exact, slack)
    if pulled is not None:
        exact = OWN_PULL(*in_double(arrays), *expected, *in_double(g), **params)
        for mine, theirs in zip(pulled[:3], exact[:3], strict=True):
            assert mine.dtype == np.float32
            close(mine, theirs, slack)
    return pulled


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_sample_gives_what_the_own_kernel_gives(sample, without, monkeypatch):
    monkeypatch.setattr(offers, "_FEW", 0)
    monkeypatch.setattr(attention, "_FEW", 0)
    found = rules.call(sample).output

    expected = without(lambda: rules.call(sample).output)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        rules.assert_close(mine, theirs, str(sample))


@pytest.mark.parametrize("offset", [None, 0, 5, -3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_results_are_those_in_double_precision(sizes, offset):
    assert check(drawn(*sizes), offset=offset) is not None


@pytest.mark.parametrize("scale", [-1.0, 0.0, 40.0])
def test_scores_of_any_size_and_sign(scale):
    check(drawn(2, 100, 270, 9, 7), scale=scale)


MASKS = {
    "of all heads": (1, 1, 110, 290),
    "of each head": (3, 2, 110, 290),
    "of keys of examples": (3, 1, 1, 290),
    "of rows": (1, 1, 110, 1),
}


@pytest.mark.parametrize("offset", [None, 0, -3])
@pytest.mark.parametrize("kind", [np.bool_, np.float32])
@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
def test_masks(shape, kind, offset):
    rng = np.random.default_rng(4)
    arrays = [each.reshape(3, 2, *each.shape[1:]) for each in drawn(6, 110, 290, 16, 8)]
    numbers = rng.standard_normal(shape, dtype=np.float32)
    mask = numbers > 0.5 if kind == np.bool_ else numbers

    pulled = check([*arrays, mask], offset=offset)

    # The own kernel sums the cotangent of a mask of numbers over heads.
    assert (pulled is None) == (kind == np.float32)
    if pulled is not None:
        assert pulled[3].dtype == np.bool_
        assert not pulled[3].any()


def test_a_row_that_sees_nothing_gets_zeros():
    arrays = drawn(2, 100, 300, 16, 8)
    mask = np.ones((1, 100, 300), np.bool_)
    mask[0, 17] = False

    output, sums = FORWARD(*arrays, mask, scale=0.3, offset=None)
    pulled = PULL(*arrays, mask, output, sums, *cotangents([output, sums]), scale=0.3, offset=None)

    assert not output[:, 17].any()
    assert not sums[:, 17].any()
    assert not pulled[0][:, 17].any()
    assert output[:, :17].all()


def test_keys_of_which_minus_infinity_is_added_have_no_weight():
    query, key, value = drawn(2, 100, 300, 16, 8)
    mask = np.zeros((1, 1, 300), np.float32)
    mask[..., :280] = -np.inf  # the first block of keys is one of no weight

    output, sums = FORWARD(query, key, value, mask, scale=0.3, offset=None)

    seen = FORWARD(query, np.array(key[:, 280:]), np.array(value[:, 280:]), scale=0.3, offset=None)
    close(output, seen[0])
    close(sums, seen[1])


def test_a_nan_stays_in_its_row():
    query, key, value = drawn(2, 100, 300, 16, 8)
    clean = FORWARD(query, key, value, scale=0.3, offset=0)[0]
    query[1, 40, 3] = np.nan

    spoilt = FORWARD(query, key, value, scale=0.3, offset=0)[0]

    assert np.isnan(spoilt[1, 40]).all()
    spoilt[1, 40] = clean[1, 40]
    np.testing.assert_array_equal(spoilt, clean)


@pytest.mark.parametrize("offset", [None, 270])
def test_a_row_is_the_same_among_other_rows(offset):
    query, key, value = drawn(2, 133, 300, 16, 8)
    query[:, 3] *= 50

    alone = FORWARD(
        np.array(query[:, 101:110]),
        key,
        value,
        scale=0.3,
        offset=None if offset is None else offset + 101,
    )

    for mine, part in zip(FORWARD(query, key, value, scale=0.3, offset=offset), alone, strict=True):
        np.testing.assert_array_equal(mine[:, 101:110], part)


@pytest.mark.parametrize("offset", [None, 0])
def test_the_number_of_threads_changes_no_bit(offset, monkeypatch):
    monkeypatch.setattr(attention, "_PIECE", 1)
    arrays = drawn(5, 110, 130, 24, 40)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        kept = FORWARD(*arrays, scale=0.3, offset=offset)
        g = cotangents(kept)
        results.append([*kept, *PULL(*arrays, *kept, *g, scale=0.3, offset=offset)])

    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_heads_that_lie_between_tokens_give_the_same_bits():
    arrays = drawn(5, 20, 30, 24, 40)
    between = [np.asfortranarray(each) for each in arrays]

    for one, other in zip(
        FORWARD(*arrays, scale=0.3, offset=None),
        FORWARD(*between, scale=0.3, offset=None),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_few_rows_empty_arrays_and_double_precision_are_left_to_the_own_kernel():
    params = {"scale": 0.3, "offset": None}

    assert FORWARD(*drawn(2, 9, 9, 4, 4), **params) is not None
    assert FORWARD(*drawn(2, 1, 900, 4, 4), **params) is None
    assert FORWARD(*drawn(2, 9, 9, 4, 0), **params) is None
    assert FORWARD(*in_double(drawn(2, 9, 9, 4, 4)), **params) is None


def test_without_a_compiler_nothing_is_offered(monkeypatch):
    arrays, params = drawn(2, 9, 9, 4, 4), {"scale": 0.3, "offset": None}
    kept = FORWARD(*arrays, **params)
    state = library._State()
    state.failed = True
    monkeypatch.setattr(library, "_state", state)

    assert FORWARD(*arrays, **params) is None
    assert PULL(*arrays, *kept, *cotangents(kept), **params) is None


def test_a_tape_takes_them_forward_and_backward(monkeypatch):
    taken = []
    whole = attention._run
    monkeypatch.setattr(
        attention, "_run", lambda name, *rest: (taken.append(name), whole(name, *rest))[1]
    )
    sources = [dg.asarray(each) for each in drawn(4, 32, 32, 16, 16)]

    with dg.GradientTape() as tape:
        tape.watch(sources)
        y = dg.nn.scaled_dot_product_attention(*sources, causal=True)
        loss = dg.sum(y * y)
    tape.gradient(loss, sources)

    assert taken == ["attention", "attention_vjp"]


# --- heads that lie side by side ------------------------------------------------------------------


def side_by_side(array):
    """Return the same numbers as projections leave them: heads within rows."""
    return np.ascontiguousarray(array.swapaxes(-3, -2)).swapaxes(-3, -2)


@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 1, 3), (1, 2, 3), (4, 2, 1)])
@pytest.mark.parametrize("widths", [(16, 16), (64, 32), (7, 5)])
@pytest.mark.parametrize("offset", [None, 0])
def test_the_order_of_heads_and_rows_in_memory_changes_no_bit(lead, widths, offset):
    rng = np.random.default_rng(3)
    shapes = (100, widths[0]), (110, widths[0]), (110, widths[1])
    arrays = [rng.standard_normal((*lead, *shape), dtype=np.float32) for shape in shapes]
    params = {"scale": 0.3, "offset": offset}
    expected = FORWARD(*arrays, **params)
    g = cotangents(expected)
    pulled = PULL(*arrays, *expected, *g, **params)

    turned = [side_by_side(each) for each in arrays]
    found = FORWARD(*turned, **params)
    back = PULL(*turned, *found, side_by_side(g[0]), g[1], **params)

    for mine, other in zip((*found, *back), (*expected, *pulled), strict=True):
        np.testing.assert_array_equal(mine, other)
    if len(lead) > 1 and lead[-1] > 1:
        assert found[0].swapaxes(-3, -2).flags.c_contiguous
        assert all(each.swapaxes(-3, -2).flags.c_contiguous for each in back)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.broadcast_to(x[:, :, :1], x.shape),
        lambda x: x[:, ::-1],
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: np.repeat(x, 2, axis=-2)[..., ::2, :],
        lambda x: np.ascontiguousarray(x.transpose(1, 2, 0, 3)).transpose(2, 0, 1, 3),
    ],
)
def test_views_count_as_their_copies(view):
    rng = np.random.default_rng(4)
    arrays = [view(rng.standard_normal((2, 3, 40, 64), dtype=np.float32)) for _ in range(3)]
    copies = [np.ascontiguousarray(each) for each in arrays]
    params = {"scale": 0.3, "offset": None}
    expected = FORWARD(*copies, **params)
    g = cotangents(expected)

    found = FORWARD(*arrays, **params)
    back = PULL(*arrays, *found, view(g[0]), g[1], **params)

    pulled = PULL(*copies, *expected, np.ascontiguousarray(view(g[0])), g[1], **params)
    for mine, other in zip((*found, *back), (*expected, *pulled), strict=True):
        np.testing.assert_array_equal(mine, other)
