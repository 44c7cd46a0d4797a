"""Attention's kernels on the CPU: both ways to exponentials, any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad_numpy import attention, threads


def _operands(size: float) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = ((5, 70, 9), (5, 70, 9), (5, 70, 7), (5, 70, 7))
    query, *others = (rng.standard_normal(shape) for shape in shapes)
    return [query * size, *others]


def _plain(query: np.ndarray, key: np.ndarray, value: np.ndarray, causal: bool) -> np.ndarray:
    scores = query @ key.swapaxes(1, 2) * 0.3
    if causal:
        scores = np.where(np.tri(*scores.shape[1:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [0.1, 1.0, 300.0])
def test_small_and_large_scores_give_the_softmax(size: float, causal: bool) -> None:
    query, key, value, _ = _operands(size)

    output, _ = attention.attention(query, key, value, scale=0.3, offset=0 if causal else None)

    np.testing.assert_allclose(output, _plain(query, key, value, causal), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offset", [None, 0, -3])
def test_threads_change_no_bit(offset: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CACHE", 1 << 12)  # many blocks
    query, key, value, g = _operands(1.0)

    def everything(number: int) -> list[np.ndarray]:
        monkeypatch.setattr(threads, "available", lambda: number)
        output, sums = attention.attention(query, key, value, scale=0.3, offset=offset)
        pulled = attention.attention_vjp(
            query, key, value, output, sums, g, np.ones_like(sums), scale=0.3, offset=offset
        )
        return [output, sums, *pulled]

    alone, together = everything(1), everything(3)

    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
