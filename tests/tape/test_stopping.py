"""stop_recording and reset: a block that a tape does not hear, and a tape that forgets."""

import pytest

import distgrad as dg
from distgrad.core import LISTENERS
from distgrad.errors import TapeError

# --- reset ----------------------------------------------------------------------------------------


def test_reset_forgets_what_was_recorded_and_watched():
    x, y = dg.Variable(3.0), dg.Variable(2.0)
    with dg.GradientTape() as tape:
        before = x * y
        tape.reset()
        after = x * x

    assert tape.watched_variables() == (x,)
    gradients = tape.gradient([before, after], [x, y])
    assert float(gradients[0]) == 6.0
    assert gradients[1] is None


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_reset_forgets_watched_tensors():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        tape.watch(x)
        tape.reset()
        y = x * x

    assert tape.gradient(y, x) is None


def test_reset_outside_the_block_is_refused():
    tape = dg.GradientTape()
    with pytest.raises(ValueError, match="Tape is not recording"):
        tape.reset()
    with tape:
        pass
    with pytest.raises(ValueError, match="Tape is not recording"):
        tape.reset()


# --- stop_recording -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_nothing_is_heard_while_recording_is_stopped():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        with tape.stop_recording():
            y = x * x
        z = x * x * x

    assert tape.gradient(y, x) is None
    assert float(tape.gradient(z, x)) == 27.0


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_stopped_blocks_nest():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        with tape.stop_recording():
            with tape.stop_recording():
                inner = x * 2.0
            between = x * 3.0
        after = x * 4.0

    assert tape.gradient(inner, x) is None
    assert tape.gradient(between, x) is None
    assert float(tape.gradient(after, x)) == 4.0


@pytest.mark.filterwarnings("ignore:gradient. None for every source:UserWarning")
def test_stopping_one_tape_leaves_the_others_recording():
    x = dg.Variable(3.0)
    with dg.GradientTape() as outer, dg.GradientTape() as inner, inner.stop_recording():
        y = x * x

    assert inner.gradient(y, x) is None
    assert float(outer.gradient(y, x)) == 6.0


def test_watching_works_while_recording_is_stopped():
    x = dg.asarray(3.0)
    with dg.GradientTape() as tape:
        with tape.stop_recording():
            tape.watch(x)
        y = x * x

    assert float(tape.gradient(y, x)) == 6.0


def test_stopping_a_tape_that_was_never_entered_is_refused():
    with (
        pytest.raises(RuntimeError, match="Trying to stop recording a tape which is not recording"),
        dg.GradientTape().stop_recording(),
    ):
        pass


def test_stopping_a_tape_after_its_block_is_refused():
    with dg.GradientTape() as tape:
        pass
    with pytest.raises(ValueError, match="Tape is not recording"), tape.stop_recording():
        pass


def test_an_error_while_recording_is_stopped_resumes_it():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        with pytest.raises(KeyError), tape.stop_recording():
            raise KeyError("from the user's code")
        y = x * x

    assert float(tape.gradient(y, x)) == 6.0


def test_a_gradient_asked_for_while_recording_is_stopped_is_not_recorded():
    x = dg.Variable(3.0)
    with dg.GradientTape(persistent=True) as tape:
        y = x * x * x
        with tape.stop_recording():
            first = tape.gradient(y, x)
        z = y * x

    assert float(first) == 27.0
    assert float(tape.gradient(z, x)) == 4 * 27.0
    assert tape not in LISTENERS.get()


def test_a_plain_tape_starts_anew_after_a_gradient_asked_for_while_it_was_stopped():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        y = x * x
        with tape.stop_recording():
            first = tape.gradient(y, x)
        z = x * x * x

    assert float(first) == 6.0
    assert float(tape.gradient(z, x)) == 27.0


def test_a_tape_closed_while_stopped_stays_closed():
    x = dg.Variable(3.0)
    with dg.GradientTape() as tape:
        with tape.stop_recording():
            tape.close()
        assert tape not in LISTENERS.get()
        x * x

    with pytest.raises(TapeError, match="closed"):
        tape.gradient(x, x)
