"""`tape.explain`, and the same words in errors and warnings: why a gradient is None, or how not."""

import threading

import numpy as np
import pytest

import distgrad as dg
from distgrad import debug
from distgrad.core import Kind, Op, apply
from distgrad.errors import TapeError, UnconnectedError

X = np.array([0.5, 1.5], "float32")


def explained(f, **options):
    """Return the text of the explanation for ``f(x)`` and a trainable variable ``x``."""
    x = dg.Variable(X, name="x")
    with dg.GradientTape(**options) as tape:
        y = f(x)
    return str(tape.explain(y, x))


# --- connected ------------------------------------------------------------------------------------


def test_chain_of_operations_is_told_from_source_to_target():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = dg.sum(dg.tanh(x * 2.0))

    found = tape.explain(y, x)

    assert found.connected
    assert found.operations == ("multiply", "tanh", "sum")
    assert str(found).splitlines()[1:] == ["  multiply", "  tanh", "  sum"]


def test_shortest_way_is_told_and_one_without_cuts_before_one_with():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        long = dg.exp(dg.sin(dg.cos(x)))
        y = long * dg.floor(x)

    assert tape.explain(y, x).operations == ("cos", "sin", "exp", "multiply")


def test_long_chain_is_told_with_its_middle_left_out():
    def chain(x):
        for _ in range(10_000):
            x = dg.sin(x)
        return x

    lines = explained(chain).splitlines()

    assert lines[0].startswith("connected by 10000 operations")
    assert "9976 more" in "\n".join(lines)
    assert len(lines) < 40


def test_value_is_connected_to_itself():
    assert explained(lambda x: x) == "the target is the source"


def test_gradient_of_a_persistent_tape_is_connected():
    x = dg.Variable(X)
    with dg.GradientTape(persistent=True) as tape:
        y = x**3
    slope = tape.gradient(y, x)

    assert tape.explain(slope, x).operations[-1] == "gradient"


# --- cut on the way -------------------------------------------------------------------------------

CUTS = {
    "floor": (dg.floor, "passes floor, which has no derivative"),
    "floor, further computed with": (lambda x: dg.exp(dg.floor(x) * 2.0 + 1.0), "passes floor"),
    "floor of a computed value": (lambda x: dg.floor(dg.sin(x)), "passes floor"),
    "argmax": (dg.argmax, "passes argmax, which has no derivative"),
    "comparison": (lambda x: dg.where(x > 1.0, 1.0, 2.0), "passes greater"),
    "stop_gradient": (lambda x: dg.stop_gradient(x * 2.0) * 3.0, "passes stop_gradient"),
    "cast": (lambda x: x.astype("int64").astype("float32"), "astype to a dtype without derivative"),
}


@pytest.mark.parametrize("name", CUTS)
def test_operation_where_the_way_is_cut_is_named(name):
    f, message = CUTS[name]

    text = explained(f)

    assert text.startswith("no gradient: the way ")
    assert message in text


def test_cut_beside_another_source_is_named_too():
    x, w = dg.Variable(X), dg.Variable(X)
    with dg.GradientTape(persistent=True) as tape:
        y = w * dg.floor(x)

    assert tape.explain(y, w).connected
    assert "passes floor" in str(tape.explain(y, x))


def test_operation_of_the_users_own_without_derivative_is_named():
    hash_of = Op("hash_of", Kind.OPAQUE, lambda x: x, compose=lambda xp, x: xp.multiply(x, 2.0))

    assert "passes hash_of, which has no derivative" in explained(lambda x: apply(hash_of, x))


def test_assignment_is_named():
    x, v = dg.Variable(X), dg.Variable(X)
    with dg.GradientTape() as tape:
        v.assign(x * 3.0)
        y = v * 2.0

    assert "an assignment to a variable" in str(tape.explain(y, x))


@pytest.mark.parametrize("leave", [lambda t: t.numpy(), lambda t: np.array(t.tolist())])
def test_way_out_to_numpy_is_told(leave):
    text = explained(lambda x: dg.sum(dg.asarray(np.sin(leave(x * 2.0)))))

    assert "left for NumPy" in text


def test_way_out_by_float_is_told():
    assert "left for NumPy" in explained(lambda x: dg.asarray(float(dg.sum(x))) * 2.0)


# --- never watched --------------------------------------------------------------------------------


def test_tensor_that_was_never_watched():
    x = dg.asarray(X)
    with dg.GradientTape() as tape:
        y = x * dg.Variable(2.0)

    assert "never watched: call tape.watch(x)" in str(tape.explain(y, x))


@pytest.mark.parametrize(
    ("trainable", "watches", "message"),
    [(False, True, "not trainable"), (True, False, "watch_accessed_variables=False")],
)
def test_variable_that_was_never_watched(trainable, watches, message):
    x = dg.Variable(X, trainable=trainable, name="w0")
    with dg.GradientTape(watch_accessed_variables=watches) as tape:
        y = x * 2.0

    text = str(tape.explain(y, x))

    assert "variable 'w0'" in text
    assert message in text


def test_variable_that_was_not_read():
    x, other = dg.Variable(X), dg.Variable(X)
    with dg.GradientTape() as tape:
        y = x * 2.0

    assert "not read while the tape listened" in str(tape.explain(y, other))


