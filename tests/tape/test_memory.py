"""What a tape holds, and for how long: no more than the rules read, no longer than they need it."""

import gc
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.core import Keep, Kind, Op, apply

pytestmark = pytest.mark.usefixtures("only_references_count")


def array_of(tensor):
    """Return a weak reference to the array of a tensor."""
    return weakref.ref(tensor.array)


def watched(shape=(3, 4), value=0.5):
    """Return a tape that watches one tensor, and the tensor."""
    tape = dg.GradientTape(persistent=True)
    x = dg.asarray(np.full(shape, value, "float32"))
    tape.watch(x)
    return tape, x


# --- what is kept ---------------------------------------------------------------------------------

KEPT = {
    # operation: (function, whether its input is kept, whether its output is kept)
    "add a constant": (lambda x: x + 2.0, False, False),
    "subtract an array": (lambda x: x - np.ones(4, "float32"), False, False),
    "negative": (lambda x: -x, False, False),
    "reshape": (lambda x: x.reshape(-1), False, False),
    "sum": (lambda x: dg.sum(x, axis=0), False, False),
    "mean": (dg.mean, False, False),
    "broadcast_to": (lambda x: dg.broadcast_to(x, (2, 3, 4)), False, False),
    "astype": (lambda x: x.astype("float64"), False, False),
    "index": (lambda x: x[:, 1:], False, False),
    "multiply by a number": (lambda x: x * 2.0, False, False),
    "tanh": (dg.tanh, False, True),
    "exp": (dg.exp, False, True),
    "sqrt": (dg.sqrt, False, True),
    "sigmoid": (dg.sigmoid, False, True),
    "relu": (dg.relu, False, True),
    "softmax": (dg.softmax, False, True),
    "sin": (dg.sin, True, False),
    "log": (dg.log, True, False),
    "square": (dg.square, True, False),
    "multiply by itself": (lambda x: x * x, True, False),
    "max": (lambda x: dg.max(x, axis=1), True, True),
}


@pytest.mark.parametrize("name", KEPT)
def test_only_what_the_rule_reads_is_kept(name):
    function, keeps_input, keeps_output = KEPT[name]
    tape, seed = watched()
    with tape:
        x = seed + 1.0  # add keeps nothing: whoever holds x now holds it for the operation
        y = function(x)
    # A view of x would hold x; what is tested here is what the tape holds.
    x_array, y_array = array_of(x), array_of(y)
    is_view = y.array.base is not None
    del x, y

    assert (x_array() is not None) == keeps_input
    if not is_view:
        assert (y_array() is not None) == keeps_output


def test_of_a_product_only_the_factor_that_is_read_is_kept():
    tape, seed = watched()
    with tape:
        x = seed + 1.0
        constant = dg.asarray(np.full((3, 4), 2.0, "float32"))
        y = x * constant
    x_array, constant_array = array_of(x), array_of(constant)
    del x, constant

    assert x_array() is None  # its partner is a constant, and gets no gradient
    assert constant_array() is not None
    assert tape.gradient(y, seed).numpy().tolist() == np.full((3, 4), 2.0).tolist()


def test_of_a_matrix_product_only_the_factor_that_is_read_is_kept():
    tape, seed = watched()
    with tape:
        x = seed + 1.0
        weights = dg.asarray(np.ones((4, 5), "float32"))
        y = x @ weights
    x_array, weights_array = array_of(x), array_of(weights)
    del x, weights

    assert x_array() is None
    assert weights_array() is not None
    assert tape.gradient(y, seed).shape == (3, 4)


def test_operations_on_unwatched_values_are_not_kept():
    tape, _ = watched()
    with tape:
        y = dg.sin(dg.asarray(np.ones(5, "float32")))
    array = array_of(y)
    del y

    assert array() is None


# --- release --------------------------------------------------------------------------------------


def test_what_a_record_keeps_is_released_as_soon_as_the_walk_has_used_it():
    kept, alive = [], []

    def compose(xp, x):
        return x + 1.0

    def vjp(xp, g, y, xs, params, needs):
        # The records after this one have been walked: what they kept must be gone.
        alive.append([reference() is not None for reference in kept])
        return (g,)

    probe = Op("probe", Kind.ELEMENTWISE, lambda x: x, vjp, keep=Keep.INPUTS, compose=compose)
    x = dg.Variable(np.ones(5, "float32"))
    with dg.GradientTape() as tape:
        y = x
        for _ in range(4):
            y = apply(probe, y)
            kept.append(array_of(y))
        y = dg.sum(y)
    tape.gradient(y, x)

    # Reading backwards: the first call is of the last probe, whose own input is kept[2].
    assert alive[0] == [True, True, True, False]
    assert alive[1] == [True, True, False, False]
    assert alive[2] == [True, False, False, False]
    assert alive[3] == [False, False, False, False]


