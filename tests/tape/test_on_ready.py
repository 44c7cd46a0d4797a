"""on_ready: each gradient is announced once, as soon as it is final."""

import numpy as np
import pytest

import distgrad as dg


def announcements(tape, target, sources, **options):
    """Return what was announced, in order, and what was returned."""
    announced = []

    def note(position, gradient):
        announced.append((position, None if gradient is None else gradient.numpy().tolist()))

    result = tape.gradient(target, sources, on_ready=note, **options)
    return announced, result


def test_each_source_is_announced_once_with_its_final_gradient():
    x, y = dg.Variable([1.0, 2.0]), dg.Variable([3.0, 4.0])
    with dg.GradientTape() as tape:
        z = dg.sum(x * y + x * x)
    announced, gradients = announcements(tape, z, [x, y])

    assert sorted(announced) == [(0, [5.0, 8.0]), (1, [1.0, 2.0])]
    assert [g.numpy().tolist() for g in gradients] == [[5.0, 8.0], [1.0, 2.0]]


def test_sources_are_announced_as_they_become_final_the_last_layer_first():
    layers = [dg.Variable(float(i + 2)) for i in range(4)]
    with dg.GradientTape() as tape:
        y = dg.asarray(1.0)
        for layer in layers:
            y = y * layer
    announced, _ = announcements(tape, y, layers)

    assert [position for position, _ in announced] == [3, 2, 1, 0]


def test_a_source_used_early_and_late_waits_for_its_first_use():
    shared, other = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = shared * 1.0
        y = y * other
        y = y * shared
    announced, _ = announcements(tape, y, [shared, other])

    assert announced == [(1, 4.0), (0, 12.0)]


def test_a_source_is_announced_before_the_walk_goes_on():
    # What is announced may leave for other machines while earlier layers are still computed.
    progress = []

    class Spy(dg.GradientTape):
        def __init__(self):
            super().__init__()
            self.announced_with = None

    early, late = dg.Variable(2.0), dg.Variable(3.0)
    tape = Spy()
    with tape:
        y = early * early
        for _ in range(10):
            y = y * 1.0
        y = y * late

    def note(position, gradient):
        progress.append((position, len(tape.records)))

    tape.gradient(y, [early, late], on_ready=note)

    assert [position for position, _ in progress] == [1, 0]
    assert progress[0][1] >= 10
    assert progress[1][1] == 0


def test_unconnected_sources_are_announced_with_none():
    x, lost, unread = dg.Variable(2.0), dg.Variable(3.0), dg.Variable(4.0)
    with dg.GradientTape() as tape:
        y = x * x
        lost * 2.0
    announced, gradients = announcements(tape, y, [x, lost, unread], unconnected_gradients="zero")

    assert sorted(announced, key=lambda each: each[0]) == [(0, 4.0), (1, None), (2, None)]
    assert [float(g) for g in gradients] == [4.0, 0.0, 0.0]


def test_a_repeated_source_is_announced_at_each_of_its_places():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape() as tape:
        z = x * y
    announced, _ = announcements(tape, z, {"a": x, "b": [y, x]})

    assert sorted(announced) == [(0, 3.0), (1, 2.0), (2, 3.0)]


def test_intermediate_values_are_announced_before_what_they_depend_on():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        z = y * y
    announced, _ = announcements(tape, z, [x, y])

    assert announced == [(1, 18.0), (0, 108.0)]


def test_a_source_that_is_the_target_is_announced():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
    announced, _ = announcements(tape, [x, y], [x, y])

    assert sorted(announced) == [(0, 7.0), (1, 1.0)]


def test_no_targets_announce_every_source_as_unconnected():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        x * x
    announced, _ = announcements(tape, [], [x, x])

    assert sorted(announced) == [(0, None), (1, None)]


@pytest.mark.parametrize("persistent", [False, True])
def test_what_is_announced_is_what_is_returned(persistent):
    x, y = dg.Variable([1.0, 2.0]), dg.Variable([3.0, 4.0])
    with dg.GradientTape(persistent=persistent) as tape:
        z = dg.sum(x * y)
    announced = {}
    gradients = tape.gradient(z, [x, y], on_ready=announced.__setitem__)

    assert announced[0] is gradients[0]
    assert announced[1] is gradients[1]


def test_announced_gradients_have_the_dtype_of_their_source():
    half = dg.Variable(np.ones(3, "float16"))
    with dg.GradientTape() as tape:
        y = half * dg.asarray(np.ones(3))
    dtypes = []
    tape.gradient(y, half, on_ready=lambda position, gradient: dtypes.append(gradient.dtype))

    assert dtypes == [np.float16]


def test_an_outer_tape_hears_gradients_that_are_announced():
    x = dg.Variable(3.0)
    announced = []
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = x * x * x
        inner.gradient(y, x, on_ready=lambda position, gradient: announced.append(gradient))

    assert float(outer.gradient(announced[0], x)) == 18.0


def test_an_error_in_the_hook_reaches_the_caller_and_spends_the_tape():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x

    def fail(position, gradient):
        raise ConnectionError("a rank is gone")

    with pytest.raises(ConnectionError):
        tape.gradient(y, x, on_ready=fail)
    with pytest.raises(dg.errors.TapeError):
        tape.gradient(y, x)
