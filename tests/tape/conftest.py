"""Fixtures for the tape's tests: a second backend, and nobody who still listens."""

import pytest

from distgrad.backend.kit import ArrayModuleBackend
from distgrad.core import LISTENERS


@pytest.fixture(scope="session")
def strict():
    """Return a backend over the reference module of the array API standard."""
    array_api_strict = pytest.importorskip("array_api_strict")
    return ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture(autouse=True)
def nobody_is_left_listening():
    """Fail a test that leaves a tape listening, which would disturb the tests after it."""
    yield
    left = LISTENERS.get()
    LISTENERS.set(())
    assert left == ()
