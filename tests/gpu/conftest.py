"""Tests in this folder need a CUDA device; without one they are left out, and one says why."""

from pathlib import Path

import pytest

from distgrad.backend import load
from distgrad.errors import BackendUnavailableError


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker("gpu")
    reason = why_not() if here else ""
    if reason:
        first, *rest = here  # one line in the report says it for all of them
        first.add_marker(pytest.mark.skip(reason=f"tests/gpu: {reason}"))
        config.hook.pytest_deselected(items=rest)
        left_out = set(rest)
        items[:] = [item for item in items if item not in left_out]


def why_not():
    """Return why the CuPy backend does not work here; nothing where it does."""
    try:
        load("cupy")
    except BackendUnavailableError as error:
        return str(error)
    return ""


@pytest.fixture
def cupy_backend():
    """The CuPy backend, on the current device."""
    return load("cupy")
