"""Schedules have the same values as numbers and in a graph, and meet at their seams."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.optimizers import SGD, schedules

CASES = {
    "constant": (schedules.constant(0.5), {0: 0.5, 9: 0.5}),
    "exponential": (schedules.exponential(1.0, 2, 0.25), {0: 1.0, 1: 0.5, 2: 0.25}),
    "staircase": (schedules.exponential(1.0, 2, 0.25, True), {1: 1.0, 2: 0.25, 3: 0.25}),
    "piecewise": (schedules.piecewise([2, 4], [3.0, 2.0, 1.0]), {1: 3.0, 2: 2.0, 3: 2.0, 4: 1.0}),
    "line": (schedules.polynomial(1.0, 0.0, 4), {0: 1.0, 1: 0.75, 4: 0.0, 9: 0.0}),
    "square": (schedules.polynomial(1.0, 0.5, 4, 2.0), {2: 0.625, 4: 0.5}),
    "cosine": (
        schedules.cosine(1.0, 10, warmup=2, end=0.5),
        {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.75 + math.cos(math.pi / 4) / 4, 6: 0.75, 10: 0.5, 99: 0.5},
    ),
    "warm-up": (schedules.linear_warmup(4, 2.0), {0: 0.5, 3: 2.0, 7: 2.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_formula_as_numbers_and_in_a_graph(case):
    schedule, expected = CASES[case]
    traced = dg.function(schedule)

    for step, value in expected.items():
        assert schedule(step) == pytest.approx(value, rel=1e-12)
        assert float(traced(dg.asarray(np.float64(step)))) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("traced", [False, True])
def test_an_optimizer_asks_its_schedule_for_each_step(traced):
    x = dg.Variable(np.float64(0.0))
    optimizer = SGD(schedules.piecewise([1, 2], [1.0, 10.0, 100.0]))

    def step(g):
        optimizer.apply(g, x)

    run = dg.function(step) if traced else step
    for _ in range(4):
        run(dg.asarray(np.float64(-1.0)))

    assert float(x) == 211.0


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"warmup is 5"):
        schedules.cosine(1.0, 5, warmup=5)
    with pytest.raises(ValueError, match=r"2 boundaries and 2 rates"):
        schedules.piecewise([1, 2], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"rate is -1"):
        schedules.constant(-1.0)
