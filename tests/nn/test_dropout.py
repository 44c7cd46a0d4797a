"""Dropout: how much is dropped and scaled, what a tape keeps, and that ranks agree."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import errors, nn
from distgrad.random import Generator

X = np.random.default_rng(1).normal(1.0, 0.5, (60, 501)).astype(np.float32)


def test_elements_are_dropped_or_scaled_and_the_mean_stays():
    y = nn.dropout(dg.asarray(X), 0.3, generator=Generator(1)).numpy()

    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(y[kept], X[kept] / np.float32(0.7), rtol=1e-6)
    assert abs(y.mean() - X.mean()) < 0.02


def test_the_gradient_passes_where_elements_were_kept():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = nn.dropout(x, 0.3, generator=Generator(1))
    gradient = tape.gradient(y, x).numpy()

    np.testing.assert_allclose(gradient, (y.numpy() != 0) / np.float32(0.7), rtol=1e-6)


def test_a_tape_keeps_a_byte_for_each_element():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        nn.dropout(x, 0.3, generator=Generator(1))

    assert sum(op.nbytes for op in tape.summary().operations) <= X.size + 64


@pytest.mark.parametrize("function", [nn.dropout, nn.alpha_dropout])
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_examples_are_treated_alike_by_any_number_of_ranks(function, ranks):
    whole = function(dg.asarray(X), 0.5, generator=Generator(3)).numpy()

    parts = []
    for rank in range(ranks):
        rows = range(rank * 60 // ranks, (rank + 1) * 60 // ranks)
        mine = dg.asarray(X[rows.start : rows.stop])
        parts.append(function(mine, 0.5, generator=Generator(3), rows=rows).numpy())

    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_rank_without_examples_counts_the_draw():
    generator = Generator(3)

    y = nn.dropout(dg.zeros((0, 4)), 0.5, generator=generator, rows=range(5, 5))

    assert y.shape == (0, 4)
    assert generator.state == [3, 0, 1]


def test_choices_of_a_smaller_shape_drop_whole_channels():
    y = nn.dropout(dg.ones((50, 7, 6)), 0.5, generator=Generator(2), shape=(50, 1, 6)).numpy()

    assert np.all((y == 0).all(axis=1) | (y == 2).all(axis=1))
    assert 0.3 < (y == 0).mean() < 0.7


def test_alpha_dropout_leaves_mean_and_variance():
    x = np.random.default_rng(2).normal(size=(500, 401))

    y = nn.alpha_dropout(dg.asarray(x), 0.2, generator=Generator(5)).numpy()

    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01


@pytest.mark.parametrize("function", [nn.dropout, nn.alpha_dropout])
def test_nothing_is_dropped_in_inference_or_at_rate_zero(function):
    x = dg.asarray(X)

    assert function(x, 0.5, training=False) is x
    assert function(x, 0.0) is x


def test_at_rate_one_everything_is_dropped():
    y = nn.dropout(dg.asarray([1.0, np.inf]), 1.0, generator=Generator(0))

    assert y.tolist() == [0, 0]


def test_infinities_and_nans_that_are_dropped_leave_no_trace():
    x = np.where(np.arange(1000) % 2, np.inf, np.nan)

    y = nn.dropout(dg.asarray(x), 0.5, generator=Generator(0)).numpy()

    assert 300 < np.isfinite(y).sum() < 700


def test_a_traced_training_step_drops_anew_each_time():
    plain, traced = Generator(7), Generator(7)
    compiled = dg.function(lambda x: nn.dropout(x, 0.5, generator=traced))
    x = dg.asarray(X)

    runs = [compiled(x).numpy() for _ in range(3)]

    assert not np.array_equal(runs[0], runs[1])
    for run in runs:
        np.testing.assert_array_equal(run, nn.dropout(x, 0.5, generator=plain).numpy())


def test_recomputation_repeats_the_choices_of_a_child():
    parent = Generator(7)
    x = dg.Variable(X[:5])

    def block(x):
        return dg.sin(nn.dropout(x, 0.5, generator=parent.fold_in(2)))

    gradients = []
    for f in (block, dg.recompute_grad(block)):
        with dg.GradientTape() as tape:
            y = f(x)
        gradients.append(tape.gradient(y, x).numpy())

    np.testing.assert_array_equal(*gradients)


MISUSE = {
    "rate": (lambda: nn.dropout(dg.ones(3), 1.5), ValueError, "rate is 1.5; expected a prob"),
    "no generator": (lambda: nn.dropout(dg.ones(3), 0.5), ValueError, "there is no generator"),
    "no variance": (
        lambda: nn.alpha_dropout(dg.ones(3), 1.0, generator=Generator(0)),
        ValueError,
        "leaves no variance",
    ),
    "rows": (
        lambda: nn.dropout(dg.ones((3, 2)), 0.5, generator=Generator(0), rows=range(2)),
        errors.ShapeError,
        r"rows names 2 places, x has shape \(3, 2\)",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named_with_what_was_expected(name):
    call, error, message = MISUSE[name]

    with pytest.raises(error, match=message):
        call()
