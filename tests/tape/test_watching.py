"""What a tape follows: variables that are read, values that are watched, and what cuts the path."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import TapeError

# --- variables ------------------------------------------------------------------------------------


def test_trainable_variables_are_watched_when_they_are_read():
    read, unread = dg.Variable(3.0, name="read"), dg.Variable(2.0, name="unread")
    with dg.GradientTape() as tape:
        read * 2.0

    assert [v.name for v in tape.watched_variables()] == ["read"]
    assert unread.trainable


def test_watched_variables_come_in_the_order_of_their_creation():
    first, second, third = (dg.Variable(float(i), name=f"v{i}") for i in range(3))
    with dg.GradientTape() as tape:
        third * first
        second * third

    assert [v.name for v in tape.watched_variables()] == ["v0", "v1", "v2"]
    assert type(tape.watched_variables()) is tuple


def test_integer_variables_are_watched_and_have_no_gradient():
    count, weight = dg.Variable([2, 3], name="count"), dg.Variable([1.0, 4.0], name="weight")
    with dg.GradientTape(persistent=True) as tape:
        y = dg.sum(count * weight)

    assert [v.name for v in tape.watched_variables()] == ["count", "weight"]
    with pytest.warns(UserWarning, match="source 0 has dtype int64"):
        found = tape.gradient(y, tape.watched_variables())
    assert found[0] is None
    assert found[1].tolist() == [2.0, 3.0]
    assert "count" not in str(tape.graph())


def test_integer_variables_given_to_watch_are_listed():
    count = dg.Variable([2, 3], name="count", trainable=False)
    with (
        dg.GradientTape(watch_accessed_variables=False) as tape,
        pytest.warns(UserWarning, match="must be floating"),
    ):
        tape.watch(count)

    assert [v.name for v in tape.watched_variables()] == ["count"]


def test_watched_variables_stay_known_after_the_gradient():
    x = dg.Variable(3.0, name="x")
    with dg.GradientTape() as tape:
        y = x * x
    tape.gradient(y, x)

    assert [v.name for v in tape.watched_variables()] == ["x"]


def test_watched_variables_lists_no_tensors():
    x, v = dg.asarray(3.0), dg.Variable(2.0, name="v")
    with dg.GradientTape() as tape:
        tape.watch([x, v])

    assert [each.name for each in tape.watched_variables()] == ["v"]


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_untrainable_variables_are_constants_unless_they_are_watched():
    x = dg.Variable(3.0, trainable=False)
    with dg.GradientTape() as unaware:
        y = x * x
    with dg.GradientTape() as aware:
        aware.watch(x)
        z = x * x

    assert unaware.gradient(y, x) is None
    assert unaware.watched_variables() == ()
    assert float(aware.gradient(z, x)) == 6.0
    assert [v is x for v in aware.watched_variables()] == [True]


def test_a_tape_that_does_not_watch_by_itself_follows_only_what_it_is_told():
    x, y = dg.Variable(3.0), dg.Variable(2.0)
    with dg.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        z = x * y
    gradients = tape.gradient(z, [x, y])

    assert float(gradients[0]) == 2.0
    assert gradients[1] is None
    assert [v is x for v in tape.watched_variables()] == [True]


def test_a_variable_read_before_the_tape_is_a_constant():
    x = dg.Variable(3.0)
    before = x * 1.0
    with dg.GradientTape() as tape:
        y = before * x

    assert float(tape.gradient(y, x)) == 3.0


def test_the_value_of_a_variable_taken_before_the_tape_is_a_constant():
    x = dg.Variable(3.0)
    value, moved, item = x.value(), x.to(backend="numpy"), dg.asarray(x)
    with dg.GradientTape() as tape:
        y = x * value * moved * item  # x is watched by now: an alias of it would count

    assert float(tape.gradient(y, x)) == 27.0


def test_the_value_of_a_variable_taken_on_one_tape_is_a_constant_on_the_next():
    x = dg.Variable(3.0)
    with dg.GradientTape() as first:
        value = x.value()
        y = value * value
    with dg.GradientTape() as second:
        z = value * x

    assert float(first.gradient(y, x)) == 6.0
    assert float(second.gradient(z, x)) == 3.0


def test_the_value_of_a_variable_taken_on_the_tape_leads_back_to_the_variable():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        value = x.value()
        y = value * value
    to_value, to_x = tape.gradient(y, [value, x])

    assert (float(to_value), float(to_x)) == (6.0, 6.0)


def test_asking_for_shape_dtype_or_numpy_values_watches_nothing():
    x = dg.Variable([1.0, 2.0, 3.0])
    with dg.GradientTape() as tape:
        _ = x.shape, x.dtype, x.ndim, x.size, x.device, x.backend, x.name, x.numpy(), len(x)
        _ = str(x), repr(x), x.tolist()

    assert tape.watched_variables() == ()


# --- assignment -----------------------------------------------------------------------------------


def test_reads_before_an_assignment_keep_the_old_value():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        before = x * x
        x.assign(5.0)
        after = x * x
        total = before + after

    assert (float(before), float(after)) == (9.0, 25.0)
    assert float(tape.gradient(total, x)) == 6.0 + 10.0


def test_no_gradient_flows_through_an_assignment():
    x, w = dg.Variable(3.0), dg.Variable(1.0)
    with dg.GradientTape() as tape:
        w.assign(x * 3.0)
        y = w * w
    to_x, to_w = tape.gradient(y, [x, w])

    assert to_x is None
    assert float(to_w) == 18.0


def test_adding_to_a_variable_and_reading_it_gives_the_gradient_at_the_new_value():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        x.assign_add(1.0)
        y = x * x

    assert float(tape.gradient(y, x)) == 8.0


def test_an_assignment_after_the_block_does_not_change_the_gradient():
    x = dg.Variable([3.0, 4.0])
    with dg.GradientTape() as tape:
        y = dg.sum(x * x)
    x.assign([30.0, 40.0])

    assert tape.gradient(y, x).numpy().tolist() == [6.0, 8.0]


# --- watching by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.ones(3), "ndarray"), (1.0, "float"), ("text", "str"), (None, "NoneType")],
)
def test_watching_what_is_no_tensor_names_its_type(value, kind):
    tape = dg.GradientTape()

    with pytest.raises(ValueError, match=f"type '{kind}', not Tensor or Variable") as caught:
        tape.watch(value)
    assert "dg.asarray" in str(caught.value)


def test_watching_a_nest_that_holds_an_array_is_refused():
    with pytest.raises(ValueError, match="'ndarray'"):
        dg.GradientTape().watch({"x": dg.asarray(1.0), "y": np.ones(3)})


def test_watching_a_nest_watches_every_value_in_it():
    x, y, z = dg.asarray(2.0), dg.asarray(3.0), dg.Variable(5.0)
    with dg.GradientTape() as tape:
        tape.watch({"x": x, "rest": [y, (z, None)]})
        product = x * y * z

    assert [float(g) for g in tape.gradient(product, [x, y, z])] == [15.0, 10.0, 6.0]


def test_watching_works_before_the_block():
    x = dg.asarray(3.0)
    tape = dg.GradientTape()
    tape.watch(x)
    with tape:
        y = x * x

    assert float(tape.gradient(y, x)) == 6.0


def test_watching_twice_counts_once():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        tape.watch(x)
        y = x * x

    assert float(tape.gradient(y, x)) == 6.0


def test_watching_does_not_look_back():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        tape.watch(x)
        z = x + y

    assert float(tape.gradient(z, x)) == 1.0


def test_watching_an_intermediate_value_keeps_the_path_behind_it():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        tape.watch(y)
        z = y * y

    assert float(tape.gradient(z, x)) == 108.0


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_a_value_that_nobody_watches_has_no_gradient():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        y = x * x

    assert tape.gradient(y, x) is None


def test_watching_on_a_closed_tape_is_refused():
    tape = dg.GradientTape(persistent=True)
    tape.close()

    with pytest.raises(TapeError, match="closed"):
        tape.watch(dg.asarray(1.0))


# --- integers -------------------------------------------------------------------------------------


def test_watching_an_integer_warns_at_the_line_of_the_user():
    x = dg.asarray(3)
    with dg.GradientTape() as tape, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tape.watch(x)

    assert "dtype of the watched tensor must be floating (e.g. float32), got int64" in str(
        caught[0].message
    )
    assert Path(caught[0].filename) == Path(__file__)


def test_an_integer_source_warns_at_the_line_of_the_user_and_gives_none():
    x = dg.Variable(3)
    with dg.GradientTape() as tape:
        y = x * 2.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient = tape.gradient(y, x)

    assert gradient is None
    assert "int64" in str(caught[0].message)
    assert "astype" in str(caught[0].message)
    assert Path(caught[0].filename) == Path(__file__)


def test_an_integer_source_gets_an_integer_zero_on_request():
    x = dg.Variable([3, 4, 5])
    with dg.GradientTape() as tape:
        y = x * 2.0
    with pytest.warns(UserWarning, match="int64"):
        gradient = tape.gradient(y, x, unconnected_gradients="zero")

    assert gradient.numpy().tolist() == [0, 0, 0]
    assert gradient.dtype == np.int64


def test_an_integer_target_has_no_gradient():
    x = dg.Variable([3.0, 1.0, 2.0])
    with dg.GradientTape() as tape:
        y = dg.argmax(x)

    assert tape.gradient(y, x) is None


def test_a_cast_to_integers_and_back_cuts_the_path():
    x = dg.Variable(3.5)
    with dg.GradientTape() as tape:
        y = x.astype("int64").astype("float32") * 2.0

    assert tape.gradient(y, x) is None


def test_a_cast_between_floating_dtypes_does_not_cut_the_path():
    x = dg.Variable(3.5)
    with dg.GradientTape() as tape:
        y = x.astype("float64") ** 2
    gradient = tape.gradient(y, x)

    assert (float(gradient), gradient.dtype) == (7.0, np.float32)


# --- operations that cut the path -----------------------------------------------------------------


def test_stop_gradient_cuts_one_path_and_leaves_the_other():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * dg.stop_gradient(x * x)

    assert float(tape.gradient(y, x)) == 9.0


def test_stop_gradient_keeps_the_values_and_takes_anything_that_can_be_a_tensor():
    assert float(dg.stop_gradient(dg.Variable(3.0))) == 3.0
    assert float(dg.stop_gradient(2.5)) == 2.5
    assert dg.stop_gradient(np.arange(3.0)).numpy().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
@pytest.mark.parametrize(
    "function",
    [
        dg.floor,
        dg.ceil,
        dg.round,
        lambda x: x // 2.0,
        lambda x: (x > 1.0).astype("float32"),
        lambda x: dg.asarray(x.numpy()),
        lambda x: dg.asarray(math.sin(float(x))),
        dg.zeros_like,
    ],
    ids=["floor", "ceil", "round", "//", "comparison", "numpy()", "float()", "zeros_like"],
)
def test_operations_without_a_derivative_and_ways_out_give_none(function):
    x = dg.Variable(3.7)
    with dg.GradientTape() as tape:
        y = function(x)

    assert tape.gradient(y, x) is None


def test_the_sign_has_the_derivative_zero_and_the_remainder_one():
    x = dg.Variable([-3.7, 2.5, 1.25])
    with dg.GradientTape(persistent=True) as tape:
        signs = dg.sign(x)
        remainders = x % 2.0

    assert tape.gradient(signs, x).numpy().tolist() == [0.0, 0.0, 0.0]
    assert tape.gradient(remainders, x).numpy().tolist() == [1.0, 1.0, 1.0]


def test_nothing_behind_a_cut_is_walked():
    # The tape would keep, and walk through, what follows a cut if it recorded it.
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = dg.stop_gradient(x)
        for _ in range(5):
            y = dg.sin(y)

    assert tape.records == []


def test_lists_of_watched_values_are_stacked_and_keep_their_gradients():
    x, y = dg.Variable(2.0), dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        stacked = dg.asarray([[x, y, 1.0], [y * y, x, x]])
        direct = dg.sum([x * 1.0, y, 5.0])
    gradients = tape.gradient(stacked, [x, y])

    assert stacked.numpy().tolist() == [[2.0, 3.0, 1.0], [9.0, 2.0, 2.0]]
    assert [float(g) for g in gradients] == [3.0, 7.0]
    assert [float(g) for g in tape.gradient(direct, [x, y])] == [1.0, 1.0]
