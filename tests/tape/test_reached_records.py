"""Persistent tapes of many targets: a gradient goes over the records that its own target needs."""

import numpy as np

import distgrad as dg
from distgrad.tape.history import history_of

COUNT = 20


def recorded(tape):
    """Return a source and many targets of three operations each, and one of all of them."""
    with tape:
        x = dg.asarray(2.0)
        tape.watch(x)
        targets = [dg.sin(x * float(number)) * x for number in range(COUNT)]
        whole = dg.sum(dg.stack(targets))
    return x, targets, whole


def test_from_the_second_gradient_on_only_records_of_the_target_are_returned():
    tape = dg.GradientTape(persistent=True)
    _, targets, whole = recorded(tape)
    history = history_of(tape.records, tape.followed)

    assert history.reached([targets[3].key]) is history.records  # nothing is known of others
    found = history.reached([targets[3].key])

    assert found == history.records[9:12]
    assert history.reached([targets[5].key, targets[4].key]) == history.records[12:18]
    assert history.reached([whole.key]) is history.records
    assert history.reached([-1]) == []


def test_values_that_are_computed_twice_are_looked_for_everywhere():
    tape = dg.GradientTape(persistent=True)
    _, targets, _ = recorded(tape)
    history = history_of([*tape.records, tape.records[4]], tape.followed)

    for _ in range(3):
        assert history.reached([targets[3].key]) is history.records


def test_gradients_of_many_targets_are_each_its_own():
    tape = dg.GradientTape(persistent=True)
    x, targets, whole = recorded(tape)

    first = [tape.gradient(target, x) for target in targets]
    rows = [tape.jacobian(target, x) for target in targets[:3]]
    second = [tape.gradient(each, x) for each in first[:3]]
    total = tape.gradient(whole, x)

    at = 2.0 * np.arange(COUNT)
    slopes = np.sin(at) + at * np.cos(at)
    np.testing.assert_allclose([each.numpy() for each in first], slopes, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([each.numpy() for each in rows], slopes[:3], rtol=1e-5, atol=1e-5)
    bends = [n * (2 * np.cos(2.0 * n) - 2.0 * n * np.sin(2.0 * n)) for n in range(3)]
    np.testing.assert_allclose([each.numpy() for each in second], bends, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(total.numpy(), slopes.sum(), rtol=1e-5)