def test_tensor_that_was_watched_too_late():
    x = dg.asarray(X)
    with dg.GradientTape() as tape:
        y = x * 2.0
        tape.watch(x)

    assert "watched too late" in str(tape.explain(y, x))


def test_integers():
    x = dg.Variable([1, 2])
    with dg.GradientTape() as tape:
        y = x * dg.Variable(2.0)

    assert "the source has dtype int64" in str(tape.explain(y, x))


# --- never recorded -------------------------------------------------------------------------------


def test_target_computed_before_after_or_while_recording_is_stopped():
    x = dg.Variable(X)
    before = x * 1.0
    with dg.GradientTape() as tape:
        x * 2.0
        with tape.stop_recording():
            stopped = x * 3.0
    after = x * 4.0

    assert "before the tape's block was entered" in str(tape.explain(before, x))
    assert "stop_recording" in str(tape.explain(stopped, x))
    assert "after the tape's block was left" in str(tape.explain(after, x))


def in_another_thread(f):
    """Return what a function returns in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(f()))
    thread.start()
    thread.join()
    return results[0]


def test_target_computed_in_another_thread():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = in_another_thread(lambda: x * 2.0)

    assert "another thread" in str(tape.explain(y, x))


def test_lines_tell_another_thread_from_unwatched_values():
    x = dg.Variable(X)
    with debug.trace_lines(), dg.GradientTape() as tape:
        x * 1.0
        elsewhere = in_another_thread(lambda: x * 2.0)
        constant = dg.asarray(X) * 2.0

    assert "another thread: a tape hears its own" in str(tape.explain(elsewhere, x))
    assert "nothing that the tape watches, at test_explain.py" in str(tape.explain(constant, x))


def test_lines_are_told_where_they_were_noted():
    x = dg.Variable(X)
    with debug.trace_lines(), dg.GradientTape(persistent=True) as tape:
        y = dg.floor(x * 2.0)  # this very line
        z = dg.tanh(x)

    assert "floor, at test_explain.py:" in str(tape.explain(y, x))
    assert "y = dg.floor(x * 2.0)  # this very line" in str(tape.explain(y, x))
    assert "z = dg.tanh(x)" in str(tape.explain(z, x))


# --- misuse, errors, warnings ---------------------------------------------------------------------


def test_spent_tape_and_wrong_types_are_refused():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = x * 2.0

    with pytest.raises(TypeError, match="explain: target is a ndarray"):
        tape.explain(y.numpy(), x)
    tape.gradient(y, x)
    with pytest.raises(TapeError, match="explain"):
        tape.explain(y, x)


@pytest.mark.parametrize("method", ["gradient", "jacobian"])
def test_error_for_an_unconnected_source_gives_the_explanation(method):
    x = dg.Variable(X, name="kernel")
    with dg.GradientTape() as tape:
        y = dg.floor(x) * 2.0

    with pytest.raises(UnconnectedError, match=rf"{method}: source 0, variable 'kernel'.*floor"):
        getattr(tape, method)(y, x, unconnected_gradients="error")


def test_target_that_no_tape_recorded_warns_with_the_reason():
    x = dg.Variable(X)
    with dg.GradientTape(persistent=True) as tape:
        x * 1.0
    y = x * 2.0

    with pytest.warns(UserWarning, match="None for every source: .*after the tape's block") as seen:
        assert tape.gradient(y, x) is None
    assert seen[0].filename == __file__


def test_nothing_warns_where_none_was_to_be_expected_or_zeros_were_asked_for():
    x, other = dg.Variable(X), dg.Variable(X)
    with dg.GradientTape(persistent=True) as tape:
        stopped = dg.stop_gradient(x * 2.0)
        rounded = dg.floor(x) + 1.0
        y = x * 2.0
    outside = x * 2.0

    assert tape.gradient(stopped, x) is None
    assert tape.gradient(rounded, x) is None
    assert tape.gradient(y, other) is None
    assert tape.gradient([y, outside], other) is None
    assert tape.gradient(outside, []) == []
    assert not tape.gradient(outside, x, unconnected_gradients="zero").numpy().any()


def test_explaining_leaves_the_tape_as_it_was():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = x * 3.0
    tape.explain(y, x)

    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), [3.0, 3.0])


@pytest.mark.parametrize("when", ["before", "after", "while stopped"])
def test_variable_read_outside_the_block_is_named_with_its_line(when):
    w, x = dg.Variable(X, name="w"), dg.Variable(X)
    with debug.trace_lines():
        tape = dg.GradientTape(persistent=True)
        read = [w * 1.0] if when == "before" else []
        with tape:
            y = x * 2.0
            with tape.stop_recording():
                read += [w * 1.0] if when == "while stopped" else []
        read += [w * 1.0] if when == "after" else []

    text = str(tape.explain(y, w))
    expected = "while the tape did not listen" if when == "while stopped" else f"{when} its block"
    assert f"'w', was not read while the tape listened, but {expected}, at test_explain" in text
    assert f'if when == "{when}" else []: a value taken outside is a constant' in text


def test_explaining_too_late_names_three_ways_of_asking_in_time():
    x = dg.Variable(X)
    with dg.GradientTape() as tape:
        y = x * 2.0
    tape.gradient(y, x)

    with pytest.raises(TapeError, match=r"before gradient.*'error'.*persistent=True"):
        tape.explain(y, x)
