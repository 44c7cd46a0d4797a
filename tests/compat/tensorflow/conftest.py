"""No test leaves a tape listening, which would disturb the tests after it."""

import pytest

from distgrad.core import LISTENERS


@pytest.fixture(autouse=True)
def nobody_is_left_listening():
    yield
    left = LISTENERS.get()
    LISTENERS.set(())
    assert left == ()
