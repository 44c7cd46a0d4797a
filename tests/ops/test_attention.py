"""Scaled dot-product attention: values, masks, grouped heads, memory and refusals."""

import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError
from distgrad_numpy import threads

attend = dg.nn.scaled_dot_product_attention


def by_hand(q, k, v, allowed=None, bias=0.0):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + bias
    if allowed is not None:
        scores = np.where(allowed, scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_it_is_the_softmax_of_scaled_scores_times_the_values():
    q, k, v = draw(2, 3, 4, 5), draw(2, 3, 6, 5, seed=1), draw(2, 3, 6, 7, seed=2)
    np.testing.assert_allclose(attend(q, k, v).numpy(), by_hand(q, k, v), rtol=1e-12)


def test_a_causal_query_sees_the_keys_up_to_its_own_place_only():
    q, k, v = draw(300, 4), draw(300, 4, seed=1), draw(300, 3, seed=2)
    expected = by_hand(q, k, v, np.tri(300, dtype=bool))
    np.testing.assert_allclose(attend(q, k, v, causal=True).numpy(), expected, rtol=1e-10)


def test_decoding_one_query_at_a_time_gives_what_all_at_once_give():
    q, k, v = draw(5, 4), draw(5, 4, seed=1), draw(5, 3, seed=2)
    whole = attend(q, k, v, causal=True).numpy()
    for place in range(5):
        seen = slice(place + 1)
        step = attend(q[place : place + 1], k[seen], v[seen], causal=True, query_offset=place)
        np.testing.assert_allclose(step.numpy()[0], whole[place], rtol=1e-12)


def test_one_key_head_may_serve_several_query_heads():
    q, k, v = draw(2, 8, 4, 3), draw(2, 1, 6, 3, seed=1), draw(2, 1, 6, 5, seed=2)
    keys = dg.Variable(k)
    with dg.GradientTape() as tape:
        out = attend(q, keys, v)
    np.testing.assert_allclose(out.numpy(), by_hand(q, k, v), rtol=1e-6)
    assert tape.gradient(out, keys).shape == k.shape


def test_a_query_that_may_see_nothing_gets_zeros_and_finite_gradients():
    q, k, v = (dg.Variable(draw(3, 2, seed=s)) for s in range(3))
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    with dg.GradientTape() as tape:
        out = attend(q, k, v, mask=mask)
    assert out.numpy()[1].tolist() == [0.0, 0.0]
    for gradient in tape.gradient(out, [q, k, v]):
        assert np.isfinite(gradient.numpy()).all()


def test_huge_scores_do_not_overflow():
    q = np.full((2, 4), 300.0, np.float32)
    v = np.array([[1.0], [3.0]], np.float32)
    np.testing.assert_allclose(attend(q * 300, q * 300, v).numpy(), [[2.0], [2.0]], rtol=1e-6)


def test_memory_grows_with_the_length_and_not_with_its_square(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 1)  # each has a block of scores of its own
    length = 4096
    q, k, v = (dg.Variable(draw(length, 8, seed=s).astype(np.float32)) for s in range(3))
    tracemalloc.start()
    try:
        with dg.GradientTape() as tape:
            out = dg.sum(attend(q, k, v))
        tape.gradient(out, [q, k, v])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < length * length * 4 / 8  # an eighth of one score matrix


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4,), (5, 3), (5, 2)), "query has shape"),
        (((4, 3), (5, 2), (5, 2)), "query has width 3 and key 2"),
        (((4, 3), (5, 3), (6, 2)), "key has length 5 and value 6"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ShapeError, match=message):
        attend(*(np.zeros(shape) for shape in shapes))


def test_a_mask_that_does_not_broadcast_and_integers_are_refused():
    q = np.zeros((4, 3))
    with pytest.raises(ShapeError, match=r"mask has shape \(3, 4\)"):
        attend(q, q, q, mask=np.ones((3, 4), bool))
    with pytest.raises(DTypeError, match="key has dtype int64"):
        attend(q, np.zeros((4, 3), np.int64), q)
    with pytest.raises(DTypeError, match="mask has dtype int64"):
        attend(q, q, q, mask=np.ones((4, 4), np.int64))


@pytest.mark.parametrize("mask", [None, (4, 0)])
def test_attention_to_no_key_at_all_is_zero(mask):
    query, key, value = (dg.Variable(np.ones(s)) for s in ((2, 4, 3), (2, 0, 3), (2, 0, 5)))
    mask = None if mask is None else dg.zeros(mask, dtype="bool")

    with dg.GradientTape() as tape:
        y = dg.nn.scaled_dot_product_attention(query, key, value, mask=mask)
    gradients = tape.gradient(y, [query, key, value])

    np.testing.assert_array_equal(y.numpy(), np.zeros((2, 4, 5)))
    np.testing.assert_array_equal(gradients[0].numpy(), np.zeros((2, 4, 3)))
    assert [g.shape for g in gradients] == [(2, 4, 3), (2, 0, 3), (2, 0, 5)]
