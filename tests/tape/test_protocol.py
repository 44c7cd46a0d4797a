"""The order in which a tape may be entered, stopped, asked and closed, and what misuse says."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.core import LISTENERS
from distgrad.errors import DistgradError, TapeError

# --- a tape that has given its gradient -----------------------------------------------------------


def test_a_second_gradient_of_a_plain_tape_is_refused_in_tensorflows_words():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
    tape.gradient(y, x)

    with pytest.raises(
        RuntimeError,
        match="A non-persistent GradientTape can only be used to compute one set of gradients",
    ) as caught:
        tape.gradient(y, x)
    assert isinstance(caught.value, TapeError)
    assert isinstance(caught.value, DistgradError)
    assert "persistent=True" in str(caught.value)


def test_a_refused_argument_does_not_use_the_tape_up():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
    with pytest.raises(TypeError):
        tape.gradient(None, x)
    with pytest.raises(ValueError, match="unconnected_gradients"):
        tape.gradient(y, x, unconnected_gradients="nonsense")
    with pytest.raises(ValueError, match="output_gradients"):
        tape.gradient(y, x, output_gradients=np.ones(3, "float32"))

    assert float(tape.gradient(y, x)) == 6.0


def test_a_tape_that_was_never_entered_has_no_gradient():
    x = dg.Variable(3.0)
    tape = dg.GradientTape()

    with pytest.raises(TapeError, match="never entered"):
        tape.gradient(x * x, x)


def test_watching_on_a_tape_that_has_given_its_gradient_is_refused():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
    tape.gradient(y, x)

    with pytest.raises(TapeError, match=r"watch.*enter"):
        tape.watch(x)


# --- entering again -------------------------------------------------------------------------------


def test_entering_an_active_tape_is_refused():
    with (
        dg.GradientTape() as tape,
        pytest.raises(ValueError, match="Tape is still recording"),
        tape,
    ):
        pass


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_entering_again_after_the_block_continues_the_same_tape():
    x = dg.Variable(3.0)
    tape = dg.GradientTape()
    with tape:
        y = x * x
    outside = y * 100.0
    with tape:
        z = y * x
    assert float(tape.gradient(z, x)) == 27.0

    with tape:
        pass
    assert tape.gradient(outside, x) is None


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_entering_again_after_use_starts_anew():
    x = dg.Variable(3.0)
    tape = dg.GradientTape()
    with tape:
        y = x * x
    tape.gradient(y, x)
    with tape:
        z = x * x * x

    assert float(tape.gradient(z, x)) == 27.0
    with tape:
        pass
    assert tape.gradient(y, x) is None


def test_entering_again_after_use_forgets_what_was_watched():
    x, y = dg.Variable(3.0), dg.Variable(2.0)
    tape = dg.GradientTape()
    with tape:
        product = x * y
    tape.gradient(product, x)
    with tape:
        square = x * x

    assert tape.watched_variables() == (x,)
    assert float(tape.gradient(square, x)) == 6.0


def test_a_persistent_tape_continues_after_its_gradient():
    x = dg.Variable(3.0)
    tape = dg.GradientTape(persistent=True)
    with tape:
        y = x * x
    tape.gradient(y, x)
    with tape:
        z = y * x

    assert float(tape.gradient(z, x)) == 27.0


# --- gradients asked for inside the block ---------------------------------------------------------


def test_a_gradient_inside_the_block_of_a_plain_tape_stops_its_recording():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        first = tape.gradient(y, x)
        assert tape not in LISTENERS.get()
        z = first * x

    assert float(first) == 6.0
    with pytest.raises(TapeError, match="A non-persistent GradientTape can only"):
        tape.gradient(z, x)


def test_an_outer_tape_goes_on_when_an_inner_one_gives_its_gradient_inside_its_block():
    x = dg.Variable(3.0)
    with dg.GradientTape() as outer:
        with dg.GradientTape() as inner:
            y = x * x * x
            first = inner.gradient(y, x)
            z = first * x  # heard by the outer tape alone
        w = z + x

    assert float(outer.gradient(w, x)) == 82.0  # d(3 x^3 + x)/dx


def test_a_gradient_inside_the_block_of_a_persistent_tape_is_recorded():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x * x
        first = tape.gradient(y, x)
        z = first * x  # 3 x^3

    assert float(tape.gradient(first, x)) == 18.0
    assert float(tape.gradient(z, x)) == 81.0


# --- errors inside the block ----------------------------------------------------------------------


def test_an_error_inside_the_block_leaves_nobody_listening():
    x, tape, results = dg.Variable(3.0), dg.GradientTape(), []

    def fail():
        with tape:
            results.append(x * x)
            raise KeyError("from the user's code")

    with pytest.raises(KeyError):
        fail()

    assert LISTENERS.get() == ()
    assert float(tape.gradient(results, x)) == 6.0  # what was recorded before can still be used


def test_an_operation_that_fails_is_not_recorded():
    x = dg.Variable(np.ones((3, 4), "float32"))
    with dg.GradientTape() as tape:
        y = dg.sum(x * 2.0)
        with pytest.raises(dg.errors.ShapeError):
            x + np.ones(5, "float32")
        z = y * 2.0

    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), np.full((3, 4), 4.0))


def test_an_error_in_the_backward_pass_leaves_the_listeners_right():
    x = dg.Variable(3.0)

    def fail(position, gradient):
        raise KeyError("from the user's hook")

    with dg.GradientTape() as outer:
        inner = dg.GradientTape(persistent=True)
        with inner:
            y = x * x
            with pytest.raises(KeyError):
                inner.gradient(y, x, on_ready=fail)
            assert LISTENERS.get() == (outer, inner)
        assert LISTENERS.get() == (outer,)


# --- several tapes --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_tapes_may_be_left_in_another_order_than_entered():
    x = dg.Variable(3.0)
    first, second = dg.GradientTape(), dg.GradientTape()
    first.__enter__()
    second.__enter__()
    both = x * x
    first.__exit__(None, None, None)
    only_second = both * x
    second.__exit__(None, None, None)

    assert float(second.gradient(only_second, x)) == 27.0
    assert first.gradient(only_second, x) is None


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_watching_is_a_matter_of_one_tape():
    x = dg.asarray(3.0)
    with dg.GradientTape() as outer, dg.GradientTape() as inner:
        inner.watch(x)
        y = x * x

    assert float(inner.gradient(y, x)) == 6.0
    assert outer.gradient(y, x) is None


# --- close ----------------------------------------------------------------------------------------


def test_a_closed_tape_says_that_it_is_closed():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x
    tape.close()

    with pytest.raises(TapeError, match="closed"):
        tape.gradient(y, x)


def test_closing_inside_the_block_stops_the_recording():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        x * x
        tape.close()
        assert LISTENERS.get() == ()


def test_closing_twice_is_harmless_and_the_watched_variables_stay_known():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        x * x
    tape.close()
    tape.close()

    assert tape.watched_variables() == (x,)


def test_a_closed_tape_can_be_entered_anew():
    x = dg.Variable(3.0)
    tape = dg.GradientTape()
    with tape:
        x * x
    tape.close()
    with tape:
        y = x * x

    assert float(tape.gradient(y, x)) == 6.0
