"""A step that repeats the last one changes what a step that asks everything anew does."""

import copy
import gc
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.optimizers import Adam, chain, clipping
from distgrad.optimizers.repeating import Repetition
from distgrad_numpy import compiled

pytestmark = pytest.mark.needs_compiler

SHAPES = [(3, 4), (4,), (4, 2), (2,)]


@pytest.fixture
def taken(monkeypatch):
    """For each step whether it was a repetition."""
    found = []
    take = Repetition.take

    def noting(self, *given):
        found.append(take(self, *given))
        return found[-1]

    monkeypatch.setattr(Repetition, "take", noting)
    return found


def variables():
    rng = np.random.default_rng(1)
    return [dg.Variable(rng.standard_normal(s).astype(np.float32), name=f"v{s}") for s in SHAPES]


def gradients(step, shapes=SHAPES):
    rng = np.random.default_rng(step)
    return [dg.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def trained(optimizer, steps=5, between=lambda step, values, optimizer: None):
    """Return what variables are after some steps; `between` happens after each of them."""
    values = variables()
    for step in range(steps):
        optimizer.apply(gradients(step), values)
        between(step, values, optimizer)
    return [np.array(value) for value in values]


def plainly(make, between=lambda step, values, optimizer: None):
    """Return the same where no step is a repetition of compiled code."""
    before = compiled.switch(False)
    try:
        return trained(make(), between=between)
    finally:
        compiled.switch(before)


def assert_alike(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-7)


RULES = [
    lambda: Adam(0.1),
    lambda: dg.optimizers.SGD(0.1, momentum=0.9),
    lambda: dg.optimizers.SGD(0.1),
    lambda: dg.optimizers.AdamW(0.1),
    lambda: Adam(lambda step: 0.1 / (1 + step)),
    lambda: dg.optimizers.Optimizer(chain(clipping(global_norm=1.0), Adam(0.1))),
]


@pytest.mark.parametrize("make", RULES)
def test_steps_on_the_same_arrays_are_repeated(make, taken):
    found = trained(make())
    assert taken == [True] * 4  # the first has nothing to repeat
    assert_alike(found, plainly(make))


def read(step, values, optimizer):
    kept.append((values[step % 4].read(), np.array(values[step % 4])))


def assign(step, values, optimizer):
    values[step % 4].assign(np.full(SHAPES[step % 4], step, np.float32))


def assign_turned(step, values, optimizer):
    values[0].assign(np.asfortranarray(np.full(SHAPES[0], step, np.float32)))


def other_rate(step, values, optimizer):
    optimizer.learning_rate = 0.1 * (step + 1)


def other_decay(step, values, optimizer):
    optimizer.beta_1 = 0.9 - 0.1 * step


def in_between(step, values, optimizer):
    optimizer.apply([None, *gradients(step + 50)[1:]], values)


def turned_round(step, values, optimizer):
    order = [2, 0, 3, 1]
    given = gradients(step + 50)
    optimizer.apply([given[i] for i in order], [values[i] for i in order])


def some(step, values, optimizer):
    optimizer.apply(gradients(step + 50)[:2], values[:2])


def with_gaps(step, values, optimizer):
    given = gradients(step + 50)
    given[0] = dg.asarray(np.asfortranarray(np.array(given[0])))
    optimizer.apply(given, values)


def in_double_precision(step, values, optimizer):
    optimizer.apply([dg.astype(g, "float64") for g in gradients(step + 50)], values)


def of_rows(step, values, optimizer):
    rows = dg.IndexedSlices(dg.ones((2, 4)), dg.asarray([0, 2]), (3, 4))
    optimizer.apply([rows, *gradients(step + 50)[1:]], values)


def loaded(step, values, optimizer):
    optimizer.load_state_dict({name: v + 0 for name, v in optimizer.state_dict().items()})


kept = []
CHANGES = [
    *(read, assign, assign_turned, other_rate, other_decay, in_between, turned_round, some),
    *(with_gaps, in_double_precision, of_rows, loaded),
]


@pytest.mark.parametrize("between", CHANGES, ids=lambda between: between.__name__)
def test_what_happens_between_steps_is_noticed(between):
    kept.clear()
    found = trained(Adam(0.1), between=between)
    assert_alike(found, plainly(lambda: Adam(0.1), between))
    for tensor, before in kept:  # a tensor that was read keeps its value
        np.testing.assert_array_equal(np.array(tensor), before)


def test_a_copied_optimizer_has_slots_of_its_own():
    optimizer, values = Adam(0.1), variables()
    for step in range(2):
        optimizer.apply(gradients(step), values)
    twin, twin_values = copy.deepcopy((optimizer, values))
    before = [np.array(each) for each in (*values, *optimizer.state_dict().values())]
    twin.apply(gradients(2), twin_values)
    after = [np.array(each) for each in (*values, *optimizer.state_dict().values())]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    optimizer.apply(gradients(2), values)
    assert_alike([np.array(v) for v in twin_values], [np.array(v) for v in values])


def test_the_same_state_with_other_variables_changes_these(taken):
    rule = Adam(0.1)
    first, second = ({str(n): value for n, value in enumerate(variables())} for _ in range(2))
    given = {str(n): value for n, value in enumerate(gradients(0))}
    with_slots = rule.init(first)
    state = {"step": dg.Variable(with_slots["step"]), "master": with_slots["master"]}
    for slot in rule.slots:
        state[slot.name] = {name: dg.Variable(v) for name, v in with_slots[slot.name].items()}

    rule.change_in_place(given, state, first)
    rule.change_in_place(given, state, first)
    before = [np.array(value) for value in first.values()]
    rule.change_in_place(given, state, second)

    assert taken == [True, False]
    for one, other in zip(before, first.values(), strict=True):
        np.testing.assert_array_equal(one, np.array(other))


def test_gradients_and_old_arrays_are_not_kept():
    gc.disable()
    try:
        optimizer, values = Adam(0.1), variables()
        for step in range(3):
            given = gradients(step)
            optimizer.apply(given, values)
        arrays = [weakref.ref(g.array) for g in given] + [weakref.ref(values[0].array)]
        del given
        values[0].assign(np.zeros(SHAPES[0], np.float32))
        assert [each() for each in arrays] == [None] * 5
    finally:
        gc.enable()