def test_a_plain_tape_holds_nothing_after_its_gradient():
    x = dg.Variable(np.ones(5, "float32"))
    with dg.GradientTape() as tape:
        y = dg.tanh(x * x)
        dead_branch = dg.tanh(x * 3.0)
        z = dg.sum(y)
    arrays = [array_of(y), array_of(dead_branch)]
    del y, dead_branch
    assert [reference() is not None for reference in arrays] == [True, True]
    tape.gradient(z, x)

    assert [reference() for reference in arrays] == [None, None]
    assert not tape.records
    assert not tape.followed


def test_a_persistent_tape_holds_until_it_is_dropped():
    x = dg.Variable(np.ones(5, "float32"))
    with dg.GradientTape(persistent=True) as tape:
        y = dg.tanh(x * x)
        z = dg.sum(y)
    array = array_of(y)
    del y
    tape.gradient(tape.gradient(z, x), x)
    assert array() is not None
    del tape

    assert array() is None


def test_closing_releases_what_is_held():
    x = dg.Variable(np.ones(5, "float32"))
    with dg.GradientTape(persistent=True) as tape:
        y = dg.tanh(x)
    array = array_of(y)
    del y
    tape.close()

    assert array() is None


def test_resetting_releases_what_is_held():
    x = dg.Variable(np.ones(5, "float32"))
    with dg.GradientTape() as tape:
        y = dg.tanh(x)
        array = array_of(y)
        del y
        tape.reset()

        assert array() is None


# --- no cycles ------------------------------------------------------------------------------------


def test_a_tape_dies_with_its_last_reference():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        x * x
    reference = weakref.ref(tape)
    del tape

    assert reference() is None


@pytest.mark.parametrize("persistent", [False, True])
def test_a_tape_that_gave_gradients_dies_with_its_last_reference(persistent):
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as outer:
        with dg.GradientTape(persistent=persistent) as inner:
            y = x * x * x
        first = inner.gradient(y, x, on_ready=lambda position, gradient: None)
    outer.gradient(first, x)
    outer.gradient(outer.gradient(y, x), x)
    references = [weakref.ref(outer), weakref.ref(inner)]
    del outer, inner

    assert [reference() for reference in references] == [None, None]


def test_training_leaves_nothing_for_the_cycle_collector():
    x = dg.Variable(np.ones((3, 4), "float32"))

    def step():
        with dg.GradientTape() as tape:
            loss = dg.mean(dg.square(dg.tanh(x @ np.ones((4, 2), "float32"))))
        x.assign_sub(0.1 * tape.gradient(loss, x))

    step()
    gc.collect()
    for _ in range(3):
        step()

    assert gc.collect() == 0


def test_second_derivatives_leave_nothing_for_the_cycle_collector():
    x = dg.Variable(np.ones(3, "float32"))

    def step():
        with dg.GradientTape(persistent=True) as tape:
            y = dg.sum(dg.sin(x))
        tape.gradient(tape.gradient(y, x), x)

    step()
    gc.collect()
    step()

    assert gc.collect() == 0


def test_a_value_dies_with_its_last_reference_though_tapes_know_its_identity():
    x = dg.asarray(np.ones(5, "float32"))
    with dg.GradientTape() as tape:
        tape.watch(x)
        array, reference = array_of(x), weakref.ref(x)
        del x

        assert array() is None
        assert reference() is None


def test_many_gradients_of_a_persistent_tape_do_not_pile_up():
    # Each call used to note everything that it had read.
    x = dg.Variable(np.ones(3, "float32"))
    with dg.GradientTape(persistent=True) as tape:
        y = x
        for _ in range(50):
            y = dg.sin(y)
        y = dg.sum(y)
    tape.gradient(y, x)
    before = len(gc.get_objects())
    for _ in range(20):
        tape.gradient(y, x)

    assert len(gc.get_objects()) - before < 20 * 50
